"""Where networks are trained: the processor, or a GPU that torch can use."""

from __future__ import annotations

import re

from blemish.errors import InputError, message
from blemish.pdn import import_torch

TODO = "Leave it out: a GPU is used where torch has one."


def training_device(asked: str | None) -> str:
    """Return "cpu", "cuda" or "cuda:1", ...: what was asked for, or by default a GPU where torch has one.

    Raises:
        InputError: if torch is missing, or has no such device.
    """
    cuda = import_torch().cuda
    n_gpus = cuda.device_count() if cuda.is_available() else 0
    if not asked:
        return "cuda" if n_gpus else "cpu"
    expected = 'cpu, cuda or a GPU by its number such as "cuda:0"'
    found = re.fullmatch(r"cpu|cuda(?::(\d{1,3}))?", str(asked))
    if found is None:
        raise InputError(message("device", expected, repr(asked), todo=TODO))
    if asked != "cpu" and int(found[1] or 0) >= n_gpus:
        has = f"{asked}, and torch sees {n_gpus} GPU{'' if n_gpus == 1 else 's'} here"
        todo = TODO if n_gpus else f"{TODO} One that is there needs NVIDIA's driver and a torch built for CUDA."
        raise InputError(message("device", expected, has, todo=todo))
    return str(asked)
