"""A fitted EfficientAD as the content of a model folder, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from blemish._validation.checks import check_number
from blemish.detectors.efficientad.fit import EfficientAdState
from blemish.detectors.efficientad.maps import Quantiles, open_maps
from blemish.detectors.efficientad.settings import EfficientAdSettings
from blemish.errors import InputError, message
from blemish.modelfolder.header import LARGEST_SCORE, read_fitted, stored_calibration, stored_settings, stored_training

if TYPE_CHECKING:
    from collections.abc import Mapping

    from blemish.modelfolder.folder import ModelFolder

DETECTOR = "efficientad"


def header_of(settings: EfficientAdSettings, fitted: EfficientAdState) -> dict[str, Any]:
    """Return the header for `save_model`."""
    maps, calibration = fitted.maps, fitted.calibration
    return {
        "detector": DETECTOR,
        "settings": settings.to_dict(),
        "input": {"resize_hw": maps.geometry.resize_hw, "crop_hw": maps.geometry.crop_hw},
        "thresholds": {
            "false_positive_rate": calibration.false_positive_rate,
            "image": calibration.threshold,
            "image_scores": calibration.scores,
        },
        "quantiles": {"student": maps.student, "autoencoder": maps.autoencoder},
        "autoencoder_share": maps.share,
        "provenance": fitted.provenance,
        "history": fitted.history,
        "training": [
            {"path": name, "height_width": size} for name, size in zip(fitted.names, fitted.sizes_hw, strict=True)
        ],
    }


def from_folder(model: ModelFolder, *, threads: int) -> tuple[EfficientAdSettings, EfficientAdState]:
    """Return the settings and the fitted detector of a model folder.

    Raises:
        ModelFileError: if it is another detector's, or its parts do not fit each other.
    """
    return read_fitted(model, DETECTOR, "an EfficientAD model", lambda: _fitted_from(model, threads))


def _fitted_from(model: ModelFolder, threads: int) -> tuple[EfficientAdSettings, EfficientAdState]:
    header = model.header
    settings = _settings(header["settings"])
    geometry = settings.geometry()
    stored = tuple(header["input"]["resize_hw"]), header["input"]["crop_hw"]
    crop = None if stored[1] is None else tuple(stored[1])
    if (geometry.resize_hw, geometry.crop_hw) != (stored[0], crop):
        expected = f"{geometry.resize_hw}, {geometry.crop_hw} as the settings say"
        raise InputError(message("input", expected, f"{stored[0]}, {crop}"))
    calibration = stored_calibration(header["thresholds"], "image", settings.false_positive_rate)
    student, autoencoder = (_quantiles(header["quantiles"], name) for name in ("student", "autoencoder"))
    names, sizes_hw = stored_training(header["training"])
    history = header["history"]
    if not isinstance(history, dict):
        raise InputError(message("history", "a dict", type(history).__name__))
    maps = open_maps(
        model.network,
        geometry,
        padding=settings.padding,
        pad_maps=settings.pad_maps,
        border=settings.border,
        threads=threads,
        student=student,
        autoencoder=autoencoder,
        sigma_px=settings.map_sigma_px,
        share=float(check_number("autoencoder_share", header["autoencoder_share"], low=0, high=0.5)),
    )
    fitted = EfficientAdState(maps, calibration, names, sizes_hw, dict(header["provenance"]), dict(history))
    return settings, fitted


def _settings(stored: Mapping[str, Any]) -> EfficientAdSettings:
    values = stored_settings(stored, EfficientAdSettings)
    for name in ("teacher", "imagenet_dir"):
        if not isinstance(values[name], str) and (name == "teacher" or values[name] is not None):
            raise InputError(message(name, "a name", repr(values[name])))
    return EfficientAdSettings(**values)


def _quantiles(stored: Mapping[str, Any], name: str) -> Quantiles:
    low, high = stored[name]
    for value in (low, high):
        check_number(f"quantiles.{name}", value, low=-LARGEST_SCORE, high=LARGEST_SCORE)
    if not low < high:
        raise InputError(message(f"quantiles.{name}", "two rising numbers", f"{low} and {high}"))
    return Quantiles(float(low), float(high))
