"""Instruction sets of this processor, which decide the fastest precision."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path


@lru_cache(maxsize=8)
def has_instructions(*names: str) -> bool:
    """Return whether this processor has one of these sets of instructions, by their names in Linux's /proc/cpuinfo.

    >>> has_instructions("none_of_this_name")
    False
    """
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    except OSError:
        return False
    return not set(names).isdisjoint(flags)
