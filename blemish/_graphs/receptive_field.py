"""Receptive fields of the layers of an ONNX network, computed along its graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from blemish.errors import InputError, message
from blemish.ops.receptive_field import Field, Layer, receptive_field

if TYPE_CHECKING:
    import onnx

WINDOWS = {"Conv", "MaxPool", "AveragePool"}
# Operators each of whose outputs depends on the same position of every input, or on no position.
POINTWISE = {"Add", "Sub", "Mul", "Div", "Relu", "Clip", "Cast", "Transpose", "Identity", "Sigmoid", "HardSigmoid"}
POINTWISE |= {"HardSwish", "BatchNormalization", "LeakyRelu", "Elu", "Concat", "Tanh", "Erf", "Pow", "Sqrt", "Max"}
POINTWISE |= {"Min", "PRelu", "Softplus", "Exp", "Neg", "Abs", "Dropout"}


def graph_fields(model: onnx.ModelProto, names: Sequence[str]) -> dict[str, Field]:
    """Return the receptive field of one output of each named tensor.

    Where branches meet (residuals), the field is the smallest that holds those of all branches. With TensorFlow's SAME
    padding it is the field for image sizes that the strides divide.

    Raises:
        InputError: if a tensor does not depend on a square window of the image (attention, global pools as in squeeze
            and excitation, resizing, kernels of 1 x 7), or is absent.
    """
    paths = _paths(model, names)
    return {name: paths[name].field for name in names}


def graph_stack(model: onnx.ModelProto, name: str) -> tuple[Layer, ...]:
    """Return the convolutions and pools from the image to a tensor, along the branch of the largest receptive field."""
    path = _paths(model, [name])[name]
    if receptive_field(path.stack) != path.field:
        raise InputError(message("network", "branches of which one sees the most", "others", where=name))
    return path.stack


@dataclass(frozen=True)
class _Path:
    """The receptive field of a tensor, and the layers to it along the branch of the largest field."""

    field: Field
    stack: tuple[Layer, ...] = ()


def _paths(model: onnx.ModelProto, names: Sequence[str]) -> dict[str, _Path]:
    """Return the path to each tensor, up to the last one named."""
    paths = {"image": _Path(Field())}
    n_layers: dict[str, int] = {}
    for node in model.graph.node:
        inputs = [paths[name] for name in node.input if name in paths]
        if set(names) <= paths.keys():
            break
        if not inputs:
            continue
        if node.op_type in WINDOWS:
            kind = "conv" if node.op_type == "Conv" else "pool"
            n_layers[kind] = n_layers.get(kind, 0) + 1
            layer = _window(model, node, f"{kind}{n_layers[kind]}")
            path = _Path(inputs[0].field.behind(layer), (*inputs[0].stack, layer))
        elif node.op_type in POINTWISE:
            widest = max(inputs, key=lambda path: path.field.size)
            path = _Path(_union([path.field for path in inputs], node.output[0]), widest.stack)
        else:
            got = f"{node.op_type}, whose outputs may see everything"
            raise InputError(message("network", "convolutions, pools and pointwise steps", got, where=node.output[0]))
        paths.update(dict.fromkeys(node.output, path))
    missing = [name for name in names if name not in paths]
    if missing:
        raise InputError(message("layer", "a tensor of the network", repr(missing[0])))
    return paths


def _window(model: onnx.ModelProto, node: onnx.NodeProto, name: str) -> Layer:
    """Return a convolution or pool as a layer; all of its attributes but a pool's kernel_shape may be absent."""
    import onnx

    attributes: dict[str, Any] = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
    kernel = attributes.get("kernel_shape") or _kernel_shape(model, node)
    n_axes = len(kernel)
    strides = attributes.get("strides") or [1] * n_axes
    dilations = attributes.get("dilations") or [1] * n_axes
    auto_pad = attributes.get("auto_pad", b"NOTSET")
    pads = (attributes.get("pads") if auto_pad == b"NOTSET" else None) or [0] * 2 * n_axes
    axes = set(zip(kernel, strides, dilations, pads[:n_axes], pads[n_axes:], strict=True))
    if n_axes != 2 or len(axes) != 1:
        got = " and ".join(f"kernel {k}, stride {s}, dilation {d}, padding {b}, {a}" for k, s, d, b, a in sorted(axes))
        expected = "windows that are the same along height and width"
        raise InputError(message("network", expected, got if n_axes == 2 else f"{n_axes} axes", where=node.output[0]))
    ((size, stride, dilation, before, after),) = axes
    if auto_pad in {b"SAME_UPPER", b"SAME_LOWER"}:
        total = max(dilation * (size - 1) + 1 - stride, 0)
        before = total // 2 if auto_pad == b"SAME_UPPER" else total - total // 2
        after = total - before
    return Layer(name, size, stride, before, after, dilation)


def _kernel_shape(model: onnx.ModelProto, node: onnx.NodeProto) -> list[int]:
    """Return the kernel shape of a convolution from the shape of its weight."""
    import onnx

    for tensor in model.graph.initializer:
        if tensor.name == node.input[1]:
            return list(tensor.dims[2:])
    for value in onnx.shape_inference.infer_shapes(model).graph.value_info:
        sizes = [axis.dim_value for axis in value.type.tensor_type.shape.dim]
        if value.name == node.input[1] and len(sizes) > 2 and min(sizes[2:]) > 0:
            return sizes[2:]
    raise InputError(message("network", "convolutions of known kernel size", "none", where=node.output[0]))


def _union(fields: Sequence[Field], where: str) -> Field:
    strides = {field.stride for field in fields}
    if len(strides) > 1:
        got = " and ".join(str(stride) for stride in sorted(strides))
        raise InputError(message("network", "branches of one stride", got, where=where))
    first = min(field.first for field in fields)
    last = max(field.first + field.size for field in fields)
    return Field(last - first, strides.pop(), first)
