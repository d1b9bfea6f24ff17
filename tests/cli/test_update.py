"""The command update."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from blemish import Patchcore
from tests.images import good, scratched, small_patchcore, write, write_goods


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return small_patchcore().fit(write_goods(tmp_path / "good", 6)).save(tmp_path / "model")


@pytest.fixture
def reviewed(tmp_path: Path) -> Path:
    for seed in range(20, 25):
        write(tmp_path / "reviewed" / "good" / f"{seed}.png", good(seed))
    for seed in range(2):
        write(tmp_path / "reviewed" / "scratch" / f"{seed}.png", scratched(seed)[0])
    return tmp_path / "reviewed"


@pytest.mark.slow
def test_good_images_are_learnt_and_defective_ones_compared(run, model: Path, reviewed: Path, tmp_path: Path):
    before = (model / "model.json").read_bytes()
    code, out, _ = run("update", model, reviewed, "--out", tmp_path / "next", "--json")
    found = json.loads(out)
    assert (code, found["learnt"], found["defects_after"]) == (0, 5, {"above": 2, "images": 2})
    updated = Patchcore.load(tmp_path / "next")
    assert (found["model"], found["threshold"]) == (str(tmp_path / "next"), updated.threshold)
    assert len(updated.fitted.training.paths) == 11
    assert not any("scratch" in path for path in updated.fitted.training.paths)
    assert (model / "model.json").read_bytes() == before


@pytest.mark.slow
def test_it_says_what_changed(run, model: Path, reviewed: Path, tmp_path: Path):
    code, out, _ = run("update", model, reviewed, "--out", tmp_path / "next")
    assert code == 0
    assert "Learnt 5 images." in out
    assert "Defects found: 2 of 2 before, 2 of 2 now." in out
    assert f"Saved in {tmp_path / 'next'}." in out


def test_the_model_itself_is_not_replaced(run, model: Path, reviewed: Path):
    code, _, err = run("update", model, reviewed, "--out", model)
    assert code == 2
    assert "out: expected another folder than the model's" in err


@pytest.mark.slow
def test_unreadable_images_are_told(run, model: Path, reviewed: Path, tmp_path: Path):
    (reviewed / "good" / "x.png").write_bytes(b"no image")
    code, out, err = run("update", model, reviewed, "--out", tmp_path / "next")
    assert code == 3
    assert "x.png" in err
    assert "Saved in" in out
