"""Each public word that may be renamed, in one place: a renaming changes this module and no test.

The left side is what the tests say; the right side is what the package says today.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from blemish import EfficientAd, Padim, Patchcore, Prediction

# Settings of both detectors.
RATE = "false_positive_rate"
FUSION = "score_fusion"

# What a detector says of itself.
SET_RATE = "set_false_positive_rate"

# The parts of a Prediction's score.
COMPONENTS = "score_components"
COMPONENT_NAMES = {"patch", "part", "image"}
# The names in to_dict() and in what `predict --json` prints.
PREDICTION_KEYS = {
    "path",
    "score",
    "label",
    "outcome",
    "threshold",
    "upper_threshold",
    "p_value",
    COMPONENTS,
    "pixel_threshold",
    "peak_xy",
    "drift",
    "height_width",
    "regions",
    "nearest_good",
}

# What Engine.test returns beside the areas under curves.
RATE_METRIC = "false_positive_rate"
MISS_METRIC = "miss_rate"
IMAGE_METRICS = {"image_AUROC", "image_AP", "image_F1Max", RATE_METRIC, MISS_METRIC}
PIXEL_METRICS = {"pixel_AUROC", "pixel_AP", "pixel_F1Max", "AUPRO", "AUPRO_0.05", "SegF1"}

# What DefectStore.suggest says of a defect unlike all that are stored.
NOVEL = "is_novel"

# The command line: options, and keys of the JSON documents.
RATE_OPTION = "--false-positive-rate"
IMAGE_OPTION = "--image"  # of receptive-field
FIT_KEYS = {
    "model",
    "threshold",
    "upper_threshold",
    "false_positive_rate_promised",
    "false_positive_rate_interval",
    "left_out",
    "warning",
    "notes",
}
THRESHOLDS_KEYS = {"model", "false_positive_rate", "rates", "recommended", "notes", "left_out"}
PROMISED = "false_positive_rate_promised"
INDEXED = "images"  # how many images `index` and `reindex` went through
DETECTOR_NAMES = {"Patchcore": "patchcore", "Padim": "padim", "EfficientAd": "efficientad"}

# The files of a model folder.
HEADER, NETWORK, BANK, WEIGHTS = "model.json", "network.onnx", "bank.safetensors", "weights.safetensors"
VERSION_FIELD = "format_version"

# Times in model.json, which differ from run to run of the same fit.
TIMES = {"digest", "fit_s", "training_s", "plan_s", "seconds"}


def rate_of(model: Patchcore | Padim | EfficientAd) -> float:
    """The share of good images that may be called defective, as it was asked for."""
    return float(getattr(model, RATE))


def set_rate(model: Patchcore | Padim | EfficientAd, rate: float) -> None:
    """Move the thresholds to another share of good images that may be called defective."""
    getattr(model, SET_RATE)(rate)


def components_of(prediction: Prediction) -> Mapping[str, float]:
    """The parts that a score is the sum of."""
    found: Mapping[str, float] = getattr(prediction, COMPONENTS)
    return found


def settings(**given: Any) -> dict[str, Any]:
    """Settings under the tests' names (`rate`, `fusion`) as the package's constructor takes them."""
    return {{"rate": RATE, "fusion": FUSION}.get(name, name): value for name, value in given.items()}
