"""Cores that this process may use: fewer than the machine has where its affinity or a container's quota limits it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

ROOT = Path("/")


def usable_cores() -> int:
    """Return the number of cores that this process may use, at least 1.

    The least of the machine's cores, those of the process's affinity, and the quota of its control groups, rounded:
    more threads than a quota pays for are stopped together until its next period.
    """
    n_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota(ROOT)
    return n_cores if quota is None else max(1, min(n_cores, round(quota)))


@lru_cache(maxsize=8)
def cpu_quota(root: Path) -> float | None:
    """Return the cores that the control groups of this process, version 1 or 2, give it the time of; None for no limit.

    Args:
        root: of the file system with `proc` and `sys`.
    """
    quotas = [quota for place in _groups(root) if (quota := _quota_of(place)) is not None]
    return min(quotas, default=None)


def _groups(root: Path) -> Iterator[Path]:
    """Yield the folders of this process's control groups and of those around them."""
    mounted = root / "sys/fs/cgroup"
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers and "cpu" not in controllers.split(","):
            continue
        for hierarchy in (mounted / controllers, mounted / "cpu") if controllers else (mounted, mounted / "unified"):
            # A container may see its own group as the root, and be told the path outside of it.
            place = hierarchy / path.lstrip("/")
            yield from (one for one in (place, *place.parents) if one.is_relative_to(hierarchy))


def _quota_of(group: Path) -> float | None:
    """Return the cores that a group's own limit pays for; None if it has none."""
    words = _text(group / "cpu.max").split() or [
        _text(group / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")
    ]
    try:
        quota, period = (float(word) for word in words)
    except ValueError:  # "max", or no such files
        return None
    return quota / period if quota > 0 and period > 0 else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
