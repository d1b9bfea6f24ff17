"""Thresholds of an anomalib checkpoint on raw scores, from its metrics (1.x) or its post-processor (from 2.0 on)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from blemish._io.safe_pickle import Inert

if TYPE_CHECKING:
    from blemish.interop.anomalib.releases import Line

POST_PROCESSORS = ("PostProcessor", "OneClassPostProcessor")
# anomalib 2.7, post_processing/post_processor.py: all that the plain PostProcessor is configured by, and its defaults.
DEFAULTS = {
    "enable_normalization": True,
    "enable_thresholding": True,
    "enable_threshold_matching": True,
    "image_sensitivity": 0.5,
    "pixel_sensitivity": 0.5,
}
UNSET = 0.5  # anomalib 1.x, F1AdaptiveThreshold: its value before the first validation


class Thresholds(NamedTuple):
    """Thresholds on raw scores and on the raw map; NaN where there are none.

    Attributes:
        missing: why there are none; text for a message.
    """

    image: float
    pixel: float
    missing: str = "none yet"


def thresholds(checkpoint: Mapping[str, Any], line: Line) -> Thresholds:
    """Return the thresholds that anomalib compares raw scores with, sensitivities included."""
    if line == "1.x":
        return _of_metrics(checkpoint["state_dict"])
    return _of_post_processor(checkpoint["state_dict"], _configuration(checkpoint))


def _of_metrics(state: Mapping[str, Any]) -> Thresholds:
    """Return the thresholds of anomalib 1.x; NaN if they are not on raw scores, or none was validated."""
    classes = {key: name for key, name in state.items() if key.endswith("_class") and isinstance(name, str)}
    others = [name for name in classes.values() if not name.endswith(("Threshold", ".MinMax"))]
    if others:
        return Thresholds(
            math.nan, math.nan, f"those of {others[0].rpartition('.')[2][:60]}, which are not on raw scores"
        )
    image, pixel = (_number(state, f"{kind}_threshold.value") for kind in ("image", "pixel"))
    adaptive = classes.get("image_threshold_class", "").endswith("F1AdaptiveThreshold")
    ranges = [_number(state, f"normalization_metrics.{part}min") for part in ("", "pred_scores.")]
    validated = any(math.isfinite(value) for value in ranges)
    if adaptive and not validated and (image == UNSET or any(math.isinf(value) for value in ranges)):
        return Thresholds(math.nan, math.nan)
    return Thresholds(image, pixel)


def _configuration(checkpoint: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the settings of the post-processor; None if it is not anomalib's plain one."""
    config = checkpoint.get("anomalib_post_processor_config")
    if isinstance(config, Mapping):
        return {**DEFAULTS, **config} if config.keys() <= DEFAULTS.keys() else None
    enabled = checkpoint.get("anomalib_components_enabled")
    if isinstance(enabled, Mapping):
        return None  # disabled, or of the user's, which the checkpoint does not keep
    arguments = checkpoint.get("hyper_parameters")
    processor = arguments.get("post_processor", True) if isinstance(arguments, Mapping) else True
    if isinstance(processor, Inert):
        module, _, name = processor.name.rpartition(".")
        plain = name in POST_PROCESSORS and module.startswith("anomalib.") and isinstance(processor.state, Mapping)
        return {key: processor.state.get(key) for key in DEFAULTS} if plain else None
    return DEFAULTS if processor is True else None


def _of_post_processor(state: Mapping[str, Any], config: Mapping[str, Any] | None) -> Thresholds:
    """Return the thresholds of a PostProcessor: scores are normalised to threshold 0.5, and compared with 1 minus the
    sensitivity.
    """
    if config is None:
        return Thresholds(math.nan, math.nan, "another post-processor than anomalib's own")
    if config["enable_normalization"] is not True or config["enable_thresholding"] is not True:
        return Thresholds(math.nan, math.nan, "a post-processor without normalisation or thresholds")
    values = {kind: _number(state, f"post_processor._{kind}_threshold") for kind in ("image", "pixel")}
    if math.isnan(values["pixel"]) and config["enable_threshold_matching"] is True:
        values["pixel"] = values["image"]  # no masks in its validation
    for kind, value in values.items():
        sensitivity = config[f"{kind}_sensitivity"]
        if not isinstance(sensitivity, (int, float)) or not 0 < sensitivity < 1:
            return Thresholds(math.nan, math.nan, f"a {kind}_sensitivity outside of 0 to 1")
        if sensitivity != 0.5:
            low, high = (_number(state, f"post_processor.{kind}_{end}") for end in ("min", "max"))
            values[kind] = value + (0.5 - sensitivity) * (high - low)
    return Thresholds(values["image"], values["pixel"])


def _number(state: Mapping[str, Any], name: str) -> float:
    value = state.get(name)
    return float(value) if isinstance(value, np.ndarray) and value.size == 1 else math.nan
