"""Defect masks of one image: the union of its mask files, and masks recognised by their pixels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from blemish.errors import ImageError, message
from blemish.imaging.decode import load_mask, read_stored
from blemish.types import Bool

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
    try:
        _, stored = read_stored(path)
    except ImageError:
        return False
    if stored.ndim == 3:
        stored = stored[..., :3].max(axis=2) if stored.shape[2] > 2 else stored[..., 0]
    if stored.dtype.kind != "u":
        return False
    low, high = int(stored.min()), int(stored.max())
    if low > 0 and low == high:
        return False
    band = (high - low) * BAND // 256
    between = np.count_nonzero((stored > low + band) & (stored < high - band))
    return bool(between <= MAX_BETWEEN * stored.size)
