"""The fitted state of EfficientAD, to and from a model folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from blemish._validation.checks import check_number
from blemish.detectors.base import DetectorState
from blemish.detectors.efficientad.maps import Maps, Quantiles, open_maps
from blemish.detectors.stored_statistics import read_statistics
from blemish.errors import InputError, message
from blemish.imaging.geometry import is_size_of
from blemish.modelfolder.header import LARGEST_SCORE

if TYPE_CHECKING:
    import numpy as np

    from blemish.detectors.efficientad.settings import EfficientAdSettings
    from blemish.imaging.geometry import Geometry
    from blemish.modelfolder.folder import ModelFolder

STATISTICS = "statistics.safetensors", "level"
NORMALISED = "normalised_positions"


@dataclass(frozen=True, kw_only=True)
class EfficientAdState(DetectorState):
    """A fitted EfficientAD.

    Attributes:
        maps: the network, and how its two maps become one.
        history: losses, steps and the split of the training images, for `model.json`.
    """

    maps: Maps
    history: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def network(self) -> bytes:
        """The ONNX graph that predicting runs."""
        return self.maps.model

    def tensors(self) -> dict[str, dict[str, np.ndarray[Any, Any]]]:
        """Return the arrays that a model folder holds beside the network: the statistics, if there are any."""
        statistics = self.maps.statistics
        return {} if statistics is None else {STATISTICS[0]: {STATISTICS[1]: statistics.stacked()}}

    def header(self) -> dict[str, Any]:
        """Return the fields of `model.json` that only EfficientAD has."""
        return {
            "quantiles": {"student": self.maps.student, "autoencoder": self.maps.autoencoder},
            "autoencoder_share": self.maps.share,
            **({} if self.maps.statistics is None else {NORMALISED: True}),
            "history": dict(self.history),
        }


def read_state(model: ModelFolder, settings: EfficientAdSettings, common: Mapping[str, Any]) -> EfficientAdState:
    """Return the state in a model folder, or raise ModelFileError if the network can't be run, or gives other maps."""
    header, stored = model.header, common["geometry"]
    _check_geometry(settings, stored)
    if not isinstance(header["history"], dict):
        raise InputError(message("history", "a dict", type(header["history"]).__name__))
    student, autoencoder = (_quantiles(header["quantiles"], name) for name in ("student", "autoencoder"))
    maps = open_maps(
        model.network,
        stored,
        settings,
        threads=settings.n_threads,
        student=student,
        autoencoder=autoencoder,
        share=float(check_number("autoencoder_share", header["autoencoder_share"], low=0, high=0.5)),
    )
    wanted = _is_normalised(header, settings)
    statistics = read_statistics(model, STATISTICS, maps.cells_hw, wanted=wanted, setting=NORMALISED)
    maps = replace(maps, statistics=statistics)
    return EfficientAdState(maps=maps, history=dict(header["history"]), **common)


def _is_normalised(header: Mapping[str, Any], settings: EfficientAdSettings) -> bool:
    """Return whether the maps are normalised at each position: so the fit decided, by its calibration images."""
    if NORMALISED not in header:
        return False
    if header[NORMALISED] is not True or not settings.may_count_positions:
        expected = "true, with a position_sigma and a top_share above 0, or nothing"
        raise InputError(message(NORMALISED, expected, repr(header[NORMALISED])))
    return True


def _check_geometry(settings: EfficientAdSettings, stored: Geometry) -> None:
    """Raise InputError unless the size is that of the settings, or of that area where the images gave the aspect."""
    geometry, size = settings.geometry(), settings.image_size
    fits = stored.resize_hw == size or (isinstance(size, int) and is_size_of(stored.resize_hw, size, 1))
    if not fits or geometry.crop_hw != stored.crop_hw:
        expected = f"{geometry.resize_hw}, {geometry.crop_hw} as the settings say"
        raise InputError(message("input", expected, f"{stored.resize_hw}, {stored.crop_hw}"))


def _quantiles(stored: Mapping[str, Any], name: str) -> Quantiles:
    low, high = stored[name]
    for value in (low, high):
        check_number(f"quantiles.{name}", value, low=-LARGEST_SCORE, high=LARGEST_SCORE)
    if not low < high:
        raise InputError(message(f"quantiles.{name}", "two rising numbers", f"{low} and {high}"))
    return Quantiles(float(low), float(high))
