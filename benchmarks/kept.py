"""Keep what rows of an ablation share, by what it is made of: network outputs, memory banks, nearest neighbours.

With a large network nearly all of a row's time goes into these, and most rows change only what comes after them.
"""

from __future__ import annotations

import hashlib
import os
from functools import wraps
from typing import TYPE_CHECKING

import numpy as np

from blemish.backbones.embedding import Extractor
from blemish.detectors.patchcore.memory_bank import MemoryBank, PatchCollection
from blemish.ops.neighbors import MemoryIndex
from blemish.types import Neighbors

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def keep(folder: Path) -> None:
    """From here on, compute each of them once and read it out of `folder` after that. Processes may share it.

    An image's features take 1,600 x D floats at 320 px: 10 MB with ResNet-50.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("features", "parts", "summary"):
        setattr(Extractor, name, _output(getattr(Extractor, name), folder))
    PatchCollection.memory_bank = _memory_bank(PatchCollection.memory_bank, folder)
    MemoryIndex.search = _search(MemoryIndex.search, folder)


def _output(method: Callable, folder: Path) -> Callable:
    @wraps(method)
    def kept(extractor, network_input):
        if not hasattr(extractor, "digest"):
            extractor.digest = hashlib.sha256(extractor.model).digest()
        key = _key(f"{method.__name__} {network_input.shape}", extractor.digest, network_input)
        return _once(folder / key, lambda: (method(extractor, network_input),))[0]

    return kept


def _memory_bank(method: Callable, folder: Path) -> Callable:
    """Keep which rows are the bank; a collection that does not hold its features is not kept."""

    @wraps(method)
    def kept(patches, progress):
        settings, maps = patches._settings, patches._maps
        if maps is None:
            return method(patches, progress)
        size, seed = (settings.coreset_sampling_ratio, settings.coreset_size), settings.seed
        key = _key(f"{size} {seed} {len(maps)}", maps)

        def compute():
            bank = method(patches, progress)
            return bank.features, bank.source, np.array(bank.radius)

        features, source, radius = _once(folder / key, compute)
        return MemoryBank(features, source, float(radius))

    return kept


def _search(method: Callable, folder: Path) -> Callable:
    @wraps(method)
    def kept(index, queries, n_neighbors=1, *, exclude=None):
        if not hasattr(index, "digest"):
            index.digest = _key(f"{index.memory_bank.shape}", index.memory_bank).encode()
        nothing = np.empty(0, np.bool_)
        key = _key(f"{n_neighbors}", index.digest, queries, nothing if exclude is None else exclude)
        return Neighbors(*_once(folder / key, lambda: method(index, queries, n_neighbors, exclude=exclude)))

    return kept


def _key(text: str, *parts: bytes | np.ndarray) -> str:
    digest = hashlib.sha256(text.encode())
    for part in parts:
        digest.update(part if isinstance(part, bytes) else np.ascontiguousarray(part))
    return digest.hexdigest()[:32] + ".npz"


def _once(path: Path, compute: Callable) -> tuple[np.ndarray, ...]:
    if not path.exists():
        half = path.with_suffix(f".{os.getpid()}.part")
        with half.open("wb") as file:
            np.savez(file, *compute())
        half.replace(path)
    with np.load(path) as arrays:
        return tuple(arrays[name] for name in arrays.files)
