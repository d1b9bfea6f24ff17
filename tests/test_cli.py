from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from blemish.cli import _several_values, main
from blemish.demo import make_demo


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["blemish", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


def test_fit_test_predict_benchmark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    root = make_demo(tmp_path / "d", image_size=128, n_train=8, categories=("tile",))
    model = str(tmp_path / "m")
    options = ("--category", "tile", "--json")
    assert call(monkeypatch, "fit", str(root), "--out", model, "--image-size", "128", *options) == 0
    assert json.loads(capsys.readouterr().out)["threshold"] > 0
    report = tmp_path / "r.html"
    assert call(monkeypatch, "test", model, str(root), *options, "--report", str(report)) == 0
    assert "image_AUROC" in json.loads(capsys.readouterr().out)
    assert report.stat().st_size > 10_000
    picture = next((root / "tile" / "test" / "good").iterdir())
    assert call(monkeypatch, "predict", model, str(picture), "--json", "--out", str(tmp_path / "f")) == 0
    assert len(json.loads(capsys.readouterr().out)) == 1
    assert len(list((tmp_path / "f").iterdir())) == 1
    out = tmp_path / "o.json"
    arguments = ("--root", str(root), "--categories", "tile", "--image-size", "128", "--json", str(out))
    assert call(monkeypatch, "benchmark", *arguments) == 0
    assert "AUPRO" in json.loads(out.read_text())["categories"]["tile"]


def test_an_error_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    assert call(monkeypatch, "check", str(tmp_path)) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_categories_take_several_values():
    assert _several_values(["x", "--categories", "a", "b", "--seed", "1"]) == [
        "x", "--categories", "a", "--categories", "b", "--seed", "1",
    ]  # fmt: skip
