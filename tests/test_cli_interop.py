"""The commands for people who come from anomalib."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from blemish.cli import app
from blemish.patchcore import Patchcore
from tests.anomalib_twins import N_TRAIN, SIZES, checkpoint, picture
from tests.pictures import write


@pytest.fixture(scope="module")
def ckpt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint("lite0", tmp_path_factory.mktemp("checkpoint") / "model.ckpt")


def test_import_makes_a_model_folder(ckpt: Path, tmp_path: Path):
    done = CliRunner().invoke(app, ["import", str(ckpt), str(tmp_path / "model")])
    assert done.exit_code == 0, done.output
    assert "It promises no false-alarm rate: give --good" in done.output
    assert "from the checkpoint. Saved in" in done.output
    assert Patchcore.load(tmp_path / "model").settings.arithmetic == "anomalib"


def test_import_calibrates_on_good_pictures(ckpt: Path, tmp_path: Path):
    for i in range(N_TRAIN):
        write(tmp_path / "good" / f"{i}.png", picture(i, *SIZES[i]))
    arguments = ["import", str(ckpt), str(tmp_path / "model"), "--good", str(tmp_path / "good"), "--json"]
    done = CliRunner().invoke(app, [*arguments, "--false-alarm-rate", "0.2"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.output)
    assert (found["detector"], found["thresholds_from"]) == ("patchcore", f"{N_TRAIN} good pictures")
    assert Patchcore.load(tmp_path / "model").calibration.n == N_TRAIN


def test_import_does_not_overwrite_other_files(ckpt: Path, tmp_path: Path):
    (tmp_path / "notes.txt").write_text("mine")
    done = CliRunner().invoke(app, ["import", str(ckpt), str(tmp_path)])
    assert "expected a model folder to replace, got other files: notes.txt" in str(done.exception)
