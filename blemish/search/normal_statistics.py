"""Statistics of good images' features, against which defects are encoded."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from blemish.errors import DataError, ImageError, InputError, ModelFileError, StoreError, message
from blemish.imaging.decode import path_of, read_facts, read_image
from blemish.imaging.geometry import Geometry, choose_geometry
from blemish.modelfolder.folder import CARRIED
from blemish.ops.statistics import Affine, Moments
from blemish.types import Float32, ImageInput, Progress, UInt8, no_progress

SHALLOW = "blocks.2"
MIDDLE_DEEP = ("blocks.4", "blocks.14")
CHANNELS = {SHALLOW: 24, "blocks.4": 40, "blocks.14": 192}
LAYERS = tuple(CHANNELS)
IMAGE_SIZE = 320
# Shrinkage of each covariance, measured in benchmarks/retrieval.py.
SHRINKAGE = {SHALLOW: 0.02, "blocks.4": 0.1, "blocks.14": 0.1}
# More good images hardly move a covariance of 192 channels.
MAX_IMAGES = 100
(STATISTICS,) = CARRIED

FeatureExtractor = Callable[["UInt8"], "dict[str, Float32]"]


@dataclass(frozen=True)
class NormalStatistics:
    """Mean and covariance of good images' features, as whitening transforms.

    Attributes:
        mean_squared_norm: of good images' whitened mean features of the shallow layer.
    """

    geometry: Geometry
    whitening: Mapping[str, Affine]
    mean_squared_norm: float

    @classmethod
    def fit(
        cls,
        images: Sequence[ImageInput],
        extract: FeatureExtractor,
        *,
        bit_depth: int | None,
        progress: Progress | None = None,
    ) -> NormalStatistics:
        """Return the statistics of at most 100 of these good images, evenly spread.

        Args:
            images: good images; those that can't be read are skipped.
            extract: from network input, (h, w, 3) uint8, to layer name and (D, h', w') float32 features.
        """
        n = min(len(images), MAX_IMAGES)
        chosen = [images[i * len(images) // n] for i in range(n)]
        sizes = [size for size in map(_size, chosen) if size is not None]
        geometry = choose_geometry(sizes or [(1, 1)], IMAGE_SIZE, None)
        moments = {name: Moments() for name in LAYERS}
        means = []
        for done, image in enumerate(chosen, start=1):
            try:
                features = extract(geometry.prepare(read_image(image, bit_depth)))
            except ImageError:
                continue
            means.append(features[SHALLOW].mean(axis=(1, 2)))
            for name in LAYERS:
                moments[name].add(features[name].reshape(len(features[name]), -1).T)
            (progress or no_progress)("reading good images", done, n)
        if len(means) < 2:
            got = f"{len(means)} of {len(images)} that can be read"
            todo = "The model does not carry them: give their folder once (--good), or open the store with good=."
            raise DataError(message("good images", "at least 2 to encode defects against", got, todo=todo))
        fitted = {name: moments[name].scaling("whiten", SHRINKAGE[name]) for name in LAYERS}
        # In the order in memory that they are read back with: another one gives other last digits.
        whitening = {name: Affine(np.ascontiguousarray(x.weight), x.bias) for name, x in fitted.items()}
        whitened = np.stack(means) @ whitening[SHALLOW].weight.T + whitening[SHALLOW].bias
        return cls(geometry, whitening, float((whitened**2).sum(axis=1).mean()))

    def to_tensors(self) -> dict[str, NDArray[Any]]:
        """Return the statistics as the arrays of a file of a model folder."""
        numbers = {"resize_hw": np.array(self.geometry.resize_hw, np.int64)}
        return {**numbers, "mean_squared_norm": np.array([self.mean_squared_norm]), **self._transforms()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray[Any]], *, where: str) -> NormalStatistics:
        """Return the statistics that `to_tensors` gave; ModelFileError if they are others."""
        try:
            (height, width), (norm,) = tensors["resize_hw"].tolist(), tensors["mean_squared_norm"].tolist()
            return cls._checked((height, width), norm, tensors)
        except (KeyError, TypeError, ValueError, InputError) as error:
            got, todo = str(error)[:200], "Copy the whole folder again, or fit again."
            text = message(STATISTICS, "statistics of good images", got, where=where, todo=todo)
            raise ModelFileError(text) from error

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values, with the transforms as base64 of a safetensors file."""
        data = base64.b64encode(safetensors.numpy.save(self._transforms())).decode("ascii")
        return {
            "resize_hw": list(self.geometry.resize_hw),
            "mean_squared_norm": self.mean_squared_norm,
            "tensors": data,
        }

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any], *, where: str) -> NormalStatistics:
        """Return the statistics that `to_dict` wrote, here or in 0.1.0, which named the norm `usual_square`. StoreError
        if they are damaged.
        """
        try:
            height, width = (int(side) for side in stored["resize_hw"])
            tensors = safetensors.numpy.load(base64.b64decode(stored["tensors"], validate=True))
            norm = float(stored["usual_square" if "usual_square" in stored else "mean_squared_norm"])
            return cls._checked((height, width), norm, tensors)
        except (KeyError, TypeError, ValueError, InputError, binascii.Error, safetensors.SafetensorError) as error:
            got, todo = str(error)[:200], "Put it back from a copy, or index the images into a new store."
            raise StoreError(message("store", "statistics of good images", got, where=where, todo=todo)) from error

    @classmethod
    def _checked(cls, resize_hw: tuple[int, int], norm: float, tensors: Mapping[str, NDArray[Any]]) -> NormalStatistics:
        """Return the statistics of these values; ValueError, KeyError or InputError if they are none."""
        geometry = choose_geometry([resize_hw], resize_hw, None)
        whitening = {name: Affine(tensors[f"{name}.weight"], tensors[f"{name}.bias"]) for name in LAYERS}
        if not np.isfinite(norm) or not all(np.isfinite(tensor).all() for tensor in tensors.values()):
            raise ValueError("numbers that are not finite")
        shapes = {name: (affine.weight.shape, affine.bias.shape) for name, affine in whitening.items()}
        if shapes != {name: ((n, n), (n,)) for name, n in CHANNELS.items()}:
            raise ValueError(f"shapes {shapes}")
        if any(affine.weight.dtype != np.float32 or affine.bias.dtype != np.float32 for affine in whitening.values()):
            raise ValueError("other numbers than float32")
        return cls(geometry, whitening, norm)

    def _transforms(self) -> dict[str, Float32]:
        # safetensors writes the memory as it lies: a transposed view would come back as another matrix.
        tensors = {f"{name}.weight": np.ascontiguousarray(affine.weight) for name, affine in self.whitening.items()}
        return tensors | {f"{name}.bias": affine.bias for name, affine in self.whitening.items()}


def _size(image: ImageInput) -> tuple[int, int] | None:
    """Return (height, width), or None if the file can't be read."""
    path = path_of(image)
    if path is None:
        height, width = read_image(image, None).shape[:2]
        return height, width
    try:
        return read_facts(path)[0]
    except ImageError:
        return None
