"""Reading torch's files: what torch wrote comes back; what an attacker wrote runs nothing and says why."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blemish._io.files import read_file
from blemish._io.safe_pickle import Inert
from blemish._io.torch_file import LEGACY_MAGIC, read_checkpoint, read_state_dict
from blemish.errors import ModelFileError
from tests.torch_files import FOLDER, expected, load_checkpoint


def load_state_dict(path: Path, *, allow_unknown: bool = False) -> dict[str, np.ndarray]:
    return read_state_dict(read_file(path), where=path, allow_unknown=allow_unknown)


FILES = ["zip.pth", "legacy.pth", "plain.safetensors"]


@pytest.mark.parametrize("name", FILES)
def test_files_of_torch_are_read(name):
    state = load_state_dict(FOLDER / name)
    assert state.keys() == expected().keys()
    for key, array in expected().items():
        np.testing.assert_array_equal(state[key], array, err_msg=key)
        assert (state[key].dtype, state[key].shape) == (array.dtype, array.shape), key
        assert state[key].flags.c_contiguous, key


def test_lightning_checkpoint_is_opened_at_its_state_dict():
    state = load_state_dict(FOLDER / "lightning.ckpt", allow_unknown=True)
    np.testing.assert_array_equal(state["turned"], expected()["turned"])
    tree = load_checkpoint(FOLDER / "lightning.ckpt", allow_unknown=True)
    assert (tree["epoch"], tree["seen"]) == (3, [1])
    assert isinstance(tree["path"], Inert)
    assert tree["path"].name.startswith("pathlib.")


def test_unknown_classes_are_refused_unless_allowed():
    with pytest.raises(ModelFileError, match=r"got a pickle that names pathlib.*lightning.ckpt. It was not read: take"):
        load_state_dict(FOLDER / "lightning.ckpt")


@pytest.mark.parametrize("name", FILES)
def test_truncated_files_are_refused(name):
    data = (FOLDER / name).read_bytes()
    for size in [*range(0, len(data), 97), len(data) - 1]:
        with pytest.raises(ModelFileError, match=r"weights: expected .*, got .*, in cut\."):
            read_state_dict(data[:size], where="cut")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["zip.pth", "legacy.pth", "plain.safetensors", "lightning.ckpt"])
@given(data=st.data())
def test_mutated_files_are_read_or_refused(name, data):
    whole = bytearray((FOLDER / name).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ModelFileError):
        read_checkpoint(bytes(whole), where="changed", allow_unknown=True)


class Runs:
    """Pickles as a call of `function`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function = function
        self.arguments = arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.function, self.arguments


def zipped(pickled: bytes, files: dict[str, bytes] | None = None, compression: int = zipfile.ZIP_STORED) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", compression) as file:
        file.writestr("archive/data.pkl", pickled)
        for name, data in (files or {}).items():
            file.writestr(f"archive/{name}", data)
    return made.getvalue()


def legacy(pickled: bytes) -> bytes:
    head = [pickle.dumps(part, 2) for part in (LEGACY_MAGIC, 1001, {"little_endian": True})]
    return b"".join(head) + pickled + pickle.dumps([], 2)


@pytest.mark.parametrize("wrap", [zipped, legacy], ids=["zip", "legacy"])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("allow_unknown", [False, True])
@pytest.mark.parametrize("function", [os.system, eval, exec, Path.write_text, getattr, __import__])
def test_no_function_that_a_pickle_names_is_called(tmp_path, function, allow_unknown, protocol, wrap):
    mark = tmp_path / "it ran"
    arguments = {
        os.system: (f"touch '{mark}'",),
        Path.write_text: (mark, "it ran"),
        getattr: (mark, "touch"),
        __import__: ("antigravity",),
    }.get(function, (f"open({str(mark)!r}, 'w')",))
    data = wrap(pickle.dumps({"state_dict": Runs(function, *arguments)}, protocol))
    with pytest.raises(ModelFileError, match="weights: expected"):
        read_state_dict(data, where="evil.pth", allow_unknown=allow_unknown)
    assert list(tmp_path.iterdir()) == []


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.tuples(inner, inner, inner, inner)
        | st.dictionaries(st.text() | st.integers() | st.tuples(st.integers(), st.text()), inner)
    ),
    max_leaves=20,
)


