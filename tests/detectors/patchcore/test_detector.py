"""Patchcore as its users meet it: fit, predict, save, load, and what it says of things that cannot be."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blemish import InputError, Patchcore, Sample
from blemish.errors import ImageError
from blemish.imaging.geometry import MapRule
from blemish.types import Prediction, Problem
from tests.images import N_GOOD, good, goods, scratched, small_patchcore, write, write_goods


def same(one: Prediction, other: Prediction) -> bool:
    """Whether two predictions are equal to the bit, whatever they are called."""
    names = ("score", "label", "threshold", "p_value", "pixel_threshold", "peak_xy", "nearest_good")
    return (
        all(getattr(one, name) == getattr(other, name) for name in names)
        and np.array_equal(one.anomaly_map, other.anomaly_map)
        and np.array_equal(one.mask, other.mask)
        and [r.box for r in one.regions] == [r.box for r in other.regions]
    )


# What a prediction says


def test_a_scratch_is_found_where_it_is(fitted: Patchcore):
    image, mask = scratched(99)
    found = fitted.predict(image)
    assert found.label
    assert found.score > 3 * found.threshold
    assert mask[found.peak_xy[1], found.peak_xy[0]]
    assert found.mask[mask].all()
    assert found.regions[0].score == found.anomaly_map.max()


def test_good_images_are_let_through(fitted: Patchcore):
    found = [fitted.predict(good(seed)) for seed in range(100, 110)]
    assert sum(one.label for one in found) <= 4  # the rate is 0.1; 4 of 10 would come once in 80 times
    assert max(one.score for one in found) < fitted.predict(scratched(99)[0]).score / 3


@pytest.mark.parametrize("image", [good(50), scratched(51)[0], scratched(52, 70, 130)[0]])
def test_labels_and_masks_follow_from_scores(fitted: Patchcore, image: np.ndarray):
    found = fitted.predict(image)
    assert found.label == (found.score > found.threshold)
    assert (found.threshold, found.pixel_threshold) == (fitted.threshold, fitted.pixel_threshold)
    np.testing.assert_array_equal(found.mask, found.anomaly_map > np.float32(found.pixel_threshold))
    assert (found.anomaly_map.shape, found.anomaly_map.dtype) == (image.shape[:2], np.float32)
    assert found.mask.any() == bool(found.regions)
    assert found.p_value == fitted.calibration.p_value(found.score)
    assert 0 < found.p_value <= 1
    assert found.anomaly_map[found.peak_xy[1], found.peak_xy[0]] == found.anomaly_map.max()
    assert json.loads(json.dumps(found.to_dict()))["label"] == found.label


def test_p_values_are_those_of_the_calibration(fitted: Patchcore):
    assert fitted.predict(scratched(99)[0]).p_value == 1 / (N_GOOD + 1)
    assert fitted.calibration.n == N_GOOD


def test_nearest_good_is_the_row_that_was_found(fitted: Patchcore, good_paths: list[Path]):
    image, _ = scratched(99)
    inside = fitted.fitted
    features = inside.extractor.features(inside.geometry.prepare(image)).astype(np.float64)
    distances = np.linalg.norm(features[:, :, None] - inside.scorer.index.memory_bank, axis=3)
    level = inside.scorer.statistics
    assert level is not None
    row, column = np.unravel_index(level.z_scores(distances.min(axis=2)).argmax(), level.mean.shape)
    nearest = int(distances[row, column].argmin())
    image_index, source_row, source_column = inside.source[nearest].tolist()
    found = fitted.predict(image).nearest_good
    assert found is not None
    assert found.path == str(good_paths[image_index])
    assert found.box == (8 * source_column, 8 * source_row, 8, 8)
    assert found.distance == pytest.approx(distances[row, column, nearest], rel=1e-5)


@pytest.mark.slow
def test_score_is_the_highest_relative_distance(good_paths: list[Path]):
    plain = unsmoothed(small_patchcore(position_sigma=None).fit(good_paths))
    found = plain.predict(scratched(99)[0])
    assert found.nearest_good is not None
    assert found.score == found.nearest_good.distance
    assert found.anomaly_map.max() == pytest.approx(found.score, rel=0.03)  # no pixel lies on the centre of a cell


def unsmoothed(model: Patchcore) -> Patchcore:
    """The same detector without smoothing of its map."""
    state = model.fitted
    geometry = replace(state.geometry, map_rule=MapRule(sigma_px=0.0))
    return Patchcore.from_state(model.settings, replace(state, geometry=geometry))


# How images may come


def test_paths_samples_and_arrays_give_the_same(fitted: Patchcore, tmp_path: Path):
    image, _ = scratched(99)
    path = write(tmp_path / "a.png", image)
    from_array = fitted.predict(image)
    assert from_array.path is None
    for item in (path, str(path), Sample(path, "test", "scratch")):
        found = fitted.predict(item)
        assert same(found, from_array)
        assert found.path == path


@pytest.mark.slow
def test_fitting_on_arrays_samples_and_paths_gives_the_same(fitted: Patchcore, good_paths: list[Path]):
    image, _ = scratched(99)
    expected = fitted.predict(image)
    for items in (goods(), [Sample(path, "train") for path in good_paths], (str(path) for path in good_paths)):
        found = small_patchcore().fit(items).predict(image)
        assert (found.score, found.threshold) == (expected.score, expected.threshold)
        np.testing.assert_array_equal(found.anomaly_map, expected.anomaly_map)


def test_grey_images_are_their_three_equal_channels(fitted: Patchcore, tmp_path: Path):
    grey = good(99)[..., 1]
    expected = fitted.predict(np.repeat(grey[..., None], 3, axis=2))
    assert same(fitted.predict(grey), expected)
    assert same(fitted.predict(grey[..., None]), expected)
    assert same(fitted.predict(write(tmp_path / "grey.png", grey)), expected)


def test_16_bit_images_are_scaled_by_their_full_range(fitted: Patchcore, tmp_path: Path):
    image, _ = scratched(99)
    deep = image.astype(np.uint16) * 257
    assert same(fitted.predict(deep), fitted.predict(image))
    assert same(fitted.predict(write(tmp_path / "deep.png", deep)), fitted.predict(image))


@pytest.mark.slow
def test_12_bit_images_are_scaled_by_what_is_stated():
    def twelve(image: np.ndarray) -> np.ndarray:
        return ((image.astype(np.int64) * 4095 + 127) // 255).astype(np.uint16)

    model = small_patchcore(bit_depth=12).fit([twelve(image) for image in goods(6)])
    found = model.predict(twelve(scratched(99)[0]))
    assert found.score == small_patchcore().fit(goods(6)).predict(scratched(99)[0]).score
    with pytest.raises(ImageError, match=r"image: expected values up to 4095 \(bit_depth=12\), got 65535"):
        model.predict(np.full((96, 96), 65535, np.uint16))


@pytest.mark.parametrize("height_width", [(96, 96), (33, 210), (1, 1), (500, 20)])
def test_maps_have_the_size_of_the_image(fitted: Patchcore, height_width: tuple[int, int]):
    assert fitted.predict(good(99, *height_width)).anomaly_map.shape == height_width


@pytest.mark.slow
def test_mixed_sizes_are_fitted_as_squares(tmp_path: Path):
    images = [good(seed, 96, 96 if seed % 2 else 192) for seed in range(8)]
    model = small_patchcore().fit(images)
    assert model.fitted.geometry.resize_hw == (96, 96)
    assert model.fitted.training.sizes_hw == tuple(image.shape[:2] for image in images)
    found = model.predict(scratched(99, 96, 192)[0]).nearest_good
    assert found is not None
    x, y, width, height = found.box
    whole = images[int(found.path.removeprefix("array "))].shape
    assert min(x, y) >= 0
    assert x + width <= whole[1]
    assert y + height <= whole[0]


@pytest.mark.slow
def test_the_box_of_the_good_patch_is_in_that_images_pixels():
    model = small_patchcore().fit([good(seed, 192, 192) for seed in range(6)])
    found = model.predict(scratched(99)[0]).nearest_good
    assert found is not None
    assert found.box[2:] == (16, 16)


def test_maps_are_smoothed(fitted: Patchcore, good_paths: list[Path]):
    rough = unsmoothed(fitted).predict(good(99))
    assert np.abs(np.diff(fitted.predict(good(99)).anomaly_map)).max() < 0.9 * np.abs(np.diff(rough.anomaly_map)).max()
    assert fitted.predict(good(99)).score == rough.score


@pytest.mark.slow
def test_wide_images_keep_their_aspect():
    model = small_patchcore().fit([good(seed, 64, 256) for seed in range(6)])
    assert model.fitted.geometry.resize_hw == (64, 192)


@pytest.mark.slow
def test_names_that_are_not_ascii(tmp_path: Path):
    folder = tmp_path / "größe 日本 ñ"
    paths = write_goods(folder / "gut", 6)
    image = write(folder / "Kratzer №1.png", scratched(99)[0])
    model = small_patchcore().fit(paths)
    loaded = Patchcore.load(model.save(folder / "modèle"))
    found = loaded.predict(image)
    assert same(found, model.predict(image))
    assert found.nearest_good is not None
    assert Path(found.nearest_good.path) in paths


@pytest.mark.slow
@pytest.mark.parametrize(
    ("array", "text"),
    [
        (np.zeros((8, 8, 3)), r"image: expected uint8 or uint16 .*got float64 .*If it runs from 0 to 1"),
        (np.zeros((2, 8, 8, 3), np.uint8), "use predict_many"),
        (np.zeros((3, 8, 8), np.uint8), "Channels come last"),
        (np.zeros((8, 8, 4), np.uint8), "Leave alpha out"),
        (np.zeros((8,), np.uint8), r"got uint8 \(8,\)"),
        (np.zeros((0, 4, 3), np.uint8), r"got uint8 \(0, 4, 3\)"),
        (np.full((4, 4), "x"), r"got <U1 \(4, 4\)"),
    ],
)
def test_arrays_that_are_no_images(fitted: Patchcore, array: np.ndarray, text: str):
    with pytest.raises(InputError, match=text):
        fitted.predict(array)
    with pytest.raises(InputError, match=text):
        list(fitted.predict_many([array]))
    with pytest.raises(InputError, match=text):
        small_patchcore().fit([*goods(3), array])


def test_files_that_are_no_images(fitted: Patchcore, tmp_path: Path):
    (tmp_path / "broken.png").write_bytes(b"")
    for name in ("broken.png", "absent.png", "."):
        with pytest.raises(ImageError, match=re.escape(str(tmp_path / name))):
            fitted.predict(tmp_path / name)


# Many images


def test_many_go_on_after_a_broken_one(fitted: Patchcore, tmp_path: Path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    whole = write(tmp_path / "whole.png", scratched(99)[0])
    items = [whole, broken, good(98), str(broken), Sample(whole)]
    found = list(fitted.predict_many(items))
    assert [type(one) for one in found] == [Prediction, Problem, Prediction, Problem, Prediction]
    for one in (found[1], found[3]):
        assert isinstance(one, Problem)
        assert (one.path, one.kind, one.fatal) == (broken, "unreadable", False)
        assert str(broken) in one.text
    for item, one in zip((items[0], items[2]), (found[0], found[2]), strict=True):
        assert isinstance(one, Prediction)
        assert same(one, fitted.predict(item))


def test_many_are_taken_as_they_are_needed(fitted: Patchcore):
    taken = []

    def endless():
        while True:
            taken.append(1)
            yield good(0, 32, 32)

    results = fitted.predict_many(endless())
    next(results)
    assert len(taken) < 20
    results.close()


# Thresholds


def test_false_positive_rate_moves_both_thresholds(saved: Path):
    model = Patchcore.load(saved)
    rates = (0.1, 0.2, 0.35, 0.5, 0.75, 0.9)
    found = []
    for rate in rates:
        model.set_false_positive_rate(rate)
        assert model.false_positive_rate == model.settings.false_positive_rate == rate
        found.append((model.threshold, model.pixel_threshold))
        prediction = model.predict(good(99))
        assert (prediction.threshold, prediction.pixel_threshold) == found[-1]
    assert found == sorted(found, reverse=True)
    assert found[0][0] > found[-1][0]
    assert found[0][1] > found[-1][1]
    model.set_false_positive_rate(rates[0])
    assert (model.threshold, model.pixel_threshold) == found[0]


@pytest.mark.slow
def test_false_positive_rate_is_saved(saved: Path, tmp_path: Path):
    model = Patchcore.load(saved)
    model.set_false_positive_rate(0.4)
    again = Patchcore.load(model.save(tmp_path / "m"))
    assert (again.false_positive_rate, again.threshold) == (0.4, model.threshold)


@pytest.mark.parametrize("rate", [0, 1, -0.1, 2, "a", None, float("nan")])
def test_rates_that_no_threshold_can_promise(saved: Path, rate: Any):
    model = Patchcore.load(saved)
    before = model.threshold
    with pytest.raises(InputError, match="false_positive_rate: expected a number"):
        model.set_false_positive_rate(rate)
    assert model.threshold == before
    with pytest.raises(InputError, match="false_positive_rate: expected a number"):
        small_patchcore(false_positive_rate=rate)
