"""Images and stores of defects for tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.images import good, scratched

if TYPE_CHECKING:
    from blemish.search import DefectStore, EncodedImage

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


def remembering(encode: Callable[..., EncodedImage]) -> Callable[..., EncodedImage]:
    """The same function, with a cache of arrays: many tests encode the same ones."""
    known: dict[Any, EncodedImage] = {}

    def remembered(image: Any, *, force: bool = False) -> EncodedImage:
        if not isinstance(image, np.ndarray):
            return encode(image, force=force)
        key = image.tobytes(), force
        if key not in known:
            known[key] = encode(image, force=force)
        return known[key]

    return remembered
