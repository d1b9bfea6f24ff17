"""The commands for people who come from anomalib."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from blemish.cli import app
from blemish.data.synthetic.demo import make_demo
from blemish.detectors.patchcore.detector import Patchcore
from tests.anomalib_twins import N_TRAIN, SIZES, checkpoint, image
from tests.images import write


@pytest.fixture(scope="module")
def ckpt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint("lite0", tmp_path_factory.mktemp("checkpoint") / "model.ckpt")


@pytest.mark.slow
def test_import_makes_a_model_folder(ckpt: Path, tmp_path: Path):
    done = CliRunner().invoke(app, ["import", str(ckpt), str(tmp_path / "model")])
    assert done.exit_code == 0, done.output
    assert "The threshold guarantees no false positive rate: give --good" in done.output
    assert "from the checkpoint. Saved in" in done.output
    assert Patchcore.load(tmp_path / "model").fitted.geometry.resize_in_graph


@pytest.mark.slow
def test_import_calibrates_on_good_images(ckpt: Path, tmp_path: Path):
    for i in range(N_TRAIN):
        write(tmp_path / "good" / f"{i}.png", image(i, *SIZES[i]))
    arguments = ["import", str(ckpt), str(tmp_path / "model"), "--good", str(tmp_path / "good"), "--json"]
    done = CliRunner().invoke(app, [*arguments, "--false-positive-rate", "0.2"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.output)
    assert (found["detector"], found["thresholds_from"]) == ("patchcore", f"{N_TRAIN} good images")
    assert Patchcore.load(tmp_path / "model").calibration.n == N_TRAIN
    assert [*Patchcore.load(tmp_path / "model").fitted.carried] == ["defect_statistics.safetensors"]


@pytest.mark.slow
def test_import_does_not_overwrite_other_files(ckpt: Path, tmp_path: Path):
    (tmp_path / "notes.txt").write_text("mine")
    done = CliRunner().invoke(app, ["import", str(ckpt), str(tmp_path)])
    assert "expected a model folder to replace, got other files: notes.txt" in str(done.exception)


@pytest.mark.slow
def test_export_writes_a_checkpoint_that_comes_back(ckpt: Path, tmp_path: Path):
    runner = CliRunner()
    runner.invoke(app, ["import", str(ckpt), str(tmp_path / "model")])
    done = runner.invoke(app, ["export-anomalib", str(tmp_path / "model"), str(tmp_path / "out.ckpt"), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.output)["mb"] > 1
    assert runner.invoke(app, ["import", str(tmp_path / "out.ckpt"), str(tmp_path / "again")]).exit_code == 0
    image_of = image(70, 200, 200)
    first, second = (Patchcore.load(tmp_path / name).predict(image_of).score for name in ("model", "again"))
    assert first == pytest.approx(second, rel=1e-5)


def test_export_says_what_anomalib_has_not(saved: Path, tmp_path: Path):
    done = CliRunner().invoke(app, ["export-anomalib", str(saved), str(tmp_path / "out.ckpt")])
    expected = "expected settings that anomalib has: scaling='none', position_sigma=None"
    assert f"model: {expected}, got scaling='whiten', position_sigma=1.0." in str(done.exception)
    assert not (tmp_path / "out.ckpt").exists()


@pytest.mark.slow
def test_compare_says_how_to_install_anomalib(tmp_path: Path):
    if importlib.util.find_spec("anomalib"):
        pytest.skip("anomalib is installed here: test_compare.py runs it")
    make_demo(tmp_path, image_size=64, n_train=2, n_test=1, n_defective=1, categories=("grid",))
    done = CliRunner().invoke(app, ["compare", "--root", str(tmp_path), "--categories", "grid"])
    assert "anomalib: expected to be installed, got no such package. Run `pip install 'blemish[anomalib]'`." in str(
        done.exception
    )


@pytest.mark.slow
def test_compare_checks_the_categories_first(tmp_path: Path):
    done = CliRunner().invoke(app, ["compare", "--root", str(tmp_path), "--categories", "grid"])
    assert "grid" in str(done.exception)
    wrong = CliRunner().invoke(app, ["compare", "--root", str(tmp_path), "--model", "cflow"])
    assert wrong.exit_code == 2
    assert "cflow can't be compared" in wrong.output