@pytest.mark.slow
@given(tree=PLAIN, protocol=st.sampled_from([3, 4, 5]))
def test_plain_values_are_read(tree, protocol):
    assert read_checkpoint(zipped(pickle.dumps(tree, protocol)), where="") == tree


@pytest.mark.parametrize("protocol", [2, 4])
def test_sets_are_read_as_lists(protocol):
    tree = read_checkpoint(zipped(pickle.dumps({"a": {1}, "b": [3] * 3}, protocol)), where="")
    assert tree == {"a": [1], "b": [3, 3, 3]}


class Settings(dict):
    """A class of the user's own, with items, state and keywords, as Lightning keeps its settings."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        return Settings, ("made of",), {"state": 1}, iter(["listed"]), iter([("key", {"inner": 2})])


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_inert_objects_keep_their_items_and_state(protocol):
    made = read_checkpoint(zipped(pickle.dumps(Settings(), protocol)), where="", allow_unknown=True)
    assert made.name.endswith("Settings")
    assert (made.arguments, made.state, made.items) == (("made of",), {"state": 1}, ["listed", ("key", {"inner": 2})])


def test_inert_objects_keep_their_arguments():
    made = read_checkpoint(zipped(pickle.dumps(Runs(os.system, "true"), 2)), where="", allow_unknown=True)
    assert repr(made) == f"Inert({os.system.__module__}.system)"
    assert made.arguments == ("true",)


class Storage:
    """Pickles as the persistent id of a storage."""

    def __init__(self, kind: str, key: Any, size: Any, *more: Any) -> None:
        self.id = ("storage", Class("torch", kind), key, "cpu", size, *more)


class Class:
    """Pickles as the name of a class of torch, which need not be installed."""

    def __init__(self, module: str, name: str) -> None:
        self.line = f"c{module}\n{name}\n".encode()


def dumped(tree: Any) -> bytes:
    """Pickle plain values, `Class`, `Storage` and tensors given as `Runs(Class, ...)`, opcode by opcode."""
    return b"\x80\x02" + _opcodes(tree) + b"."


def _opcodes(tree: Any) -> bytes:
    if isinstance(tree, Class):
        return tree.line
    if isinstance(tree, Storage):
        return _opcodes(tree.id) + b"Q"
    if isinstance(tree, Runs):
        return _opcodes(tree.function) + _opcodes(tree.arguments) + b"R"
    if isinstance(tree, tuple):
        return b"(" + b"".join(map(_opcodes, tree)) + b"t"
    if isinstance(tree, dict):
        return b"}(" + b"".join(_opcodes(key) + _opcodes(value) for key, value in tree.items()) + b"u"
    return pickle.dumps(tree, 2)[2:-1]


def tensor(storage: Any, offset: Any, shape: Any, strides: Any) -> Runs:
    return Runs(Class("torch._utils", "_rebuild_tensor_v2"), storage, offset, shape, strides, False, None)


EIGHT = Storage("FloatStorage", "0", 8)
HUGE = 1 << 40


def test_opcodes_of_these_tests_are_right():
    data = zipped(dumped({"a": tensor(EIGHT, 1, (2, 3), (1, 2))}), {"data/0": np.arange(8, dtype="<f4").tobytes()})
    np.testing.assert_array_equal(read_state_dict(data, where="")["a"], [[1, 3, 5], [2, 4, 6]])


@pytest.mark.parametrize(
    ("made", "error"),
    [
        (
            tensor(EIGHT, 0, (9,), (1,)),
            r"expected tensors within their 8 numbers, got shape \(9,\), strides \(1,\)",
        ),
        (tensor(EIGHT, 1, (8,), (1,)), r"within their 8 numbers, got shape \(8,\), strides \(1,\) from 1"),
        (tensor(EIGHT, 0, (2, 2), (7, 1)), r"within their 8 numbers, got shape \(2, 2\), strides \(7, 1\) from 0"),
        (tensor(EIGHT, 8, (1,), (1,)), r"within their 8 numbers"),
        (tensor(EIGHT, 0, (HUGE,), (0,)), r"expected numbers that the file holds, got tensors of many times"),
        (tensor(EIGHT, 0, (HUGE, HUGE), (0, 0)), r"within their 8 numbers"),
        (tensor(EIGHT, 0, (HUGE, HUGE, 0), (0, 0, 0)), r"within their 8 numbers"),
        (tensor(EIGHT, 0, (1,) * 40, (1,) * 40), r"got a damaged one at byte"),
        (tensor(EIGHT, -1, (1,), (1,)), r"got a damaged one at byte"),
        (tensor(EIGHT, 0, (-1,), (1,)), r"got a damaged one at byte"),
        (tensor(EIGHT, 0, (1,), (-1,)), r"got a damaged one at byte"),
        (tensor(EIGHT, 0, (1, 1), (1,)), r"got a damaged one at byte"),
        (tensor(EIGHT, 0.5, (1,), (1,)), r"got a damaged one at byte"),
        (tensor("0", 0, (1,), (1,)), r"got a damaged one at byte"),
        (tensor(Storage("FloatStorage", "0", 9), 0, (1,), (1,)), r"expected 9 numbers of float32 .*, got 32 bytes"),
        (tensor(Storage("DoubleStorage", "0", 8), 0, (1,), (1,)), r"expected 8 numbers of float64 .*, got 32 bytes"),
        (tensor(Storage("FloatStorage", "0", HUGE), 0, (1,), (1,)), r"expected 1099511627776 numbers"),
        (tensor(Storage("FloatStorage", "1", 8), 0, (1,), (1,)), r"expected data/1 in the zip, got nothing"),
        (tensor(Storage("FloatStorage", "../../etc/passwd", 8), 0, (1,), (1,)), r"expected data/../../etc/passwd"),
        (tensor(Storage("FloatStorage", 0, 8), 0, (1,), (1,)), r"expected a tensor's storage, got a damaged one"),
        (tensor(Storage("FloatStorage", "0", -8), 0, (1,), (1,)), r"expected a tensor's storage, got a damaged one"),
        (tensor(Storage("FloatStorage", "0", 8, ("v", 0, 4)), 0, (1,), (1,)), r"expected whole storages, got a view"),
        (tensor(Storage("ComplexFloatStorage", "0", 8), 0, (1,), (1,)), r"names torch.ComplexFloatStorage"),
        (Runs(Class("torch.storage", "_load_from_bytes"), b"x"), r"a pickle that names torch.storage._load_from_bytes"),
    ],
)
def test_invalid_tensors(made, error):
    with pytest.raises(ModelFileError, match=error):
        read_state_dict(zipped(dumped({"a": made}), {"data/0": bytes(32)}), where="odd.pth")


def test_expanded_tensors_share_one_allowance():
    """Each alone would be let through; together they are many times the file."""
    many = {str(i): tensor(EIGHT, 0, (1 << 17, 1 + i), (0, 0)) for i in range(8)}
    with pytest.raises(ModelFileError, match="got tensors of many times its size"):
        read_state_dict(zipped(dumped(many), {"data/0": bytes(32)}), where="odd.pth")


@pytest.mark.parametrize("size", [1, 10**7], ids=["small", "bomb"])
def test_zip_that_is_compressed(size):
    with pytest.raises(ModelFileError, match=r"uncompressed zip as torch writes it, got data.pkl compressed"):
        read_state_dict(zipped(bytes(size), compression=zipfile.ZIP_DEFLATED), where="bomb.pth")


def test_zip_whose_files_overlap():
    """The second entry of the directory is pointed at the first one's bytes."""
    data = bytearray(zipped(dumped({"a": tensor(EIGHT, 0, (8,), (1,))}), {"data/0": bytes(3000)}))
    size = struct.pack("<II", 3000, 3000)
    at = data.rindex(size)
    data[at : at + 8] = struct.pack("<II", 300000, 300000)
    with pytest.raises(ModelFileError, match=r"an uncompressed zip as torch writes it, got files that overlap"):
        read_state_dict(bytes(data), where="overlap.pth")


