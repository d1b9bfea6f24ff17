"""The fitted state of PaDiM: one Gaussian of patch features at each position, to and from a model folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from blemish._validation.checks import describe
from blemish.backbones.embedding import Extractor
from blemish.detectors.base import DetectorState
from blemish.errors import ModelFileError, message
from blemish.modelfolder.folder import NETWORK
from blemish.types import Float32, UInt8

if TYPE_CHECKING:
    from blemish.detectors.padim.settings import PadimSettings
    from blemish.modelfolder.folder import ModelFolder

GAUSSIANS = "gaussians.safetensors"


@dataclass(frozen=True)
class PositionGaussians:
    """A Gaussian of patch features at each position.

    Attributes:
        extractor: the network, `image` to `features` of the chosen channels.
        mean: (h, w, K) float32, of each position's features.
        whitening: (h, w, K, K) float32, inverse Cholesky factors of the covariances: |whitening (x - mean)| is the
            Mahalanobis distance.
    """

    extractor: Extractor
    mean: Float32
    whitening: Float32

    def distances(self, network_input: UInt8) -> Float32:
        """Return the Mahalanobis distance, (h, w) float32, of each patch from its position's Gaussian."""
        centred = self.extractor.features(network_input) - self.mean
        distances: Float32 = np.linalg.norm((self.whitening @ centred[..., None])[..., 0], axis=-1)
        return distances


@dataclass(frozen=True, kw_only=True)
class PadimState(DetectorState):
    """A fitted PaDiM: the Gaussians, with the network that gives their features."""

    gaussians: PositionGaussians

    @property
    def network(self) -> bytes:
        """The ONNX graph that predicting runs."""
        return self.gaussians.extractor.model

    def tensors(self) -> dict[str, dict[str, np.ndarray[Any, Any]]]:
        """Return the arrays that a model folder holds: file name to tensor name to array."""
        return {GAUSSIANS: {"mean": self.gaussians.mean, "whitening": self.gaussians.whitening}}


def read_state(model: ModelFolder, settings: PadimSettings, common: Mapping[str, Any]) -> PadimState:
    """Return the state in a model folder, or raise ModelFileError if network and Gaussians do not belong together; one
    black image is run to see it.
    """
    tensors = model.tensors[GAUSSIANS]
    extractor = Extractor(model.network, threads=settings.n_threads)
    features = extractor.features(np.zeros((*common["geometry"].network_hw, 3), np.uint8))
    if features.dtype != np.float32 or not np.isfinite(features).all():
        raise _refusal(model, "features", "finite float32 (h, w, K)", describe(features), NETWORK)
    for name, shape in (("mean", features.shape), ("whitening", (*features.shape, features.shape[2]))):
        array = tensors[name]
        if array.shape != shape or not np.isfinite(array).all():
            raise _refusal(model, name, f"finite float32 {shape}", describe(array), GAUSSIANS)
    return PadimState(gaussians=PositionGaussians(extractor, tensors["mean"], tensors["whitening"]), **common)


def _refusal(model: ModelFolder, name: str, expected: str, got: str, file: str) -> ModelFileError:
    return ModelFileError(message(name, expected, got, where=model.path / file, todo="Fit again."))
