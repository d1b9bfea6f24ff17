"""Thresholds by false positive rate: what they promise, in words and as JSON."""

from __future__ import annotations

import json

import numpy as np

from blemish.evaluation.thresholds import threshold_fields, threshold_sentence
from blemish.ops.conformal import Calibration

SCORES = np.random.default_rng(0).exponential(1.0, 80)


def test_thresholds_are_said_as_an_estimate_with_its_interval():
    calibration = Calibration.from_scores(SCORES, 0.02, "tail")
    low, high = calibration.rate_interval
    assert threshold_sentence(calibration) == (
        f"Threshold {calibration.threshold:.4g}: about 2 % false positives expected (90 % interval {100 * low:.2g} to "
        f"{100 * high:.2g} %). Above {calibration.upper_threshold:.4g} no good image is expected."
    )
    assert low < 0.02 < high
    strict = Calibration.from_scores(SCORES, 0.0005, "tail")
    assert "Above" not in threshold_sentence(strict)  # the threshold is that level already


def test_thresholds_are_said_as_a_guarantee():
    calibration = Calibration.from_scores(SCORES, 0.05, "conformal")
    assert threshold_sentence(calibration) == f"Threshold {calibration.threshold:.4g}: at most 4.9 % false positives."
    assert threshold_fields(calibration)["upper_threshold"] is None


def test_the_fields_fit_in_json():
    calibration = Calibration.from_scores(SCORES, 0.02, "tail")
    fields = json.loads(json.dumps(threshold_fields(calibration)))
    assert fields == {
        "threshold": calibration.threshold,
        "upper_threshold": calibration.upper_threshold,
        "false_positive_rate_promised": 0.02,
        "false_positive_rate_interval": list(calibration.rate_interval),
    }
