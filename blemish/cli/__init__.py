"""The command line."""

from blemish.cli.commands import app, main

__all__ = ["app", "main"]
