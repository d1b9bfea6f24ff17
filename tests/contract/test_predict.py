"""Predicting, for both detectors: what comes back, in which order, and what is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from blemish import ImageError, InputError, NotFittedError, Prediction, Sample
from tests.contract import drawn, names
from tests.contract.same import assert_same

if TYPE_CHECKING:
    from tests.contract.conftest import Case

FIELDS = {"score", "label", "threshold", "p_value", "anomaly_map", "mask", "pixel_threshold", "regions", "peak_xy"}


@pytest.mark.parametrize("name", list(drawn.golden_images()))
def test_a_prediction_is_whole(case: Case, name: str):
    image = drawn.golden_images()[name]
    found = case.fitted.predict(image)
    assert isinstance(found, Prediction)
    assert {field.name for field in dataclasses.fields(found)} >= FIELDS | {"nearest_good", "path", names.COMPONENTS}
    assert (type(found.score), type(found.label), type(found.threshold)) == (float, bool, float)
    assert found.anomaly_map.shape == found.mask.shape == image.shape[:2]
    assert (found.anomaly_map.dtype, found.mask.dtype) == (np.float32, np.bool_)
    assert np.isfinite(found.anomaly_map).all()
    assert (found.threshold, found.pixel_threshold) == (case.fitted.threshold, case.fitted.pixel_threshold)
    assert found.label == (found.score > found.threshold)
    assert (found.outcome == "good") != found.label
    assert found.upper_threshold is not None  # the default calibration has one
    assert (found.outcome == "defective") == (found.score > found.upper_threshold)
    limit = found.pixel_threshold
    if case.fitted.fitted.pixel_share:  # a mask of what is not good, without the blur of its highest values
        limit = max(limit, 0.35 * float(found.anomaly_map.max())) if found.label else np.inf
    np.testing.assert_array_equal(found.mask, found.anomaly_map > np.float32(limit))
    assert 0 < found.p_value <= 1
    x, y = found.peak_xy
    assert found.anomaly_map[y, x] == found.anomaly_map.max()
    assert found.path is None
    assert sum(region.area_px for region in found.regions) == found.mask.sum()
    assert [region.score for region in found.regions] == sorted((one.score for one in found.regions), reverse=True)


def test_regions_lie_on_the_mask(case: Case):
    found = case.fitted.predict(drawn.scratched(300))
    assert found.label
    assert found.regions
    for region in found.regions:
        x, y, width, height = region.box
        inside = found.mask[y : y + height, x : x + width]
        assert inside.any(axis=0).all()
        assert inside.any(axis=1).all()
        assert region.contour.dtype == np.int32
        assert region.contour.shape[1] == 2
        left, top = region.centroid_xy
        assert x <= left <= x + width
        assert y <= top <= y + height


def test_patchcore_says_what_the_score_is_made_of(patchcore: Case, good_paths: list[Path]):
    found = patchcore.fitted.predict(drawn.scratched(300))
    components = names.components_of(found)
    assert set(components) == names.COMPONENT_NAMES - {"part"}  # position takes 50 good images
    assert found.score == pytest.approx(sum(components.values()))
    nearest = found.nearest_good
    assert nearest is not None
    assert nearest.path in set(map(str, good_paths))
    x, y, width, height = nearest.box
    assert x >= 0 <= y
    assert x + width <= drawn.SIDE >= y + height
    assert nearest.distance > 0


@pytest.mark.slow
def test_without_fusion_the_worst_patch_alone_makes_the_score(patchcore: Case, good_paths: list[Path]):
    model = patchcore.make(fusion=False).fit(good_paths)
    assert names.components_of(model.predict(drawn.scratched(300))) == {}


@pytest.mark.slow
def test_a_guaranteed_rate_knows_two_outcomes(patchcore: Case, good_paths: list[Path]):
    model = patchcore.make(calibration="conformal").fit(good_paths)
    found = model.predict(drawn.scratched(300))
    assert (found.label, found.outcome, found.upper_threshold) == (True, "defective", None)
    assert model.predict(good_paths[0]).outcome in {"good", "defective"}


def test_defects_score_above_good_images(case: Case):
    good = [case.fitted.predict(drawn.good(seed)).score for seed in range(400, 404)]
    bad = [case.fitted.predict(make(seed)).score for seed in (300, 301) for make in (drawn.scratched, drawn.blotched)]
    assert max(good) < min(bad)


def test_path_sample_array_and_text_are_the_same(case: Case, tmp_path: Path):
    image = drawn.scratched(300)
    path = drawn.write(tmp_path / "part.png", image)
    by_array = case.fitted.predict(image)
    given: tuple[Any, ...] = (path, str(path), Sample(path))
    for one in given:
        found = case.fitted.predict(one)
        assert found.path == path
        assert_same(found, by_array, path=False)
    assert [one.name for one in tmp_path.iterdir()] == ["part.png"]


def test_a_16_bit_file_is_read_by_its_full_range(case: Case, tmp_path: Path):
    image = drawn.scratched(300)
    path = drawn.write(tmp_path / "deep.png", image.astype(np.uint16) * 257)
    assert_same(case.fitted.predict(path), case.fitted.predict(image), path=False)
    assert case.fitted.bit_depth is None
    assert case.make(bit_depth=12).bit_depth == 12


def test_the_image_is_not_changed(case: Case):
    image = drawn.scratched(300)
    image.flags.writeable = False
    case.fitted.predict(image)
    np.testing.assert_array_equal(image, drawn.scratched(300))


def test_to_dict_fits_in_json(case: Case):
    found = case.fitted.predict(drawn.scratched(300))
    told = json.loads(json.dumps(found.to_dict()))
    assert set(told) == names.PREDICTION_KEYS
    assert told["height_width"] == [drawn.SIDE, drawn.SIDE]
    assert len(told["regions"]) == len(found.regions)
    assert set(told["regions"][0]) == {"box", "area_px", "score", "centroid_xy"}


def test_before_a_fit_everything_says_so(case: Case, tmp_path: Path):
    model, image = case.make(), drawn.good(0)
    for call in (
        lambda: model.predict(image),
        lambda: list(model.predict_many([image])),
        lambda: model.save(tmp_path / "m"),
        lambda: model.threshold,
        lambda: names.set_rate(model, 0.1),
    ):
        with pytest.raises(NotFittedError, match="fit"):
            call()
    assert not (tmp_path / "m").exists()


def test_a_file_that_cannot_be_read_is_named(case: Case, tmp_path: Path):
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("not an image")
    drawn.cut_off(tmp_path / "cut.png")
    for name in ("missing.png", "empty.png", "text.png", "cut.png"):
        with pytest.raises(ImageError, match=name):
            case.fitted.predict(tmp_path / name)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((64, 64, 3), np.float32),
        np.zeros((64, 64, 3), np.int64),
        np.zeros((64, 64, 3), bool),
        np.zeros((3, 64, 64), np.uint8),
        np.zeros((64, 64, 4), np.uint8),
        np.zeros(64, np.uint8),
        np.zeros((0, 64, 3), np.uint8),
    ],
    ids=lambda image: f"{image.dtype}{image.shape}",
)
def test_an_array_that_is_no_image_is_refused(case: Case, image: Any):
    with pytest.raises(InputError):
        case.fitted.predict(image)


def test_many_come_in_order_with_a_problem_for_the_broken_one(case: Case, good_paths: list[Path], tmp_path: Path):
    cut = drawn.cut_off(tmp_path / "cut.png")
    images: list[Any] = [good_paths[0], drawn.scratched(300), cut, tmp_path / "missing.png", good_paths[1]]
    found = list(case.fitted.predict_many(images))
    assert len(found) == len(images)
    for i in (0, 1, 4):
        one = found[i]
        assert isinstance(one, Prediction)
        assert_same(one, case.fitted.predict(images[i]))
    for i, path in ((2, cut), (3, tmp_path / "missing.png")):
        one = found[i]
        assert not isinstance(one, Prediction)
        assert (one.path, one.kind) == (path, "unreadable")
        assert path.name in one.text


def test_many_are_read_as_they_are_asked_for(case: Case):
    def endless() -> Any:
        while True:
            yield drawn.good(0)

    running = case.fitted.predict_many(endless())
    first, second = next(running), next(running)
    assert isinstance(first, Prediction)
    assert isinstance(second, Prediction)
    assert_same(first, second)
    assert list(case.fitted.predict_many([])) == []


def test_the_rate_moves_the_thresholds(case: Case):
    model = case.kind.load(case.saved, threads=1)
    strict = (model.threshold, model.pixel_threshold)
    score = model.predict(drawn.scratched(300)).score
    names.set_rate(model, 0.5)
    assert names.rate_of(model) == 0.5
    assert model.threshold < strict[0]
    assert model.pixel_threshold < strict[1]
    found = model.predict(drawn.scratched(300))
    assert (found.score, found.threshold) == (score, model.threshold)
    names.set_rate(model, names.rate_of(case.fitted))
    assert (model.threshold, model.pixel_threshold) == strict
    for wrong in (0.0, 1.0, -1, float("nan")):
        with pytest.raises(InputError, match=names.RATE):
            names.set_rate(model, wrong)
    assert (model.threshold, model.pixel_threshold) == strict


def test_nearest_good_patches_are_of_different_images(patchcore: Case):
    image = drawn.scratched(300)
    patches = patchcore.fitted.nearest_good_patches(image, 3)
    assert patches[0] == patchcore.fitted.predict(image).nearest_good
    assert len({patch.path for patch in patches}) == len(patches) == 3
    assert sorted(patch.distance for patch in patches) == [patch.distance for patch in patches]
