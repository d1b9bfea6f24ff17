"""The command line. Heavy libraries are loaded by the command that needs them.

Exit codes: `exit_codes`. Output: `console`.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from blemish._version import __version__
from blemish.cli import (
    anomalib,
    backbones,
    cluster,
    data,
    detect,
    export,
    search,
    station,
    store,
    suspects,
    teacher,
    thresholds,
    update,
)
from blemish.cli.console import print_line
from blemish.cli.process import TRACEBACK, run

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["app", "main"]

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


def _print_version(requested: bool) -> None:
    if requested:
        print_line(f"blemish {__version__}")
        raise typer.Exit


@app.callback()
def _blemish(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    traceback: Annotated[
        bool, typer.Option(TRACEBACK, help="With any command: print the traceback of an error, for a report.")
    ] = False,
) -> None:
    """Find defects in images of parts that should all look alike, from good images alone."""


app.add_typer(data.app)
app.add_typer(detect.app)
app.add_typer(export.app)
app.add_typer(suspects.app)
app.add_typer(thresholds.app)
app.add_typer(update.app)
app.add_typer(backbones.app, name="backbones")
app.add_typer(teacher.app)
app.add_typer(anomalib.app)
app.add_typer(search.app)
app.add_typer(station.app)
app.add_typer(store.app, name="store")
app.add_typer(cluster.app, name="cluster")


def repeat_categories(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with `--categories a b` written as `--categories a --categories b`."""
    result: list[str] = []
    inside = False
    for argument in arguments:
        if argument.startswith("-"):
            inside = argument == "--categories"
        elif inside and result[-1] != "--categories":
            result.append("--categories")
        result.append(argument)
    return result


def main() -> None:
    """Run the command line, and end the process with its exit code."""
    sys.exit(int(run(app, repeat_categories(sys.argv[1:]))))
