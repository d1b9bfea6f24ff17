"""Bars on a terminal, silence elsewhere; nothing but our own lines on stdout."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from blemish.cli import app, console
from blemish.cli.console import Bars, say
from blemish.data.synthetic.demo import make_demo


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


def test_what_a_library_prints_is_no_part_of_a_json_document(capsys: pytest.CaptureFixture[str]):
    with console.only_ours():
        print("(raylet) A worker died")  # noqa: T201
        console.complain("error: a: it is gone")
    console.say(True, {"fitted": 1})
    out, err = capsys.readouterr()
    assert json.loads(out) == {"fitted": 1}
    assert err == "(raylet) A worker died\nerror: a: it is gone\n"


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("fit_many", ["fit", "{data}", "--out", "{out}", "--json"]),
        ("predict", ["predict", "{data}", "{data}", "--out", "{out}", "--json"]),
    ],
)
def test_commands_of_the_cluster_print_json_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, arguments: list[str]
):
    from blemish import cluster
    from blemish.cluster import connection, predictions

    def noisy(*_: object, **__: object) -> object:
        print("(raylet) A worker died")  # noqa: T201
        return [] if name == "fit_many" else predictions.PredictResult(tmp_path, 0, 0, 0, 0, 0.0)

    monkeypatch.setattr(connection, "check_installed", lambda: None)
    monkeypatch.setattr(cluster if name == "fit_many" else predictions, name, noisy)
    data = make_demo(tmp_path / "demo", image_size=64, n_train=2, n_test=1, n_defective=1, categories=("tile",))
    places = {"data": str(data / "tile"), "out": str(tmp_path / "out")}
    done = CliRunner().invoke(app, ["cluster", *(text.format(**places) for text in arguments)])
    assert done.exit_code == 0, done.output
    json.loads(done.stdout)
    assert "(raylet)" in done.stderr
