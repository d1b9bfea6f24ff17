"""Identity of a detector: a hash of what it computes, the same before and after saving."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from blemish.detectors.registry import DETECTORS, settings_type

if TYPE_CHECKING:
    from blemish.detectors.predictor import Predictor

# Names of files, whose SHA-256 counts instead, and settings that move thresholds only.
LEFT_OUT_SETTINGS = {"backbone", "teacher", "imagenet_dir", "false_positive_rate", "calibration"}
# Entries of the header that do not say what a detector computes.
LEFT_OUT_ENTRIES = {"format_version", "files", "training", "history", "good_range"}

# Settings that 0.1.0 called otherwise, and those of PatchCore that are constants now.
NAMES_0_1 = {"score_fusion": "whole_picture", "budget": "budget_s"}
# Settings that 0.1.0 did not have, of all detectors that have them.
NEW_SETTINGS = {"calibration", "top_share"}
CONSTANTS_0_1 = {"shrinkage": 0.1, "score_sigma": 0.0}


def model_id(model: Predictor) -> str:
    """Return 16 hex digits of a hash of what a detector computes; two equal fits have the same.

    These are its settings, its input, the SHA-256 of the backbone's weights and of the training images (or of the
    checkpoint that it was imported from), and its scores of the calibration images, which follow from network and
    memory bank. Paths, times and the library's version do not count, nor do the thresholds, which can be moved.
    """
    header = {name: value for name, value in model.header().items() if name not in LEFT_OUT_ENTRIES}
    settings = _without(header.get("settings", {}), LEFT_OUT_SETTINGS)
    later = _later_settings(header)
    header["settings"] = _without(settings, {name for name, value in later.items() if settings.get(name) == value})
    hashes = {name: value for name, value in header.get("provenance", {}).items() if name.endswith("sha256")}
    scores = {name: value for name, value in header.pop("thresholds", {}).items() if name.endswith("_scores")}
    return _digest({**header, "provenance": hashes, "scores": scores})


def model_ids_0_1(model: Predictor) -> tuple[str, ...]:
    """Return the ids that 0.1.0 gave to this detector: as loaded from a folder, and as just fitted.

    It hashed the settings and the provenance, of which saving changed `library_version`.
    """
    header = model.header()
    settings = _without(header.get("settings", {}), {"false_positive_rate", *NEW_SETTINGS, *_later_settings(header)})
    settings = {NAMES_0_1.get(name, name): value for name, value in settings.items()}
    as_anomalib = header.get("input", {}).get("resize_in_graph", False)
    settings |= {"arithmetic": "anomalib" if as_anomalib else "blemish"}
    settings |= {"map_sigma_px": header.get("anomaly_map", {}).get("sigma_px")}
    if header["detector"] == "patchcore":
        settings |= CONSTANTS_0_1 | ({"shrinkage": 0.0} if as_anomalib else {})
    seen = _without(header.get("input", {}), {"resize_in_graph"})
    loaded = _without(header.get("provenance", {}), {"fit_s"})
    ids = []
    for provenance in (loaded, _without(loaded, {"library_version"})):
        parts = {"settings": settings, "provenance": provenance, "input": seen}
        ids.append(_digest({**parts, "detector": header["detector"]}))
    return tuple(ids)


def _without(values: Mapping[str, Any], names: set[str]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in names}


def _later_settings(header: Mapping[str, Any]) -> dict[str, Any]:
    """Return the detector's settings that came later, with the values by which it computes what it did before."""
    detector = str(header.get("detector"))
    return settings_type(detector).absent_values() if detector in DETECTORS else {}


def _digest(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, default=lambda array: np.asarray(array).tolist())
    return hashlib.sha256(text.encode()).hexdigest()[:16]
