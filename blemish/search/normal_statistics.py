"""What good images look like to the network that describes defects: how their features vary."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors
import safetensors.numpy

from blemish.data.training_images import path_of, read_image
from blemish.errors import DataError, ImageError, InputError, StoreError, message
from blemish.imaging.decode import read_facts
from blemish.imaging.geometry import Geometry, choose_geometry
from blemish.ops.statistics import Affine, Moments
from blemish.types import no_progress

if TYPE_CHECKING:
    from collections.abc import Mapping

    from blemish.types import Float32, ImageInput, Progress, UInt8

SHALLOW = "blocks.2"
MIDDLE_DEEP = ("blocks.4", "blocks.14")
LAYERS = (SHALLOW, *MIDDLE_DEEP)
IMAGE_SIZE = 320
# How far weak directions are kept from being blown up, measured in benchmarks/retrieval.py.
SHRINKAGE = {SHALLOW: 0.02, "blocks.4": 0.1, "blocks.14": 0.1}
# More good images would not move a covariance of 192 channels by much.
MOST_IMAGES = 100

Layers = Callable[["UInt8"], "dict[str, Float32]"]


@dataclass(frozen=True)
class NormalStatistics:
    """How the features of good images vary.

    Attributes:
        geometry: how an image becomes the network's input.
        scaling: layer to the map that whitens its features.
        usual_square: mean squared length of a good image's whitened mean of the shallow layer.
    """

    geometry: Geometry
    scaling: Mapping[str, Affine]
    usual_square: float

    @classmethod
    def of(
        cls, images: Sequence[ImageInput], layers: Layers, *, bit_depth: int | None, progress: Progress | None = None
    ) -> NormalStatistics:
        """Return what these good images look like; at most 100 of them, evenly spread, are read.

        Raises:
            DataError: if fewer than two can be read.
        """
        n = min(len(images), MOST_IMAGES)
        chosen = [images[i * len(images) // n] for i in range(n)]
        sizes = [size for size in map(_size, chosen) if size is not None]
        geometry = choose_geometry(sizes or [(1, 1)], IMAGE_SIZE, None)
        moments: dict[str, Moments] = {}
        means = []
        for done, one in enumerate(chosen, start=1):
            try:
                found = layers(geometry.prepare(read_image(one, bit_depth)))
            except ImageError:
                continue
            means.append(found[SHALLOW].mean(axis=(1, 2)))
            for name in LAYERS:
                rows = found[name].reshape(len(found[name]), -1).T
                moments.setdefault(name, Moments()).add(rows)
            (progress or no_progress)("reading good images", done, n)
        if len(means) < 2:
            got = f"{len(means)} of {len(images)} that can be read"
            todo = "The model does not carry them: give their folder once (--good), or open the store with good=."
            raise DataError(message("good images", "at least 2 to describe defects against", got, todo=todo))
        scaling = {name: moments[name].scaling("whiten", SHRINKAGE[name]) for name in LAYERS}
        whitened = np.stack(means) @ scaling[SHALLOW].weight.T + scaling[SHALLOW].bias
        return cls(geometry, scaling, float((whitened**2).sum(axis=1).mean()))

    def to_dict(self) -> dict[str, Any]:
        """Return what fits in JSON; the matrices as base64 of a safetensors file."""
        # What is written is the memory as it lies: a transposed view would come back as another matrix.
        tensors = {f"{name}.weight": np.ascontiguousarray(one.weight) for name, one in self.scaling.items()}
        tensors |= {f"{name}.bias": one.bias for name, one in self.scaling.items()}
        data = base64.b64encode(safetensors.numpy.save(tensors)).decode("ascii")
        return {"resize_hw": list(self.geometry.resize_hw), "usual_square": self.usual_square, "tensors": data}

    @classmethod
    def from_dict(cls, said: Mapping[str, Any], *, where: str) -> NormalStatistics:
        """Return what `to_dict` gave.

        Raises:
            StoreError: if it is damaged.
        """
        try:
            height, width = (int(side) for side in said["resize_hw"])
            geometry = choose_geometry([(height, width)], (height, width), None)
            tensors = safetensors.numpy.load(base64.b64decode(said["tensors"], validate=True))
            scaling = {name: Affine(tensors[f"{name}.weight"], tensors[f"{name}.bias"]) for name in LAYERS}
            usual = float(said["usual_square"])
            if not np.isfinite(usual) or not all(np.isfinite(one).all() for one in tensors.values()):
                raise ValueError("numbers that are not finite")
            shapes = {name: (one.weight.shape, one.bias.shape) for name, one in scaling.items()}
            if any(shape != ((n, n), (n,)) for n, shape in zip((24, 40, 192), shapes.values(), strict=True)):
                raise ValueError(f"shapes {shapes}")
        except (KeyError, TypeError, ValueError, InputError, binascii.Error, safetensors.SafetensorError) as error:
            got, todo = str(error)[:200], "Put it back from a copy, or index the images into a new store."
            raise StoreError(message("store", "what good images look like", got, where=where, todo=todo)) from error
        return cls(geometry, scaling, usual)


def _size(image: ImageInput) -> tuple[int, int] | None:
    """Return (height, width), or None of a file that can't be read."""
    path = path_of(image)
    if path is None:
        height, width = read_image(image, None).shape[:2]
        return height, width
    try:
        return read_facts(path)[0]
    except ImageError:
        return None
