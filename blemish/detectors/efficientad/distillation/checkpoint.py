"""Checkpoints of a training run: one safetensors file, with the run's facts as JSON in its header."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from blemish._io.files import atomic_write
from blemish._io.torch_file import read_file, read_state_dict
from blemish.errors import ModelFileError, message

if TYPE_CHECKING:
    from numpy.typing import NDArray

FACTS = "blemish"


def save_checkpoint(path: Path, tensors: Mapping[str, NDArray[Any]], facts: Mapping[str, Any]) -> None:
    """Write tensors and facts in one file, so that a kill leaves the checkpoint before or this one.

    Raises:
        SaveError: if it can't be written.
    """
    import safetensors.numpy

    contiguous = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    data = safetensors.numpy.save(contiguous, metadata={FACTS: json.dumps(facts)})
    atomic_write(path, data, name="checkpoint")


def load_checkpoint(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]] | None:
    """Return the tensors and facts of a checkpoint, or None where there is none.

    Raises:
        ModelFileError: if the file is damaged or no checkpoint.
    """
    if not path.exists():
        return None
    data = read_file(path)
    todo = f"Delete {path} to begin anew."
    try:
        length = int.from_bytes(data[:8], "little")
        facts = json.loads(json.loads(data[8 : 8 + length])["__metadata__"][FACTS])
        tensors = read_state_dict(data, where=path)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        if isinstance(error, ModelFileError):
            raise ModelFileError(f"{error} {todo}") from error
        raise ModelFileError(
            message("checkpoint", "one of blemish", repr(str(error)[:80]), where=path, todo=todo)
        ) from None
    if not isinstance(facts, dict):
        raise ModelFileError(message("checkpoint", "one of blemish", type(facts).__name__, where=path, todo=todo))
    return tensors, facts
