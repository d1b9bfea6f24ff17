"""Drift: light, focus, colour, size and aspect ratio of an image, compared with those of the good images."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from blemish.types import Float64, UInt8

# Name of each statistic, what an image below and above its range is, and what may have changed.
STATISTICS = {
    "brightness": ("darker", "brighter", "light"),
    "contrast": ("of lower contrast", "of higher contrast", "light"),
    "sharpness": ("less sharp", "noisier or sharper", "focus or the gain of the camera"),
    "colour": ("less colourful", "more colourful", "light or the camera"),
}
LATER = {"colour"}  # which earlier models do not have
# Standard deviation, in pixels, of the smoothing that separates fine detail from the rest.
DETAIL_PX = 2.0
# The range of the good images is widened on each side of the median, the more the fewer they are, and to 10 % at least:
# 6 of 1,619 held-out good images are outside (benchmarks/robustness.py).
WIDER, WIDER_BY_FEW, LEAST_WIDTH = 1.4, 20.0, 0.1
# Logarithms by which aspect ratio and size (of the side of a square) may leave the range of the good images: an aspect
# ratio that differs by more than 5 % distorts a part visibly, and one of half the side lacks the finest detail. None of
# 602 good test images of twelve sets is outside.
ASPECT_WIDER, SIZE_WIDER = 0.05, math.log(1.5)
# Numbers are rounded in both.
ROUNDING = 1e-9


def image_statistics(image: UInt8) -> Float64:
    """Return the logarithms of brightness, contrast, sharpness and colour, (4,), of a network input, (h, w, 3) uint8.

    Brightness is the mean grey level, contrast the standard deviation by that, sharpness the mean absolute Laplacian
    by the mean absolute difference from the smoothed image, colour the mean difference of the highest and the lowest
    channel in percent of the brightness, 0 in a grey image: more light changes brightness alone.

    Cost: below 1 ms for 320 x 320 pixels.
    """
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    mean, deviation = (float(value[0, 0]) for value in cv2.meanStdDev(grey))
    laplacian = cv2.norm(cv2.Laplacian(grey, cv2.CV_16S), cv2.NORM_L1) / grey.size
    detail = cv2.norm(grey, cv2.GaussianBlur(grey, (0, 0), DETAIL_PX), cv2.NORM_L1) / grey.size
    # One grey level is added, so that a constant image has logarithms.
    brightness, contrast, sharpness, fine = np.log1p([mean, deviation, laplacian, detail])
    red, green, blue = cv2.split(image)  # NumPy's max over the last axis takes 50 times as long
    highest, lowest = cv2.max(cv2.max(red, green), blue), cv2.min(cv2.min(red, green), blue)
    chroma = float(np.mean(cv2.subtract(highest, lowest)))
    colour = np.log1p(100 * chroma / (mean + 1))
    return np.array([brightness, contrast - brightness, sharpness - fine, colour])


@dataclass(frozen=True)
class GoodRange:
    """Range of each image statistic within which good images lie.

    Attributes:
        limits: name of the statistic to (low, high), logarithms.
    """

    limits: Mapping[str, tuple[float, float]]

    @classmethod
    def of(cls, rows: Sequence[Float64]) -> GoodRange:
        """Return the range that follows from the `image_statistics` of good images."""
        values = np.array(rows)
        median = np.median(values, axis=0)
        wider = WIDER + WIDER_BY_FEW / len(values)
        low = median - np.maximum(wider * (median - values.min(axis=0)), LEAST_WIDTH)
        high = median + np.maximum(wider * (values.max(axis=0) - median), LEAST_WIDTH)
        return cls(dict(zip(STATISTICS, zip(low.tolist(), high.tolist(), strict=True), strict=True)))

    def drift(self, image: UInt8) -> str:
        """Return the statistic farthest outside of its range, such as "brighter than the good images", or ""."""
        farthest, phrase = 0.0, ""
        statistics = dict(zip(STATISTICS, image_statistics(image).tolist(), strict=True))
        for name, (low, high) in self.limits.items():
            value = statistics[name]
            outside = max(low - value, value - high) / (high - low)
            if outside > farthest and not (phrase and name in LATER):  # contrast changes colour too
                farthest, phrase = outside, f"{STATISTICS[name][value > high]} than the good images"
        return phrase


@dataclass(frozen=True)
class ShapeRange:
    """Ranges of the aspect ratios and the sizes of good images.

    Attributes:
        aspect: (low, high), logarithms of width by height.
        size: (low, high), logarithms of the side of a square of as many pixels.
    """

    aspect: tuple[float, float]
    size: tuple[float, float]

    @classmethod
    def of(cls, sizes_hw: Sequence[tuple[int, int]]) -> ShapeRange:
        """Return the ranges that follow from the (height, width) of good images, at least one."""
        aspects, sizes = zip(*(_shape(*height_width) for height_width in set(sizes_hw)), strict=True)
        return cls(
            (min(aspects) - ASPECT_WIDER, max(aspects) + ASPECT_WIDER),
            (min(sizes) - SIZE_WIDER, max(sizes) + SIZE_WIDER),
        )

    def drift(self, height_width: tuple[int, int]) -> str:
        """Return how an image of this size differs, such as "smaller than the good images", or "".

        >>> ShapeRange.of([(480, 640)]).drift((240, 320)), ShapeRange.of([(480, 640)]).drift((480, 320))
        ('smaller than the good images', 'narrower than the good images')
        """
        (aspect, size), phrase = _shape(*height_width), ""
        if not self.aspect[0] - ROUNDING <= aspect <= self.aspect[1] + ROUNDING:
            phrase = "wider" if aspect > self.aspect[1] else "narrower"
        elif not self.size[0] - ROUNDING <= size <= self.size[1] + ROUNDING:
            phrase = "larger" if size > self.size[1] else "smaller"
        return f"{phrase} than the good images" if phrase else ""


def _shape(height: int, width: int) -> tuple[float, float]:
    return math.log(width / height), math.log(width * height) / 2


def not_comparable(drifts: Sequence[str]) -> str:
    """Return a sentence on images that are not like those that the model learnt from, "" if there are none.

    >>> not_comparable(["smaller than the good images", "", "smaller than the good images"])
    '2 of 3 images are not like those that the model learnt from: 2 smaller than the good images.'
    """
    counted = Counter(drift for drift in drifts if drift).most_common()
    if not counted:
        return ""
    kinds = ", ".join(f"{n} {drift}" for drift, n in counted)
    total = sum(n for _, n in counted)
    return f"{total} of {len(drifts)} images are not like those that the model learnt from: {kinds}."


def drift_of_most(drifts: Sequence[str]) -> str:
    """Return a sentence if more than half of several images drift in the same way, else "".

    >>> drift_of_most(["brighter than the good images", "brighter than the good images", ""])
    '2 of 3 images are brighter than the good images: has the light changed? Fit again with such images, or restore it.'
    """
    counted = Counter(drift for drift in drifts if drift).most_common(1)
    if len(drifts) < 2 or not counted or 2 * counted[0][1] <= len(drifts):
        return ""
    phrase, n = counted[0]
    cause = next((cause for *sides, cause in STATISTICS.values() if phrase.startswith(tuple(sides))), "camera")
    change = f"has the {cause} changed? Fit again with such images, or restore it."
    return f"{n} of {len(drifts)} images are {phrase}: {change}"
