"""Readers of torch's file formats and of safetensors, without torch and without executing anything in a file.

Three formats: the zip of torch 1.6 and later (.pth, .pt, .ckpt), the sequence of pickles of earlier versions, and
.safetensors. Every size and offset is checked against the length of the file before anything is allocated.
"""

from __future__ import annotations

import io
import math
import struct
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import safetensors
from numpy.typing import NDArray

from blemish._io.safe_pickle import UNSAFE, Global, Inert, PickleReader
from blemish.errors import ModelFileError, message

MAX_AXES = 32
MAX_ENTRIES = 100_000  # of a zip: Python makes an object of a kilobyte of each; a large network has thousands
MAX_TENSOR_HEADER = 16 << 20  # of a safetensors file; the format allows 100 MB
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # torch/serialization.py: MAGIC_NUMBER
LEGACY_PROTOCOL = 1001  # torch/serialization.py: PROTOCOL_VERSION
# The errors of `zipfile` on damaged files, as some hundred thousand of them raised them.
ZIP_ERRORS = (zipfile.BadZipFile, EOFError, RuntimeError, OSError, ValueError, OverflowError, struct.error, zlib.error)
AGAIN = "Copy or download the file again."
# torch/storage.py and torch/__init__.py: the dtypes of the storage classes; bfloat16 is converted later.
STORAGES = {"FloatStorage": "<f4", "DoubleStorage": "<f8", "HalfStorage": "<f2", "BFloat16Storage": "bfloat16"}
STORAGES |= {"LongStorage": "<i8", "IntStorage": "<i4", "ShortStorage": "<i2", "CharStorage": "|i1"}
STORAGES |= {"ByteStorage": "|u1", "BoolStorage": "|b1"}
SAFETENSORS = {"F32": "<f4", "F64": "<f8", "F16": "<f2", "BF16": "bfloat16", "I64": "<i8", "I32": "<i4", "I16": "<i2"}
SAFETENSORS |= {"I8": "|i1", "U8": "|u1", "BOOL": "|b1"}


def read_state_dict(data: bytes, *, where: object, allow_unknown: bool = False) -> dict[str, NDArray[Any]]:
    """Return the tensors of a weight file by their names.

    Of a checkpoint with "state_dict" (Lightning) or "model", the tensors in that. Other values are left out.

    Args:
        allow_unknown: whether objects of other classes than tensors and plain containers are read as inert data. They
            are never imported or called.

    Returns:
        name to array: float16, float32, float64, int64, int32, int16, int8, uint8 or bool; bfloat16 as float32.

    Raises:
        ModelFileError: if the file is damaged, names a class that is not allowed, or holds no tensors.
    """
    tree = read_checkpoint(data, where=where, allow_unknown=allow_unknown)
    for key in ("state_dict", "model"):
        if isinstance(tree, Mapping) and isinstance(tree.get(key), Mapping):
            tree = tree[key]
    tensors = (
        {k: v for k, v in tree.items() if isinstance(k, str) and isinstance(v, np.ndarray)}
        if isinstance(tree, Mapping)
        else {}
    )
    if not tensors:
        raise _refuse("tensors by name", "none", where, "Save the network's state_dict, not the network.")
    return tensors


def read_checkpoint(data: bytes, *, where: object, allow_unknown: bool = False) -> Any:
    """Return the whole content of a weight file: dicts, lists, tuples, plain values and arrays.

    Arrays may share memory, as in the file, and may be read-only. Sets become lists; objects of unknown classes, where
    allowed, `safe_pickle.Inert`. Arguments and errors as for `read_state_dict`.
    """
    try:
        if data[:4] == b"PK\x03\x04":
            return _ZipFile(data, where, allow_unknown).load()
        if data[8:9] == b"{" and int.from_bytes(data[:8], "little") < len(data):
            return _load_safetensors(data, where)
        if data[:1] == b"\x80":
            return _LegacyFile(data, where, allow_unknown).load()
    except MemoryError:
        todo = "Close other programs, or use a larger machine."
        raise _refuse("a file that fits into memory", "one that does not", where, todo) from None
    raise _refuse("a torch or safetensors file", "something else" if data else "0 bytes", where, AGAIN)


@dataclass(frozen=True)
class _Storage:
    """A block of the file that tensors are views of: its key, dtype and number of elements."""

    key: str
    dtype: str
    size: int


