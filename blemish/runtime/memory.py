"""The C library's memory: keep what is freed for the next image, where the system would have to clear fresh pages.

glibc returns freed memory to the system at once where it is above a limit, 128 KB at first and later twice the largest
block that was freed. A prediction of a 1024 px image allocates and frees 20 MB, and spent a quarter of its time on
4,800 pages that the system cleared for it each time.
"""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

# Parameters of mallopt in glibc's malloc.h, and the default value of the last.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
DEFAULT_MMAPS = 65_536
MIB = 2**20
# Larger blocks are mapped from the system and returned when they are freed: the most that glibc allows.
MAPPED_FROM = 32 * MIB
# Freed memory at the end of a heap that is kept.
KEPT = 128 * MIB
# Blocks of `kept_memory` that run now.
_BLOCKS = [0]
# Of people who tune it themselves.
VARIABLES = ("GLIBC_TUNABLES", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_MAX_", "LD_PRELOAD")


def keep_some_memory() -> None:
    """Keep up to 128 MB of freed memory in this process.

    Does nothing where there is no glibc, or where one of its environment variables, or another allocator, is set, and
    inside `kept_memory`, which keeps more.
    """
    library = _glibc()
    if library is not None and not _BLOCKS[0]:
        library.mallopt(M_MMAP_THRESHOLD, MAPPED_FROM)
        library.mallopt(M_TRIM_THRESHOLD, KEPT)


@contextmanager
def kept_memory() -> Iterator[None]:
    """Keep all freed memory in the process inside the block; does nothing where `keep_some_memory` does nothing.

    A training step that allocates a hundred maps of 30 MB spends a third of its time on cleared pages without it.
    """
    library = _glibc()
    if library is None:
        yield
        return
    _BLOCKS[0] += 1
    library.mallopt(M_MMAP_MAX, 0)
    library.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        _BLOCKS[0] -= 1
        library.mallopt(M_MMAP_MAX, DEFAULT_MMAPS)
        keep_some_memory()
        library.malloc_trim(0)


@lru_cache(maxsize=1)
def _glibc() -> ctypes.CDLL | None:
    is_tuned = any(os.environ.get(name) for name in VARIABLES)
    return None if is_tuned or platform.libc_ver()[0] != "glibc" else ctypes.CDLL(None)
