"""Sizes of all tensors of a network, and the work and memory of one run, before anything is run.

Node by node in order: shapes by ONNX's own shape inference of that node, and the values of small tensors (shapes,
indices, scales) by NumPy. A tensor whose size does not follow from the image's size is refused, as is one that is too
large, so that no later step can be made to compute or allocate more than is stated in `operators`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from blemish._graphs.operators import (
    BINARY,
    CONVOLUTIONS,
    MAX_AXES,
    MAX_ELEMENTS,
    MAX_FOLDED,
    MAX_LIST,
    MAX_LIVE_BYTES,
    MAX_WORK,
    POOLS,
    PRODUCTS,
    UNARY,
)

# Of a multiplication in a matrix product: an operator on single values has to move them through memory.
ELEMENT_COST = 50
# Types whose products have fast kernels; others take many times as long.
FAST = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.UINT8, TensorProto.INT8}
SLOW_COST = 16
GROUPED_COST = 8
WHOLE = {TensorProto.INT64, TensorProto.INT32}
BYTES = {TensorProto.DOUBLE: 8, TensorProto.INT64: 8, TensorProto.UINT64: 8, TensorProto.FLOAT: 4, TensorProto.INT32: 4}
BYTES |= {TensorProto.UINT32: 4, TensorProto.FLOAT16: 2, TensorProto.BFLOAT16: 2, TensorProto.INT16: 2}
BYTES |= {TensorProto.UINT16: 2}
LARGEST_FOLDED = float(1 << 31)  # products of two stay exact


class BudgetError(ValueError):
    """A network is larger than the limits, or the size of a tensor is not known: (expected, got)."""

    def __init__(self, expected: str, got: str) -> None:
        super().__init__(expected, got)
        self.expected = expected
        self.got = got


class Work(NamedTuple):
    """The cost of one run: multiplications (see `MAX_WORK`), and bytes of the tensors that are needed at once."""

    multiplications: float
    live_bytes: int


class Tensor(NamedTuple):
    """Type, shape and number of elements of a tensor."""

    dtype: int
    shape: tuple[int, ...]
    size: int

    @property
    def n_bytes(self) -> int:
        return self.size * BYTES.get(self.dtype, 1)


def check_work(model: onnx.ModelProto, image_hw: tuple[int, int]) -> Work:
    """Return the work of one run on one image; BudgetError if it is beyond the limits, or can't be known.

    Args:
        model: of allowed operators.
        image_hw: height and width of the image where the network leaves them open.
    """
    try:
        sizes = _Sizes(model, image_hw)
        for node in model.graph.node:
            sizes.add(node)
        return Work(sizes.multiplications, sizes.live_bytes())
    except BudgetError:
        raise
    except (KeyError, IndexError, ValueError, TypeError, onnx.defs.SchemaError) as error:
        raise BudgetError("a valid ONNX graph", f"{type(error).__name__}: {str(error)[:80]}") from None


class _Sizes:
    """Tensors by name, and small values by name, as far as the nodes were added."""

    def __init__(self, model: onnx.ModelProto, image_hw: tuple[int, int]) -> None:
        self.multiplications = 0.0
        self._opsets = [entry for entry in model.opset_import if entry.domain in {"", "ai.onnx"}]
        self._version = max(entry.version for entry in self._opsets)
        self._tensors: dict[str, Tensor] = {}
        self._values: dict[str, NDArray[Any]] = {}
        self._schemas: dict[str, onnx.defs.OpSchema] = {}
        self._outputs = {value.name for value in model.graph.output}
        self._steps: list[tuple[tuple[str, ...], tuple[str, ...]]] = []
        for tensor in model.graph.initializer:
            self._constant(tensor.name, tensor)
        self._weights = set(self._tensors)
        self._image = Tensor(TensorProto.UINT8, (0,), 0)
        for value in model.graph.input:
            if value.name not in self._tensors:
                kind = value.type.tensor_type
                open_hw = {1: image_hw[0], 2: image_hw[1]}
                dims = [axis.dim_value or open_hw.get(i, 1) for i, axis in enumerate(kind.shape.dim)]
                self._note(value.name, kind.elem_type, tuple(dims))
                self._image = self._tensors[value.name]

    def add(self, node: onnx.NodeProto) -> None:
        """Note the outputs of a node and its cost."""
        inputs = [self._tensors[name] for name in node.input if name]
        if node.op_type == "Constant":
            self._constant_node(node)
        else:
            self._infer(node)
            self._fold(node)
        outputs = [self._tensors[name] for name in node.output if name]
        self.multiplications += _cost(node, inputs, outputs)
        if self.multiplications > MAX_WORK:
            got = f"{self.multiplications:.2g} at {node.op_type} {node.output[0]!r:.40}"
            raise BudgetError(f"at most {MAX_WORK:.2g} multiplications a run", got)
        self._steps.append((tuple(node.input), tuple(node.output)))

    def live_bytes(self) -> int:
        """Return the largest sum of bytes of tensors that are needed at once; BudgetError if it is too large."""
        last = {name: i for i, (inputs, _) in enumerate(self._steps) for name in inputs}
        live = most = self._image.n_bytes
        for i, (inputs, outputs) in enumerate(self._steps):
            live += sum(self._tensors[name].n_bytes for name in outputs if name)
            most = max(most, live)
            ended = {name for name in (*inputs, *outputs) if name and last.get(name, -1) <= i}
            live -= sum(self._tensors[name].n_bytes for name in ended - self._weights - self._outputs)
        if most > MAX_LIVE_BYTES:
            raise BudgetError(f"tensors of at most {MAX_LIVE_BYTES >> 20} MiB at once", f"{most >> 20} MiB")
        return most

    def _infer(self, node: onnx.NodeProto) -> None:
        fast = self._fast(node)
        if fast is not None:
            for name in filter(None, node.output):  # Dropout gives its mask too
                self._note(name, *fast)
            return
        schema = self._schemas.get(node.op_type)
        if schema is None:
            schema = self._schemas[node.op_type] = onnx.defs.get_schema(node.op_type, self._version, "")
        types = {name: helper.make_tensor_type_proto(*self._tensors[name][:2]) for name in node.input if name}
        data = {name: numpy_helper.from_array(self._values[name]) for name in node.input if name in self._values}
        try:
            found = onnx.shape_inference.infer_node_outputs(schema, node, types, data, opset_imports=self._opsets)
        except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError, RuntimeError, ValueError) as error:
            text = str(error).strip().partition("\n")[0][:120]
            raise BudgetError("operators that fit their inputs", f"{node.op_type}: {text}") from None
        for name in filter(None, node.output):
            self._note(name, *_type_of(node, name, found.get(name)))

    def _fast(self, node: onnx.NodeProto) -> tuple[int, tuple[int, ...]] | None:
        """Return type and shape of the output of the commonest operators, without the way through ONNX."""
        if node.op_type in UNARY:
            return self._tensors[node.input[0]][:2]
        if node.op_type in BINARY:
            first, second = (self._tensors[name] for name in node.input)
            axes = itertools.zip_longest(reversed(first.shape), reversed(second.shape), fillvalue=1)
            if first.dtype == second.dtype and all(m == n or 1 in (m, n) for m, n in axes):
                return first.dtype, np.broadcast_shapes(first.shape, second.shape)
        return self._convolved(node) if node.op_type == "Conv" else None

    def _convolved(self, node: onnx.NodeProto) -> tuple[int, tuple[int, ...]] | None:
        """Return type and shape of the output of a Conv with stated padding."""
        (dtype, image, _), (_, weight, _) = (self._tensors[name] for name in node.input[:2])
        settings = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        n = len(image) - 2
        strides, dilations = (settings.get(name, [1] * n) for name in ("strides", "dilations"))
        pads, kernel = settings.get("pads", [0] * 2 * n), settings.get("kernel_shape", weight[2:])
        fits = len(weight) == len(image) and image[1] == weight[1] * settings.get("group", 1)
        if "auto_pad" in settings or not fits or tuple(kernel) != weight[2:] or min(*strides, *dilations) < 1:
            return None
        pads = [pads[i] + pads[i + n] for i in range(n)]
        spans = [d * (k - 1) + 1 for d, k in zip(dilations, kernel, strict=True)]
        sizes = [
            (size + pad - span) // stride + 1
            for size, pad, span, stride in zip(image[2:], pads, spans, strides, strict=True)
        ]
        return (dtype, (image[0], weight[0], *sizes)) if min(sizes) >= 1 else None

    def _note(self, name: str, dtype: int, shape: tuple[int, ...]) -> None:
        limit = MAX_LIST if dtype in WHOLE and len(shape) == 1 else MAX_ELEMENTS
        size = math.prod(shape)
        if len(shape) > MAX_AXES or size > limit or (shape and min(shape) < 0):
            expected = f"tensors of at most {limit} elements and {MAX_AXES} axes"
            raise BudgetError(expected, f"{name!r:.60} of {str(shape)[:60]}")
        self._tensors[name] = Tensor(dtype, shape, size)

    def _constant(self, name: str, tensor: onnx.TensorProto) -> None:
        """Note a weight; its size is checked against its bytes, of which the file has no more than it holds."""
        dims = tuple(tensor.dims)
        if len(dims) > MAX_AXES or min(dims, default=0) < 0 or math.prod(max(n, 1) for n in dims) >= 1 << 40:
            raise BudgetError(f"weights of at most {MAX_AXES} axes", f"{name!r:.60} of {str(dims)[:60]}")
        size = math.prod(dims)
        self._tensors[name] = Tensor(tensor.data_type, dims, size)
        if size <= MAX_FOLDED and len(dims) < 3:
            self._values[name] = numpy_helper.to_array(tensor)

    def _constant_node(self, node: onnx.NodeProto) -> None:
        (attribute,) = node.attribute
        value = helper.get_attribute_value(attribute)
        if attribute.name == "value":
            self._constant(node.output[0], value)
        elif attribute.name in {"value_float", "value_floats", "value_int", "value_ints"}:
            array = np.array(value, np.float32 if "float" in attribute.name else np.int64)
            self._constant(node.output[0], numpy_helper.from_array(array))
        else:
            raise BudgetError("constants that are numbers", f"{attribute.name} of {node.output[0]!r:.40}")

    def _fold(self, node: onnx.NodeProto) -> None:
        """Keep the value of a small output whose inputs are known."""
        name = node.output[0]
        tensor = self._tensors[name]
        if node.op_type not in FOLDS or tensor.size > MAX_FOLDED:
            return
        settings = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        if node.op_type in {"Shape", "Size"}:
            shape = self._tensors[node.input[0]].shape
            part = shape[slice(settings.get("start", 0), settings.get("end"))]
            self._values[name] = np.array(math.prod(shape) if node.op_type == "Size" else part, np.int64)
            return
        if any(given and given not in self._values for given in node.input):
            return
        values = [self._values[given] if given else None for given in node.input]
        with np.errstate(all="ignore"):
            try:
                array = np.asarray(FOLDS[node.op_type](values, settings))
            except (ValueError, TypeError, IndexError, KeyError, OverflowError, ZeroDivisionError):
                return
        if array.shape == tensor.shape and _is_exact(array):
            self._values[name] = array.astype(helper.tensor_dtype_to_np_dtype(tensor.dtype))


def _is_exact(array: NDArray[Any]) -> bool:
    """Return whether each value is one that all programs compute alike: finite, and not near an overflow."""
    return array.dtype.kind in "iufb" and bool((np.abs(array.astype(np.float64)) < LARGEST_FOLDED).all())


def _type_of(node: onnx.NodeProto, name: str, kind: onnx.TypeProto | None) -> tuple[int, tuple[int, ...]]:
    if kind is not None and kind.HasField("tensor_type") and kind.tensor_type.HasField("shape"):
        dims = kind.tensor_type.shape.dim
        if all(axis.HasField("dim_value") for axis in dims):
            return kind.tensor_type.elem_type, tuple(axis.dim_value for axis in dims)
    got = f"{name!r:.60}, the output of a {node.op_type}"
    raise BudgetError("tensors whose sizes follow from the image's size", got)


def _cost(node: onnx.NodeProto, inputs: list[Tensor], outputs: list[Tensor]) -> float:
    """Return the cost of a node in multiplications of a matrix product."""
    elements = float(sum(tensor.size for tensor in (*inputs[:1], *outputs)))
    if node.op_type in CONVOLUTIONS:
        return _products(node, inputs, outputs) + ELEMENT_COST * elements
    if node.op_type in PRODUCTS:
        first, second = inputs[0], inputs[3 if node.op_type == "QLinearMatMul" else 1]
        rows = first.shape or (1,)
        inner = rows[0] if node.op_type == "Gemm" and _setting(node, "transA", 0) else rows[-1]
        slow = SLOW_COST if first.dtype not in FAST else 1
        return slow * float(inner) * outputs[0].size + ELEMENT_COST * (elements + second.size)
    if node.op_type in POOLS:
        return ELEMENT_COST * (elements + float(math.prod(_setting(node, "kernel_shape", [1]))) * outputs[0].size)
    if node.op_type == "LRN":
        return ELEMENT_COST * elements * float(max(1, _setting(node, "size", 1)))
    if node.op_type == "Resize":
        return ELEMENT_COST * 16 * elements
    return ELEMENT_COST * (elements + sum(tensor.size for tensor in inputs[1:]))


def _products(node: onnx.NodeProto, inputs: list[Tensor], outputs: list[Tensor]) -> float:
    """Return the multiplications of a convolution."""
    weight = inputs[3 if node.op_type == "QLinearConv" else 1].shape
    n_places = inputs[0].size if node.op_type == "ConvTranspose" else outputs[0].size
    slow = SLOW_COST if inputs[0].dtype not in FAST else 1
    grouped = GROUPED_COST if _setting(node, "group", 1) > 1 else 1
    return slow * grouped * float(n_places) * math.prod(weight[1:])


def _setting(node: onnx.NodeProto, name: str, default: Any) -> Any:
    found = [attribute for attribute in node.attribute if attribute.name == name]
    return helper.get_attribute_value(found[0]) if found else default


Values = list[Any]


def _elementwise(function: Callable[..., Any]) -> Callable[[Values, Mapping[str, Any]], Any]:
    return lambda values, _: function(*values)


def _divided(a: NDArray[Any], b: NDArray[Any]) -> Any:
    if a.dtype.kind != "i":
        return a / b
    if not b.all():
        raise ZeroDivisionError
    return np.sign(a) * np.sign(b) * (np.abs(a) // np.abs(b))  # towards zero, as C does


def _remainder(values: Values, settings: Mapping[str, Any]) -> Any:
    if settings.get("fmod") or values[0].dtype.kind != "i" or not values[1].all():
        raise ValueError
    return np.mod(*values)


def _axes(values: Values, settings: Mapping[str, Any]) -> tuple[int, ...] | None:
    given = values[1] if len(values) > 1 and values[1] is not None else settings.get("axes")
    return None if given is None else tuple(int(axis) for axis in given)


def _unsqueezed(values: Values, settings: Mapping[str, Any]) -> Any:
    return np.expand_dims(values[0], _axes(values, settings) or ())


def _sliced(values: Values, _: Mapping[str, Any]) -> Any:
    array, starts, ends = values[:3]
    axes = values[3] if len(values) > 3 and values[3] is not None else range(len(starts))
    steps = values[4] if len(values) > 4 and values[4] is not None else [1] * len(starts)
    places: list[slice] = [slice(None)] * array.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if step < 1:
            raise ValueError  # a negative end has another meaning there
        places[int(axis)] = slice(int(start), int(end), int(step))
    return array[tuple(places)]


def _reshaped(values: Values, settings: Mapping[str, Any]) -> Any:
    if settings.get("allowzero") or not values[1].all():
        raise ValueError
    return values[0].reshape([int(n) for n in values[1]])


def _cast(values: Values, settings: Mapping[str, Any]) -> Any:
    return values[0].astype(helper.tensor_dtype_to_np_dtype(settings["to"]))


def _filled(values: Values, settings: Mapping[str, Any]) -> Any:
    fill = numpy_helper.to_array(settings["value"]) if "value" in settings else np.zeros(1, np.float32)
    return np.full([int(n) for n in values[0]], fill[0], fill.dtype)


def _of_pairs(function: Callable[..., Any]) -> Callable[[Values, Mapping[str, Any]], Any]:
    def fold(values: Values, _: Mapping[str, Any]) -> Any:
        result = values[0]
        for value in values[1:]:
            result = function(result, value)
        return result

    return fold


FOLDS: dict[str, Callable[[Values, Mapping[str, Any]], Any]] = {
    "Shape": _elementwise(lambda x: x),
    "Size": _elementwise(lambda x: x),
    "Identity": _elementwise(lambda x: x),
    "Abs": _elementwise(np.abs),
    "Neg": _elementwise(np.negative),
    "Floor": _elementwise(np.floor),
    "Ceil": _elementwise(np.ceil),
    "Sqrt": _elementwise(np.sqrt),
    "Not": _elementwise(np.logical_not),
    "Add": _elementwise(np.add),
    "Sub": _elementwise(np.subtract),
    "Mul": _elementwise(np.multiply),
    "Div": _elementwise(_divided),
    "Equal": _elementwise(np.equal),
    "Greater": _elementwise(np.greater),
    "Less": _elementwise(np.less),
    "Where": _elementwise(np.where),
    "Max": _of_pairs(np.maximum),
    "Min": _of_pairs(np.minimum),
    "Mod": _remainder,
    "Cast": _cast,
    "ConstantOfShape": _filled,
    "Reshape": _reshaped,
    "Slice": _sliced,
    "Squeeze": lambda values, settings: np.squeeze(values[0], _axes(values, settings)),
    "Unsqueeze": _unsqueezed,
    "Concat": lambda values, settings: np.concatenate(values, axis=settings["axis"]),
    "Gather": lambda values, settings: np.take(values[0], values[1], axis=settings.get("axis", 0)),
    "Expand": lambda values, _: values[0] * np.ones([int(n) for n in values[1]], values[0].dtype),
    "ReduceProd": lambda values, settings: np.prod(
        values[0], axis=_axes(values, settings), keepdims=bool(settings.get("keepdims", 1)), dtype=values[0].dtype
    ),
    "Range": lambda values, _: np.arange(*(value.reshape(()) for value in values), dtype=values[0].dtype),
    "Transpose": lambda values, settings: np.transpose(values[0], settings.get("perm")),
}
