"""EfficientAD as one ONNX graph: an image in, the student's and the autoencoder's maps out.

Teacher and student share the work on the image: their first convolutions are one, and so are their last, which gives
the difference of the two without either's result. Normalisations are folded into weights. Exact but for rounding.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from blemish._graphs.builder import Graph
from blemish._graphs.tiles import Tiles
from blemish.detectors.efficientad.pdn import (
    BOTTLENECK,
    CONVS,
    DECODER,
    ENCODER,
    IMAGENET_MEAN,
    IMAGENET_STD,
    POOLED,
    Size,
    decoder_sizes,
    output_hw,
)
from blemish.runtime.winograd import TILE

if TYPE_CHECKING:
    from numpy.typing import NDArray

Weights = Mapping[str, "NDArray[Any]"]
OUTPUTS = ("student_map", "autoencoder_map")


class Networks(NamedTuple):
    """The weights of an EfficientAD model, by the names of `pdn`.

    Attributes:
        teacher: with n outputs.
        student: with 2 n outputs: what it says of the teacher's, then of the autoencoder's.
        autoencoder: with n outputs.
        mean: (n,) float32, of each of the teacher's outputs on good images.
        std: (n,) float32, their deviations.
        size: "small" or "medium".
        padding: whether teacher and student pad with zeros.
    """

    teacher: Weights
    student: Weights
    autoencoder: Weights
    mean: NDArray[np.float32]
    std: NDArray[np.float32]
    size: Size = "small"
    padding: bool = False


class _Conv(NamedTuple):
    """Weights of one convolution, and what is done around it."""

    weight: NDArray[Any]
    bias: NDArray[Any]
    padding: int = 0
    stride: int = 1
    relu: bool = True


def efficientad_graph(networks: Networks, image_hw: tuple[int, int], *, tiled: bool | None = None) -> bytes:
    """Return the graph from `image`, uint8 (B, H, W, 3), to `student_map` and `autoencoder_map`, float32 (B, h, w).

    `student_map` is the mean over channels of the squared difference of the normalised teacher and the student's first
    half; `autoencoder_map` that of the autoencoder and the student's second half.

    Args:
        networks: the weights.
        image_hw: height and width of the images, at least 33 x 33.
        tiled: whether teacher and student run on Winograd's tiles; None where they can (without padding).

    Raises:
        InputError: if the image is smaller than what one output sees.
    """
    hw = output_hw(networks.size, image_hw, padding=networks.padding)
    graph = Graph()
    builder = (_Tiled if tiled is not False and not networks.padding else _Direct)(graph, networks, image_hw, hw)
    planes = graph.add("Cast", [graph.add("Transpose", ["image"], perm=[0, 3, 1, 2])], to=1)
    rebuilt = _autoencoder(graph, networks, planes, image_hw)
    outputs = builder.maps(planes, rebuilt)
    model = graph.model(dict(zip(OUTPUTS, outputs, strict=True)), n_axes=3)
    for axis, size in zip(model.graph.input[0].type.tensor_type.shape.dim[1:3], image_hw, strict=True):
        axis.dim_value = size
    return bytes(model.SerializeToString())


class _Trunks:
    """Teacher's and student's convolutions, merged where they can be."""

    def __init__(self, graph: Graph, networks: Networks, image_hw: tuple[int, int], hw: tuple[int, int]) -> None:
        self.graph = graph
        self.networks = networks
        self.image_hw = image_hw
        self.hw = hw
        self.names = [name for name, *_ in CONVS[networks.size]]
        self.paddings = {name: pad if networks.padding else 0 for name, _, _, pad in CONVS[networks.size]}
        self.n = len(networks.mean)

    def conv(self, who: Weights, name: str) -> _Conv:
        """Return one convolution of the teacher or the student."""
        return _Conv(who[f"{name}.weight"], who[f"{name}.bias"], self.paddings[name])

    def first(self) -> _Conv:
        """Return the first convolutions of teacher and student as one, on pixels from 0 to 255 less the mean."""
        both = [self.conv(who, self.names[0]) for who in (self.networks.teacher, self.networks.student)]
        weight = np.concatenate([one.weight for one in both]).astype(np.float64)
        bias = np.concatenate([one.bias for one in both]).astype(np.float64)
        weight /= 255 * np.array(IMAGENET_STD)[:, None, None]
        if not self.networks.padding:  # zeros are padded behind the subtraction, which then can't be part of the bias
            bias -= np.einsum("ocij,c->o", weight, 255 * np.array(IMAGENET_MEAN))
        return _Conv(weight, bias, both[0].padding)

    def difference(self) -> _Conv:
        """Return the last convolutions as one: on both networks' features, the normalised teacher less the student."""
        teacher, student = (self.conv(who, self.names[-1]) for who in (self.networks.teacher, self.networks.student))
        std = self.networks.std.astype(np.float64)
        of_teacher = teacher.weight / std[:, None, None, None]
        weight = np.concatenate([of_teacher, -student.weight[: self.n].astype(np.float64)], axis=1)
        bias = (teacher.bias - self.networks.mean.astype(np.float64)) / std - student.bias[: self.n]
        return _Conv(weight, bias, teacher.padding, relu=False)

    def second_half(self) -> _Conv:
        """Return the student's last convolution for what it says of the autoencoder."""
        student = self.conv(self.networks.student, self.names[-1])
        return _Conv(student.weight[self.n :], student.bias[self.n :], student.padding, relu=False)


