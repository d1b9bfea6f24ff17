"""Written checkpoints are read back by our own reader, and by `torch.load` where torch is installed."""

from __future__ import annotations

import io
import pickletools
import zipfile
from typing import Any

import numpy as np
import pytest

from blemish._io.torch_file import read_checkpoint
from blemish.errors import InputError
from blemish.interop.anomalib.checkpoint_writer import checkpoint_bytes

TREE: dict[str, Any] = {
    "epoch": 3,
    "negative": -(2**31),
    "ratio": 0.1,
    "none": None,
    "flags": [True, False],
    "shape": (1, "zwei", ()),
    "empty": {},
    "text": "Größe",
    "state_dict": {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "transposed": np.arange(6, dtype=np.float32).reshape(2, 3).T,
        "one": np.array(2.5, np.float32),
        "count": np.array([1, 2], np.int64),
        "fitted": np.array([True]),
        "nothing": np.zeros((0, 4), np.float32),
        "repeated": np.broadcast_to(np.float32(7), (3, 4, 1, 1)),
    },
}


def same(loaded: Any, expected: Any) -> bool:
    if isinstance(expected, dict):
        return loaded.keys() == expected.keys() and all(same(loaded[key], expected[key]) for key in expected)
    if isinstance(expected, np.ndarray):
        return np.array_equal(loaded, expected) and loaded.dtype == expected.dtype and loaded.shape == expected.shape
    return type(loaded) is type(expected) and loaded == expected


def test_our_reader_reads_it():
    assert same(read_checkpoint(checkpoint_bytes(TREE), where="a.ckpt"), TREE)


def test_torch_reads_it_with_weights_only():
    torch = pytest.importorskip("torch", reason="torch is not installed: our own reader has read the same bytes")
    loaded = torch.load(io.BytesIO(checkpoint_bytes(TREE)), weights_only=True)
    assert {key: value for key, value in loaded.items() if key != "state_dict"} == {
        key: value for key, value in TREE.items() if key != "state_dict"
    }
    for name, array in TREE["state_dict"].items():
        assert same(loaded["state_dict"][name].numpy(), np.asarray(array)), name


def test_the_same_tree_gives_the_same_bytes():
    assert checkpoint_bytes(TREE) == checkpoint_bytes(TREE)


def test_only_torchs_own_names_are_in_the_pickle():
    with zipfile.ZipFile(io.BytesIO(checkpoint_bytes(TREE))) as file:
        names = {arg for code, arg, _ in pickletools.genops(file.read("archive/data.pkl")) if code.name == "GLOBAL"}
    assert names == {
        "torch._utils _rebuild_tensor_v2",
        "torch FloatStorage",
        "torch LongStorage",
        "torch BoolStorage",
        "collections OrderedDict",
    }


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (object(), "checkpoint: expected plain values and arrays, got object"),
        (2**40, "checkpoint: expected plain values and arrays, got int"),
        ({1: 2}, "checkpoint: expected plain values and arrays, got int"),
        (np.zeros(2), "checkpoint: expected arrays of float32, int64, bool, got float64"),
    ],
)
def test_other_types_are_refused(value: Any, text: str):
    with pytest.raises(InputError, match=text):
        checkpoint_bytes({"a": value})
