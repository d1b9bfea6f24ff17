"""A fitted PatchCore as the content of a model folder, and back."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from blemish.embedding import Extractor
from blemish.errors import BlemishError, InputError, ModelFileError, message
from blemish.fitting import Fitted
from blemish.geometry import Geometry, choose_geometry
from blemish.neighbors import MemoryIndex
from blemish.scoring import Scorer
from blemish.settings import PatchcoreSettings
from blemish.thresholds import Calibration

if TYPE_CHECKING:
    from collections.abc import Mapping

    from blemish.modelfile import ModelFolder

BANK = "bank.safetensors"


def fitted_to(
    settings: PatchcoreSettings, fitted: Fitted
) -> tuple[dict[str, Any], dict[str, dict[str, np.ndarray[Any, Any]]]]:
    """Return (header, tensors) for `save_model`."""
    level = fitted.scorer.level
    header = {
        "detector": "patchcore",
        "settings": settings.to_dict(),
        "input": {"resize_hw": fitted.geometry.resize_hw, "crop_hw": fitted.geometry.crop_hw},
        "thresholds": {
            "false_alarm_rate": fitted.image_calibration.false_alarm_rate,
            "image": fitted.image_calibration.threshold,
            "pixel": fitted.pixel_calibration.threshold,
            "image_scores": fitted.image_calibration.scores,
            "pixel_scores": fitted.pixel_calibration.scores,
        },
        "provenance": fitted.provenance,
        "training": [
            {"path": name, "height_width": size} for name, size in zip(fitted.names, fitted.sizes_hw, strict=True)
        ],
    }
    tensors = {"memory_bank": fitted.scorer.index.memory_bank, "source": fitted.source}
    if level is not None:
        tensors["level"] = level
    return header, {BANK: tensors}


def fitted_from(model: ModelFolder, *, threads: int) -> tuple[PatchcoreSettings, Fitted]:
    """Return the settings and the fitted detector of a model folder.

    Raises:
        ModelFileError: if it is another detector's, or its parts do not fit each other.
    """
    detector = model.header["detector"]
    if detector != "patchcore":
        raise ModelFileError(message("detector", "patchcore", repr(detector), where=model.path))
    try:
        return _fitted_from(model, threads)
    except ModelFileError:
        raise
    except (BlemishError, KeyError, TypeError, ValueError, IndexError) as error:
        got = f"{type(error).__name__}: {error}".strip()
        todo = "Fit again, or copy the model folder again."
        raise ModelFileError(message("model.json", "a PatchCore model", got, where=model.path, todo=todo)) from error


def _fitted_from(model: ModelFolder, threads: int) -> tuple[PatchcoreSettings, Fitted]:
    header, tensors = model.header, model.tensors[BANK]
    settings = _settings(header["settings"])
    size, crop = header["input"]["resize_hw"], header["input"]["crop_hw"]
    geometry = choose_geometry([(1, 1)], (*size,), None if crop is None else (*crop,))
    extractor = Extractor(model.network, threads=threads)
    level = tensors.get("level")
    _check_parts(model, geometry, extractor, level)
    thresholds = header["thresholds"]
    training = header["training"]
    fitted = Fitted(
        geometry,
        extractor,
        Scorer(MemoryIndex(tensors["memory_bank"]), settings.num_neighbors, level, settings.score_sigma),
        tensors["source"],
        Calibration.from_scores(thresholds["image_scores"], thresholds["false_alarm_rate"]),
        Calibration.from_scores(thresholds["pixel_scores"], thresholds["false_alarm_rate"]),
        tuple(str(one["path"]) for one in training),
        tuple((int(one["height_width"][0]), int(one["height_width"][1])) for one in training),
        dict(header["provenance"]),
    )
    return settings, fitted


def _settings(stored: Mapping[str, Any]) -> PatchcoreSettings:
    names = {field.name for field in dataclasses.fields(PatchcoreSettings)}
    if set(stored) != names:
        raise InputError(message("settings", ", ".join(sorted(names)), ", ".join(sorted(stored))))
    # JSON has no tuples.
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in stored.items()
    }
    return PatchcoreSettings(**values)


def _check_parts(model: ModelFolder, geometry: Geometry, extractor: Extractor, level: Any) -> None:
    """Raise unless network, bank, level and source belong together; one black picture is run to see it."""
    tensors = model.tensors[BANK]
    bank, source = tensors["memory_bank"], tensors["source"]
    features = extractor.features(np.zeros((*geometry.network_hw, 3), np.uint8))
    height, width, n_features = features.shape
    n_training = len(model.header["training"])

    def refuse(name: str, expected: str, got: str) -> ModelFileError:
        return ModelFileError(message(name, expected, got, where=model.path / BANK, todo="Fit again."))

    if bank.shape[1] != n_features or len(bank) == 0:
        raise refuse("memory_bank", f"(n, {n_features}) as the network gives", str(bank.shape))
    if source.shape != (len(bank), 3):
        raise refuse("source", f"({len(bank)}, 3)", str(source.shape))
    if source.min() < 0 or (source.max(axis=0) >= (n_training, height, width)).any():
        raise refuse("source", f"rows below ({n_training}, {height}, {width})", str(source.max(axis=0).tolist()))
    if level is None:
        return
    if level.shape != (height, width) or level.dtype != np.float32:
        raise refuse("level", f"float32 ({height}, {width})", f"{level.dtype} {level.shape}")
    if not (np.isfinite(level).all() and level.min() > 0):
        raise refuse("level", "finite numbers above 0", f"{level.min()} to {level.max()}")
