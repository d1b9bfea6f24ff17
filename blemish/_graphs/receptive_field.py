"""What the layers of an ONNX network see of the image: the receptive field, walked along its graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from blemish.errors import InputError, message
from blemish.ops.receptive_field import Field, Layer, receptive_field

if TYPE_CHECKING:
    import onnx

WINDOWS = {"Conv", "MaxPool", "AveragePool"}
# Each output of these depends on the same place of every input, or on no place at all.
POINTWISE = {"Add", "Sub", "Mul", "Div", "Relu", "Clip", "Cast", "Transpose", "Identity", "Sigmoid", "HardSigmoid"}
POINTWISE |= {"HardSwish", "BatchNormalization", "LeakyRelu", "Elu", "Concat", "Tanh", "Erf", "Pow", "Sqrt", "Max"}
POINTWISE |= {"Min", "PRelu", "Softplus", "Exp", "Neg", "Abs", "Dropout"}


def graph_fields(model: onnx.ModelProto, names: Sequence[str]) -> dict[str, Field]:
    """Return what one output of each named tensor sees of the image.

    Where branches meet (residuals), the field is the smallest that holds those of all branches. Networks that pad as
    TensorFlow's SAME does are taken at image sizes that their strides divide.

    Args:
        model: a network whose one input is `image`.
        names: tensors in its graph.

    Raises:
        InputError: if a tensor depends on the image in a way that is no window (attention, global pools as in
            squeeze and excitation, resizing), or is not there.
    """
    walked = _walk(model, names)
    return {name: walked[name].field for name in names}


def graph_stack(model: onnx.ModelProto, name: str) -> tuple[Layer, ...]:
    """Return the convolutions and pools on the way from the image to a tensor; of branches, the one that sees most.

    Raises:
        InputError: as `graph_fields`, or if no single branch sees all that the tensor does.
    """
    found = _walk(model, [name])[name]
    if receptive_field(found.stack) != found.field:
        raise InputError(message("network", "branches of which one sees the most", "others", where=name))
    return found.stack


@dataclass(frozen=True)
class _Seen:
    field: Field
    stack: tuple[Layer, ...] = ()


def _walk(model: onnx.ModelProto, names: Sequence[str]) -> dict[str, _Seen]:
    """Return, for each tensor up to the last one named, its field and the layers on the way of the widest branch."""
    seen = {"image": _Seen(Field())}
    n_layers: dict[str, int] = {}
    for node in model.graph.node:
        inputs = [seen[name] for name in node.input if name in seen]
        if set(names) <= seen.keys():
            break
        if not inputs:
            continue
        if node.op_type in WINDOWS:
            kind = "conv" if node.op_type == "Conv" else "pool"
            n_layers[kind] = n_layers.get(kind, 0) + 1
            layer = _window(node, f"{kind}{n_layers[kind]}")
            found = _Seen(inputs[0].field.behind(layer), (*inputs[0].stack, layer))
        elif node.op_type in POINTWISE:
            widest = max(inputs, key=lambda one: one.field.size)
            found = _Seen(_union([one.field for one in inputs], node.output[0]), widest.stack)
        else:
            got = f"{node.op_type}, whose outputs may see everything"
            raise InputError(message("network", "convolutions, pools and pointwise steps", got, where=node.output[0]))
        seen.update(dict.fromkeys(node.output, found))
    missing = [name for name in names if name not in seen]
    if missing:
        raise InputError(message("layer", "a tensor of the network", repr(missing[0])))
    return seen


def _window(node: onnx.NodeProto, name: str) -> Layer:
    import onnx

    given: dict[str, Any] = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
    kernel = given["kernel_shape"][0]
    stride = given.get("strides", [1])[0]
    dilation = given.get("dilations", [1])[0]
    before, after = given.get("pads", [0] * 4)[0], given.get("pads", [0] * 4)[2]
    same = given.get("auto_pad", b"NOTSET")
    if same in {b"SAME_UPPER", b"SAME_LOWER"}:
        total = max(dilation * (kernel - 1) + 1 - stride, 0)
        before = total // 2 if same == b"SAME_UPPER" else total - total // 2
        after = total - before
    return Layer(name, kernel, stride, before, after, dilation)


def _union(fields: Sequence[Field], where: str) -> Field:
    strides = {field.stride for field in fields}
    if len(strides) > 1:
        got = " and ".join(str(stride) for stride in sorted(strides))
        raise InputError(message("network", "branches of one stride", got, where=where))
    first = min(field.first for field in fields)
    last = max(field.first + field.size for field in fields)
    return Field(last - first, strides.pop(), first)
