"""A network's parameters in a safetensors file beside its graph: stored once, and found by name in both.

The graph's tensors point into the file as ONNX's external data: byte ranges of `weights.safetensors`. So
`network.onnx` is a portable model that any runtime opens by its path, and safetensors opens the parameters by name.
We read neither by path: the bytes of both were verified before, and the graph is completed in memory.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import onnx
import safetensors.numpy
from onnx import TensorProto, numpy_helper

from blemish._graphs.safety import REPLACE, parsed
from blemish.errors import ModelFileError, message

WEIGHTS = "weights.safetensors"
MAX_BYTES = (1 << 31) - (1 << 20)  # of a graph and its weights: protobuf ends at 2 GB
TYPES = {TensorProto.FLOAT16: "F16", TensorProto.FLOAT: "F32", TensorProto.DOUBLE: "F64"}


class Place(NamedTuple):
    """A tensor in a file: dtype as safetensors writes it, first byte from the beginning of the file, bytes."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    length: int


def externalise(network: bytes, prefixes: Sequence[str]) -> tuple[bytes, bytes | None]:
    """Return a graph that points to its parameters, and the safetensors file that holds them.

    Args:
        prefixes: beginnings of the parameters' names. Where the graph has none, it is returned as it is, and None.
    """
    model = parsed(network)
    if model is None:
        return network, None  # refused where it is checked
    named = (tensor for tensor in model.graph.initializer if tensor.name.startswith(tuple(prefixes)))
    tensors = [tensor for tensor in named if tensor.data_type in TYPES]
    if not tensors:
        return network, None
    arrays = {tensor.name: np.ascontiguousarray(numpy_helper.to_array(tensor)) for tensor in tensors}
    data: bytes = safetensors.numpy.save(arrays)
    places = _places(data)
    for tensor in tensors:
        for field in ("raw_data", "float_data", "double_data", "int32_data"):
            tensor.ClearField(field)
        tensor.data_location = TensorProto.EXTERNAL
        place = places[tensor.name]
        for key, value in (("location", WEIGHTS), ("offset", place.start), ("length", place.length)):
            tensor.external_data.add(key=key, value=str(value))
    return model.SerializeToString(), data


def complete(
    network: bytes, files: Mapping[str, bytes], *, name: str, where: object = None, max_bytes: int = MAX_BYTES
) -> bytes:
    """Return a graph with the parameters that it keeps in a safetensors file of its folder; others as they are.

    A tensor of the graph must be one tensor of the file: of the same name, type and shape, from its first byte to its
    last. Any other external data stays, and is refused by `check_network`.

    Args:
        files: name to bytes of the safetensors files of the folder, which `read_tensors` accepted.
    """
    model = parsed(network) if WEIGHTS in files else None
    if model is None:
        return network
    tensors = [tensor for tensor in model.graph.initializer if tensor.data_location == TensorProto.EXTERNAL]
    if not tensors:
        return network
    places = _places(files[WEIGHTS])
    if sum(place.length for place in places.values()) + len(network) > max_bytes:
        raise ModelFileError(
            message(WEIGHTS, f"at most {max_bytes} bytes of weights", "more", where=where, todo=REPLACE)
        )
    for tensor in tensors:
        place = places.pop(tensor.name, None)  # once: a graph of a thousand copies would not fit into memory
        if place is None or not _points_to(tensor, place):
            got = f"tensor {tensor.name!r:.60} kept somewhere else"
            raise ModelFileError(message(name, f"weights out of {WEIGHTS}", got, where=where, todo=REPLACE))
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
        tensor.raw_data = files[WEIGHTS][place.start : place.start + place.length]
    return bytes(model.SerializeToString())


def _points_to(tensor: onnx.TensorProto, place: Place) -> bool:
    """Return whether a tensor of a graph is the one at this place of the file, and has no other data."""
    stated = sorted((entry.key, entry.value) for entry in tensor.external_data)
    expected = [("length", str(place.length)), ("location", WEIGHTS), ("offset", str(place.start))]
    fields = {field.name for field, _ in tensor.ListFields()}
    alone = fields <= {"name", "dims", "data_type", "data_location", "external_data", "doc_string"}
    same = (TYPES.get(tensor.data_type), tuple(tensor.dims)) == (place.dtype, place.shape)
    return alone and same and stated == expected


def _places(data: bytes) -> dict[str, Place]:
    """Return where each tensor lies in a safetensors file that was checked before."""
    first = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:first])
    header.pop("__metadata__", None)
    return {
        name: Place(entry["dtype"], tuple(entry["shape"]), first + start, stop - start)
        for name, entry in header.items()
        for start, stop in [entry["data_offsets"]]
    }