@pytest.mark.parametrize(
    ("pickled", "error"),
    [
        (b"\x80\x02}r\xff\xff\xff\xffX\x01\x00\x00\x00aK\x01s.", "expected tensors by name, got none"),
        (b"\x80\x02X\xff\xff\xff\x7fabc.", "got one cut short"),
        (b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\xff\x7f.", "got opcode 0x96"),
        (b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\xff.", "got one cut short"),
        (b"\x80\x02i__main__\nx\n.", "got opcode 0x69"),
        (b"\x80\x02\x82\x01.", "got opcode 0x82"),
        (b"\x80\x02.", "got a damaged one"),
        (b"\x80\x02h\x07.", "got a damaged one"),
        (b"\x80\x02K\x01K\x02R.", "got a damaged one"),
        (b"\x80\x02K\x01\x85\x86.", "got a damaged one"),
        (b"\x80\x02K\x01K\x02K\x03s.", "got a damaged one"),
        (dumped(("a", "b"))[:-1] + b"Q.", "expected a tensor's storage, got another persistent id"),
        (b"\x80\x02]}K\x01s.", "got a damaged one"),
        (b"\x80\x02X\x02\x00\x00\x00\xff\xff.", "got a damaged one"),
        (b"\x80\x02" + b"]" * 100 + b"a" * 99 + b".", "expected tensors by name, got none"),
        (b"\x80\x02" + b"]" * 1000 + b"a" * 999 + b".", "got nesting without end"),
        (b"\x80\x02}" + b"K\x01\x85" + b"2\x86" * 60 + b"K\x01s.", "got a damaged one"),
    ],
)
def test_pickles_that_are_refused(pickled, error):
    with pytest.raises(ModelFileError, match=error):
        read_state_dict(zipped(pickled), where="odd.pth")


def test_list_that_holds_itself_is_read_once():
    tree = read_checkpoint(zipped(b"\x80\x02]q\x00h\x00a."), where="")
    assert tree[0] is tree


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", "expected a torch or safetensors file, got 0 bytes"),
        (b"GIF89a", "expected a torch or safetensors file, got something else"),
        (pickle.dumps({"a": 1}, 2), "expected a file of torch.save, got another pickle"),
        (legacy(pickle.dumps({}, 2)).replace(b"\x88", b"\x89"), "expected little-endian numbers, got others"),
        (zipped(b"").replace(b"data.pkl", b"code.pkl"), "expected one data.pkl and each name once, got a TorchScript"),
        (zipped(b"", {"byteorder": b"big"}), "expected little-endian numbers, got big-endian ones"),
        (zipped(pickle.dumps({"a": 1}, 2)), "expected tensors by name, got none.*Save the network's state_dict"),
        (zipped(pickle.dumps([1], 2)), "expected tensors by name, got none"),
        (zipped(dumped(OrderedDict())), "expected tensors by name, got none"),
    ],
)
def test_other_files(data, error):
    with pytest.raises(ModelFileError, match=error):
        read_state_dict(data, where="odd.pth")


