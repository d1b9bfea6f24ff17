"""Output of commands: a JSON document or lines on stdout, progress on stderr."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


def say(as_json: bool, document: Any, *lines: str) -> None:
    """Print the document as JSON, or the lines."""
    sys.stdout.write((json.dumps(document, indent=1) if as_json else "\n".join(lines)) + "\n")


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
