"""Output of commands: a JSON document or lines on stdout; progress, warnings and errors on stderr.

All output goes through here, so that no name of a file and no text in one can forge a line, act on the terminal, or
end the program because it can't be encoded.
"""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from blemish.errors import visible

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


def open_streams() -> None:
    r"""Let stdout and stderr write any text: what their encoding does not have becomes an escape such as \xdf."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # a program without a console, or one that was started with it closed
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115  # until the process ends
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@contextmanager
def only_ours() -> Iterator[None]:
    """Keep stdout for what this module prints afterwards: what a library prints there meanwhile goes to stderr.

    Ray prints the news of each worker that died, which no JSON document bears.
    """
    with redirect_stdout(sys.stderr):
        yield


def say(as_json: bool, document: Any, *lines: str) -> None:
    """Print the document as JSON, or the lines."""
    if as_json:
        print_json(document)
    else:
        for line in lines:
            print_line(line)


def print_json(document: Any) -> None:
    """Print a JSON document in ASCII: names are exact there, also bytes that are no text, as half surrogates."""
    sys.stdout.write(json.dumps(document, indent=1) + "\n")


def print_line(text: object) -> None:
    """Print one line on stdout, whatever the text holds."""
    sys.stdout.write(visible(text) + "\n")


def complain(text: object) -> None:
    """Print one line on stderr, whatever the text holds: a warning, an error, or what was not read."""
    sys.stderr.write(visible(text) + "\n")


def print_block(texts: Iterable[str], *, to: TextIO) -> None:
    """Print texts of several lines, such as a usage or a traceback."""
    for text in texts:
        for line in text.rstrip("\n").split("\n"):
            to.write(visible(line) + "\n")


class Bars:
    """Shows progress(stage, done, total) as bars with the time left, on stderr, and only on a terminal."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True)
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Show that `done` of `total` of a stage are done; the bar is removed at the end."""
        if not self._console.is_terminal:
            return
        if self._bar is None or self._task is None:
            self._bar = self._started()
            self._task = self._bar.add_task(stage, total=total)
        self._bar.update(self._task, description=stage, completed=done, total=total)
        if done >= total:
            self._bar.stop()
            self._bar = None

    def _started(self) -> Progress:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        bar = Progress(*columns, console=self._console, transient=True)
        bar.start()
        return bar
