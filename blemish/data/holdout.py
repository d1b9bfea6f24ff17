"""Random split of good images into those to fit on and those held out for the test."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path


def hold_out(paths: Sequence[Path], share: float, seed: int) -> tuple[list[Path], list[Path]]:
    """Return a random split of `paths`, both parts in order: the rest, and the held-out share.

    At least one path is held out if `share` is above 0 and there are two, and at least one is not.

    >>> rest, held_out = hold_out([Path(str(n)) for n in range(10)], 0.2, seed=0)
    >>> len(rest), len(held_out)
    (8, 2)
    """
    n_out = 0 if share == 0 else min(max(1, round(len(paths) * share)), len(paths) - 1)
    chosen = set(random.Random(seed).sample(range(len(paths)), n_out))
    rest = [path for index, path in enumerate(paths) if index not in chosen]
    return rest, [paths[index] for index in sorted(chosen)]


def hold_out_units(
    paths: Sequence[Path], share: float, seed: int, unit_of: Callable[[Path], object] | None
) -> tuple[list[Path], list[Path]]:
    """Return a random split of `paths` in which images of one unit stay together; each is its own unit by default."""
    if unit_of is None:
        return hold_out(paths, share, seed)
    units: dict[object, list[Path]] = {}
    for path in paths:
        units.setdefault(unit_of(path), []).append(path)
    firsts = [inside[0] for inside in units.values()]
    held_out = {unit_of(path) for path in hold_out(firsts, share, seed)[1]}
    return [path for path in paths if unit_of(path) not in held_out], [p for p in paths if unit_of(p) in held_out]
