"""The command that lists, draws, drops and confirms training images that look defective."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from blemish import ModelFileError, Patchcore
from tests.images import good, small_patchcore, write, write_goods


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of good images, 003 with a black lower half."""
    folder = tmp_path_factory.mktemp("images")
    write_goods(folder, 20)
    image = good(3)
    image[len(image) // 2 :] = 0
    write(folder / "003.png", image)
    return folder


@pytest.fixture(scope="module")
def made(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = small_patchcore(score_fusion=True, calibration="tail").fit(sorted(images.iterdir()))
    return model.save(tmp_path_factory.mktemp("made") / "m")


@pytest.fixture
def model(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "m"))


@pytest.mark.slow
def test_they_are_listed_and_drawn(run, model: Path, images: Path, tmp_path: Path):
    code, out, _ = run("suspects", model, "--out", tmp_path / "figures")
    assert code == 0
    head, line = out.splitlines()
    assert head == "This good image looks defective: look at it."
    assert line.endswith(str(images / "003.png"))
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["0000-003.png"]
    document = json.loads(run("suspects", model, "--json")[1])
    (row,) = document["suspects"]
    assert row["path"] == str(images / "003.png")
    assert row["score"] > row["threshold"]
    assert row["p_value"] < 0.001


@pytest.mark.slow
def test_they_are_dropped(run, model: Path, images: Path):
    threshold = Patchcore.load(model).threshold
    code, out, _ = run("suspects", model, "--drop")
    assert code == 0
    left = Patchcore.load(model)
    said = f"Dropped 1 image and fitted again. Threshold {left.threshold:.3f}, was {threshold:.3f}."
    assert said in out
    assert len(left.fitted.training.paths) == left.fitted.image_calibration.n == 19
    assert str(images / "003.png") not in left.fitted.training.paths
    assert left.predict(images / "003.png").label
    assert run("suspects", model)[1] == "No good image looks defective.\n"


@pytest.mark.slow
def test_they_are_dropped_without_a_new_fit(run, model: Path, images: Path, tmp_path: Path):
    code, out, err = run("suspects", model, "--drop", "--quick")
    assert (code, err) == (0, "")
    assert "Dropped 1 image: their patches and scores; statistics of all images stay. Threshold" in out
    left = Patchcore.load(model)
    assert (len(left.fitted.training.paths), left.fitted.image_calibration.n) == (20, 19)


@pytest.mark.slow
def test_all_that_are_dropped_are_counted(run, tmp_path: Path):
    """Other images of the same part go with it; one that is named twice counts once."""
    write_goods(tmp_path / "in", 12)
    copy = shutil.copy(tmp_path / "in" / "005.png", tmp_path / "in" / "copy.png")
    model = small_patchcore().fit(sorted((tmp_path / "in").iterdir())).save(tmp_path / "m")
    given = (tmp_path / "in" / "005.png",) * 2
    for option in ("--confirm", "--drop"):
        out = json.loads(run("suspects", model, *given, option, "--json", *(["--quick"] * (option == "--drop")))[1])
        assert out["dropped" if option == "--drop" else "confirmed"] == [str(given[0]), str(copy)]


def test_without_the_backbones_weights_there_is_no_new_fit(run, model: Path, monkeypatch: pytest.MonkeyPatch):
    def absent(*_: object, **__: object) -> Patchcore:
        raise ModelFileError("weights: expected a file, got none.")

    monkeypatch.setattr(Patchcore, "update", absent)
    code, out, err = run("suspects", model, "--drop")
    assert (code, err) == (0, "warning: not fitted again: weights: expected a file, got none.\n")
    assert "Dropped 1 image: their patches and scores" in out


def test_a_path_that_is_no_training_image_is_named_once(run, model: Path):
    code, _, err = run("suspects", model, "a.png", "--drop")
    assert (code, err.count("a.png"), "warning" in err) == (2, 1, False)


def test_without_the_files_there_is_no_new_fit(run, model: Path, images: Path, tmp_path: Path):
    moved = shutil.move(images / "005.png", tmp_path / "x.png")
    code, out, err = run("suspects", model, "--drop")
    shutil.move(moved, images / "005.png")
    assert code == 0
    assert err.startswith("warning: not fitted again: training images: expected those that the model was fitted on")
    assert "Dropped 1 image: their patches and scores" in out


@pytest.mark.slow
def test_they_are_confirmed(run, model: Path, images: Path):
    code, out, _ = run("suspects", model, images / "003.png", "--confirm", "--json")
    assert code == 0
    assert json.loads(out)["confirmed"] == [str(images / "003.png")]
    assert json.loads(out)["suspects"] == []
    assert Patchcore.load(model).fitted.image_calibration.n == 20
    assert run("suspects", model)[1] == "No good image looks defective.\n"


@pytest.mark.slow
def test_what_is_gone_is_not_drawn(run, model: Path, images: Path, tmp_path: Path):
    moved = shutil.move(images / "003.png", tmp_path / "x.png")
    code, out, err = run("suspects", model, "--out", tmp_path / "figures")
    shutil.move(moved, images / "003.png")
    assert code == 3
    assert "003.png" in out
    assert err.startswith("error: ")
    document = json.loads(run("suspects", model, "--out", tmp_path / "figures", "--json")[1])
    assert document["not_drawn"] == {}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--drop", "--confirm"), "expected --drop or --confirm, got both"),
        (("--quick",), "expected --drop with --quick, got --quick alone"),
        (("a.png",), "expected --drop or --confirm, got images alone"),
        (("a.png", "--drop"), "path: expected a training image of the model, got 'a.png'"),
    ],
)
def test_what_makes_no_sense_is_refused(run, model: Path, arguments: tuple[str, ...], said: str):
    code, _, err = run("suspects", model, *arguments)
    assert (code, said in err) == (2, True)


@pytest.mark.slow
def test_fit_says_so(run, images: Path, tmp_path: Path):
    small = ("--image-size", 96, "--layers", "blocks.4,blocks.10", "--coreset-ratio", 0.1)
    code, out, _ = run("fit", images, "--out", tmp_path / "m", *small)
    assert code == 0
    assert "This good image looks defective: look at it." in out
    assert f"`blemish suspects {tmp_path / 'm'} --out FOLDER` draws them" in out
    for i in range(4):
        write(tmp_path / "black" / f"{i}.png", np.zeros((96, 96, 3), np.uint8))
    document = json.loads(run("fit", tmp_path / "black", "--out", tmp_path / "n", *small, "--json")[1])
    assert document["suspects"] == []
    assert document["training_warnings"][0].startswith("All good images look the same")
