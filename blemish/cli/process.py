"""A run of the command line: each way to end becomes an exit code, and one line on stderr."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

import typer

from blemish._version import __version__
from blemish.cli.console import complain, open_streams, print_block
from blemish.cli.exit_codes import ExitCode
from blemish.errors import BlemishError, message

TRACEBACK = "--traceback"
# The parent of all errors in arguments; its module depends on typer's version.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]
# Making all commands of their functions' annotations takes .1 s, and changes nothing.
_command = functools.cache(typer.main.get_command)


def run(app: typer.Typer, arguments: Sequence[str]) -> ExitCode | int:
    """Run a command; return its exit code.

    Typer's own `main` ends with 1 where the output was closed or an error was not expected.

    Args:
        arguments: without the program's name; `--traceback` may stand anywhere before `--`.
    """
    open_streams()
    given, shows_traceback = _without_traceback(arguments)
    try:
        _check_given(given)
        code = _invoked(app, given)
        sys.stdout.flush()
    except BaseException as error:  # also Rust's panics, which are no Exception
        return _ended(error, shows_traceback)
    return code


def _check_given(arguments: Sequence[str]) -> None:
    """Refuse an empty argument: as a path it would be the working directory, with all images in it."""
    if "" in arguments:
        after = f" after {arguments[arguments.index('') - 1]!r}" if arguments.index("") else ""
        raise typer.BadParameter(f"an argument{after} is empty: is a variable of the shell not set?")


def _invoked(app: typer.Typer, arguments: Sequence[str]) -> int:
    command = _command(app)
    try:
        with command.make_context("blemish", list(arguments)) as context:
            command.invoke(context)
    except typer.Exit as ended:
        return int(ended.exit_code)
    return int(ExitCode.DONE)


def _ended(error: BaseException, shows_traceback: bool) -> int:
    """Say why a command ended; return its exit code."""
    code, lines = _explained(error)
    with contextlib.suppress(OSError, ValueError):
        if shows_traceback:
            print_block(traceback.format_exception(type(error), error, error.__traceback__), to=sys.stderr)
        for line in lines:
            complain(line)
    _release_output()
    return code


def _explained(error: BaseException) -> tuple[int, list[str]]:
    """Return the exit code of an error, and the lines that explain it."""
    code, lines = int(ExitCode.ERROR), [f"error: {error}"]
    if isinstance(error, SystemExit):
        code, lines = error.code if isinstance(error.code, int) else ExitCode.INTERNAL, []
    elif isinstance(error, (KeyboardInterrupt, typer.Abort)):
        code, lines = ExitCode.INTERRUPTED, ["interrupted"]
    elif isinstance(error, BrokenPipeError):
        code, lines = ExitCode.OUTPUT_CLOSED, []
    elif isinstance(error, _UsageError):
        lines = _usage(error)
    elif isinstance(error, MemoryError):
        todo = "Close other programs, or use fewer threads or smaller images."
        lines = [f"error: {message('memory', 'enough for this command', 'less', todo=todo)}"]
    elif isinstance(error, OSError) and not isinstance(error, BlemishError):
        got = repr(error.strerror or str(error) or type(error).__name__)
        lines = [f"error: {message('file', 'to be read or written', got, where=error.filename or 'the output')}"]
    elif not isinstance(error, BlemishError):
        code, lines = ExitCode.INTERNAL, [_report_of(error)]
    return code, lines


def _usage(error: Exception) -> list[str]:
    """Return the lines of an error in arguments; of a group of commands without one, its help."""
    context, text = getattr(error, "ctx", None), getattr(error, "format_message", error.__str__)()
    if type(error).__name__ == "NoArgsIsHelpError":
        return text.split("\n")
    if context is None:
        return [f"error: {text}"]
    hint = f"Try '{context.command_path} --help' for help."
    return [*context.get_usage().split("\n"), hint, "", f"error: {text}"]


def _report_of(error: BaseException) -> str:
    """Return a sentence that names the place of an unexpected error and how to report it."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f"{os.sep}blemish{os.sep}" in f.filename]
    place = f", in {Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else ""
    return (
        f"internal error: {type(error).__name__}: {str(error)[:300]}{place}, Blemish {__version__}. This is a fault of "
        f"Blemish: please report it as an issue, with this command and the output of the same with {TRACEBACK}."
    )


def _without_traceback(arguments: Sequence[str]) -> tuple[list[str], bool]:
    """Return the arguments without `--traceback`, and whether it, or its variable of the environment, was given."""
    end = list(arguments).index("--") if "--" in arguments else len(arguments)
    given = [argument for argument in arguments[:end] if argument != TRACEBACK]
    wanted = len(given) < end or os.environ.get("BLEMISH_TRACEBACK", "") not in {"", "0"}
    return [*given, *arguments[end:]], wanted


def _release_output() -> None:
    """Point an output that can't be written any more nowhere: the interpreter would end with a code of its own, 120."""
    for stream in (sys.stdout, sys.stderr):
        if not _is_flushed(stream):
            with contextlib.suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream.fileno())
                os.close(nowhere)


def _is_flushed(stream: TextIO) -> bool:
    try:
        stream.flush()
    except (OSError, ValueError):
        return False
    return True
