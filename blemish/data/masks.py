"""Defect masks of one image: the union of its mask files, and masks recognised by their pixels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blemish.errors import ImageError, message
from blemish.imaging.decode import load_mask, read_stored
from blemish.types import Bool

# A mask may hold a value for each kind of defect; an image of a part has more brightnesses than that.
MAX_VALUES = 32
# Share of pixels that may differ from the two values of a mask: anti-aliased or JPEG-compressed outlines.
MAX_BETWEEN = 0.02
# Width of the bands of values at both ends, of 256: JPEG moves black and white by a few levels.
BAND = 16


def load_union(paths: Sequence[Path]) -> Bool:
    """Return the pixels that any of the mask files of one image marks, (H, W) bool.

    Raises:
        ImageError: if one can't be read, or two differ in size.
    """
    masks = [load_mask(path) for path in paths]
    for path, mask in zip(paths, masks, strict=True):
        if mask.shape != masks[0].shape:
            todo = "Masks of one image have its size."
            raise ImageError(message("mask", f"{masks[0].shape} as {paths[0]}", f"{mask.shape}", where=path, todo=todo))
    union: Bool = np.logical_or.reduce(masks)
    return union


def is_two_valued(path: Path) -> bool:
    """Return whether an image has two brightnesses, or nearly: a mask. False if it can't be read."""
    pixels = _brightness(path)
    if pixels is None:
        return False
    low, high = int(pixels.min()), int(pixels.max())
    return not (low > 0 and low == high) and _is_between_rare(pixels, low, high)


def may_be_mask(path: Path) -> bool:
    """Return whether a file named like a mask can be one: few values, or nearly two. True if it can't be read."""
    pixels = _brightness(path)
    if pixels is None or _is_between_rare(pixels, int(pixels.min()), int(pixels.max())):
        return True
    return int(np.count_nonzero(np.bincount(pixels.ravel()))) <= MAX_VALUES


def _brightness(path: Path) -> NDArray[np.unsignedinteger[Any]] | None:
    """Return the largest channel of an image, (H, W); None if it can't be read or has other than whole numbers."""
    try:
        _, stored = read_stored(path)
    except ImageError:
        return None
    if stored.dtype.kind != "u":
        return None
    if stored.ndim == 3:
        stored = stored[..., :3].max(axis=2) if stored.shape[2] > 2 else stored[..., 0]
    return stored


def _is_between_rare(pixels: NDArray[np.unsignedinteger[Any]], low: int, high: int) -> bool:
    band = (high - low) * BAND // 256
    n_between = np.count_nonzero((pixels > low + band) & (pixels < high - band))
    return bool(n_between <= MAX_BETWEEN * pixels.size)
