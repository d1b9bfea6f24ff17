"""Safetensors files of strangers: read strictly or refused."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from blemish._io.safetensors_file import read_tensors
from blemish.errors import ModelFileError


def file(header: Any, body: bytes = b"\0" * 24) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def entry(dtype: Any = "F32", shape: Any = (2, 3), offsets: Any = (0, 24)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "a safetensors file, got a header of 0 bytes in a file of 0"),
        (b"\xff" * 8, "a safetensors file, got a header of 18446744073709551615 bytes"),
        (struct.pack("<Q", 9) + b"{}", "a safetensors file, got a header of 9 bytes in a file of 10"),
        (file(b"{" + b" " * (2 << 20) + b"}"), "a safetensors file, got a header of 2097154 bytes"),
        (file(b"[]"), "a safetensors header"),
        (file(b"\xff\xff"), "a safetensors header"),
        (file(b'{"a":' + b"[" * 100_000), "a safetensors header"),
        (file({"a": 3}), "a safetensors header"),
        (file({"a": {**entry(), "x": 1}}), "a safetensors header"),
        (file({"a": {"dtype": "F32"}}), "a safetensors header"),
        (file({"a": entry(dtype="O")}), "a safetensors header, got dtype 'O'"),
        (file({"a": entry(dtype=["F32"])}), "a safetensors header"),
        (file({"a": entry(dtype="BOOL", shape=(24,))}), "a safetensors header, got dtype 'BOOL'"),
        (file({"a": entry(shape=(1 << 61, 1 << 61))}), "a safetensors header, got 24 bytes for F32"),
        (file({"a": entry(shape=(1 << 64,))}), "an impossible shape or offset"),
        (file({"a": entry(shape=(0, 1 << 61), offsets=(0, 0))}, b""), "got 0 bytes for F32"),
        (file({"a": entry(shape=(-2, -3))}), "an impossible shape or offset"),
        (file({"a": entry(shape=(2.0, 3))}), "an impossible shape or offset"),
        (file({"a": entry(shape=(True, 6))}), "an impossible shape or offset"),
        (file({"a": entry(shape=(1,) * 9, offsets=(0, 4))}), "an impossible shape or offset"),
        (file({"a": entry(shape=6)}), "a safetensors header"),
        (file({"a": entry(offsets=(24, 0))}), "got -24 bytes for F32"),
        (file({"a": entry(offsets=(0, 24, 48))}), "a safetensors header"),
        (file({"a": entry(offsets=(8, 32))}), "one from byte 8 where the last ended at 0"),
        (file({"a": entry(), "b": entry(offsets=(12, 36))}, b"\0" * 36), "one from byte 12 where the last ended at 24"),
        (file({"a": entry()}, b"\0" * 20), "24 bytes of tensors, got 20"),
        (file({"a": entry()}, b"\0" * 28), "24 bytes of tensors, got 28"),
        (file({"b": entry()}), r"a: F32 of 2 axes, got nothing"),
        (file({"a": entry(dtype="I32")}), r"a: F32 of 2 axes, got I32 \(2, 3\)"),
        (file({"a": entry(shape=(6,))}), r"a: F32 of 2 axes, got F32 \(6,\)"),
    ],
)
def test_headers_that_do_not_fit_the_file_are_refused(data: bytes, text: str) -> None:
    with pytest.raises(ModelFileError, match=rf"^bank: expected .*{text}.*, in home\. Copy the whole folder again"):
        read_tensors(data, name="bank", wanted={"a": ("F32", 2)}, where="home")


def test_files_of_the_safetensors_library_are_read(rng: np.random.Generator) -> None:
    kinds = ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8"]
    arrays = {kind: rng.integers(0, 100, size=(3, 5)).astype(kind) for kind in kinds}
    arrays |= {"empty": np.zeros((0, 3), np.float32), "scalar": np.array(2.5), "odd": np.arange(3, dtype=np.uint8)}
    got = read_tensors(safetensors.numpy.save(arrays, metadata={"a": "b"}), name="x")
    assert set(got) == set(arrays)
    for key, array in arrays.items():
        assert got[key].dtype == array.dtype
        assert got[key].flags.aligned
        np.testing.assert_array_equal(got[key], array)


def test_unaligned_tensors() -> None:
    values = np.arange(6, dtype=np.float32)
    header = {"a": entry()}
    while (8 + len(json.dumps(header))) % 4 != 1:
        header["__metadata__"] = {"pad": header.get("__metadata__", {}).get("pad", "") + "x"}
    got = read_tensors(file(header, values.tobytes()), name="x")["a"]
    assert got.flags.aligned
    np.testing.assert_array_equal(got.ravel(), values)
