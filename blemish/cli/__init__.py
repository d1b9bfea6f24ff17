"""The command line. Heavy libraries are loaded by the command that needs them.

Exit codes: 0 done; 1 the answer is no (`check` found what stops a run, `predict --fail-on-defect` a defect); 2
something could not be read, written or understood; 130 interrupted.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from blemish._version import __version__
from blemish.cli import anomalib, backbones, data, detect, export, search, suspects, teacher, thresholds
from blemish.errors import BlemishError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["app", "main"]

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


def _print_version(requested: bool) -> None:
    if requested:
        print(f"blemish {__version__}")
        raise typer.Exit


@app.callback()
def _blemish(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Find defects in images of parts that should all look alike, from good images alone."""


app.add_typer(data.app)
app.add_typer(detect.app)
app.add_typer(export.app)
app.add_typer(suspects.app)
app.add_typer(thresholds.app)
app.add_typer(backbones.app, name="backbones")
app.add_typer(teacher.app)
app.add_typer(anomalib.app)
app.add_typer(search.app)


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
    """Run the command line; an error that Blemish raises on purpose becomes one line and exit code 2."""
    try:
        app(args=repeat_categories(sys.argv[1:]))
    except BlemishError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
