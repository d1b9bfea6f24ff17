"""What every detector can do, and which one a model folder holds."""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

from blemish.errors import ModelFileError, message
from blemish.modelfolder.folder import load_model

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from blemish.ops.conformal import Calibration
    from blemish.types import ImageInput, Prediction, Problem, Progress

# Detector as `model.json` names it, to the module and the class; a class is loaded when it is first needed.
DETECTORS = {
    "patchcore": ("detectors.patchcore.detector", "Patchcore"),
    "efficientad": ("detectors.efficientad.detector", "EfficientAd"),
}


class Detector(Protocol):
    """What `Engine` and the commands need of a detector; `Patchcore` is one."""

    problems: tuple[Problem, ...]

    def fit(self, samples: Iterable[ImageInput], *, progress: Progress | None = None) -> object:
        """Fit on good images."""

    def predict(self, image: ImageInput) -> Prediction:
        """Return what the detector says of one image."""

    def predict_many(self, images: Iterable[ImageInput]) -> Iterator[Prediction | Problem]:
        """Yield the prediction of each image, or what is wrong with it."""

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the model folder."""

    def header(self) -> dict[str, Any]:
        """Return what `model.json` says of this detector: settings, input, thresholds, provenance."""

    @property
    def bit_depth(self) -> int | None:
        """How many bits 16-bit images really use; None for all."""

    @property
    def threshold(self) -> float:
        """The image threshold."""

    @property
    def false_positive_rate(self) -> float:
        """Share of good images that may be called defective."""


class Calibrated(Detector, Protocol):
    """What the commands that fit need besides."""

    def estimated_bytes(self, n_images: int) -> int:
        """Return about how much memory fitting on so many images takes, in bytes."""

    @property
    def calibration(self) -> Calibration:
        """Good images' scores and the image threshold that they give."""


@runtime_checkable
class Trained(Protocol):
    """What a detector has besides if it learns weights in steps; `EfficientAd` does, `Patchcore` does not."""

    def limit(self, *, max_epochs: int | None = None, max_steps: int | None = None) -> None:
        """Set how much the next fit trains at most."""

    @property
    def hint(self) -> str:
        """What to tell a user before an hour of training, "" if nothing."""

    @property
    def summary(self) -> str:
        """What the last training did, in a sentence."""


def load_detector(folder: str | os.PathLike[str], *, threads: int | None = None) -> Detector:
    """Return the detector in a model folder, whichever it is; nothing in the folder is executed.

    Raises:
        InputError: if `threads` is out of range.
        ModelFileError: if it is absent, damaged, unsafe, from a newer version or of an unknown detector.
    """
    model = load_model(folder)
    name = model.header["detector"]
    if name not in DETECTORS:
        raise ModelFileError(message("detector", f"one of {', '.join(DETECTORS)}", repr(name), where=folder))
    module, kind = DETECTORS[name]
    return cast("Detector", getattr(import_module(f"blemish.{module}"), kind).from_model(model, threads=threads))
