"""The command line, called in this process by its entry point."""

from __future__ import annotations

import contextlib
import io
import sys

from blemish.cli import main


def call(*arguments: object) -> tuple[int, str, str]:
    """Run `blemish` with these arguments; return (exit code, stdout, stderr)."""
    before, out, err = sys.argv, io.StringIO(), io.StringIO()
    sys.argv = ["blemish", *map(str, arguments)]
    code: object = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as stop:
        code = stop.code
    finally:
        sys.argv = before
    return int(code or 0) if isinstance(code, int) or code is None else 1, out.getvalue(), err.getvalue()
