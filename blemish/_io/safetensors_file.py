"""A strict reader of safetensors files: every offset is checked before an array is made of it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from blemish.errors import ModelFileError, message

# The dtypes of safetensors that NumPy has too; not BOOL, whose bytes could be neither 0 nor 1.
DTYPES = {"U8": "<u1", "I8": "<i1", "U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4", "U64": "<u8", "I64": "<i8"}
DTYPES |= {"F16": "<f2", "F32": "<f4", "F64": "<f8"}
BLOCK = 1 << 20  # values
MAX_TENSOR_HEADER = 1 << 20  # a model has a few tensors; the format allows 100 MB


def read_tensors(
    data: bytes, *, name: str, wanted: Mapping[str, tuple[str, int]] | None = None, where: object = None
) -> dict[str, NDArray[Any]]:
    """Return the tensors of a safetensors file, whose header must fit its size exactly.

    The arrays are read-only views of `data`: whatever the header claims, nothing larger is allocated.

    Args:
        wanted: tensor name to (dtype, number of axes) that must be there; more tensors are allowed.

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
    for entry in sorted(tensors.values(), key=lambda entry: (entry.start, entry.stop)):
        if entry.start != end:
            raise refuse("tensors one after the other", f"one from byte {entry.start} where the last ended at {end}")
        end = entry.stop
    if end != len(data) - 8 - size:
        raise refuse(f"{end} bytes of tensors", str(len(data) - 8 - size))
    for key, (dtype, n_axes) in (wanted or {}).items():
        tensor = tensors.get(key)
        if tensor is None or (tensor.dtype, len(tensor.shape)) != (dtype, n_axes):
            got = "nothing" if tensor is None else f"{tensor.dtype} {tensor.shape}"
            raise refuse(f"{key}: {dtype} of {n_axes} axes", got)
    return {key: _view(data, 8 + size, entry) for key, entry in tensors.items()}


def is_finite(array: NDArray[Any]) -> bool:
    """Return whether an array has neither NaN nor infinite values; block by block, without a copy of it all."""
    if array.dtype.kind != "f":
        return True
    flat = array.reshape(-1)
    return all(np.isfinite(flat[i : i + BLOCK]).all() for i in range(0, len(flat), BLOCK))


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
    # bool is an int in Python; no model has more than 8 axes; NumPy ends at 2**63 bytes.
    if not all(type(n) is int and 0 <= n < 1 << 62 for n in (*shape, start, stop)) or len(shape) > 8:
        raise ValueError("an impossible shape or offset")
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
