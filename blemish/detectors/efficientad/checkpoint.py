"""Checkpoints of a training: tensors and plain values in one safetensors file, atomic to write, strict to read."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from blemish._io.files import atomic_write, read_file
from blemish._io.json_file import plain_json
from blemish._io.safetensors_file import read_tensors
from blemish.errors import InputError, ModelFileError, message

STATE = "state.json"  # a tensor of bytes, so that one rename replaces tensors and values together
FORMAT = 2  # 1: of blemish 0.1.0
REMEDY = "Give the settings of before, or delete it to begin anew."


class Checkpoint(NamedTuple):
    """The content of a checkpoint."""

    tensors: Mapping[str, NDArray[Any]]
    state: Mapping[str, Any]


def save_checkpoint(
    path: str | os.PathLike[str],
    tensors: Mapping[str, NDArray[Any]],
    state: Mapping[str, Any],
    identity: Mapping[str, Any],
) -> None:
    """Write a checkpoint; a kill at any moment leaves the old one or the new one.

    Args:
        identity: what decides the training: settings, teacher, images.
    """
    document = plain_json({"format": FORMAT, "identity": identity, "state": state}, "checkpoint")
    text = json.dumps(document, sort_keys=True).encode("ascii")
    contiguous = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    data = safetensors.numpy.save({**contiguous, STATE: np.frombuffer(text, np.uint8)})
    atomic_write(path, data, name="checkpoint")


def load_checkpoint(path: str | os.PathLike[str], identity: Mapping[str, Any]) -> Checkpoint | None:
    """Return a checkpoint, or None if there is none.

    Args:
        identity: as it was saved; other settings, teachers or images are refused.

    Raises:
        InputError: if it is of another training; the text names the first setting that differs.
        ModelFileError: if it is damaged, no checkpoint, or of another version of Blemish.
    """
    file = Path(path)
    if not file.exists():
        return None
    try:
        tensors = dict(read_tensors(read_file(file), name="checkpoint", wanted={STATE: ("U8", 1)}, where=file))
    except ModelFileError as error:
        got = "a damaged file, or one of another program or version"
        raise ModelFileError(message("checkpoint", "one of blemish", got, where=file, todo=REMEDY)) from error
    try:
        document = json.loads(tensors.pop(STATE).tobytes())
        version = document.get("format", 1)
        if version == FORMAT:
            saved, state = dict(document["identity"]), dict(document["state"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        got = f"{type(error).__name__}: {error}"[:120]
        raise ModelFileError(message("checkpoint", "one of blemish", got, where=file, todo=REMEDY)) from None
    if version != FORMAT:
        todo = "Delete it to begin anew, or finish with the version that wrote it."
        raise ModelFileError(message("checkpoint", f"format {FORMAT}", repr(version)[:60], where=file, todo=todo))
    difference = _first_difference(json.loads(json.dumps(plain_json(identity, "identity"))), saved)
    if difference is not None:
        name, value, was = difference
        raise InputError(
            message("checkpoint", f"one made with {name} {value!r:.60}", f"{was!r:.60}", where=file, todo=REMEDY)
        )
    return Checkpoint(tensors, state)


def _first_difference(identity: Mapping[str, Any], saved: Mapping[str, Any]) -> tuple[str, Any, Any] | None:
    """Return name, value and saved value of the first setting that differs, also inside of dicts."""
    for name, value in identity.items():
        was = saved.get(name)
        if was == value:
            continue
        inner = _first_difference(value, was) if isinstance(value, dict) and isinstance(was, dict) else None
        return inner or (name, value, was)
    return None
