"""Devices of training: choice, random generators and CUDA graphs."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from blemish.detectors.efficientad.pdn import import_torch
from blemish.errors import InputError, message

ADVICE = "Leave it out: a GPU is used where torch has one."


def training_device(asked: str | None) -> str:
    """Return "cpu", "cuda", "cuda:1", ...: the device asked for, by default a GPU where torch has one. InputError if
    torch is missing, or has no such device.
    """
    cuda = import_torch().cuda
    n_gpus = cuda.device_count() if cuda.is_available() else 0
    if not asked:
        return "cuda" if n_gpus else "cpu"
    expected = 'cpu, cuda or a GPU by its number such as "cuda:0"'
    match = re.fullmatch(r"cpu|cuda(?::(\d{1,3}))?", str(asked))
    if match is None:
        raise InputError(message("device", expected, repr(asked), todo=ADVICE))
    if asked != "cpu" and int(match[1] or 0) >= n_gpus:
        got = f"{asked}, and torch sees {n_gpus} GPU{'' if n_gpus == 1 else 's'} here"
        todo = ADVICE if n_gpus else f"{ADVICE} One that is there needs NVIDIA's driver and a torch built for CUDA."
        raise InputError(message("device", expected, got, todo=todo))
    return str(asked)


def is_gpu(device: str) -> bool:
    """Return whether a device's name is a GPU's."""
    return device.startswith("cuda")


@contextmanager
def current(device: str) -> Iterator[None]:
    """Run the block with this device as torch's current one, which some of its functions use."""
    if not is_gpu(device):
        yield
        return
    with import_torch().cuda.device(device):
        yield


@contextmanager
def seeded(device: str, seed: int) -> Iterator[None]:
    """Run the block with the device's random generator at a seed, and leave all generators as they were before."""
    torch = import_torch()
    with torch.random.fork_rng(devices=[torch.device(device)] if is_gpu(device) else []), current(device):
        # Not torch.manual_seed, which would also seed the GPUs that no one asked for.
        (torch.cuda if is_gpu(device) else torch.default_generator).manual_seed(seed)
        yield


def cuda_graph(function: Callable[..., Any], inputs: Sequence[Any], parameters: Sequence[Any]) -> Callable[..., Any]:
    """Return the function as a CUDA graph with gradients: one launch for its hundreds of small operations.

    Args:
        function: of tensors on a GPU, always the same operations; enters its own autocast.
    """
    n = len(inputs)
    with warnings.catch_warnings():
        # Some versions warn of the tensors' earlier steps on another stream, which are over.
        warnings.filterwarnings("ignore", message="The AccumulateGrad node's stream")
        graph = import_torch().cuda.make_graphed_callables(lambda *given: function(*given[:n]), (*inputs, *parameters))
    return lambda *given: graph(*given, *parameters)
