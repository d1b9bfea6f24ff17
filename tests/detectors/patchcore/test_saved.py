"""A detector that was saved and loaded predicts the same; one that is not fitted, or refitted, says so."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from blemish import DataError, InputError, ModelFileError, NotFittedError, Patchcore, SaveError
from blemish.backbones import backbone
from tests.images import N_GOOD, SETTINGS, good, goods, scratched, small_patchcore

if TYPE_CHECKING:
    from blemish.types import Prediction


def same(one: Prediction, other: Prediction) -> bool:
    """Whether two predictions are equal to the bit, whatever they are called."""
    names = ("score", "label", "threshold", "p_value", "pixel_threshold", "peak_xy", "nearest_good")
    return (
        all(getattr(one, name) == getattr(other, name) for name in names)
        and np.array_equal(one.anomaly_map, other.anomaly_map)
        and np.array_equal(one.mask, other.mask)
        and [r.box for r in one.regions] == [r.box for r in other.regions]
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_neighbors": 9},
        {"position_sigma": None, "scaling": "standard"},
        {"center_crop": 64, "scaling": "none", "pooling": 1},
    ],
)
def test_a_saved_model_predicts_bit_for_bit(changes: dict[str, Any], tmp_path: Path):
    model = small_patchcore(**changes).fit(goods(6))
    folder = model.save(tmp_path / "m")
    loaded = Patchcore.load(folder, threads=2)
    assert loaded.settings == model.settings
    assert loaded.is_fitted
    for image in (good(99), scratched(98)[0], scratched(97, 50, 140)[0]):
        assert same(loaded.predict(image), model.predict(image))
    again = loaded.save(tmp_path / "again")
    for path in folder.iterdir():
        assert path.read_bytes() == (again / path.name).read_bytes()


@pytest.mark.slow
def test_same_images_and_seed_give_the_same_bytes(saved: Path, good_paths: list[Path], tmp_path: Path):
    again = small_patchcore().fit(good_paths).save(tmp_path / "again")
    assert sorted(p.name for p in again.iterdir()) == ["bank.safetensors", "model.json", "network.onnx"]
    for name in ("bank.safetensors", "network.onnx"):
        assert (again / name).read_bytes() == (saved / name).read_bytes()
    headers = [json.loads((folder / "model.json").read_text()) for folder in (saved, again)]
    for header in headers:
        assert header["provenance"].pop("fit_s") > 0  # the time it took is all that differs
        assert header.pop("digest")  # of the time too
    assert headers[0] == headers[1]


@pytest.mark.slow
def test_another_seed_gives_another_bank(saved: Path, good_paths: list[Path], tmp_path: Path):
    other = small_patchcore(seed=1).fit(good_paths).save(tmp_path / "other")
    assert (other / "bank.safetensors").read_bytes() != (saved / "bank.safetensors").read_bytes()


def test_the_header_says_where_the_model_comes_from(fitted: Patchcore, good_paths: list[Path]):
    header = fitted.header()
    settings = dict(SETTINGS)
    del settings["threads"]
    assert header["settings"] == settings
    provenance = header["provenance"]
    assert (provenance["seed"], provenance["backbone"]) == (0, "efficientnet_lite0")
    assert provenance["n_training_files"] == N_GOOD
    assert re.fullmatch("[0-9a-f]{64}", provenance["backbone_sha256"])
    assert re.fullmatch("[0-9a-f]{64}", provenance["training_sha256"])
    assert [one["path"] for one in header["training"]] == [str(path) for path in good_paths]
    assert header["thresholds"]["image"] == fitted.threshold


def test_saving_over_strangers_files_is_refused(fitted: Patchcore, tmp_path: Path):
    (tmp_path / "holiday.jpg").write_bytes(b"mine")
    with pytest.raises(SaveError, match=r"holiday\.jpg"):
        fitted.save(tmp_path)
    assert (tmp_path / "holiday.jpg").read_bytes() == b"mine"


@pytest.mark.slow
def test_a_loaded_detector_can_be_fitted_again_and_says_what_it_takes(saved: Path, fitted: Patchcore):
    loaded = Patchcore.load(saved)
    assert loaded.estimated_bytes(100) == fitted.estimated_bytes(100)
    loaded.fit(goods())
    assert loaded.threshold == fitted.threshold


@pytest.mark.slow
def test_a_loaded_detector_is_not_fitted_again_with_other_weights(saved: Path, monkeypatch: pytest.MonkeyPatch):
    loaded = Patchcore.load(saved)
    build = backbone.build
    monkeypatch.setattr(backbone, "build", lambda *a, **k: replace(build(*a, **k), weights_sha256="0" * 64))
    with pytest.raises(InputError, match=r"weights: expected those of the model, SHA-256 5793.*, got 0000"):
        loaded.fit(goods())
    assert loaded.predict(good(0)).score > 0


# Before and instead


def test_nothing_works_before_fitting(tmp_path: Path):
    model = small_patchcore()
    assert not model.is_fitted
    calls = (
        lambda: model.predict(good(0)),
        lambda: model.predict_many([good(0)]),
        lambda: model.save(tmp_path / "m"),
        lambda: model.set_false_positive_rate(0.1),
        model.header,
        lambda: model.threshold,
        lambda: model.pixel_threshold,
        lambda: model.calibration,
    )
    for call in calls:
        with pytest.raises(NotFittedError, match=r"Patchcore: expected a fitted detector.*Call fit\(\)"):
            call()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"pre_trained": False}, InputError, "pre_trained: expected True, got False"),
        ({"backbone": "resnet1"}, InputError, "resnet1"),
        ({"backbone": "absent.onnx"}, ModelFileError, r"absent\.onnx"),
        ({"layers": ["blocks.99"]}, InputError, r"blocks\.99"),
        ({"pooling": 2}, InputError, "pooling: expected an odd number, got 2"),
        ({"image_size": 8}, InputError, "image_size: expected a number from 32 to 4096, got 8"),
        ({"num_neighbors": 0}, InputError, "num_neighbors"),
        ({"weights": "absent.pth"}, ModelFileError, r"absent\.pth"),
        ({"threads": -1}, InputError, "threads: expected a whole number from 1 to 256, got -1"),
        ({"threads": 1.5}, InputError, "threads: expected a whole number from 1 to 256, got 1.5"),
    ],
)
def test_a_detector_that_cannot_work_is_not_made(changes: dict[str, Any], error: type[Exception], text: str):
    with pytest.raises(error, match=text):
        small_patchcore(**changes)


def test_there_is_no_model(tmp_path: Path):
    with pytest.raises(ModelFileError, match=r"model: expected a model folder, got nothing there, in .*absent"):
        Patchcore.load(tmp_path / "absent")


def test_fitting_needs_images():
    with pytest.raises(DataError, match="good images: expected at least 2, got 0"):
        small_patchcore().fit([])
