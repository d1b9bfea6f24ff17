"""A fitted PatchCore as the content of a model folder, and back."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from blemish._validation.checks import describe
from blemish.backbones.embedding import Extractor
from blemish.detectors.fusion import WEIGHTS, ScoreFusion
from blemish.detectors.patchcore.fit import PatchcoreState
from blemish.detectors.patchcore.scoring import Scorer
from blemish.detectors.patchcore.settings import PatchcoreSettings
from blemish.errors import InputError, ModelFileError, message
from blemish.imaging.geometry import Geometry, choose_geometry
from blemish.modelfolder.folder import NETWORK
from blemish.modelfolder.header import read_fitted, stored_calibration, stored_settings, stored_training
from blemish.ops.distance_statistics import DistanceStatistics
from blemish.ops.gaussian import Gaussian
from blemish.ops.neighbors import MemoryIndex
from blemish.ops.position_gaussian import PositionGaussians

if TYPE_CHECKING:
    from collections.abc import Mapping

    from blemish.modelfolder.folder import ModelFolder
    from blemish.types import Float32, UInt8

BANK = "bank.safetensors"
# Dividing by less could overflow.
LEAST_SPREAD = 1e-12
# Image, row and column of a bank row that came from another program, which does not say whence it took it.
UNKNOWN = -1


def to_folder(
    settings: PatchcoreSettings, fitted: PatchcoreState
) -> tuple[dict[str, Any], dict[str, dict[str, np.ndarray[Any, Any]]]]:
    """Return (header, tensors) for `save_model`."""
    level = fitted.scorer.level
    header = {
        "detector": "patchcore",
        "settings": settings.to_dict(),
        "input": {"resize_hw": fitted.geometry.resize_hw, "crop_hw": fitted.geometry.crop_hw},
        "thresholds": {
            "false_positive_rate": fitted.image_calibration.false_positive_rate,
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
    tensors: dict[str, np.ndarray[Any, Any]] = {"memory_bank": fitted.scorer.index.memory_bank, "source": fitted.source}
    if level is not None:
        tensors["level"] = np.stack(level)
    if fitted.whole is not None:
        tensors["summary_mean"] = fitted.whole.gaussian.mean
        tensors["summary_whitening"] = fitted.whole.gaussian.whitening
        tensors["part_mean"] = fitted.whole.parts.mean
        tensors["part_whitening"] = fitted.whole.parts.whitening
        tensors["part_level"] = np.stack(fitted.whole.parts.statistics)
        tensors["good_scores"] = fitted.whole.good_scores
    return header, {BANK: tensors}


def from_folder(model: ModelFolder, *, threads: int) -> tuple[PatchcoreSettings, PatchcoreState]:
    """Return the settings and the fitted detector of a model folder.

    Raises:
        ModelFileError: if it is another detector's, or its parts do not fit each other.
    """
    return read_fitted(model, "patchcore", "a PatchCore model", lambda: _fitted_from(model, threads))


def _fitted_from(model: ModelFolder, threads: int) -> tuple[PatchcoreSettings, PatchcoreState]:
    header, tensors = model.header, model.tensors[BANK]
    settings = _settings(header["settings"])
    size, crop = header["input"]["resize_hw"], header["input"]["crop_hw"]
    geometry = choose_geometry([(1, 1)], (*size,), None if crop is None else (*crop,))
    geometry = dataclasses.replace(geometry, like_anomalib=settings.arithmetic == "anomalib")
    rate = settings.false_positive_rate
    image, pixel = (stored_calibration(header["thresholds"], name, rate) for name in ("image", "pixel"))
    names, sizes_hw = stored_training(header["training"])
    extractor = Extractor(model.network, threads=threads)
    _check_together(model, settings, geometry, extractor)
    index = MemoryIndex(tensors["memory_bank"])
    level = DistanceStatistics(*tensors["level"]) if "level" in tensors else None
    scorer = Scorer(index, settings.num_neighbors, level, settings.score_sigma)
    provenance = dict(header["provenance"])
    whole = None
    if settings.score_fusion:
        parts = PositionGaussians(
            tensors["part_mean"], tensors["part_whitening"], DistanceStatistics(*tensors["part_level"])
        )
        gaussian = Gaussian(tensors["summary_mean"], tensors["summary_whitening"])
        whole = ScoreFusion.of(parts, gaussian, tensors["good_scores"])
    fitted = PatchcoreState(
        geometry, extractor, scorer, tensors["source"], image, pixel, names, sizes_hw, provenance, whole
    )
    return settings, fitted


def _settings(stored: Mapping[str, Any]) -> PatchcoreSettings:
    values = stored_settings(stored, PatchcoreSettings)
    if not isinstance(values["backbone"], str):
        raise InputError(message("backbone", "a name", repr(values["backbone"])))
    layers = values["layers"]
    if not (isinstance(layers, tuple) and layers and all(isinstance(layer, str) for layer in layers)):
        raise InputError(message("layers", "names", repr(layers)))
    return PatchcoreSettings(**values)


def _check_together(model: ModelFolder, settings: PatchcoreSettings, geometry: Geometry, extractor: Extractor) -> None:
    """Raise unless network, bank, level and source belong together; one black image is run to see it."""
    tensors = model.tensors[BANK]
    bank, source = tensors["memory_bank"], tensors["source"]
    black = np.zeros((*geometry.network_hw, 3), np.uint8)
    features = extractor.features(black)
    height, width, n_features = features.shape
    limits = len(model.header["training"]), height, width
    refuse = partial(_refusal, model)
    if not _is_finite(features):
        raise refuse("features", "finite float32 (h, w, D)", describe(features), NETWORK)
    if bank.shape[1] != n_features or len(bank) == 0:
        raise refuse("memory_bank", f"(n, {n_features}) as the network gives", str(bank.shape))
    if len(bank) < settings.num_neighbors:
        raise refuse("memory_bank", f"at least {settings.num_neighbors} rows, as num_neighbors says", str(len(bank)))
    if source.shape != (len(bank), 3):
        raise refuse("source", f"({len(bank)}, 3)", str(source.shape))
    known = source[(source != UNKNOWN).any(axis=1)]
    if known.size and (known.min() < 0 or (known.max(axis=0) >= limits).any()):
        got = f"{known.min(axis=0).tolist()} to {known.max(axis=0).tolist()}"
        raise refuse("source", f"rows from (0, 0, 0) to below {limits}, or of {UNKNOWN}", got)
    wrong = _wrong_level(tensors.get("level"), (height, width), settings)
    if wrong:
        raise refuse("level", *wrong)
    if settings.score_fusion:
        _check_whole_image(model, extractor, black)


def _check_whole_image(model: ModelFolder, extractor: Extractor, black: UInt8) -> None:
    """Raise unless the network's parts and summary, the Gaussians and the good images' scores belong together."""
    refuse = partial(_refusal, model)
    if not extractor.outputs >= {"parts", "summary"}:
        raise refuse("network", "outputs parts and summary", ", ".join(sorted(extractor.outputs)), NETWORK)
    parts, summary = extractor.parts(black), extractor.summary(black)
    if not (_is_finite(parts) and _is_finite(summary)):
        got = f"{describe(parts)} and {describe(summary)}"
        raise refuse("parts and summary", "finite float32 (h, w, K) and (S,)", got, NETWORK)
    size, n_scores = len(summary), len(model.header["thresholds"]["image_scores"])
    wanted = {
        "summary_mean": (np.float32, (size,)),
        "summary_whitening": (np.float32, (size, size)),
        "part_mean": (np.float32, parts.shape),
        "part_whitening": (np.float32, (*parts.shape, parts.shape[-1])),
        "part_level": (np.float32, (3, *parts.shape[:2])),
        "good_scores": (np.float64, (len(WEIGHTS), n_scores)),
    }
    for name, (dtype, shape) in wanted.items():
        found = model.tensors[BANK].get(name)
        if found is None or found.dtype != dtype or found.shape != shape or not np.isfinite(found).all():
            got = "nothing" if found is None else describe(found)
            raise refuse(name, f"finite {dtype.__name__} {shape}", got)
    wrong = _wrong_values(model.tensors[BANK]["part_level"])
    if wrong:
        raise refuse("part_level", *wrong)


def _refusal(model: ModelFolder, name: str, expected: str, got: str, file: str = BANK) -> ModelFileError:
    return ModelFileError(message(name, expected, got, where=model.path / file, todo="Fit again."))


def _is_finite(values: Float32) -> bool:
    return values.dtype == np.float32 and bool(np.isfinite(values).all())


def _wrong_level(level: Any, grid_hw: tuple[int, int], settings: PatchcoreSettings) -> tuple[str, str] | None:
    """Return (expected, got) if this is not the level that the settings ask for."""
    if settings.position_sigma is None:
        return None if level is None else ("nothing as position_sigma is not set", describe(level))
    if level is None or level.shape != (3, *grid_hw) or level.dtype != np.float32:
        return f"float32 {(3, *grid_hw)} as position_sigma is set", "nothing" if level is None else describe(level)
    return _wrong_values(level)


def _wrong_values(level: Float32) -> tuple[str, str] | None:
    """Return (expected, got) if a level, (3, h, w) float32, has values that would make nonsense of a score."""
    usual, spread, calm = level
    if not (min(usual.min(), calm.min()) >= 0 and spread.min() >= LEAST_SPREAD and level.max() <= 1 / LEAST_SPREAD):
        expected = f"distances of 0 or more, and deviations of at least {LEAST_SPREAD}"
        return expected, f"{usual.min()} to {usual.max()}, and {spread.min()} to {spread.max()}"
    return None
