"""Patch features: a backbone's layers pooled, brought to one grid, joined and scaled, as one ONNX graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, cast

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from blemish.arrays import check_number
from blemish.backbones import Backbone, run, session
from blemish.errors import InputError, message
from blemish.inner_resize import resizing_inside

if TYPE_CHECKING:
    from blemish.geometry import Geometry
    from blemish.records import Float32, Float64, UInt8

Scaling = Literal["none", "standard", "whiten"]
SCALINGS = ("none", "standard", "whiten")


class Affine(NamedTuple):
    """A linear map of feature vectors: x -> weight @ x + bias.

    Attributes:
        weight: (D, D) float32.
        bias: (D,) float32.
    """

    weight: Float32
    bias: Float32


class Moments:
    """Mean and covariance of feature vectors that come in chunks.

    Args:
        n_features: D.
    """

    def __init__(self, n_features: int) -> None:
        self.n = 0
        self._shift: Float64 | None = None
        self._sum = np.zeros(n_features)
        self._products = np.zeros((n_features, n_features))

    def add(self, rows: Float32) -> None:
        """Take (n, D) more vectors."""
        if self._shift is None:
            # Sums about the first chunk's mean keep the digits that E[x^2] - E[x]^2 loses.
            self._shift = rows.mean(axis=0, dtype=np.float64)
        centred = rows - self._shift
        self.n += len(rows)
        self._sum += centred.sum(axis=0)
        self._products += centred.T @ centred

    def scaling(self, kind: Scaling, shrinkage: float) -> Affine:
        """Return the map that centres and scales vectors like those seen.

        Args:
            kind: "standard" divides each channel by its standard deviation; "whiten" turns to the principal axes and
                divides each by sqrt(eigenvalue + shrinkage * mean eigenvalue); "none" leaves all as it is.
            shrinkage: how far small eigenvalues are kept from being blown up; only for "whiten".
        """
        size = len(self._sum)
        assert self._shift is not None, "add rows first"
        mean = self._sum / self.n
        covariance = self._products / self.n - np.outer(mean, mean)
        centre = self._shift + mean
        if kind == "none":
            return Affine(np.eye(size, dtype=np.float32), np.zeros(size, np.float32))
        if kind == "standard":
            weight = np.diag(1 / _deviations(np.diag(covariance)))
        else:
            values, axes = np.linalg.eigh(covariance)
            weight = (axes / _deviations(np.maximum(values, 0) + max(float(values.mean()), 0.0) * shrinkage)).T
        return Affine(weight.astype(np.float32), (-weight @ centre).astype(np.float32))


def _deviations(variances: Float64) -> Float64:
    """Return the square roots; 1 for what never moves in good pictures: it says nothing yet, and counts as it is."""
    deviations: Float64 = np.sqrt(np.maximum(variances, 0))
    return np.where(deviations > 1e-6 * max(deviations.max(), 1e-30), deviations, 1.0)


def embedding_graph(
    backbone: Backbone, *, pooling: int = 3, scaling: Affine | None = None, like_anomalib: Geometry | None = None
) -> onnx.ModelProto:
    """Return the graph from `image` to `features`, (B, D, h, w) float32, on the first layer's grid.

    Each layer is averaged over `pooling` x `pooling` neighbours (the frame does not count: Roth et al. 2022, section
    3.1, without the padding that damps border patches), resized bilinearly to the first layer's grid, and joined.

    Args:
        backbone: the network.
        pooling: size of the neighbourhood, odd; 1 for none.
        scaling: a linear map of the joined vectors, or None.
        like_anomalib: the geometry if the graph shall resize the picture itself and count the frame when it averages.

    Raises:
        InputError: if `pooling` is not odd.
    """
    if check_number("pooling", pooling, low=1, high=15) % 2 == 0:
        raise InputError(message("pooling", "an odd number", str(pooling)))
    model = onnx.ModelProto()
    model.CopyFrom(backbone.model)
    if like_anomalib is not None:
        model = resizing_inside(model, like_anomalib.resize_hw, like_anomalib.crop_hw)
    nodes, constants = model.graph.node, model.graph.initializer

    def node(operator: str, inputs: list[str], output: str, **attributes: object) -> str:
        nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def constant(name: str, array: Float32) -> str:
        constants.append(numpy_helper.from_array(array, name))
        return name

    # Counting the frame damps patches at the border: anomalib's AvgPool2d(3, 1, 1).
    framed = int(like_anomalib is not None)
    side = {"kernel_shape": [pooling] * 2, "pads": [pooling // 2] * 4, "strides": [1, 1], "count_include_pad": framed}
    pooled = [
        node("AveragePool", [layer], f"pooled:{i}", **side) if pooling > 1 else layer
        for i, layer in enumerate(backbone.layers)
    ]
    parts = pooled[:1]
    if len(pooled) > 1:
        grid = node("Shape", pooled[:1], "grid", start=2)
        for i, name in enumerate(pooled[1:], start=1):
            count = node("Shape", [name], f"count:{i}", start=0, end=2)
            size = node("Concat", [count, grid], f"size:{i}", axis=0)
            parts.append(node("Resize", [name, "", "", size], f"resized:{i}", mode="linear"))
    joined = node("Concat", parts, "joined", axis=1)
    if scaling is None:
        node("Identity", [joined], "features")
    else:
        weight = constant("scaling.weight", scaling.weight[:, :, None, None])
        node("Conv", [joined, weight, constant("scaling.bias", scaling.bias)], "features")
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("features", TensorProto.FLOAT, ["B", "D", "h", "w"]))
    return model


class Extractor:
    """Runs an embedding graph.

    Args:
        model: the serialized graph, `image` to `features`.
        threads: how many the network uses; None for one per core.

    Raises:
        ModelFileError: if ONNX Runtime can't run it.
    """

    def __init__(self, model: bytes, *, threads: int | None = None) -> None:
        self.model = model
        self._session = session(model, threads=threads)

    def features(self, network_input: UInt8) -> Float32:
        """Return (h, w, D) float32 patch features of one network input, uint8 (H, W, 3).

        Raises:
            InputError: if the network does not take pictures of that size.
        """
        maps = run(self._session, network_input[None])["features"][0]
        return cast("Float32", np.ascontiguousarray(maps.transpose(1, 2, 0)))
