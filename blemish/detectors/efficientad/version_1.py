"""Parameters of the networks in model folders of format version 1, whose graphs were written on Winograd's tiles."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from blemish.detectors.efficientad.pdn import CONVS, DECODER, ENCODER, IMAGENET_MEAN, IMAGENET_STD, Size

if TYPE_CHECKING:
    Arrays = dict[str, NDArray[Any]]

# From a weight on pixels from 0 to 255 less the mean to one on normalised pixels.
PER_CHANNEL = 255 * np.reshape(IMAGENET_STD, (1, 3, 1, 1))


def parameters(model: bytes, size: Size, n: int) -> Arrays:
    """Return the parameters of a serialized graph by the names that `graph.parameters` has.

    Normalisations were folded into the first and the last convolutions: the teacher's mean and standard deviation are
    0 and 1 here, and the student's first half has no bias of its own, as only its difference to the teacher's counts.
    """
    constants = {
        tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load_from_string(model).graph.initializer
    }
    first, *inner, last = (name for name, *_ in CONVS[size])
    padded = "difference.weight" in constants
    kernels = _padded(constants, inner) if padded else _tiled(constants)
    weight, bias = constants["first.weight"] * PER_CHANNEL, constants["first.bias"].astype(np.float64)
    if not padded:  # without padding the mean was subtracted here
        bias = bias + np.einsum("ocij,c->o", constants["first.weight"], 255 * np.array(IMAGENET_MEAN))
    result: Arrays = {"teacher.mean": np.zeros((1, n, 1, 1)), "teacher.std": np.ones((1, n, 1, 1))}
    for part, weights, biases in zip(("teacher", "student"), np.split(weight, 2), np.split(bias, 2), strict=True):
        result |= {f"{part}.{first}.weight": weights, f"{part}.{first}.bias": biases}
        for name in inner:
            result[f"{part}.{name}.weight"], result[f"{part}.{name}.bias"] = next(kernels)
    (both, difference), (second, rest) = next(kernels), next(kernels)
    into = both.shape[1] - second.shape[1]  # the teacher's and the student's widths differ in PDN-M
    result |= {f"teacher.{last}.weight": both[:, :into], f"teacher.{last}.bias": difference}
    result[f"student.{last}.weight"] = np.concatenate([-both[:, into:], second])
    result[f"student.{last}.bias"] = np.concatenate([np.zeros(n), rest])
    for half, rows in (("encoder", ENCODER), ("decoder", DECODER)):
        for name, *_ in rows:
            scale = PER_CHANNEL if name == ENCODER[0][0] else 1.0
            result[f"autoencoder.{half}.{name}.weight"] = constants[f"{name}.weight"] * scale
            result[f"autoencoder.{half}.{name}.bias"] = constants[f"{name}.bias"]
    return {name: np.asarray(array, np.float32) for name, array in result.items()}


def _tiled(constants: Mapping[str, NDArray[Any]]) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """Yield (out, in, k, k) weights and biases in order, out of a graph on tiles, which kept plain kernels."""
    arrays = [array for name, array in constants.items() if name.startswith("tiles")]
    kernels = [array.transpose(3, 2, 0, 1) for array in arrays if array.ndim == 4]
    return zip(kernels, [array for array in arrays if array.ndim == 1], strict=True)


def _padded(constants: Mapping[str, NDArray[Any]], inner: list[str]) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """Yield the same out of a graph of convolutions, which networks with padding had."""
    order = [f"{i}.{name}" for i in (0, 1) for name in inner] + ["difference", "second"]
    return ((constants[f"{name}.weight"], constants[f"{name}.bias"]) for name in order)