@dataclass(frozen=True)
class _Tensor:
    """A tensor as a view of a storage, not yet checked."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _TorchFile(ABC):
    """Common part of both of torch's formats: the names that are known, and tensors as views of storages."""

    def __init__(self, data: bytes, path: object, allow_unknown: bool) -> None:
        self.data = data
        self.path = path
        self.allow_unknown = allow_unknown
        self.left = 4 * len(data) + (1 << 20)  # bytes that may still be allocated for copies of tensors
        self.arrays: dict[str, NDArray[Any]] = {}

    @abstractmethod
    def storage(self, storage: _Storage) -> NDArray[Any]:
        """Return the (size,) elements of a storage; bfloat16 as uint16."""

    def resolve(self, module: str, name: str) -> Any:
        """Return the stand-in for a class or function that the pickle names."""
        full = f"{module}.{name}"
        if full in CALLS:
            return Global(full, CALLS[full])
        if module in {"torch", "torch.cuda"} and name in STORAGES:
            return _StorageType(STORAGES[name])
        if self.allow_unknown:
            return Global(full, lambda arguments: Inert(full, arguments))
        raise _refuse("only tensors and plain containers", f"a pickle that names {full[:100]}", self.path, UNSAFE)

    def persistent(self, value: Any) -> _Storage:
        """Return the storage of a persistent id."""
        if not isinstance(value, tuple) or len(value) < 5 or value[0] != "storage":
            raise _refuse("a tensor's storage", "another persistent id", self.path, UNSAFE)
        _, kind, key, _, size = value[:5]
        if not isinstance(kind, _StorageType) or not isinstance(key, str) or not _is_size(size):
            raise _refuse("a tensor's storage", "a damaged one", self.path, AGAIN)
        if len(value) > 5 and value[5] is not None:
            raise _refuse("whole storages", "a view of one", self.path, "Load and save it with torch 1.6 or later.")
        return _Storage(key, kind.dtype, size)

    def array(self, tensor: _Tensor) -> NDArray[Any]:
        """Return a tensor as a contiguous array; a view of the storage where that is contiguous."""
        # Text: hashes of tuples of numbers can be made to collide.
        key = f"{tensor.storage} {tensor.offset} {tensor.shape} {tensor.strides}"
        if key in self.arrays:
            return self.arrays[key]
        shape, strides, size = tensor.shape, tensor.strides, tensor.storage.size
        count = math.prod(shape)
        last = tensor.offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
        # NumPy refuses a huge size even beside a size of 0.
        if (count and last >= size) or math.prod(max(n, 1) for n in shape) >= 1 << 48:
            got = f"shape {str(shape)[:100]}, strides {str(strides)[:100]} from {tensor.offset}"
            raise _refuse(f"tensors within their {size} numbers", got, self.path, AGAIN)
        storage = self.storage(tensor.storage)
        if count == 0:
            array = np.zeros(shape, storage.dtype)
        else:
            window = np.lib.stride_tricks.as_strided(
                storage[tensor.offset :], shape, [s * storage.itemsize for s in strides], writeable=False
            )
            self._allow(0 if window.flags.c_contiguous else window.nbytes)
            array = np.ascontiguousarray(window).reshape(shape)
        if tensor.storage.dtype == "bfloat16":
            self._allow(2 * array.nbytes)
            array = _widen(array)
        self.arrays[key] = array
        return array

    def _allow(self, n_bytes: int) -> None:
        self.left -= n_bytes
        if self.left < 0:
            got = "tensors of many times its size"
            raise _refuse("numbers that the file holds", got, self.path, UNSAFE)

    def fill(self, tree: Any, done: dict[int, Any], depth: int = 0) -> Any:
        """Return `tree` with every tensor replaced by its array, in place except for tuples."""
        if isinstance(tree, _Tensor):
            return self.array(tree)
        if not isinstance(tree, (dict, list, tuple, Inert)):
            return tree
        if id(tree) in done:
            return done[id(tree)]
        if depth > 200:
            raise _refuse("a checkpoint", "nesting without end", self.path, UNSAFE)
        if isinstance(tree, tuple):
            done[id(tree)] = made = tuple(self.fill(item, done, depth + 1) for item in tree)
            return made
        done[id(tree)] = tree
        if isinstance(tree, dict):
            for key in tree:
                tree[key] = self.fill(tree[key], done, depth + 1)
        elif isinstance(tree, list):
            tree[:] = [self.fill(item, done, depth + 1) for item in tree]
        else:
            tree.arguments = self.fill(tree.arguments, done, depth + 1)
            tree.state = self.fill(tree.state, done, depth + 1)
            self.fill(tree.items, done, depth + 1)
        return tree


