"""Devices of training: choice, random generators, CUDA graphs, and the processor's memory."""

from __future__ import annotations

import ctypes
import platform
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from blemish.detectors.efficientad.pdn import import_torch
from blemish.errors import InputError, message

# Parameters of mallopt in glibc's malloc.h, and their default values.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
DEFAULT_THRESHOLD, DEFAULT_MMAPS = 128 * 1024, 65_536
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


@contextmanager
def kept_memory() -> Iterator[None]:
    """Keep freed memory in the process inside the block; does nothing where there is no glibc.

    glibc maps each block of more than 32 MB anew and returns it when it is freed, so that a training step which
    allocates a hundred maps of 30 MB spends a third of its time on pages that the system clears for it (measured).
    """
    library = ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
    if library is None:
        yield
        return
    library.mallopt(M_MMAP_MAX, 0)
    library.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        library.mallopt(M_MMAP_MAX, DEFAULT_MMAPS)
        library.mallopt(M_MMAP_THRESHOLD, DEFAULT_THRESHOLD)
        library.mallopt(M_TRIM_THRESHOLD, DEFAULT_THRESHOLD)
        library.malloc_trim(0)
