"""Antialiased bilinear resizing in exact integer arithmetic: the same bits on every machine."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from blemish._validation.checks import check_number, describe
from blemish.errors import InputError, message
from blemish.types import Float32, Float64, UInt8

# Weights are multiples of 1/ONE and the middle result one of 1/FINE grey levels. Every sum is then a whole number below
# 2**24 (255 * FINE * ONE), which float32 holds exactly: the order of adding, fusing and threads change nothing.
ONE = 8192
FINE = 8
# Rows or columns made by one matrix product. Each reads about (BLOCK + 2) * scale inputs and most weights are zero, so
# small is better: 1024 -> 256 took 1.8 ms with 4, 2.0 with 8, 4.4 with 16 (one thread).
BLOCK = 4


class _Step(NamedTuple):
    """A block of outputs, the inputs that it reads, and their weights."""

    outputs: slice
    inputs: slice
    weights: Float32


def resize(image: UInt8, height_width: tuple[int, int]) -> UInt8:
    """Return the image at another size: triangle filter where it shrinks, bilinear interpolation where it grows.

    The filter is a triangle as wide as two output pixels: Pillow's BILINEAR and torchvision's `antialias=True`, to
    within one grey level. A constant stays that constant.

    Args:
        image: (H, W), (H, W, 1) or (H, W, 3) uint8.
        height_width: rows and columns of the result, each at least 1.

    Returns:
        uint8 of that size with the image's number of axes. The image itself if it has that size already.

    Raises:
        InputError: if the image or the size is not of that form.

    Cost: 1024 x 1024 x 3 to 256 x 256 in about 2 ms on one thread. OpenCV has no such filter: its INTER_AREA is a box
    (1 ms; off by up to 44 grey levels on noise, and lets more of a fine weave alias), its INTER_LINEAR skips pixels.
    """
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim not in (2, 3) or not image.size:
        raise InputError(message("image", "uint8 (H, W), (H, W, 1) or (H, W, 3)", describe(image)))
    height, width = (int(check_number("height_width", size, low=1, high=65_535)) for size in height_width)
    if image.shape[:2] == (height, width):
        return image
    channels = 1 if image.ndim == 2 else image.shape[2]
    rows = image.reshape(image.shape[0], -1)
    middle = np.empty((height, rows.shape[1]), np.float32)
    for outputs, inputs, weights in _steps(image.shape[0], height, 1):
        np.matmul(weights.T, rows[inputs].astype(np.float32), out=middle[outputs])
    middle *= FINE / ONE
    np.rint(middle, out=middle)
    result = np.empty((height, width * channels), np.float32)
    for outputs, inputs, weights in _steps(image.shape[1], width, channels):
        result[:, outputs] = middle[:, inputs] @ weights
    result *= 1 / (FINE * ONE)
    result += 0.5
    return result.astype(np.uint8).reshape(height, width, *image.shape[2:])


def fit_inside(height_width: tuple[int, int], limit: int) -> tuple[int, int]:
    """Return the size of the same aspect ratio whose longer side is at most `limit`; never larger than given.

    >>> fit_inside((600, 1200), 300)
    (150, 300)
    """
    height, width = height_width
    scale = min(1.0, limit / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


@lru_cache(maxsize=64)
def _steps(n_in: int, n_out: int, channels: int) -> tuple[_Step, ...]:
    """Return the blocks that map `n_in` pixels of `channels` interleaved values to `n_out`."""
    scale = n_in / n_out
    # Half the triangle's width: an input pixel where it grows, an output pixel where it shrinks.
    support = max(scale, 1.0)
    steps = []
    for start in range(0, n_out, BLOCK):
        stop = min(start + BLOCK, n_out)
        centers = (np.arange(start, stop) + 0.5) * scale
        low = max(int(centers[0] - support + 0.5), 0)
        high = min(int(centers[-1] + support + 0.5), n_in)
        pixels = np.arange(low, high) + 0.5
        weights = _integer_weights(np.maximum(0.0, 1.0 - np.abs(pixels[None] - centers[:, None]) / support))
        per_channel = np.zeros(((high - low) * channels, (stop - start) * channels), np.float32)
        for channel in range(channels):
            per_channel[channel::channels, channel::channels] = weights.T
        steps.append(
            _Step(slice(start * channels, stop * channels), slice(low * channels, high * channels), per_channel)
        )
    return tuple(steps)


def _integer_weights(weights: Float64) -> Float64:
    """Return rows of integers in proportion to `weights` that sum to ONE exactly, so that a constant stays."""
    rounded: Float64 = np.rint(weights * (ONE / weights.sum(axis=1, keepdims=True)))
    largest = rounded.argmax(axis=1)
    rounded[np.arange(len(rounded)), largest] += ONE - rounded.sum(axis=1)
    return rounded
