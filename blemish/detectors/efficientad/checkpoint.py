"""The state of a training in one file: tensors and plain values, written whole, read strictly, nothing unpickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import safetensors.numpy

from blemish._io.files import atomic_write
from blemish._io.json_file import plain_json
from blemish._io.safetensors_file import read_tensors
from blemish.errors import InputError, ModelFileError, message

if TYPE_CHECKING:
    import os

    from numpy.typing import NDArray

STATE = "state.json"  # a tensor of bytes, so that one file holds all and one rename replaces it
MAX_BYTES = 4 << 30


class Checkpoint(NamedTuple):
    """What was saved.

    Attributes:
        tensors: by name.
        state: what JSON can hold.
    """

    tensors: Mapping[str, NDArray[Any]]
    state: Mapping[str, Any]


def save_checkpoint(
    path: str | os.PathLike[str], tensors: Mapping[str, NDArray[Any]], state: Mapping[str, Any]
) -> None:
    """Write a checkpoint; a kill at any moment leaves the old one or the new one.

    Raises:
        SaveError: if it can't be written.
    """
    text = json.dumps(plain_json(state, "state"), sort_keys=True).encode("ascii")
    whole = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    data = safetensors.numpy.save({**whole, STATE: np.frombuffer(text, np.uint8)})
    atomic_write(path, data, name="checkpoint")


def load_checkpoint(path: str | os.PathLike[str], wanted: Mapping[str, Any]) -> Checkpoint | None:
    """Return a checkpoint, or None if there is none.

    Args:
        path: the file.
        wanted: what its state must say under "of": settings, teacher, images; all of them decide the training.

    Raises:
        InputError: if it is of other settings or images; the text names the first that differs.
        ModelFileError: if it is damaged, or no checkpoint.
    """
    file = Path(path)
    todo = "Delete it to begin anew, or name another file."
    if not file.exists():
        return None
    try:
        if file.stat().st_size > MAX_BYTES:
            got = f"{file.stat().st_size} bytes"
            raise ModelFileError(message("checkpoint", f"at most {MAX_BYTES} bytes", got, where=file, todo=todo))
        data = file.read_bytes()
    except OSError as error:
        got = repr(error.strerror or str(error))
        raise ModelFileError(message("checkpoint", "a file that can be read", got, where=file)) from error
    tensors = dict(read_tensors(data, name="checkpoint", wanted={STATE: ("U8", 1)}, where=file))
    try:
        state = json.loads(tensors.pop(STATE).tobytes())
        made_of = dict(state["of"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        got = f"{type(error).__name__}: {error}"[:120]
        raise ModelFileError(message("checkpoint", "one of blemish", got, where=file, todo=todo)) from None
    different = _first_difference(json.loads(json.dumps(plain_json(wanted, "of"))), made_of)
    if different is not None:
        name, value, was = different
        raise InputError(
            message("checkpoint", f"one made with {name} {value!r:.60}", f"{was!r:.60}", where=file, todo=todo)
        )
    return Checkpoint(tensors, state)


def _first_difference(wanted: Mapping[str, Any], made_of: Mapping[str, Any]) -> tuple[str, Any, Any] | None:
    """Return the name, inside settings too, of the first thing that is not as wanted, and both its values."""
    for name, value in wanted.items():
        was = made_of.get(name)
        if was == value:
            continue
        inner = _first_difference(value, was) if isinstance(value, dict) and isinstance(was, dict) else None
        return inner or (name, value, was)
    return None
