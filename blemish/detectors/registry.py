"""The detectors by name, and loading whichever a model folder holds."""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

from blemish.errors import InputError, ModelFileError, message
from blemish.modelfolder.folder import load_model

if TYPE_CHECKING:
    from blemish.detectors.base import AnyDetector, Detector

# Name in `model.json` and on the command line to module and class; a class is imported at its first use.
DETECTORS = {
    "patchcore": ("blemish.detectors.patchcore.detector", "Patchcore"),
    "padim": ("blemish.detectors.padim.detector", "Padim"),
    "efficientad": ("blemish.detectors.efficientad.detector", "EfficientAd"),
}


@runtime_checkable
class Trained(Protocol):
    """The part of a detector that learns weights in steps."""

    def limit(self, *, max_epochs: int | None = None, max_steps: int | None = None) -> None:
        """Limit the training of the next fit."""

    @property
    def hint(self) -> str:
        """Advice to a user before an hour of training, "" for none."""

    @property
    def summary(self) -> str:
        """A sentence about the last training."""


def detector_type(name: str) -> type[Detector[Any, Any]]:
    """Return the class of a detector.

    Raises:
        InputError: if there is none of that name.
    """
    if name not in DETECTORS:
        raise InputError(message("detector", f"one of {', '.join(DETECTORS)}", repr(name)))
    module, kind = DETECTORS[name]
    return cast("type[Detector[Any, Any]]", getattr(import_module(module), kind))


def load(folder: str | os.PathLike[str], *, threads: int | None = None) -> AnyDetector:
    """Return the detector in a model folder, whichever it is; nothing in the folder is executed.

    Args:
        folder: a model folder that `save` or `blemish fit` wrote.
        threads: for decoding and for the network; None for one per core.

    Raises:
        InputError: if `threads` is out of range.
        ModelFileError: if it is absent, damaged, unsafe, from a newer version or of an unknown detector.
    """
    model = load_model(folder)
    name = model.header["detector"]
    if name not in DETECTORS:
        raise ModelFileError(message("detector", f"one of {', '.join(DETECTORS)}", repr(name), where=folder))
    return detector_type(name).from_model(model, threads=threads)
