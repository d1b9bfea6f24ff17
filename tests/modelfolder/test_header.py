"""What every detector's folder has in common is read strictly; the detectors' own tests show the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from blemish.errors import InputError, ModelFileError
from blemish.imaging.drift import GoodRange
from blemish.imaging.geometry import Geometry, MapRule
from blemish.modelfolder.folder import load_model
from blemish.modelfolder.header import (
    Training,
    read_calibration,
    read_fitted,
    read_geometry,
    read_good_range,
    read_training,
    tail_fields,
)
from blemish.ops.conformal import PLAIN, Calibration, TailOptions
from blemish.ops.tail_probability import Prior
from tests.models import save_small


@pytest.mark.parametrize("wrong", [{}, [{"path": 3, "height_width": [1, 1]}], [{"path": "a", "height_width": [0, 1]}]])
def test_training_images_are_names_and_sizes(wrong: Any):
    training = Training(("a.png",), ((2, 3),))
    assert read_training({"training": training.to_json()}) == training
    with pytest.raises(InputError, match=r"training|path|height_width"):
        read_training({"training": wrong})


KNOWN: dict[str, Any] = {"score": 2.0, "map_peak": 3.0, "rarity": 4.0, "review": "confirmed"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"score": float("nan")},
        {"score": "2"},
        {"score": 2.5},
        {"score": None},
        {"map_peak": None},
        {"map_peak": 2.0},
        {"rarity": float("inf")},
        {"review": "fine"},
        {"review": "dropped"},
        {"review": None},
    ],
)
def test_scores_of_training_images_are_those_of_the_thresholds(wrong: Any):
    thresholds = {"image_scores": [1.0, 2.0], "pixel_scores": [3.0, 3.5]}
    rows = [
        {"path": "a", "height_width": [1, 1], **KNOWN},
        {"path": "b", "height_width": [1, 1], "score": 1.0, "map_peak": 3.5, "rarity": 0.0, "review": ""},
        {"path": "c", "height_width": [1, 1], "score": None, "map_peak": None, "rarity": None, "review": "dropped"},
    ]
    training = read_training({"training": rows, "thresholds": thresholds})
    assert (training.scores, training.chosen) == ((2.0, 1.0, None), [0, 1])
    assert [{**row, "height_width": [1, 1]} for row in training.to_json()] == rows
    rows[0] = {**rows[0], **wrong}
    with pytest.raises(InputError, match="training"):
        read_training({"training": rows, "thresholds": thresholds})


BEFORE = TailOptions(0.1, predictive=False)  # as before thresholds were predictive
KNOWN_TAIL = TailOptions(0.3, Prior(1.55, 40))


def header_of(image: TailOptions, pixel: TailOptions = PLAIN) -> dict[str, Any]:
    """Return what `model.json` has of two calibrations of the same scores."""
    scores = [1.0, 2.0, 4.0, 8.0]
    found = {
        name: Calibration.from_scores(scores, 0.05, "tail", tail) for name, tail in (("image", image), ("pixel", pixel))
    }
    values = {f"{name}_scores": scores for name in found} | {name: one.threshold for name, one in found.items()}
    thresholds = {"false_positive_rate": 0.05, **values, **tail_fields(image, pixel)}
    return {"thresholds": thresholds, "settings": {"calibration": "tail", "false_positive_rate": 0.05}}


@pytest.mark.parametrize(("image", "pixel"), [(KNOWN_TAIL, PLAIN), (PLAIN, PLAIN), (BEFORE, BEFORE)])
def test_tails_are_read_as_they_were_written(image: TailOptions, pixel: TailOptions):
    header = header_of(image, pixel)
    assert [read_calibration(header, name).options for name in ("image", "pixel")] == [image, pixel]
    assert ("censored" in header["thresholds"]) == (not image.predictive)


def test_a_folder_that_states_nothing_keeps_its_threshold():
    header = header_of(BEFORE, BEFORE)
    del header["thresholds"]["censored"]
    found = read_calibration(header, "image")
    assert (found.options, found.threshold) == (BEFORE, header["thresholds"]["image"])
    assert found.threshold < header_of(TailOptions(0.1))["thresholds"]["image"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"censored": 2.0},
        {"censored": 0.6},
        {"prior": None},
        {"prior": {"mean_excess": 1.55, "n": 0}},
        {"prior": {"mean_excess": float("nan"), "n": 40}},
        {"prior": {"mean_excess": 1.55, "n": 40.5}},
        {"prior": {"mean_excess": 1.55}},
        {"prior": {"mean_excess": 15.5, "n": 40}},
    ],
)
def test_a_damaged_tail_is_named(wrong: dict[str, Any], tmp_path: Path):
    header = header_of(KNOWN_TAIL)
    header["thresholds"]["image_tail"] |= wrong
    model = load_model(save_small(tmp_path / "model"))
    with pytest.raises(ModelFileError, match=r"model\.json"):
        read_fitted(model, "patchcore", lambda: read_calibration(header, "image"))


def test_another_detector_is_refused_before_anything_is_read(tmp_path: Path):
    model = load_model(save_small(tmp_path / "model"))
    with pytest.raises(ModelFileError, match="detector: expected efficientad, got 'patchcore'"):
        read_fitted(model, "efficientad", lambda: pytest.fail("it was read"))


def test_what_goes_wrong_inside_is_an_error_of_the_folder(tmp_path: Path):
    model = load_model(save_small(tmp_path / "model"))
    with pytest.raises(ModelFileError, match=r"model\.json: expected a patchcore model, got KeyError: 'bank'"):
        read_fitted(model, "patchcore", lambda: {}["bank"])


GEOMETRY: dict[str, Any] = {
    "input": {"resize_hw": [64, 96], "crop_hw": [32, 64], "resize_in_graph": True},
    "anomaly_map": {"upsampling": "nearest", "sigma_px": 2.0},
}


def test_the_geometry_is_read_as_it_was_written():
    assert read_geometry(GEOMETRY) == Geometry((64, 96), (32, 64), True, MapRule("nearest", 2.0))


@pytest.mark.parametrize(
    ("section", "field", "wrong"),
    [
        ("input", "resize_in_graph", 1),
        ("input", "resize_hw", [64]),
        ("input", "crop_hw", [96, 96]),
        ("anomaly_map", "upsampling", "cubic"),
        ("anomaly_map", "sigma_px", -1),
        ("anomaly_map", "sigma_px", "4"),
    ],
)
def test_a_geometry_that_cannot_be_is_refused(section: str, field: str, wrong: Any):
    header = {**GEOMETRY, section: {**GEOMETRY[section], field: wrong}}
    with pytest.raises(InputError, match=rf"{field}|image_size|center_crop"):
        read_geometry(header)


GOOD_RANGE: dict[str, Any] = {
    "brightness": [4.0, 5.0],
    "contrast": [-1.0, -0.5],
    "sharpness": [0.0, 0.2],
    "colour": [1.0, 2.0],
}


def test_the_range_of_good_images_is_read_as_it_was_written():
    assert read_good_range({}) is None
    limits = {name: (low, high) for name, (low, high) in GOOD_RANGE.items()}
    assert read_good_range({"good_range": GOOD_RANGE}) == GoodRange(limits)
    before = {name: pair for name, pair in limits.items() if name != "colour"}
    assert read_good_range({"good_range": {name: [*pair] for name, pair in before.items()}}) == GoodRange(before)


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        {},
        {**GOOD_RANGE, "hue": [0.0, 1.0]},
        {name: GOOD_RANGE[name] for name in ("brightness", "sharpness", "colour")},
        {**GOOD_RANGE, "contrast": [0.0, 0.0]},
        {**GOOD_RANGE, "contrast": [0.0, 11.0]},
        {**GOOD_RANGE, "contrast": [0.0, "1"]},
        {**GOOD_RANGE, "contrast": [0.0, float("nan")]},
        {**GOOD_RANGE, "contrast": [0.0, 1.0, 2.0]},
        {**GOOD_RANGE, "contrast": 1.0},
    ],
)
def test_a_range_of_good_images_that_cannot_be_is_refused(wrong: Any):
    with pytest.raises(InputError, match="good_range"):
        read_good_range({"good_range": wrong})