@dataclass(frozen=True)
class _StorageType:
    dtype: str


class _ZipFile(_TorchFile):
    """The format of torch 1.6 and later: data.pkl and one file per storage in an uncompressed zip."""

    def load(self) -> Any:
        if self.data.count(b"PK\x01\x02") > MAX_ENTRIES:
            raise _refuse(f"a zip of at most {MAX_ENTRIES} files", "more", self.path, UNSAFE)
        try:
            self.zip = zipfile.ZipFile(io.BytesIO(self.data))
            names = [info.filename for info in self.zip.infolist()]
        except ZIP_ERRORS as error:
            raise _refuse("a whole zip file", str(error)[:100], self.path, AGAIN) from None
        pickles = [name for name in names if name == "data.pkl" or name.endswith("/data.pkl")]
        if len(pickles) != 1 or len(set(names)) < len(names):
            got = "a TorchScript program or another zip" if not pickles else "names that come twice"
            raise _refuse("one data.pkl and each name once", got, self.path, "Save the network's state_dict.")
        self.prefix = pickles[0][: -len("data.pkl")]
        self.storages: dict[str, NDArray[Any]] = {}
        self.unread = len(self.data)
        if f"{self.prefix}byteorder" in names and self._member("byteorder") != b"little":
            raise _refuse("little-endian numbers", "big-endian ones", self.path, "Save it on another machine.")
        reader = PickleReader(
            self._member("data.pkl"), resolve=self.resolve, persistent=self.persistent, where=self.path
        )
        return self.fill(reader.read(), {})

    def storage(self, storage: _Storage) -> NDArray[Any]:
        """Return the numbers of one storage."""
        if storage.key not in self.storages:
            self.storages[storage.key] = np.frombuffer(self._member(f"data/{storage.key}"), np.uint8)
        raw, dtype = self.storages[storage.key], _dtype(storage.dtype)
        if raw.nbytes < storage.size * dtype.itemsize:
            got = f"{raw.nbytes} bytes"
            raise _refuse(f"{storage.size} numbers of {dtype} in storage {storage.key:.20}", got, self.path, AGAIN)
        return raw[: storage.size * dtype.itemsize].view(dtype)

    def _member(self, name: str) -> bytes:
        try:
            info = self.zip.getinfo(self.prefix + name)
            # torch never compresses; entries that overlap could still unpack to more than the size of the file.
            self.unread -= info.file_size
            if info.compress_type != zipfile.ZIP_STORED or self.unread < 0:
                got = f"{name:.40} compressed" if info.compress_type else "files that overlap"
                raise _refuse("an uncompressed zip as torch writes it", got, self.path, UNSAFE)
            return self.zip.read(info)
        except KeyError:
            raise _refuse(f"{name:.40} in the zip", "nothing", self.path, AGAIN) from None
        except ZIP_ERRORS as error:
            if isinstance(error, ModelFileError):
                raise
            raise _refuse("a whole zip file", str(error)[:100] or "one cut short", self.path, AGAIN) from None


