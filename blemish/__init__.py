"""Blemish: visual anomaly detection for industry."""

from blemish._version import __version__

__all__ = ["__version__"]
