"""Bars on a terminal, silence elsewhere."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING

from rich.console import Console

from blemish.cli.console import Bars, say

if TYPE_CHECKING:
    import pytest


def bars_on(is_terminal: bool) -> tuple[Bars, io.StringIO]:
    bars, shown = Bars(), io.StringIO()
    bars._console = Console(file=shown, force_terminal=is_terminal, width=100)
    return bars, shown


def test_a_terminal_shows_the_stage_and_how_much_is_done():
    bars, shown = bars_on(True)
    for stage in ("reading images", "coreset"):
        for done in (1, 2, 3):
            bars(stage, done, 3)
            assert (bars._bar is None) == (done == 3)
    assert "reading images" in shown.getvalue()
    assert "coreset" in shown.getvalue()
    assert "3/3" in shown.getvalue()


def test_a_file_gets_nothing():
    bars, shown = bars_on(False)
    bars("coreset", 1, 3)
    bars("coreset", 3, 3)
    assert shown.getvalue() == ""


def test_bars_do_not_mix_with_what_is_printed():
    assert Bars()._console.stderr


def test_a_document_or_lines_are_printed(capsys: pytest.CaptureFixture[str]):
    say(True, {"a": 1}, "one", "two")
    assert json.loads(capsys.readouterr().out) == {"a": 1}
    say(False, {"a": 1}, "one", "two")
    assert capsys.readouterr().out == "one\ntwo\n"
