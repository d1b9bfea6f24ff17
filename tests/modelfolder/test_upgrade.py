"""Headers of versions 1 and 2 as the present one writes them; tests/contract has frozen folders."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from blemish.errors import ModelFileError
from blemish.modelfolder.upgrade import FORMAT_VERSION, upgraded


def version_1(**settings: Any) -> dict[str, Any]:
    stored = {"whole_picture": True, "false_alarm_rate": 0.01, "score_sigma": 0.0, "map_sigma_px": 4.0, **settings}
    thresholds = {"false_alarm_rate": 0.01, "image": 2.0, "image_scores": [1.0, 2.0]}
    return {
        "format_version": 1,
        "detector": "patchcore",
        "settings": {**stored, "arithmetic": settings.get("arithmetic", "blemish"), "shrinkage": 0.1},
        "input": {"resize_hw": [64, 64], "crop_hw": None},
        "thresholds": thresholds,
    }


def test_names_and_constants_are_those_of_today():
    header = upgraded(version_1(map_sigma_px=2.0), where="m")
    assert header["format_version"] == FORMAT_VERSION
    kept = {"score_fusion": True, "false_positive_rate": 0.01}
    assert header["settings"] == {**kept, "calibration": "conformal", "top_share": 0.0}
    assert header["thresholds"]["false_positive_rate"] == 0.01
    assert header["anomaly_map"] == {"upsampling": "bilinear", "sigma_px": 2.0}
    assert header["input"]["resize_in_graph"] is False


def test_score_and_thresholds_stay_those_of_the_time():
    header = upgraded(version_1(), where="m")
    weights = {"patch": 0.4, "part": 0.6, "image": 1.0}
    assert header["score_fusion"] == {"weights": weights, "censored": 0.0, "reason": ""}
    assert "score_fusion" not in upgraded(version_1(whole_picture=False), where="m")
    assert upgraded({**version_1(), "detector": "efficientad"}, where="m")["settings"]["calibration"] == "conformal"


def test_training_images_have_no_scores():
    row = {"path": "a.png", "height_width": [1, 1]}
    header = upgraded({**version_1(), "training": [row]}, where="m")
    assert header["training"] == [{**row, "score": None, "map_peak": None, "rarity": None, "review": ""}]
    assert upgraded({**version_1(), "training": [3]}, where="m")["training"] == [3]


def test_anomalibs_arithmetic_becomes_geometry():
    header = upgraded(version_1(arithmetic="anomalib"), where="m")
    assert header["input"]["resize_in_graph"] is True
    assert header["anomaly_map"]["upsampling"] == "nearest"


def test_an_efficientad_has_one_calibration_for_both_thresholds():
    header = upgraded({**version_1(), "detector": "efficientad"}, where="m")
    assert (header["thresholds"]["pixel"], header["thresholds"]["pixel_scores"]) == (2.0, [1.0, 2.0])


def test_a_smoothed_score_is_refused_with_the_file_and_the_remedy():
    with pytest.raises(ModelFileError, match=r"score_sigma: expected 0, got 0\.7, in model/model\.json\. Fit"):
        upgraded(version_1(score_sigma=0.7), where="model/model.json")


def test_a_header_of_today_is_left_as_it_is():
    header = {"format_version": FORMAT_VERSION, "settings": {"arithmetic": "x"}}
    assert upgraded(header, where="m") == header


def test_a_model_of_each_format_version_is_frozen():
    golden, versions = Path(__file__).parents[1] / "contract" / "golden", set()
    for path in golden.glob("*.zip"):
        with zipfile.ZipFile(path) as file:
            versions.add(json.loads(file.read("model.json"))["format_version"])
    assert versions == set(range(1, FORMAT_VERSION + 1)), f"freeze one of the present version: {golden / 'README.md'}"
