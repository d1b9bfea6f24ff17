"""Images and stores of defects for tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.images import good, scratched

if TYPE_CHECKING:
    from blemish import DefectStore
    from blemish.search.encoder import Described

Opener = Callable[..., "DefectStore"]


def blotched(seed: int) -> np.ndarray:
    """A good image with one dark blotch."""
    image = good(seed)
    rows, columns = np.ogrid[: image.shape[0], : image.shape[1]]
    image[(rows - 60) ** 2 + (columns - 40) ** 2 < 90] = (10, 12, 40)
    return image


def filled(store: DefectStore, n: int = 4) -> None:
    """Store scratches and blotches with their labels."""
    for seed in range(200, 200 + n):
        store.add(scratched(seed)[0], label="scratch", labelled_by="Ann")
        store.add(blotched(seed), label="blotch", labelled_by="Ann")


def remembering(describe: Callable[..., Described]) -> Callable[..., Described]:
    """The same, but arrays that were described before are not described again: many tests ask for the same."""
    known: dict[Any, Described] = {}

    def remembered(image: Any, *, force: bool = False) -> Described:
        if not isinstance(image, np.ndarray):
            return describe(image, force=force)
        key = image.tobytes(), force
        if key not in known:
            known[key] = describe(image, force=force)
        return known[key]

    return remembered
