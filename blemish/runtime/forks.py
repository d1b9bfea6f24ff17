"""Objects of engines in forked processes, which must not be freed there.

A forked child has the memory of its parent, but none of its threads. Freeing an engine's session or store waits for its
threads: in a child it hangs or crashes.
"""

from __future__ import annotations

import ctypes
import os
from weakref import WeakSet

_KEPT: WeakSet[object] = WeakSet()


def keep_in_forks(value: object) -> None:
    """Let forks of this process never free an object."""
    _KEPT.add(value)


def keep_forever(value: object) -> None:
    """Let this process never free an object."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(value))


def _keep_all() -> None:
    for value in list(_KEPT):
        keep_forever(value)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keep_all)
