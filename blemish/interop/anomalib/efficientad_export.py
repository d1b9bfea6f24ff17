"""A fitted EfficientAD as a Lightning checkpoint that anomalib loads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from blemish.detectors.efficientad import version_1
from blemish.detectors.efficientad.graph import parameters
from blemish.errors import InputError, message
from blemish.interop.anomalib.efficientad_checkpoint import MEAN, STD
from blemish.interop.anomalib.patchcore_export import LIGHTNING, resize_and_crop, threshold_state

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from blemish.detectors.efficientad.detector import EfficientAd
    from blemish.detectors.efficientad.pdn import Size

    Arrays = dict[str, NDArray[Any]]


def efficientad_checkpoint(model: EfficientAd) -> dict[str, Any]:
    """Return the content of a checkpoint that gives the same maps in anomalib.

    Raises:
        InputError: if anomalib's arithmetic can't express the detector; the text says which settings it would need.
        NotFittedError: if it was never fitted.
    """
    fitted, settings = model.fitted, model.settings
    if settings.border != "zero" and settings.pad_maps and not settings.padding:
        todo = 'Fit with border="zero", which is blind at the frame as anomalib is.'
        raise InputError(message("border", "zero, as anomalib has it", settings.border, todo=todo))
    quantiles = {
        f"model.quantiles.q{end}_{kind}": np.array(value, np.float32)
        for kind, pair in (("st", fitted.maps.student), ("ae", fitted.maps.autoencoder))
        for end, value in zip("ab", pair, strict=True)
    }
    state: Arrays = {
        **_networks(fitted.maps.model, settings.model_size, settings.teacher_out_channels),
        **quantiles,
        **threshold_state(fitted.image_calibration, fitted.pixel_calibration),
    }
    hyper_parameters = {
        name: getattr(settings, name) for name in ("teacher_out_channels", "lr", "weight_decay", "padding", "pad_maps")
    }
    return {
        "epoch": 1,
        "global_step": 0,
        "pytorch-lightning_version": LIGHTNING,
        "state_dict": {name: np.array(array, np.float32) for name, array in state.items()},
        "callbacks": {},
        "optimizer_states": [],
        "lr_schedulers": [],
        "hparams_name": "kwargs",
        "hyper_parameters": {**hyper_parameters, "model_size": settings.model_size},
        "anomalib_pre_processor_config": {"transform": resize_and_crop(fitted.maps.geometry)},
    }


def _networks(model: bytes, size: Size, n: int) -> Arrays:
    """Return the parameters of a network by anomalib's names."""
    ours = parameters(model) or version_1.parameters(model, size, n)
    names = {"teacher.mean": MEAN, "teacher.std": STD}
    return {names.get(name, f"model.{name.replace('autoencoder.', 'ae.')}"): array for name, array in ours.items()}