class _Direct(_Trunks):
    """By plain convolutions: with padding, and as what tiles are compared with."""

    def maps(self, planes: str, rebuilt: str) -> list[str]:
        """Return both maps."""
        add = self.graph.add
        if self.networks.padding:
            mean = self.graph.weight("mean255", 255 * np.reshape(IMAGENET_MEAN, (1, 3, 1, 1)))
            planes = add("Sub", [planes, mean])
        both = self._pool(_conv(self.graph, planes, "first", self.first()))
        ends = []
        for i, who in enumerate((self.networks.teacher, self.networks.student)):
            n = len(who[f"{self.names[0]}.bias"])
            x = _channels(self.graph, both, i * n, (i + 1) * n)
            for name in self.names[1:-1]:
                x = _conv(self.graph, x, f"{i}.{name}", self.conv(who, name))
                x = self._pool(x) if name in POOLED else x
            ends.append(x)
        student = _conv(self.graph, add("Concat", ends, axis=1), "difference", self.difference())
        second = _conv(self.graph, ends[1], "second", self.second_half())
        return [self._mean(student), self._mean(add("Sub", [rebuilt, second]))]

    def _pool(self, x: str) -> str:
        pads = [int(self.networks.padding)] * 4
        return self.graph.add("AveragePool", [x], kernel_shape=[2, 2], strides=[2, 2], pads=pads, count_include_pad=1)

    def _mean(self, x: str) -> str:
        return self.graph.add("ReduceMean", [self.graph.add("Mul", [x, x])], axes=[1], keepdims=0)


