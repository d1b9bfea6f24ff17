"""Teacher weights, shipped with the package or from a user's file.

A teacher of this package is two files: half-precision weights as safetensors, and a card (model card) of the same name
ending in .json, with its sources and the SHA-256 of the weights.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blemish._io.files import atomic_write, read_file
from blemish._io.torch_file import read_state_dict
from blemish.detectors.efficientad.pdn import Size, arrange, check_size
from blemish.errors import ModelFileError, message
from blemish.types import Float32

SHIPPED = Path(__file__).parent / "teachers"
FILES = {"small": "pdn_s.safetensors", "medium": "pdn_m.safetensors"}
MAX_CARD_BYTES = 1 << 20


@dataclass(frozen=True)
class Teacher:
    """Weights of a patch description network, with their origin.

    Attributes:
        state: float32 weights by the names of `pdn.pdn`.
        card: the JSON beside it; empty for a file without one.
    """

    size: Size
    state: Mapping[str, Float32] = field(repr=False)
    weights_sha256: str
    file: Path
    card: Mapping[str, Any] = field(repr=False)

    @property
    def n_outputs(self) -> int:
        """Channels of its features: 384 in the paper."""
        return len(list(self.state.values())[-1])


def load_teacher(size: str = "small", file: str | os.PathLike[str] | None = None) -> Teacher:
    """Return the teacher of a size, as shipped with the package or from a file.

    Args:
        file: weights in this package's, nelson1425's or anomalib's layout (.safetensors, .pth, .pt or .ckpt), read
            without running anything in it. None for the shipped one.

    Raises:
        InputError: if the size is neither.
        ModelFileError: if no teacher of that size is shipped, or the file is damaged, changed or of another network.
    """
    chosen = check_size(size)
    path = Path(file) if file is not None else SHIPPED / FILES[chosen]
    if file is None and not path.exists():
        todo = f"Make one with `blemish distill IMAGES --size {chosen} --out teacher.safetensors`, or give a file."
        raise ModelFileError(message("teacher", f"a {chosen} one with the package", "none", todo=todo))
    data = read_file(path)
    digest = hashlib.sha256(data).hexdigest()
    card = _card(path)
    wanted = card.get("weights_sha256")
    if wanted is not None and wanted != digest:
        todo = "Copy both files again, or reinstall the package." if file is None else "Copy both files again."
        raise ModelFileError(
            message("teacher", f"SHA-256 {wanted!s:.16}...", f"{digest:.16}...", where=path, todo=todo)
        )
    state = arrange(read_state_dict(data, where=path, allow_unknown=True), chosen, n_outputs=None, where=path)
    return Teacher(chosen, state, digest, path, card)


def save_teacher(
    path: str | os.PathLike[str], state: Mapping[str, NDArray[np.floating[Any]]], card: Mapping[str, Any]
) -> Path:
    """Write a teacher's weights in half precision, and its card beside them; return the weights' path.

    Args:
        path: ends in .safetensors.
        card: what can be JSON; the SHA-256 of the weights is added.

    Raises:
        ModelFileError: if a weight does not fit into half precision.
        SaveError: if a file can't be written.
    """
    import safetensors.numpy

    halves = {}
    for name, array in state.items():
        with np.errstate(over="ignore"):
            halves[name] = np.ascontiguousarray(array, dtype=np.float16)
        if not np.isfinite(halves[name]).all():
            raise ModelFileError(message(name, "weights below 65,504", "larger ones", where=path))
    data = safetensors.numpy.save(halves)
    target = Path(path)
    full = {**card, "weights_sha256": hashlib.sha256(data).hexdigest()}
    # The card goes first: a kill between the two leaves weights that its hash refuses, not ones with a stranger's card.
    atomic_write(target.with_suffix(".json"), (json.dumps(full, indent=1) + "\n").encode(), name="teacher's card")
    return atomic_write(target, data, name="teacher")


def _card(path: Path) -> dict[str, Any]:
    """Return the card beside a file; empty where there is none, or where the JSON of that name is something else."""
    beside = path.with_suffix(".json")
    try:
        if path.suffix != ".safetensors" or not beside.is_file() or beside.stat().st_size > MAX_CARD_BYTES:
            return {}
        card = json.loads(beside.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return card if isinstance(card, dict) and "weights_sha256" in card else {}
