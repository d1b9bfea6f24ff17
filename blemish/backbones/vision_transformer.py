"""DINOv2's Vision Transformer as an ONNX graph, built from its weights as Meta or Hugging Face publishes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto

from blemish.backbones.architectures import IMAGENET_MEAN, IMAGENET_STD, Layers, NamedWeights, StateDict, per_input
from blemish.errors import InputError, ModelFileError, message

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from blemish._graphs.builder import Graph

# dinov2/hub/backbones.py: interpolate_offset of the networks without register tokens, which are not antialiased.
INTERPOLATION_OFFSET = 0.1
EPSILON = 1e-6  # of layer norm: dinov2/models/vision_transformer.py; Dinov2Config.layer_norm_eps
TODO = "Give dinov2_vits14_pretrain.pth of Meta, or model.safetensors of facebook/dinov2-small from Hugging Face."


@dataclass(frozen=True)
class TransformerSize:
    """Sizes of a Vision Transformer.

    Attributes:
        width: of its tokens.
        depth: number of blocks.
        n_heads: of each attention.
        patch_px: side of a patch, in pixels.
        grid: side of the grid of its position embeddings, in patches.
    """

    width: int
    depth: int
    n_heads: int
    patch_px: int
    grid: int


VIT_S14 = TransformerSize(width=384, depth=12, n_heads=6, patch_px=14, grid=37)  # trained on 518 px last: 37 * 14


@dataclass(frozen=True)
class _Keys:
    """Names of the weights in one publisher's file; norm1, norm2, mlp.fc1 and mlp.fc2 are the same in both."""

    cls_token: str
    position: str
    registers: str
    patch: str
    block: str
    qkv: tuple[str, ...]
    projection: str
    scales: tuple[str, str]
    norm: str


META = _Keys(
    cls_token="cls_token",
    position="pos_embed",
    registers="register_tokens",
    patch="patch_embed.proj",
    block="blocks.{}",
    qkv=("attn.qkv",),
    projection="attn.proj",
    scales=("ls1.gamma", "ls2.gamma"),
    norm="norm",
)
HUGGING_FACE = _Keys(
    cls_token="embeddings.cls_token",
    position="embeddings.position_embeddings",
    registers="embeddings.register_tokens",
    patch="embeddings.patch_embeddings.projection",
    block="encoder.layer.{}",
    qkv=("attention.attention.query", "attention.attention.key", "attention.attention.value"),
    projection="attention.output.dense",
    scales=("layer_scale1.lambda1", "layer_scale2.lambda1"),
    norm="layernorm",
)


def dinov2(graph: Graph, state: StateDict, *, size: TransformerSize = VIT_S14) -> Layers:
    """Yield the layers of a DINOv2 network: "block1" to "block12", and "norm", the last one behind the layer norm.

    Each is the map of its patch tokens, (B, width, h, w) for images of h x w patches; the class token is left out.
    Position embeddings are interpolated bicubically to h x w in the graph, as Meta's published networks do it: by a
    factor of (h + .1) / 37, without antialiasing. Hugging Face's present program leaves the .1 out.

    Raises:
        InputError: if the padding is not "zero".
        ModelFileError: if the weights are those of a network of another size, or with register tokens.

    Source: Oquab et al. 2023 (arXiv 2304.07193), ViT-S/14 distilled; Dosovitskiy et al. 2021 (arXiv 2010.11929),
        section 3.1; LayerScale: Touvron et al. 2021 (arXiv 2103.17239), equation 4; github.com/facebookresearch/dinov2,
        dinov2/models/vision_transformer.py, interpolate_pos_encoding.
    """
    if graph.padding != "zero":
        raise InputError(message("padding", "zero for a network that does not pad", repr(graph.padding)))
    network = _Transformer(graph, state, size)
    network.check()
    tokens, grid = network.embed()
    for i in range(size.depth):
        tokens = network.block(i, tokens)
        yield f"block{i + 1}", network.patch_map(tokens, grid)
    tokens = graph.layer_norm(tokens, *network.norm(network.keys.norm), epsilon=EPSILON)
    yield "norm", network.patch_map(tokens, grid)


