"""Padim as its users meet it: fit, predict, save, load, and damaged model folders."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from blemish import DataError, InputError, ModelFileError, Padim, Patchcore, load
from blemish.detectors.padim.state import GAUSSIANS
from tests.images import N_GOOD, cut_off, good, goods, scratched, write_goods
from tests.models import rewrite

SETTINGS: dict[str, Any] = {"image_size": 96, "n_features": 30, "false_positive_rate": 0.1, "threads": 2}


@pytest.fixture(scope="module")
def padim() -> Padim:
    return Padim(**SETTINGS).fit(goods())


@pytest.fixture
def folder(padim: Padim, tmp_path: Path) -> Path:
    return padim.save(tmp_path / "model")


def test_a_scratch_is_found_where_it_is(padim: Padim):
    image, mask = scratched(99)
    found = padim.predict(image)
    assert found.label
    assert mask[found.peak_xy[1], found.peak_xy[0]]
    assert found.score == pytest.approx(found.anomaly_map.max())
    assert (found.anomaly_map.shape, found.anomaly_map.dtype) == (image.shape[:2], np.float32)
    assert (found.nearest_good, dict(found.score_components)) == (None, {})


def test_thresholds_come_from_leave_one_out_scores(padim: Padim):
    assert padim.calibration.n == N_GOOD
    assert padim.threshold == padim.pixel_threshold
    # A training image is nearer to the Gaussians that it is part of.
    assert np.median([padim.predict(image).score for image in goods()]) < np.median(padim.calibration.scores)
    assert sum(padim.predict(good(seed)).label for seed in range(100, 110)) <= 4


@pytest.mark.slow
def test_broken_images_are_left_out(tmp_path: Path):
    paths = write_goods(tmp_path, 5)
    cut_off(paths[2], good(2))
    model = Padim(**SETTINGS).fit(paths)
    assert [problem.path for problem in model.problems] == [paths[2]]
    assert model.fitted.training.paths == tuple(str(path) for path in paths if path != paths[2])
    assert model.calibration.n == 4
    with pytest.raises(DataError, match="good images: expected at least 2"):
        Padim(**SETTINGS).fit(paths[2:4])


@pytest.mark.slow
def test_wide_images_keep_their_aspect():
    model = Padim(**SETTINGS).fit([good(seed, 64, 128) for seed in range(4)])
    assert model.fitted.geometry.resize_hw == (64, 128)
    assert model.predict(good(9, 64, 128)).anomaly_map.shape == (64, 128)


def test_a_loaded_detector_predicts_bit_for_bit(padim: Padim, folder: Path):
    loaded = load(folder, threads=2)
    assert isinstance(loaded, Padim)
    assert loaded.settings == padim.settings
    for image in (good(50), scratched(51, 70, 120)[0]):
        mine, theirs = padim.predict(image), loaded.predict(image)
        assert mine.to_dict() == theirs.to_dict()
        np.testing.assert_array_equal(mine.anomaly_map, theirs.anomaly_map)
    again = loaded.save(folder.with_name("again"))
    for file in ("network.onnx", GAUSSIANS):
        assert (again / file).read_bytes() == (folder / file).read_bytes()


@pytest.mark.slow
def test_the_same_seed_gives_the_same_gaussians(padim: Padim):
    again, other = Padim(**SETTINGS).fit(goods()), Padim(**SETTINGS, seed=1).fit(goods())
    np.testing.assert_array_equal(again.fitted.gaussians.mean, padim.fitted.gaussians.mean)
    assert (other.fitted.gaussians.mean != padim.fitted.gaussians.mean).any()


@pytest.mark.slow
def test_a_loaded_detector_is_fitted_again(folder: Path):
    loaded = Padim.load(folder).fit(goods(4))
    assert loaded.calibration.n == 4


def change(folder: Path, name: str, array: np.ndarray) -> None:
    tensors = {**safetensors.numpy.load((folder / GAUSSIANS).read_bytes()), name: array}
    data = safetensors.numpy.save(tensors)
    (folder / GAUSSIANS).write_bytes(data)
    rewrite(folder, lambda header: header["files"].update({GAUSSIANS: hashlib.sha256(data).hexdigest()}))


@pytest.mark.parametrize(
    ("name", "array", "text"),
    [
        ("mean", np.zeros((12, 12, 29), np.float32), r"mean: expected finite float32 \(12, 12, 30\), got float32 \(12"),
        ("mean", np.full((12, 12, 30), np.nan, np.float32), "mean: expected finite float32"),
        ("mean", np.zeros((12, 12, 30), np.float64), "expected mean: F32 of 3 axes, got F64"),
        ("whitening", np.zeros((12, 12, 30, 29), np.float32), "whitening: expected finite float32"),
        ("whitening", np.full((12, 12, 30, 30), np.inf, np.float32), "whitening: expected finite"),
    ],
)
def test_gaussians_of_another_network_are_refused(folder: Path, name: str, array: np.ndarray, text: str):
    change(folder, name, array)
    with pytest.raises(ModelFileError, match=text):
        Padim.load(folder)


def test_another_detectors_folder_is_refused(folder: Path):
    with pytest.raises(ModelFileError, match="detector: expected patchcore, got 'padim'"):
        Patchcore.load(folder)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"n_features": 0}, "n_features: expected a whole number from 1 to 4096, got 0"),
        ({"layers": ("no",)}, "layer"),
        ({"pre_trained": False}, "pre_trained: expected True, got False"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], text: str):
    with pytest.raises(InputError, match=text):
        Padim(**settings)
