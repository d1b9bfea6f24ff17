"""Exceptions of work on a cluster."""

from __future__ import annotations

from blemish.errors import BlemishError


class ClusterError(BlemishError, RuntimeError):
    """A Ray cluster can't be reached, its nodes differ, or it has no room for the work."""