def test_repeated_name():
    data = zipped(b"", {"data/0": b"", "data/1": b""}).replace(b"data/1", b"data/0")
    with pytest.raises(ModelFileError, match="got names that come twice"):
        read_state_dict(data, where="odd.pth")


def test_legacy_storages_that_no_tensor_names():
    whole = (FOLDER / "legacy.pth").read_bytes()
    first = whole.index(struct.pack("<q", 24) + np.arange(4, dtype="<f4").tobytes()[:0])
    with pytest.raises(ModelFileError, match=r"expected the storages that its tensors name, got 25 numbers"):
        read_state_dict(whole[:first] + struct.pack("<q", 25) + whole[first + 8 :], where="odd.pth")


def test_safetensors_of_a_dtype_that_numpy_lacks():
    header = b'{"a":{"dtype":"F8_E4M3","shape":[1],"data_offsets":[0,1]}}'
    with pytest.raises(ModelFileError, match="expected numbers that NumPy has, got a of F8_E4M3"):
        read_state_dict(struct.pack("<Q", len(header)) + header + b"x", where="odd.safetensors")


@pytest.mark.parametrize(("name", "error"), [("", "an ordinary file, got a folder"), ("none.pth", "'No such file")])
def test_paths_that_are_not_files(tmp_path, name, error):
    with pytest.raises(ModelFileError, match=error):
        load_state_dict(tmp_path / name)


def test_file_that_is_too_large(tmp_path):
    path = tmp_path / "large.pth"
    with path.open("wb") as file:
        file.truncate((4 << 30) + 1)
    with pytest.raises(ModelFileError, match=r"expected at most 4294967296 bytes, got 4294967297, in .*large.pth"):
        load_state_dict(path)
