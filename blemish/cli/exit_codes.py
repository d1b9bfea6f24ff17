"""Exit codes of all commands, and their order where several apply."""

from __future__ import annotations

from enum import IntEnum

import typer


class ExitCode(IntEnum):
    """Result of a command for the program that called it. A defect is never told by the code of anything else."""

    DONE = 0
    DEFECT = 1
    ERROR = 2
    UNREAD = 3
    NOT_COMPARABLE = 4
    INTERNAL = 70  # EX_SOFTWARE of BSD's sysexits.h
    INTERRUPTED = 130  # 128 + SIGINT, as a shell says
    OUTPUT_CLOSED = 141  # 128 + SIGPIPE


MEANINGS = {
    ExitCode.DONE: "Done: all was read. Without --fail-on-defect it says nothing about defects.",
    ExitCode.DEFECT: (
        "The answer is no, and all was read: an image is not good (predict --fail-on-defect), no detector can be "
        "fitted or tested on the data set (check), or an exported model has other results (verify)."
    ),
    ExitCode.ERROR: "The command was not carried out: wrong usage, or an error that the last line on stderr explains.",
    ExitCode.UNREAD: (
        "Carried out, but some images or masks could not be read or used. Each is named, on the terminal and in JSON."
    ),
    ExitCode.NOT_COMPARABLE: (
        "Carried out, but some images are not like those that the model learnt from (predict or test --fail-on-drift)."
    ),
    ExitCode.INTERNAL: "A fault of Blemish: please report it. --traceback or BLEMISH_TRACEBACK=1 prints where it is.",
    ExitCode.INTERRUPTED: "Interrupted (Ctrl-C).",
    ExitCode.OUTPUT_CLOSED: "The program that read the output ended first, such as head.",
}


def finish(*, unread: bool = False, not_comparable: bool = False, defect: bool = False) -> None:
    """End a command that was carried out: with the first code of these that applies, else it returns.

    Raises:
        typer.Exit: with the code.
    """
    applies = {
        ExitCode.UNREAD: unread,
        ExitCode.NOT_COMPARABLE: not_comparable,
        ExitCode.DEFECT: defect,
    }
    for code, is_so in applies.items():
        if is_so:
            raise typer.Exit(int(code))
