"""Patch features: a backbone's layers pooled, brought to one grid, joined and scaled, as one ONNX graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, cast

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from blemish.arrays import check_number
from blemish.backbones import Backbone, run, session
from blemish.errors import InputError, message
from blemish.geometry import MULTIPLE_PX
from blemish.inner_resize import resizing_inside
from blemish.resize import resize

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from blemish.geometry import Geometry
    from blemish.records import Float32, Float64, UInt8

Scaling = Literal["none", "standard", "whiten"]
SCALINGS = ("none", "standard", "whiten")
# The summary is taken of a picture this much smaller, 96 px for 320: what is unusual everywhere shows there without the
# grain, and it costs a tenth of the features. 160 px and 224 px measured no better on average.
SUMMARY_SCALE = 0.3


class Affine(NamedTuple):
    """A linear map of feature vectors: x -> weight @ x + bias.

    Attributes:
        weight: (D, D) float32.
        bias: (D,) float32.
    """

    weight: Float32
    bias: Float32


class Moments:
    """Mean and covariance of feature vectors that come in chunks."""

    def __init__(self) -> None:
        self.n = 0
        self._shift: Float64 | None = None
        self._sum = np.zeros(0)
        self._products = np.zeros((0, 0))

    def add(self, rows: Float32) -> None:
        """Take (n, D) more vectors."""
        if self._shift is None:
            # Sums about the first chunk's mean keep the digits that E[x^2] - E[x]^2 loses.
            self._shift = rows.mean(axis=0, dtype=np.float64)
            self._sum = np.zeros(rows.shape[1])
            self._products = np.zeros((rows.shape[1], rows.shape[1]))
        centred = rows - self._shift
        self.n += len(rows)
        self._sum += centred.sum(axis=0)
        self._products += centred.T @ centred

    def mean_and_covariance(self) -> tuple[Float64, Float64]:
        """Return the mean, (D,), and the covariance, (D, D), of what was seen, at least one vector."""
        assert self._shift is not None, "add rows first"
        mean = self._sum / self.n
        return self._shift + mean, self._products / self.n - np.outer(mean, mean)

    def scaling(self, kind: Scaling, shrinkage: float) -> Affine:
        """Return the map that centres and scales vectors like those seen.

        Args:
            kind: "standard" divides each channel by its standard deviation; "whiten" turns to the principal axes and
                divides each by sqrt(eigenvalue + shrinkage * mean eigenvalue); "none" leaves all as it is.
            shrinkage: how far small eigenvalues are kept from being blown up; only for "whiten".
        """
        size = len(self._sum)
        centre, covariance = self.mean_and_covariance()
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
    """Return the graph from `image` to `features`, (B, D, h, w) float32, and `summary`, (B, S) float32.

    Each layer is averaged over `pooling` x `pooling` neighbours (the frame does not count: Roth et al. 2022, section
    3.1, without the padding that damps border patches), resized bilinearly to the first layer's grid, and joined.
    The summary is each layer's mean and standard deviation over positions.

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

    def node(operator: str, inputs: list[str], output: str, **attributes: object) -> str:
        model.graph.node.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

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
    _summarise(node, backbone.layers)
    if scaling is None:
        node("Identity", [joined], "features")
    else:
        weights = {"scaling.weight": scaling.weight[:, :, None, None], "scaling.bias": scaling.bias}
        model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
        node("Conv", [joined, *weights], "features")
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("features", TensorProto.FLOAT, ["B", "D", "h", "w"]))
    model.graph.output.append(helper.make_tensor_value_info("summary", TensorProto.FLOAT, ["B", "S"]))
    return model


def _summarise(node: Callable[..., str], layers: Sequence[str]) -> None:
    """Add the mean and the standard deviation over positions of each layer."""
    parts = []
    for i, layer in enumerate(layers):
        mean = node("GlobalAveragePool", [layer], f"mean:{i}")
        centred = node("Sub", [layer, mean], f"centred:{i}")
        variance = node("GlobalAveragePool", [node("Mul", [centred, centred], f"squared:{i}")], f"variance:{i}")
        parts += [mean, node("Sqrt", [variance], f"deviation:{i}")]
    node("Flatten", [node("Concat", parts, "moments", axis=1)], "summary", axis=1)


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
        self._any_size = not all(isinstance(side, int) for side in self._session.get_inputs()[0].shape[1:3])

    def features(self, network_input: UInt8) -> Float32:
        """Return (h, w, D) float32 patch features of one network input, uint8 (H, W, 3).

        Raises:
            InputError: if the network does not take pictures of that size.
        """
        maps = run(self._session, network_input[None])["features"][0]
        return cast("Float32", np.ascontiguousarray(maps.transpose(1, 2, 0)))

    def summary(self, network_input: UInt8) -> Float32:
        """Return the (S,) float32 summary of one network input, uint8 (H, W, 3), seen from further away.

        Raises:
            InputError: if the network does not take pictures of that size.
        """
        height, width = network_input.shape[:2]
        if self._any_size:
            network_input = resize(network_input, (_further_away(height), _further_away(width)))
        return cast("Float32", run(self._session, network_input[None])["summary"][0])


def _further_away(side: int) -> int:
    return max(MULTIPLE_PX, round(SUMMARY_SCALE * side / MULTIPLE_PX) * MULTIPLE_PX)
