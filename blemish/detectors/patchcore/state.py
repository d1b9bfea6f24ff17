"""The fitted state of PatchCore, to and from a model folder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from blemish._validation.checks import check_number, describe
from blemish.backbones.embedding import Extractor
from blemish.detectors.base import DetectorState
from blemish.detectors.fusion import COMPONENTS, WEIGHTS, ScoreFusion
from blemish.detectors.patchcore.scoring import Scorer
from blemish.detectors.stored_statistics import read_statistics
from blemish.errors import ModelFileError, message
from blemish.modelfolder.folder import NETWORK
from blemish.ops.gaussian import Gaussian
from blemish.ops.neighbors import MemoryIndex
from blemish.ops.position_gaussian import PositionGaussians

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from blemish.detectors.patchcore.settings import PatchcoreSettings
    from blemish.modelfolder.folder import ModelFolder
    from blemish.types import Float32, Float64, UInt8

BANK = "bank.safetensors"
# Source of a bank row that came from another program, which does not say from which patch it took it.
UNKNOWN = -1


@dataclass(frozen=True, kw_only=True)
class PatchcoreState(DetectorState):
    """A fitted PatchCore.

    Attributes:
        extractor: the network, `image` to whitened `features`.
        scorer: the memory bank, its index and the distance statistics.
        source: (n, 3) int32: training image, row and column of each bank row.
        fusion: the other components of the image score; None where the patches alone make it.
    """

    extractor: Extractor
    scorer: Scorer
    source: NDArray[np.int32]
    fusion: ScoreFusion | None = None

    @property
    def network(self) -> bytes:
        """The ONNX graph that predicting runs."""
        return self.extractor.model

    def tensors(self) -> dict[str, dict[str, np.ndarray[Any, Any]]]:
        """Return the arrays that a model folder holds: file name to tensor name to array."""
        bank: dict[str, np.ndarray[Any, Any]] = {"memory_bank": self.scorer.index.memory_bank, "source": self.source}
        if self.scorer.statistics is not None:
            bank["level"] = self.scorer.statistics.stacked()
        if self.fusion is not None:
            bank["summary_mean"] = self.fusion.gaussian.mean
            bank["summary_whitening"] = self.fusion.gaussian.whitening
            bank["good_scores"] = self.fusion.good_scores
            if self.fusion.parts is not None:
                bank["part_mean"] = self.fusion.parts.mean
                bank["part_whitening"] = self.fusion.parts.whitening
                bank["part_level"] = self.fusion.parts.statistics.stacked()
        return {BANK: bank}

    @property
    def notes(self) -> tuple[str, ...]:
        """Why position is used or not."""
        return (self.fusion.reason,) if self.fusion is not None and self.fusion.reason else ()

    def header(self) -> dict[str, Any]:
        """Return the fields of `model.json` that only this detector has."""
        return {} if self.fusion is None else {"score_fusion": self.fusion.header()}

    @property
    def scores(self) -> Float64:
        """The patch score of each calibration image."""
        return super().scores if self.fusion is None else self.fusion.good_scores[0]


def read_state(model: ModelFolder, settings: PatchcoreSettings, common: Mapping[str, Any]) -> PatchcoreState:
    """Return the state in a model folder.

    Raises:
        ModelFileError: if network, memory bank and statistics do not belong together.
    """
    tensors = model.tensors[BANK]
    extractor = Extractor(model.network, threads=settings.n_threads)
    grid_hw = _Check(model, settings, extractor, common["geometry"].network_hw).all()
    wanted = settings.position_sigma is not None
    statistics = read_statistics(model, (BANK, "level"), grid_hw, wanted=wanted, border=True)
    fusion = None
    if settings.score_fusion:
        stored, parts = model.header["score_fusion"], None
        if "part" in stored["weights"]:
            part_grid_hw, setting = tensors["part_mean"].shape[:2], "score_fusion.weights.part"
            part_statistics = read_statistics(model, (BANK, "part_level"), part_grid_hw, wanted=True, setting=setting)
            assert part_statistics is not None, "wanted"
            parts = PositionGaussians(tensors["part_mean"], tensors["part_whitening"], part_statistics)
        gaussian = Gaussian(tensors["summary_mean"], tensors["summary_whitening"])
        good_scores, censored = tensors["good_scores"], stored["censored"]
        fusion = ScoreFusion.of(
            gaussian, parts, stored["weights"], good_scores, censored=censored, reason=stored["reason"]
        )
    index = MemoryIndex(tensors["memory_bank"])
    scorer = Scorer(index, settings.num_neighbors, statistics, top_share=settings.top_share)
    return PatchcoreState(extractor=extractor, scorer=scorer, source=tensors["source"], fusion=fusion, **common)


class _Check:
    """Checks that network, memory bank, statistics and source belong together, by running one black image."""

    def __init__(
        self, model: ModelFolder, settings: PatchcoreSettings, extractor: Extractor, network_hw: tuple[int, int]
    ) -> None:
        self.model, self.settings, self.extractor = model, settings, extractor
        self.tensors = model.tensors[BANK]
        self.black: UInt8 = np.zeros((*network_hw, 3), np.uint8)

    def all(self) -> tuple[int, int]:
        """Return the (h, w) of the network's grid, or raise ModelFileError at the first part that does not fit."""
        features = self.extractor.features(self.black)
        if not _is_finite(features):
            raise self.refusal("features", "finite float32 (h, w, D)", describe(features), NETWORK)
        self.bank(features.shape[2])
        self.source(len(self.model.header["training"]), features.shape[0], features.shape[1])
        if self.settings.score_fusion:
            self.fusion()
        return features.shape[0], features.shape[1]

    def bank(self, n_features: int) -> None:
        bank, least = self.tensors["memory_bank"], self.settings.num_neighbors
        if bank.shape[1] != n_features or len(bank) == 0:
            raise self.refusal("memory_bank", f"(n, {n_features}) as the network gives", str(bank.shape))
        if len(bank) < least:
            raise self.refusal("memory_bank", f"at least {least} rows, as num_neighbors says", str(len(bank)))

    def source(self, *limits: int) -> None:
        source, n_rows = self.tensors["source"], len(self.tensors["memory_bank"])
        if source.shape != (n_rows, 3):
            raise self.refusal("source", f"({n_rows}, 3)", str(source.shape))
        known = source[(source != UNKNOWN).any(axis=1)]
        if known.size and (known.min() < 0 or (known.max(axis=0) >= limits).any()):
            got = f"{known.min(axis=0).tolist()} to {known.max(axis=0).tolist()}"
            raise self.refusal("source", f"rows from (0, 0, 0) to below {limits}, or of {UNKNOWN}", got)

    def fusion(self) -> None:
        if not self.extractor.outputs >= {"parts", "summary"}:
            raise self.refusal(
                "network", "outputs parts and summary", ", ".join(sorted(self.extractor.outputs)), NETWORK
            )
        parts, summary = self.extractor.parts(self.black), self.extractor.summary(self.black)
        if not (_is_finite(parts) and _is_finite(summary)):
            got = f"{describe(parts)} and {describe(summary)}"
            raise self.refusal("parts and summary", "finite float32 (h, w, K) and (S,)", got, NETWORK)
        size, n_scores = len(summary), len(self.model.header["thresholds"]["image_scores"])
        weights = self.weights()
        wanted: dict[str, tuple[type, tuple[int, ...]]] = {
            "summary_mean": (np.float32, (size,)),
            "summary_whitening": (np.float32, (size, size)),
            "good_scores": (np.float64, (len(weights), n_scores)),
        }
        if "part" in weights:
            wanted |= {
                "part_mean": (np.float32, parts.shape),
                "part_whitening": (np.float32, (*parts.shape, parts.shape[-1])),
            }
        for name, (dtype, shape) in wanted.items():
            array = self.tensors.get(name)
            if array is None or array.dtype != dtype or array.shape != shape or not np.isfinite(array).all():
                got = "nothing" if array is None else describe(array)
                raise self.refusal(name, f"finite {dtype.__name__} {shape}", got)

    def weights(self) -> Mapping[str, float]:
        """Return the weights of the score's components, checked with the rest of `score_fusion`."""
        stored = self.model.header["score_fusion"]
        weights: dict[str, float] = stored["weights"]
        if set(weights) not in (set(WEIGHTS), set(COMPONENTS)):
            expected = f"{', '.join(WEIGHTS)}, with or without part"
            raise self.refusal("score_fusion.weights", expected, ", ".join(weights) or "none", "model.json")
        for name, weight in weights.items():
            check_number(f"score_fusion.weights.{name}", weight, low=0, high=1000)
        check_number("score_fusion.censored", stored["censored"], low=0, high=0.9)
        if not isinstance(stored["reason"], str):
            raise self.refusal("score_fusion.reason", "text", type(stored["reason"]).__name__, "model.json")
        return weights

    def refusal(self, name: str, expected: str, got: str, file: str = BANK) -> ModelFileError:
        return ModelFileError(message(name, expected, got, where=self.model.path / file, todo="Fit again."))


def _is_finite(values: Float32) -> bool:
    return values.dtype == np.float32 and bool(np.isfinite(values).all())