class _Transformer:
    """The parts of the network, with its weights."""

    def __init__(self, graph: Graph, state: StateDict, size: TransformerSize) -> None:
        self.graph = graph
        self.size = size
        self.keys = HUGGING_FACE if HUGGING_FACE.cls_token in state else META
        self.weights = NamedWeights(state, epsilon=EPSILON, todo=TODO)

    def check(self) -> None:
        """Raise ModelFileError for a network with register tokens or of another depth."""
        state, size = self.weights.state, self.size
        if self.keys.registers in state:
            n_registers = state[self.keys.registers].shape[-2:-1]
            got = f"one with {n_registers[0] if n_registers else 1}"
            raise ModelFileError(message("weights", "a network without register tokens", got, todo=TODO))
        depth = self.weights.count(f"{self.keys.block}.norm1.weight")
        if depth > size.depth:
            raise ModelFileError(message("weights", f"{size.depth} blocks", str(depth), todo=TODO))

    def array(self, name: str, *shape: int) -> NDArray[Any]:
        """Return a weight of the network's own size."""
        array = self.weights[name]
        if array.shape != shape:
            raise ModelFileError(message(name, str(shape), str(array.shape), todo=TODO))
        return array

    def norm(self, name: str) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return scale and shift of a layer norm."""
        return self.array(f"{name}.weight", self.size.width), self.array(f"{name}.bias", self.size.width)

    def linear(self, name: str, n_out: int, n_in: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return weight, (n_out, n_in), and bias of a linear layer."""
        return self.array(f"{name}.weight", n_out, n_in), self.array(f"{name}.bias", n_out)

    def embed(self) -> tuple[str, str]:
        """Return the tokens of the image, (B, 1 + h * w, width) with the class token first, and the grid (h, w)."""
        graph, size, keys = self.graph, self.size, self.keys
        cls_token = self.array(keys.cls_token, 1, 1, size.width)
        position = self.array(keys.position, 1, 1 + size.grid**2, size.width)
        weight = self.array(f"{keys.patch}.weight", size.width, 3, size.patch_px, size.patch_px)
        bias = self.array(f"{keys.patch}.bias", size.width)
        patches = graph.patch_conv(graph.image(IMAGENET_MEAN), weight / per_input(IMAGENET_STD), bias)
        grid = graph.shape(patches, 2, 4)
        tokens = graph.add("Add", [self._rows(patches), self._position(position[:, 1:], grid)])
        shape = graph.add("Concat", [graph.shape(patches, 0, 1), graph.integers(1, size.width)], axis=0)
        first = graph.add("Expand", [graph.weight("cls_token", cls_token + position[:, :1]), shape])
        return graph.add("Concat", [first, tokens], axis=1), grid

    def _position(self, position: NDArray[Any], grid: str) -> str:
        """Return the position embeddings, (1, h * w, width), of a grid (h, w)."""
        graph, width, n = self.graph, self.size.width, self.size.grid
        # The outermost embeddings go on beyond the border: cubic convolution reads two of them there.
        own = np.pad(position.reshape(n, n, width), [(2, 2), (2, 2), (0, 0)], mode="edge")
        heights, widths = self._cubic_filters(grid)
        rows = graph.add("MatMul", [heights, graph.weight("position", own.reshape(n + 4, -1))])
        columns = graph.add("Reshape", [rows, graph.integers(-1, n + 4, width)])
        return graph.add("Reshape", [graph.add("MatMul", [widths, columns]), graph.integers(1, -1, width)])

    def _cubic_filters(self, grid: str) -> tuple[str, str]:
        """Return the (h, n) and (w, n) weights of cubic convolution (Keys 1981) with a = -.75, as in torch.

        The factor of the interpolation is (side + .1) / 37, but 1 on the embeddings' own grid, which Meta's program
        does not interpolate. ONNX's Resize does the same, and took an eighth of the network's time in ONNX Runtime.
        """
        graph, add, number, n = self.graph, self.graph.add, self._number, self.size.grid
        sides = add("Cast", [grid], to=TensorProto.FLOAT)
        difference = add("ReduceSum", [add("Abs", [add("Sub", [sides, number(n)])])], keepdims=0)
        offset = add("Mul", [add("Min", [difference, number(1)]), number(INTERPOLATION_OFFSET)])
        filters = []
        for axis in (0, 1):
            side = add("Gather", [sides, graph.weight(f"axis {axis}", np.array(axis), np.int64)], axis=0)
            factor = add("Div", [add("Add", [side, offset]), number(n)])
            centers = add("Div", [add("Range", [number(0.5), side, number(1)]), factor])
            places = graph.weight("places", np.arange(-2, n + 2) + 0.5)
            distances = add("Abs", [add("Sub", [add("Unsqueeze", [centers, graph.integers(1)]), places])])
            near = self._polynomial(distances, (1.25, -2.25, 0, 1))
            far = self._polynomial(add("Min", [distances, number(2)]), (-0.75, 3.75, -6, 3))
            filters.append(add("Where", [add("Less", [distances, number(1)]), near, far]))
        return filters[0], filters[1]

    def _number(self, value: float) -> str:
        return self.graph.weight(f"number {value:g}", np.full((), value))

    def _polynomial(self, x: str, coefficients: Sequence[float]) -> str:
        """Return a polynomial of `x`, its highest power first, by Horner's rule."""
        result = self._number(coefficients[0])
        for coefficient in coefficients[1:]:
            result = self.graph.add("Add", [self.graph.add("Mul", [result, x]), self._number(coefficient)])
        return result

    def _rows(self, x: str) -> str:
        """Return a map, (B, C, h, w), as tokens, (B, h * w, C)."""
        return self.graph.add(
            "Transpose", [self.graph.add("Reshape", [x, self.graph.integers(0, 0, -1)])], perm=[0, 2, 1]
        )

    def patch_map(self, tokens: str, grid: str) -> str:
        """Return the patch tokens as a map, (B, width, h, w)."""
        graph = self.graph
        end = graph.integers(np.iinfo(np.int64).max)
        patches = graph.add("Slice", [tokens, graph.integers(1), end, graph.integers(1)])
        shape = graph.add("Concat", [graph.integers(0, 0), grid], axis=0)
        return graph.add("Reshape", [graph.add("Transpose", [patches], perm=[0, 2, 1]), shape])

    def block(self, i: int, x: str) -> str:
        """Return the tokens behind block `i`: attention, then the two-layer perceptron, both residual and scaled."""
        graph, width, block = self.graph, self.size.width, self.keys.block.format(i)
        attended = self._attention(block, graph.layer_norm(x, *self.norm(f"{block}.norm1"), epsilon=EPSILON))
        projection = self._scaled(block, self.keys.projection, self.keys.scales[0], width)
        x = graph.add("Add", [x, graph.linear(attended, *projection)])
        y = graph.layer_norm(x, *self.norm(f"{block}.norm2"), epsilon=EPSILON)
        y = graph.gelu(graph.linear(y, *self.linear(f"{block}.mlp.fc1", 4 * width, width)))
        return graph.add("Add", [x, graph.linear(y, *self._scaled(block, "mlp.fc2", self.keys.scales[1], 4 * width))])

    def _scaled(self, block: str, name: str, scale: str, n_in: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return weight and bias of a linear layer with the LayerScale behind it folded in."""
        weight, bias = self.linear(f"{block}.{name}", self.size.width, n_in)
        gamma = self.array(f"{block}.{scale}", self.size.width).astype(np.float64)
        return gamma[:, None] * weight, gamma * bias

    def _attention(self, block: str, x: str) -> str:
        """Return multi-head self-attention, (B, T, width), before its projection.

        Source: Vaswani et al. 2017 (arXiv 1706.03762), section 3.2. The division by the root of the head's width is
            in the query's weights.
        """
        graph, width, n_heads = self.graph, self.size.width, self.size.n_heads
        n_rows = 3 * width // len(self.keys.qkv)
        parts = [self.linear(f"{block}.{name}", n_rows, width) for name in self.keys.qkv]
        weights, biases = (np.split(np.concatenate(arrays), 3) for arrays in zip(*parts, strict=True))
        scale = (width // n_heads) ** -0.5
        shape = graph.integers(0, 0, n_heads, width // n_heads)
        heads = []
        for n, perm in enumerate(([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3])):  # keys are transposed for the product
            factor = scale if n == 0 else 1.0
            y = graph.linear(x, weights[n] * factor, biases[n] * factor)
            heads.append(graph.add("Transpose", [graph.add("Reshape", [y, shape])], perm=perm))
        attention = graph.add("Softmax", [graph.add("MatMul", heads[:2])], axis=-1)
        joined = graph.add("Transpose", [graph.add("MatMul", [attention, heads[2]])], perm=[0, 2, 1, 3])
        return graph.add("Reshape", [joined, graph.integers(0, 0, width)])


TRANSFORMERS: dict[str, Callable[[Graph, StateDict], Layers]] = {"dinov2_vits14": dinov2}
