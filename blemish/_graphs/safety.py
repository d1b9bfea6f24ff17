"""Checks of a model's parts, ONNX, safetensors and JSON, before anything is built from their bytes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import onnx
from google.protobuf.message import DecodeError, Message  # type: ignore[import-untyped, unused-ignore]  # no stubs

from blemish.errors import InputError, ModelFileError, message

if TYPE_CHECKING:
    from numpy.typing import NDArray

STANDARD_DOMAINS = {"", "ai.onnx"}
ENDLESS = {"Loop", "Scan", "SequenceMap"}  # how often they turn is the file's choice, and no network of ours needs them
# The dtypes of safetensors that NumPy has too; not BOOL, whose bytes could be neither 0 nor 1.
DTYPES = {"U8": "<u1", "I8": "<i1", "U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4", "U64": "<u8", "I64": "<i8"}
DTYPES |= {"F16": "<f2", "F32": "<f4", "F64": "<f8"}
MAX_TENSOR_HEADER = 1 << 20  # ours have a few tensors; the format itself allows 100 MB
REPLACE = "Use a model folder from a source you trust, or fit again."


def check_network(data: bytes, *, name: str, outputs: Sequence[str] = (), where: object = None) -> None:
    """Raise unless `data` is an ONNX graph that a model folder may hold.

    It must have the one input `image`, uint8 (B, H, W, 3), and at least the outputs named; all weights inside the
    file; no operators from outside the ONNX standard, no local functions and no loops.

    Args:
        data: the bytes of the ONNX file.
        name: its file name, for the error.
        outputs: names of outputs that it must have; more are allowed.
        where: its folder, for the error.

    Raises:
        ModelFileError: if it is anything else.
    """

    def refuse(expected: str, got: str, todo: str = REPLACE) -> ModelFileError:
        return ModelFileError(message(name, expected, got, where=where, todo=todo))

    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError:
        raise refuse("an ONNX graph", "bytes that are none", "Copy the whole folder again, or fit again.") from None
    unsafe = unsafe_part(model)
    if unsafe:
        raise refuse(*unsafe)
    try:
        onnx.checker.check_model(data)
    except (onnx.checker.ValidationError, ValueError, RuntimeError) as error:
        raise refuse("a valid ONNX graph", str(error).strip().partition("\n")[0][:160]) from None
    inputs = _wrong_input(model.graph)
    if inputs:
        raise refuse("one input image, uint8 (B, H, W, 3)", inputs)
    present = [value.name for value in model.graph.output]
    missing = [output for output in outputs if output not in present]
    if missing or not present:
        raise refuse(f"output {', '.join(missing) or 'of some name'}", ", ".join(present)[:160] or "none")


def read_tensors(
    data: bytes, *, name: str, wanted: Mapping[str, tuple[str, int]] | None = None, where: object = None
) -> dict[str, NDArray[Any]]:
    """Return the tensors of a safetensors file, whose header must fit its size exactly.

    The arrays are read-only views of `data`: whatever the header claims, nothing larger is allocated.

    Args:
        data: the bytes of the file.
        name: its file name, for the error.
        wanted: tensor name to (dtype, number of axes) that must be there; more tensors are allowed.
        where: its folder, for the error.

    Raises:
        ModelFileError: if dtypes, shapes or offsets are not those of the bytes that follow, or a tensor is missing.
    """

    def refuse(expected: str, got: str) -> ModelFileError:
        todo = "Copy the whole folder again, or fit again."
        return ModelFileError(message(name, expected, got[:160], where=where, todo=todo))

    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or size > min(MAX_TENSOR_HEADER, len(data) - 8):
        raise refuse("a safetensors file", f"a header of {size} bytes in a file of {len(data)}")
    try:
        header = json.loads(data[8 : 8 + size].decode("utf-8"))
        tensors = {key: _entry(**entry) for key, entry in header.items() if key != "__metadata__"}
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise refuse("a safetensors header", str(error) or type(error).__name__) from None
    end = 0
    for tensor in sorted(tensors.values(), key=lambda tensor: (tensor.start, tensor.stop)):
        if tensor.start != end:
            raise refuse("tensors one after the other", f"one from byte {tensor.start} where the last ended at {end}")
        end = tensor.stop
    if end != len(data) - 8 - size:
        raise refuse(f"{end} bytes of tensors", str(len(data) - 8 - size))
    for key, (dtype, n_axes) in (wanted or {}).items():
        found = tensors.get(key)
        if found is None or (found.dtype, len(found.shape)) != (dtype, n_axes):
            got = "nothing" if found is None else f"{found.dtype} {found.shape}"
            raise refuse(f"{key}: {dtype} of {n_axes} axes", got)
    return {key: _view(data, 8 + size, tensor) for key, tensor in tensors.items()}


class _Entry(NamedTuple):
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def _entry(*, dtype: str, shape: list[int], data_offsets: list[int]) -> _Entry:
    """Return one entry of a safetensors header if its bytes are as many as its dtype and shape say."""
    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype!r:.20}")
    start, stop = data_offsets
    # bool is an int to Python; more than 8 axes are no tensor of ours, and NumPy ends at 2**63 bytes.
    if not all(type(n) is int and 0 <= n < 1 << 62 for n in (*shape, start, stop)) or len(shape) > 8:
        raise ValueError("a shape or offsets that cannot be")
    # A size of 0 beside a huge one makes 0 bytes, which NumPy refuses all the same.
    if math.prod(max(n, 1) for n in shape) >= 1 << 59 or stop - start != math.prod(shape) * int(DTYPES[dtype][-1]):
        raise ValueError(f"{stop - start} bytes for {dtype} {tuple(shape)}")
    return _Entry(dtype, tuple(shape), start, stop)


def _view(data: bytes, offset: int, entry: _Entry) -> NDArray[Any]:
    count = math.prod(entry.shape)
    if count == 0:
        return np.zeros(entry.shape, DTYPES[entry.dtype])
    array = np.frombuffer(data, DTYPES[entry.dtype], count, offset + entry.start).reshape(entry.shape)
    return array if array.flags.aligned else array.copy()


def unsafe_part(model: Message) -> tuple[str, str] | None:
    """Return (expected, got) of the first part of a graph, however deep, that we refuse."""
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
    """Return (expected, got) if this part of a graph is one that we refuse."""
    if isinstance(part, onnx.TensorProto):
        if part.data_location != onnx.TensorProto.DEFAULT or len(part.external_data):
            return "all weights inside it", f"tensor {part.name!r:.60} kept in another file"
    elif isinstance(part, onnx.NodeProto):
        if part.domain not in STANDARD_DOMAINS:
            return "standard ONNX operators", f"{part.op_type!r:.40} of domain {part.domain!r:.40}"
        if part.op_type in ENDLESS:
            return "a network without loops", f"operator {part.op_type}"
    elif isinstance(part, onnx.FunctionProto):
        return "no local functions", f"function {part.name!r:.60}"
    elif isinstance(part, onnx.TrainingInfoProto):
        return "no training part", "one"
    return None


def _wrong_input(graph: Any) -> str:
    """Return what the graph's inputs are if they are not the one `image`, else nothing."""
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


def plain_json(value: Any, where: str) -> Any:
    """Return `value` as JSON would give it back, or raise InputError naming the entry that it cannot hold."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)) and math.isfinite(value):
        return float(value)
    if isinstance(value, (list, tuple)):
        return [plain_json(v, f"{where}[{i}]") for i, v in enumerate(value)]
    if isinstance(value, np.ndarray):
        return plain_json(value.tolist(), where)
    if isinstance(value, Mapping) and all(isinstance(k, str) for k in value):
        return {k: plain_json(v, f"{where}.{k}") for k, v in value.items()}
    got = repr(value) if isinstance(value, float) else type(value).__name__
    raise InputError(message(where, "finite numbers, text, lists and dicts with text keys", got))