class _LegacyFile(_TorchFile):
    """The format before torch 1.6: five pickles (magic number, version, machine, objects, keys), then the numbers."""

    def load(self) -> Any:
        self.position = 0
        self.storages_by_key: dict[str, _Storage] = {}
        self.starts: dict[str, int] = {}
        if self._pickle() != LEGACY_MAGIC or self._pickle() != LEGACY_PROTOCOL:
            raise _refuse("a file of torch.save", "another pickle", self.path, UNSAFE)
        machine = self._pickle()
        if not isinstance(machine, dict) or machine.get("little_endian") is not True:
            raise _refuse("little-endian numbers", "others", self.path, "Save it with torch 1.6 or later.")
        tree = self._pickle()
        keys = self._pickle()
        for key in keys if isinstance(keys, list) else []:
            storage = self.storages_by_key.get(key) if isinstance(key, str) else None
            size = int.from_bytes(self.data[self.position : self.position + 8], "little")
            if storage is None or size != storage.size or self.position + 8 > len(self.data):
                got = f"{size} numbers" if self.position + 8 <= len(self.data) else "a file cut short"
                raise _refuse("the storages that its tensors name", got, self.path, AGAIN)
            self.starts[key] = self.position + 8
            self.position += 8 + size * _dtype(storage.dtype).itemsize
        if self.position > len(self.data):
            raise _refuse(f"{self.position} bytes", f"{len(self.data)}", self.path, AGAIN)
        return self.fill(tree, {})

    def persistent(self, value: Any) -> _Storage:
        """Return the storage of a persistent id, and keep it by its key."""
        storage = super().persistent(value)
        if self.storages_by_key.setdefault(storage.key, storage) != storage:
            raise _refuse("one size and dtype per storage", "two", self.path, AGAIN)
        return storage

    def storage(self, storage: _Storage) -> NDArray[Any]:
        """Return the numbers of one storage."""
        if storage.key not in self.starts:
            raise _refuse(f"storage {storage.key:.20}", "nothing", self.path, AGAIN)
        return np.frombuffer(self.data, _dtype(storage.dtype), storage.size, self.starts[storage.key])

    def _pickle(self) -> Any:
        reader = PickleReader(
            self.data, position=self.position, resolve=self.resolve, persistent=self.persistent, where=self.path
        )
        value = reader.read()
        self.position = reader.position
        return value


def _load_safetensors(data: bytes, path: object) -> dict[str, NDArray[Any]]:
    if int.from_bytes(data[:8], "little") > MAX_TENSOR_HEADER:
        raise _refuse(f"a header of at most {MAX_TENSOR_HEADER} bytes", "a larger one", path, UNSAFE)
    tensors = {}
    try:
        entries = safetensors.deserialize(data)  # type: ignore[no-untyped-call, unused-ignore]
        for name, entry in entries:
            if entry["dtype"] not in SAFETENSORS:
                raise _refuse("numbers that NumPy has", f"{name:.60} of {entry['dtype']}", path, "Save it as float32.")
            dtype = SAFETENSORS[entry["dtype"]]
            array = np.frombuffer(entry["data"], _dtype(dtype)).reshape(entry["shape"])
            tensors[name] = _widen(array) if dtype == "bfloat16" else array
    except ModelFileError:
        raise
    except (safetensors.SafetensorError, ValueError, OverflowError) as error:
        raise _refuse("a safetensors file", str(error)[:120], path, AGAIN) from None
    return tensors


def _rebuild_tensor(arguments: tuple[Any, ...]) -> _Tensor:
    storage, offset, shape, strides = arguments[:4]
    if not all(isinstance(sizes, (tuple, list)) and len(sizes) <= MAX_AXES for sizes in (shape, strides)):
        raise ValueError
    sizes = (offset, *shape, *strides)
    if not isinstance(storage, _Storage) or not all(_is_size(n) for n in sizes) or len(shape) != len(strides):
        raise ValueError
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


def _rebuild_dict(arguments: tuple[Any, ...]) -> dict[Any, Any]:
    # OrderedDict is pickled empty and filled later; by Python 2 with one list of pairs.
    pairs = arguments[0] if arguments else []
    if not all(isinstance(pair, (list, tuple)) and len(pair) == 2 and isinstance(pair[0], str) for pair in pairs):
        raise ValueError
    return dict(pairs)


CALLS: dict[str, Callable[[tuple[Any, ...]], Any]] = {
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_parameter": lambda arguments: arguments[0],
    "torch.Size": lambda arguments: tuple(arguments[0]),
    "collections.OrderedDict": _rebuild_dict,
    "builtins.set": lambda arguments: list(arguments[0]),
    "__builtin__.set": lambda arguments: list(arguments[0]),  # as protocol 2 names it
}


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 48


def _dtype(name: str) -> np.dtype[Any]:
    return np.dtype("<u2" if name == "bfloat16" else name)


def _widen(bits: NDArray[Any]) -> NDArray[np.float32]:
    """Return bfloat16 as float32, whose upper 16 bits it is."""
    return (bits.astype("<u4") << 16).view("<f4")


def _refuse(expected: str, got: str, path: object, todo: str = "") -> ModelFileError:
    return ModelFileError(message("weights", expected, got, where=path, todo=todo))
