"""Headers of earlier format versions, brought to the present one when a model folder is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from blemish.errors import ModelFileError, message
from blemish.imaging.geometry import MapRule

FORMAT_VERSION = 3

RENAMED = {"false_alarm_rate": "false_positive_rate", "whole_picture": "score_fusion", "budget_s": "budget"}


def upgraded(header: Mapping[str, Any], *, where: object) -> dict[str, Any]:
    """Return a header of an earlier format version as the present version writes it; others as they are."""
    result = dict(header)
    for version in range(result["format_version"], FORMAT_VERSION):
        result = UPGRADES[version](result, where)
    return result


def _from_version_1(header: dict[str, Any], where: object) -> dict[str, Any]:
    """Return a header of version 1 (0.1.0) as version 2 writes it.

    Version 1 had settings for the map's smoothing and for anomalib's arithmetic, which are the geometry's now.
    """
    settings, thresholds = _renamed(header["settings"]), _renamed(header["thresholds"])
    as_anomalib = settings.pop("arithmetic", "blemish") == "anomalib"
    sigma_px = settings.pop("map_sigma_px", MapRule().sigma_px)
    settings.pop("shrinkage", None)  # of the whitening, which is in the network's weights
    score_sigma = settings.pop("score_sigma", 0.0)
    if score_sigma != 0.0:
        todo = "Fit again with `blemish fit`: a smoothed score brought nothing and is no setting any more."
        raise ModelFileError(message("score_sigma", "0", repr(score_sigma), where=where, todo=todo))
    if header["detector"] == "efficientad":
        # Its score is the highest value of its map: one calibration served both thresholds.
        thresholds |= {f"pixel{end}": thresholds.get(f"image{end}") for end in ("", "_scores")}
    nearest = as_anomalib and header["detector"] == "patchcore"
    return {
        **header,
        "format_version": 2,
        "settings": settings,
        "thresholds": thresholds,
        "input": {**header["input"], "resize_in_graph": as_anomalib},
        "anomaly_map": {"upsampling": "nearest" if nearest else "bilinear", "sigma_px": sigma_px},
    }


def _from_version_2(header: dict[str, Any], where: object) -> dict[str, Any]:
    """Return a header of version 2 as version 3 writes it: conformal thresholds, and the score of 0.1.0."""
    del where
    settings = {**header["settings"], "calibration": "conformal"}
    result = {**header, "format_version": 3, "settings": settings}
    if isinstance(header.get("training"), list):
        unknown = {"score": None, "map_peak": None, "rarity": None, "review": ""}
        result["training"] = [{**row, **unknown} if isinstance(row, dict) else row for row in header["training"]]
    if header["detector"] == "patchcore":
        settings["top_share"] = 0.0
        if settings.get("score_fusion"):
            weights = {"patch": 0.4, "part": 0.6, "image": 1.0}
            result["score_fusion"] = {"weights": weights, "censored": 0.0, "reason": ""}
    return result


def _renamed(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {RENAMED.get(name, name): value for name, value in fields.items()}


UPGRADES: dict[int, Callable[[dict[str, Any], object], dict[str, Any]]] = {1: _from_version_1, 2: _from_version_2}
