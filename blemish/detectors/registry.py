"""The detectors by name, and loading whichever a model folder holds."""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast, runtime_checkable

from blemish.errors import InputError, ModelFileError, message

if TYPE_CHECKING:
    from blemish.detectors.base import AnyDetector, Detector
    from blemish.detectors.settings import Settings


class Entry(NamedTuple):
    """A detector: a package with modules `detector` and `settings`, each imported at its first use.

    Attributes:
        settings: the class in `settings`; its import is light, for the command line reads it at each start.
    """

    package: str
    detector: str
    settings: str


# Name in `model.json` and on the command line to the detector.
DETECTORS = {
    "patchcore": Entry("blemish.detectors.patchcore", "Patchcore", "PatchcoreSettings"),
    "padim": Entry("blemish.detectors.padim", "Padim", "PadimSettings"),
    "efficientad": Entry("blemish.detectors.efficientad", "EfficientAd", "EfficientAdSettings"),
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
    """Return the class of a detector."""
    entry = _entry(name)
    return cast("type[Detector[Any, Any]]", getattr(import_module(f"{entry.package}.detector"), entry.detector))


def settings_type(name: str) -> type[Settings]:
    """Return the class of a detector's settings, without importing the detector."""
    entry = _entry(name)
    return cast("type[Settings]", getattr(import_module(f"{entry.package}.settings"), entry.settings))


def _entry(name: str) -> Entry:
    if name not in DETECTORS:
        raise InputError(message("detector", f"one of {', '.join(DETECTORS)}", repr(name)))
    return DETECTORS[name]


def load(folder: str | os.PathLike[str], *, threads: int | None = None) -> AnyDetector:
    """Return the detector in a model folder, whichever it is; nothing in the folder is executed.

    Args:
        folder: a model folder that `save` or `blemish fit` wrote.
        threads: for decoding and for the network; None for one per core.

    Raises:
        InputError: if `threads` is out of range.
        ModelFileError: if it is absent, damaged, unsafe, from a newer version or of an unknown detector.
    """
    from blemish.modelfolder.folder import load_model

    model = load_model(folder)
    name = model.header["detector"]
    if name not in DETECTORS:
        raise ModelFileError(message("detector", f"one of {', '.join(DETECTORS)}", repr(name), where=folder))
    return detector_type(name).from_model(model, threads=threads)
