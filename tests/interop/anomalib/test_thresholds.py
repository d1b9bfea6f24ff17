"""Thresholds of checkpoints: metrics of anomalib 1.x, post-processors of later lines, and when there are none."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from blemish._io.safe_pickle import Inert
from blemish.interop.anomalib.thresholds import DEFAULTS, Thresholds, thresholds

F1 = "anomalib.metrics.threshold.f1_adaptive_threshold.F1AdaptiveThreshold"
MIN_MAX = "anomalib.metrics.min_max.MinMax"


def number(value: float) -> np.ndarray[Any, Any]:
    return np.array(value, np.float32)


def old(**state: Any) -> dict[str, Any]:
    """A checkpoint of anomalib 1.2 after a validation."""
    values = {
        "image_threshold_class": F1,
        "pred_scores_normalization_class": MIN_MAX,
        "normalization_metrics.pred_scores.min": number(1.0),
        "normalization_metrics.box_scores.min": number(math.inf),
        "image_threshold.value": number(4.0),
        "pixel_threshold.value": number(2.0),
    }
    return {"state_dict": {**values, **{name.replace("__", "."): value for name, value in state.items()}}}


def test_metrics_of_1_x():
    assert thresholds(old(), "1.x") == Thresholds(4.0, 2.0)
    assert thresholds(old(image_threshold__value=number(0.5)), "1.x").image == 0.5
    manual = old(image_threshold_class="anomalib.metrics.threshold.manual_threshold.ManualThreshold")
    assert thresholds(manual, "1.x").image == 4.0


def test_metrics_that_saw_no_validation_have_no_threshold():
    unseen = old(normalization_metrics__pred_scores__min=number(math.inf), image_threshold__value=number(0.5))
    assert math.isnan(thresholds(unseen, "1.x").image)
    without = old(image_threshold__value=number(0.5))
    for name in list(without["state_dict"]):
        if "normalization" in name:
            del without["state_dict"][name]
    assert math.isnan(thresholds(without, "1.x").image)
    assert math.isnan(thresholds({"state_dict": {}}, "1.x").image)


def test_thresholds_of_another_scale_are_no_thresholds():
    cdf = old(normalization_class="anomalib.metrics.anomaly_score_distribution.AnomalyScoreDistribution")
    image, _, missing = thresholds(cdf, "1.x")
    assert math.isnan(image)
    assert "AnomalyScoreDistribution, which are not on raw scores" in missing


def new(config: Any = None, **state: float) -> dict[str, Any]:
    values = {"image_threshold": 4.0, "pixel_threshold": 2.0, **state}
    named = {f"post_processor._{name}": number(value) for name, value in values.items()}
    for kind in ("image", "pixel"):
        named |= {f"post_processor.{kind}_min": number(1.0), f"post_processor.{kind}_max": number(11.0)}
    made: dict[str, Any] = {"state_dict": named}
    return made if config is None else {**made, "anomalib_post_processor_config": config}


def test_a_post_processor():
    for checkpoint in (new(), new({}), new(DEFAULTS)):
        assert thresholds(checkpoint, "2.7") == Thresholds(4.0, 2.0)


def test_a_sensitivity_moves_the_threshold():
    # Normalised scores are compared with 1 - 0.7: (score - 4) / 10 + 0.5 > 0.3.
    assert thresholds(new({**DEFAULTS, "image_sensitivity": 0.7}), "2.7").image == pytest.approx(2.0)
    assert thresholds(new({**DEFAULTS, "pixel_sensitivity": 0.4}), "2.7").pixel == pytest.approx(3.0)
    assert math.isnan(thresholds(new({**DEFAULTS, "image_sensitivity": 1.5}), "2.7").image)


def test_without_masks_maps_have_the_threshold_of_scores():
    assert thresholds(new(pixel_threshold=math.nan), "2.7") == Thresholds(4.0, 4.0)
    assert math.isnan(
        thresholds(new({**DEFAULTS, "enable_threshold_matching": False}, pixel_threshold=math.nan), "2.7").pixel
    )
    assert math.isnan(thresholds(new(image_threshold=math.nan), "2.7").image)


def processor(name: str, **state: Any) -> dict[str, Any]:
    made = Inert(name)
    made.state = {**DEFAULTS, **state}
    return {**new(), "hyper_parameters": {"post_processor": made}}


def test_a_pickled_post_processor():
    plain = processor("anomalib.post_processing.post_processor.PostProcessor", image_sensitivity=0.7)
    assert thresholds(plain, "2.0 to 2.6").image == pytest.approx(2.0)


@pytest.mark.parametrize(
    "checkpoint",
    [
        processor("anomalib.post_processing.mebin_post_processor.MEBinPostProcessor"),
        processor("my.PostProcessor"),
        {**new(), "hyper_parameters": {"post_processor": False}},
        {**new(), "anomalib_components_enabled": {"post_processor": True}},
        new({**DEFAULTS, "sample_rate": 4}),
        new({**DEFAULTS, "enable_normalization": False}),
        new({**DEFAULTS, "enable_thresholding": False}),
    ],
)
def test_thresholds_of_another_post_processor_are_not_taken(checkpoint: dict[str, Any]):
    image, pixel, missing = thresholds(checkpoint, "2.0 to 2.6")
    assert math.isnan(image)
    assert math.isnan(pixel)
    assert "post-processor" in missing