class _Tiled(_Trunks):
    """On Winograd's tiles; without padding."""

    def maps(self, planes: str, rebuilt: str) -> list[str]:
        """Return both maps."""
        add, tiles = self.graph.add, Tiles(self.graph)
        last, inner, first_hw = self._tiles_hw()
        first = self.first()
        # Back again, for all 0.1 ms of it: the image is read in one place, where others may put a resize before it.
        image = add("Transpose", [planes], perm=[0, 2, 3, 1])
        both = tiles.first(image, first.weight, first.bias, self.image_hw, first_hw)
        ends = []
        for i, who in enumerate((self.networks.teacher, self.networks.student)):
            conv = self.conv(who, self.names[1])
            x = tiles.conv(both, conv.weight, conv.bias, _less(first_hw, 1), start=i * conv.weight.shape[1])
            x = tiles.pool(x)
            for name, size in zip(self.names[2:-1], inner, strict=True):
                conv = self.conv(who, name)
                x = tiles.conv(x, conv.weight, conv.bias, size)
            ends.append(x)
        difference, second = self.difference(), self.second_half()
        student = tiles.conv(tiles.join(*ends), difference.weight, difference.bias, last, relu=False)
        said = tiles.conv(ends[1], second.weight, second.bias, last, relu=False)
        rebuilt_tiles = tiles.from_planes(rebuilt, self.n, self.hw, last)
        other = said._replace(name=add("Sub", [rebuilt_tiles.name, said.name]))
        return [tiles.mean_of_squares(x, self.hw) for x in (student, other)]

    def _tiles_hw(self) -> tuple[tuple[int, int], list[tuple[int, int]], tuple[int, int]]:
        """Return rows and columns of tiles: of the result, of what convolutions behind the pools give, of the first.

        Each convolution but a 1 x 1 reads one tile more than it gives. The second convolution gives what is there: the
        rest of what those behind it read is beyond the image.
        """
        last = -(-self.hw[0] // TILE), -(-self.hw[1] // TILE)
        sizes, size = [], last
        for _name, _, taps, _ in reversed(CONVS[self.networks.size][3:]):
            size = size if taps == 1 else _less(size, -1)
            sizes.append(size)
        pooled = (self.image_hw[0] - 3) // 2, (self.image_hw[1] - 3) // 2
        second = -(-(pooled[0] - 3) // TILE), -(-(pooled[1] - 3) // TILE)
        return last, sizes[::-1], _less(second, -1)


def _less(hw: tuple[int, int], n: int) -> tuple[int, int]:
    return hw[0] - n, hw[1] - n


def _conv(graph: Graph, x: str, name: str, conv: _Conv) -> str:
    inputs = [x, graph.weight(f"{name}.weight", conv.weight), graph.weight(f"{name}.bias", conv.bias)]
    taps = conv.weight.shape[2]
    y = graph.add("Conv", inputs, kernel_shape=[taps, taps], strides=[conv.stride] * 2, pads=[conv.padding] * 4)
    return graph.add("Relu", [y]) if conv.relu else y


def _channels(graph: Graph, x: str, start: int, end: int) -> str:
    bounds = [graph.weight(f"at {n}", np.array([n]), np.int64) for n in (start, end, 1)]
    return graph.add("Slice", [x, *bounds])


def _autoencoder(graph: Graph, networks: Networks, planes: str, image_hw: tuple[int, int]) -> str:
    """Return what the autoencoder makes of the image, (B, n, h, w)."""
    weights, mean = networks.autoencoder, 255 * np.reshape(IMAGENET_MEAN, (1, 3, 1, 1))
    x = graph.add("Sub", [planes, graph.weight("mean255", mean)])
    size = image_hw
    for name, _, _, _, stride, padding in ENCODER:
        weight, bias = weights[f"encoder.{name}.weight"], weights[f"encoder.{name}.bias"]
        if name == ENCODER[0][0]:
            weight = weight / (255 * np.array(IMAGENET_STD)[:, None, None])
        last = name == ENCODER[-1][0]
        if last and min(size) < BOTTLENECK:
            x = _resize(graph, x, (max(size[0], BOTTLENECK), max(size[1], BOTTLENECK)))
        x = _conv(graph, x, name, _Conv(weight, bias, padding, stride, relu=not last))
        size = size[0] // 2, size[1] // 2
    steps = [*decoder_sizes(image_hw, padding=networks.padding), None]
    for (name, *_, padding), step in zip(DECODER, steps, strict=True):
        if step is not None:
            x = _resize(graph, x, step)
        weight, bias = weights[f"decoder.{name}.weight"], weights[f"decoder.{name}.bias"]
        x = _conv(graph, x, name, _Conv(weight, bias, padding, relu=name != DECODER[-1][0]))
    return x


def _resize(graph: Graph, x: str, hw: tuple[int, int]) -> str:
    name = f"size {hw[0]} {hw[1]}"
    shape = graph.add(
        "Concat", [graph.add("Shape", [x], start=0, end=2), graph.weight(name, np.array(hw), np.int64)], axis=0
    )
    return graph.add("Resize", [x, "", "", shape], mode="linear")
