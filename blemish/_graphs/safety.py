"""Checks of ONNX networks before a runtime loads them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import onnx
from google.protobuf.message import DecodeError, Message  # type: ignore[import-untyped, unused-ignore]  # no stubs

from blemish.errors import ModelFileError, message

STANDARD_DOMAINS = {"", "ai.onnx"}
ENDLESS = {"Loop", "Scan", "SequenceMap"}  # the file decides how often they repeat; no backbone needs them
REPLACE = "Use a model folder from a source you trust, or fit again."


def check_network(data: bytes, *, name: str, outputs: Sequence[str] = (), where: object = None) -> None:
    """Raise unless `data` is an ONNX graph that a model folder may hold.

    It must have one input, `image`, uint8 (B, H, W, 3), and at least the outputs named; all weights inside the file; no
    operators from outside the ONNX standard, no local functions and no loops.
    """

    def refuse(expected: str, got: str, todo: str = REPLACE) -> ModelFileError:
        return ModelFileError(message(name, expected, got, where=where, todo=todo))

    model = parsed(data)
    if model is None:
        raise refuse("an ONNX graph", "bytes that are none", "Copy the whole folder again, or fit again.")
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


def parsed(data: bytes) -> onnx.ModelProto | None:
    """Return the model in these bytes, or None if there is none."""
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError:
        return None
    return model


def unsafe_part(model: Message) -> tuple[str, str] | None:
    """Return (expected, got) of the first part of a graph, however deep, that is refused."""
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
