"""Building ONNX graphs of convolutional networks: one method per thing that a network's paper draws as one box."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from blemish.errors import InputError, ModelFileError, message

if TYPE_CHECKING:
    from numpy.typing import NDArray

Padding = Literal["zero", "reflect", "edge"]
PADDINGS = ("zero", "reflect", "edge")
OPSET = 17
IR_VERSION = 8  # onnxruntime 1.18 reads up to 10; 8 is what belongs to opset 17


class Graph:
    """An ONNX graph under construction: each method adds nodes and returns the name of the tensor that they make.

    Args:
        padding: what lies around the image for a convolution that pads: "zero" (as networks are trained), or
            "reflect" or "edge", which show it no frame.
    """

    def __init__(self, padding: Padding = "zero") -> None:
        if padding not in PADDINGS:
            raise InputError(message("padding", " or ".join(PADDINGS), repr(padding)))
        self.padding = padding
        self._nodes: list[onnx.NodeProto] = []
        self._weights: dict[str, onnx.TensorProto] = {}
        self._channels: dict[str, int] = {}

    def image(self, mean: Sequence[float]) -> str:
        """Return the input image as float32 (B, 3, H, W) in RGB, less `mean`, in units of the 0 to 255 scale.

        The division by the standard deviation is left to the first convolution's weights, where it is exact. The mean
        can't be: zeros are padded after it was subtracted.
        """
        planes = self.add("Transpose", ["image"], perm=[0, 3, 1, 2])
        numbers = self.add("Cast", [planes], to=TensorProto.FLOAT)
        # One number where that is all it is: ONNX Runtime takes it off eight times as fast as one per channel.
        array = np.array(mean[0]) if len(set(mean)) == 1 else np.reshape(mean, (1, 3, 1, 1))
        return self._noted(self.add("Sub", [numbers, self.weight("mean", array)]), 3)

    def conv(
        self,
        x: str,
        weight: NDArray[Any],
        bias: NDArray[Any],
        *,
        stride: int = 1,
        same: bool = False,
    ) -> str:
        """Return a convolution of `x`, padded so that stride 1 keeps its size.

        Args:
            x: name of a (B, C, H, W) tensor.
            weight: (out, in / groups, k, k), k odd; how many groups there are follows from the channels of `x`.
            bias: (out,).
            stride: 1 or 2.
            same: pad as TensorFlow's SAME does: at stride 2 the odd row goes to the end, and how many there are
                depends on whether the size is even. False pads k // 2 on every side.

        Raises:
            ModelFileError: if the weights do not fit `x`.
        """
        k = weight.shape[-1]
        groups = self._groups(x, weight)
        settings: dict[str, Any] = {"kernel_shape": [k, k], "strides": [stride, stride], "group": groups}
        uneven = same and stride > 1
        if k > 1 and self.padding != "zero":
            x = self._pad_same(x, k) if uneven else self._pad(x, k // 2)
        elif uneven:
            settings["auto_pad"] = "SAME_UPPER"
        else:
            settings["pads"] = [k // 2] * 4
        name = f"conv{sum(node.op_type == 'Conv' for node in self._nodes)}"
        inputs = [x, self.weight(f"{name}.weight", weight), self.weight(f"{name}.bias", bias)]
        return self._noted(self.add("Conv", inputs, **settings), weight.shape[0])

    def max_pool(self, x: str) -> str:
        """Return the maximum over 3 x 3 windows at stride 2, one row and column more on each side.

        The border never wins, so no kind of padding changes it, except that ResNet's Keras port pads zeros: the same
        thing after a ReLU.
        """
        pooled = self.add("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
        return self._noted(pooled, self._channels[x])

    def relu(self, x: str) -> str:
        """Return max(x, 0)."""
        return self._noted(self.add("Relu", [x]), self._channels[x])

    def relu6(self, x: str) -> str:
        """Return x clipped to [0, 6]."""
        low, high = self.weight("zero", np.zeros(())), self.weight("six", np.full((), 6.0))
        return self._noted(self.add("Clip", [x, low, high]), self._channels[x])

    def sum(self, x: str, y: str) -> str:
        """Return x + y.

        Raises:
            ModelFileError: if they have different numbers of channels.
        """
        if self._channels[x] != self._channels[y]:
            raise self._unfit("summands of as many channels", f"{self._channels[x]} and {self._channels[y]}")
        return self._noted(self.add("Add", [x, y]), self._channels[x])

    def classify(self, x: str, weight: NDArray[Any], bias: NDArray[Any]) -> str:
        """Return (B, classes) logits: the mean over the image, then a dense layer of (classes, channels) weights.

        Raises:
            ModelFileError: if the weights do not fit `x`.
        """
        if weight.ndim != 2 or weight.shape[1] != self._channels[x] or bias.shape != weight.shape[:1]:
            expected = f"(classes, {self._channels[x]}) and (classes,)"
            raise self._unfit(expected, f"{weight.shape} and {bias.shape}")
        pooled = self.add("Flatten", [self.add("GlobalAveragePool", [x])])
        inputs = [pooled, self.weight("dense.weight", weight), self.weight("dense.bias", bias)]
        return self.add("Gemm", inputs, transB=1)

    def add(self, operator: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Add one node and return the name of its output."""
        output = f"t{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def weight(self, name: str, array: NDArray[Any], dtype: Any = np.float32) -> str:
        """Keep a constant in the graph, once per name, and return its name."""
        if name not in self._weights:
            self._weights[name] = numpy_helper.from_array(
                np.ascontiguousarray(array, dtype=dtype).reshape(array.shape), name
            )
        return name

    def model(self, outputs: Mapping[str, str], *, n_axes: int = 4) -> onnx.ModelProto:
        """Return the finished model from `image` to float32 outputs.

        Args:
            outputs: output name to the tensor that it shall be, in order; a tensor can be only one output.
            n_axes: 4 for feature maps, 2 for logits.
        """
        renamed = {tensor: name for name, tensor in outputs.items()}
        for node in self._nodes:
            node.input[:] = [renamed.get(name, name) for name in node.input]
            node.output[:] = [renamed.get(name, name) for name in node.output]
        image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["B", "H", "W", 3])
        results = [
            # Heights and widths of their own for each layer: they differ.
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", *(f"{name}:{i}" for i in range(1, n_axes))])
            for name in outputs
        ]
        graph = helper.make_graph(self._nodes, "backbone", [image], results, list(self._weights.values()))
        opset = [helper.make_opsetid("", OPSET)]
        return helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION, producer_name="blemish")

    def _noted(self, tensor: str, channels: int) -> str:
        self._channels[tensor] = channels
        return tensor

    def _groups(self, x: str, weight: NDArray[Any]) -> int:
        """Return how many groups a convolution of `x` with these weights has."""
        channels = self._channels[x]
        out, into, *kernel = weight.shape
        if into == 0 or channels % into or out % (channels // into) or len(set(kernel)) != 1 or kernel[0] % 2 == 0:
            raise self._unfit(f"(out, {channels} / groups, k, k), k odd,", str(weight.shape))
        return channels // int(into)

    def _unfit(self, expected: str, got: str) -> ModelFileError:
        return ModelFileError(message("weights", expected, got, todo="Give the weight file of this network."))

    def _pad(self, x: str, n: int) -> str:
        pads = self.weight(f"pads{n}", np.array([0, 0, n, n, 0, 0, n, n]), np.int64)
        return self.add("Pad", [x, pads], mode=self.padding)

    def _pad_same(self, x: str, k: int) -> str:
        """Pad for stride 2 as SAME does: k - 2 rows for an even size and k - 1 for an odd one, the larger half last."""
        odd = self.add("Mod", [self.add("Shape", [x], start=2), self.weight("two", np.array([2]), np.int64)])
        before = self.add("Add", [odd, self.weight(f"before{k}", np.array([(k - 3) // 2]), np.int64)])
        none = self.weight("none", np.zeros(2), np.int64)
        after = self.weight(f"after{k}", np.array([(k - 1) // 2] * 2), np.int64)
        pads = self.add("Concat", [none, before, none, after], axis=0)
        return self.add("Pad", [x, pads], mode=self.padding)


def fold_batch_norm(
    weight: NDArray[Any],
    bias: NDArray[Any],
    *,
    gamma: NDArray[Any],
    beta: NDArray[Any],
    mean: NDArray[Any],
    variance: NDArray[Any],
    epsilon: float,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return (weight, bias) of the convolution that does what this one and the batch norm behind it do.

    Args:
        weight: (out, in / groups, k, k).
        bias: (out,).
        gamma: (out,), as beta, mean and variance.
        epsilon: what is added to the variance.
    """
    scale = gamma.astype(np.float64) / np.sqrt(variance.astype(np.float64) + epsilon)
    shift = beta + (bias - mean.astype(np.float64)) * scale
    return (weight * scale[:, None, None, None]).astype(np.float32), shift.astype(np.float32)
