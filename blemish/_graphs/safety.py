"""Checks of ONNX networks before a runtime loads them.

One parser: the network is checked as protobuf, without the fields that ONNX does not know, and written again. A runtime
gets these bytes and no others, as a file of ONNX and of no other format. The operators are those of a list, and the
sizes of all tensors and the work of one run are known before it (`budget`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError, Message  # type: ignore[import-untyped, unused-ignore]  # no stubs
from onnx import TensorProto, numpy_helper

from blemish._graphs.budget import BudgetError, check_work
from blemish._graphs.operators import MAX_NODES, MAX_WEIGHTS, OPERATORS
from blemish._graphs.wire import fits_in_memory
from blemish.errors import ModelFileError, message

STANDARD_DOMAINS = {"", "ai.onnx"}
ENDLESS = {"Loop", "Scan", "SequenceMap"}  # the file decides how often they repeat; no backbone needs them
REPLACE = "Use a model folder from a source you trust, or fit again."
ORT_MAGIC = b"ORTM"  # of ONNX Runtime's own format, at byte 4
FLOATS = {TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16}
NUMBERS = FLOATS | {TensorProto.UINT8, TensorProto.INT8, TensorProto.UINT16, TensorProto.INT16, TensorProto.INT32}
NUMBERS |= {TensorProto.INT64, TensorProto.UINT32, TensorProto.UINT64, TensorProto.BOOL}
SIDE_PX = 256  # of an image, where none is stated


def check_network(
    data: bytes,
    *,
    name: str,
    outputs: Sequence[str] = (),
    where: object = None,
    image_hw: tuple[int, int] = (SIDE_PX, SIDE_PX),
) -> bytes:
    """Return the bytes of an ONNX graph that a model folder may hold, as they were checked.

    It must have one input, `image`, uint8 (B, H, W, 3), and at least the outputs named; all weights inside the file,
    and none of them NaN; operators of `OPERATORS` alone; no local functions; and one run must stay within the limits of
    `operators`.

    Args:
        image_hw: height and width of the images that it is run on, where the network leaves them open.

    Raises:
        ModelFileError: if it is none.
    """

    def refuse(expected: str, got: str, todo: str = REPLACE) -> ModelFileError:
        return ModelFileError(message(name, expected, got, where=where, todo=todo))

    model = parsed(data)
    if model is None:
        raise refuse("an ONNX graph", "bytes that are none", "Copy the whole folder again, or fit again.")
    unsafe = unsafe_part(model)
    if unsafe:
        raise refuse(*unsafe)
    checked: bytes = model.SerializeToString()
    if ORT_MAGIC in {data[4:8], checked[4:8]}:
        raise refuse("an ONNX graph", "one that is a file of ONNX Runtime's own format as well")
    try:
        onnx.checker.check_model(checked)
    except (onnx.checker.ValidationError, ValueError, RuntimeError) as error:
        raise refuse("a valid ONNX graph", str(error).strip().partition("\n")[0][:160]) from None
    inputs = _wrong_input(model.graph)
    if inputs:
        raise refuse("one input image, uint8 (B, H, W, 3)", inputs)
    present = [value.name for value in model.graph.output]
    missing = [output for output in outputs if output not in present]
    if missing or not present:
        raise refuse(f"output {', '.join(missing) or 'of some name'}", ", ".join(present)[:160] or "none")
    try:
        check_work(model, image_hw)
    except BudgetError as error:
        raise refuse(error.expected, error.got) from None
    return checked


def parsed(data: bytes) -> onnx.ModelProto | None:
    """Return the model in these bytes without unknown fields, or None if there is none, or one of too many parts."""
    model = onnx.ModelProto()
    if not fits_in_memory(data, model.DESCRIPTOR):
        return None
    try:
        model.ParseFromString(data)
    except DecodeError:
        return None
    model.DiscardUnknownFields()
    return model


def unsafe_part(model: onnx.ModelProto) -> tuple[str, str] | None:
    """Return (expected, got) of the first part of a graph, however deep, that is refused."""
    graph = model.graph
    if len(graph.node) > MAX_NODES or len(graph.initializer) > MAX_WEIGHTS:
        expected = f"at most {MAX_NODES} nodes and {MAX_WEIGHTS} weights"
        return expected, f"{len(graph.node)} and {len(graph.initializer)}"
    return next(filter(None, map(_unsafe, nested_messages(model))), None)


def nested_messages(model: Message) -> Iterator[Message]:
    """Yield every message inside a model, however deep: graphs, nodes, attributes, tensors, functions."""
    stack: list[Message] = [model]
    while stack:
        part = stack.pop()
        yield part
        for kind, value in part.ListFields():
            if kind.message_type is not None:
                stack.extend([value] if isinstance(value, Message) else value)


def _unsafe(part: Any) -> tuple[str, str] | None:
    """Return (expected, got) if this part of a graph is refused."""
    if isinstance(part, onnx.TensorProto):
        return _unsafe_tensor(part)
    if isinstance(part, onnx.NodeProto):
        return _unsafe_node(part)
    got = None
    if isinstance(part, onnx.AttributeProto):
        if not all(map(math.isfinite, (part.f, *part.floats))):
            got = "finite numbers", f"another in attribute {part.name!r:.40}"
    elif isinstance(part, onnx.FunctionProto):
        got = "no local functions", f"function {part.name!r:.60}"
    elif isinstance(part, onnx.TrainingInfoProto):
        got = "no training part", "one"
    elif isinstance(part, onnx.SparseTensorProto):
        got = "dense weights", "sparse ones"
    return got


def _unsafe_node(node: Any) -> tuple[str, str] | None:
    if node.domain not in STANDARD_DOMAINS:
        return "standard ONNX operators", f"{node.op_type!r:.40} of domain {node.domain!r:.40}"
    if node.op_type in ENDLESS:
        return "a network without loops", f"operator {node.op_type}"
    if node.op_type not in OPERATORS:
        return "operators of image networks", f"operator {node.op_type!r:.40}"
    if node.op_type == "Dropout" and len(node.input) > 2:
        return "a network for inference", "a Dropout of training"
    return None


def _unsafe_tensor(tensor: Any) -> tuple[str, str] | None:
    """Return (expected, got) of a tensor that is elsewhere, not of numbers, of other bytes than its shape, or NaN."""
    named = f"tensor {tensor.name!r:.60}"
    if tensor.data_location != TensorProto.DEFAULT or len(tensor.external_data):
        return "all weights inside it", f"{named} kept in another file"
    if tensor.data_type not in NUMBERS:
        return "weights that are numbers", f"{named} of type {tensor.data_type}"
    if any(n < 0 for n in tensor.dims) or math.prod(max(n, 1) for n in tensor.dims) >= 1 << 40:
        return "weights of its size", f"{named} of {str(list(tensor.dims))[:60]}"
    try:
        array = numpy_helper.to_array(tensor)
    except (ValueError, TypeError) as error:
        return "weights of their shape", f"{named}: {str(error)[:80]}"
    is_plain = tensor.data_type not in FLOATS or _is_plain(array)
    return None if is_plain else ("finite weights", f"NaN or infinite values in {named}")


def _is_plain(array: np.ndarray[Any, Any]) -> bool:
    """Return whether values are finite; a single one may be infinite, such as the limit of a Clip or a mask."""
    values = array.astype(np.float32) if array.dtype.itemsize < 4 else array
    return bool(np.isfinite(values).all() if values.size > 1 else not np.isnan(values).any())


def _wrong_input(graph: Any) -> str:
    """Return a description of the graph's inputs, or "" if they are `image`, uint8 (B, H, W, 3), alone."""
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    if [value.name for value in inputs] != ["image"]:
        return ", ".join(value.name for value in inputs)[:160] or "no input"
    kind = inputs[0].type.tensor_type
    sizes = [axis.dim_value or axis.dim_param or "?" for axis in kind.shape.dim]
    if kind.elem_type != onnx.TensorProto.UINT8 or len(sizes) != 4 or sizes[-1] != 3:
        names = {number: name.lower() for name, number in onnx.TensorProto.DataType.items()}
        return f"{names.get(kind.elem_type, 'unknown')} ({', '.join(str(size) for size in sizes)})"
    return ""
