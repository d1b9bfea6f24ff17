"""Anomaly maps: upsampling from the patch grid, Gaussian smoothing, and connected regions above a threshold.

Maps are (H, W) float32, higher is more anomalous. Functions raise InputError for maps that are not finite or of another
form, and for numbers out of range.
"""

from __future__ import annotations

from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

from blemish._validation.checks import check_array, check_number
from blemish.types import Float32, Region


def anomalib_map(patch_map: Float32, network_hw: tuple[int, int], sigma: float) -> Float32:
    """Return anomalib's map at the network's size: nearest-neighbor upsampling, then Gaussian smoothing.

    Args:
        patch_map: (h, w) float32, one value per patch.
        network_hw: height and width of the network's input, each above the kernel's radius, 4 * sigma.
        sigma: of the smoothing, in pixels of the network's input; 0 for none.

    Source: anomalib 2.7, patchcore/anomaly_map.py: `F.interpolate` with its default mode, nearest, then a Gaussian cut
        at 4 sigma, reflected at the borders without repeating them (d c b | a b c d | c b a).
    """
    check_array("patch_map", patch_map, dtype=np.float32, shape=("h", "w"))
    check_number("sigma", sigma, low=0, high=np.inf)
    radius = int(4 * sigma + 0.5)
    height, width = (int(check_number("network_hw", size, low=radius + 1, high=np.inf)) for size in network_hw)
    rows, columns = (_nearest(n, cells) for n, cells in zip((height, width), patch_map.shape, strict=True))
    upsampled: Float32 = patch_map[rows[:, None], columns]
    if radius == 0:
        return upsampled
    size = (2 * radius + 1, 2 * radius + 1)
    return cast("Float32", cv2.GaussianBlur(upsampled, size, sigma, borderType=cv2.BORDER_REFLECT_101))


def _nearest(n: int, cells: int) -> NDArray[np.int64]:
    """Return the index of the nearest of `cells` for each of `n` pixels, rounded as torch does: in float32."""
    positions = np.floor(np.arange(n, dtype=np.float32) * np.float32(cells / n))
    chosen: NDArray[np.int64] = np.minimum(positions, cells - 1).astype(np.int64)
    return chosen


def n_highest(share: float, n_values: int) -> int:
    """Return the number of the highest values that a share of so many is, at least one.

    >>> n_highest(0.01, 3136), n_highest(0.0, 3136)
    (31, 1)
    """
    return max(round(share * n_values), 1)


def mean_of_highest(values: Float32, share: float) -> float:
    """Return the mean of the highest share of a map's values, of the highest one at least."""
    n = n_highest(share, values.size)
    return float(np.partition(values.reshape(-1), values.size - n)[-n:].mean(dtype=np.float64))


def upsample(patch_map: Float32, height_width: tuple[int, int]) -> Float32:
    """Return the map at another size: bilinear interpolation between the centres of its cells, borders replicated.

    Args:
        patch_map: (h, w) float32.
        height_width: (H, W) of the result.
    """
    check_array("patch_map", patch_map, dtype=np.float32, shape=("h", "w"))
    height, width = (check_number("height_width", size, low=1, high=np.inf) for size in height_width)
    return cast("Float32", cv2.resize(patch_map, (int(width), int(height)), interpolation=cv2.INTER_LINEAR))


def smooth(anomaly_map: Float32, sigma: float) -> Float32:
    """Return the Gaussian-filtered map, reflected at the borders (d c b a | a b c d | d c b a).

    Args:
        anomaly_map: (H, W) float32.
        sigma: in pixels of this map; 0 for none.

    Source: kernel cut at 4 sigma and border as scipy.ndimage.gaussian_filter, which amazon-science's common.py uses.
    """
    check_array("anomaly_map", anomaly_map, dtype=np.float32, shape=("H", "W"))
    check_number("sigma", sigma, low=0, high=np.inf)
    radius = int(4 * sigma + 0.5)
    if radius == 0:
        return np.array(anomaly_map)
    size = (2 * radius + 1, 2 * radius + 1)
    return cast("Float32", cv2.GaussianBlur(anomaly_map, size, sigma, borderType=cv2.BORDER_REFLECT))


def peak(anomaly_map: Float32) -> tuple[int, int]:
    """Return (x, y) of the highest value; of equal ones the first in reading order.

    >>> peak(np.float32([[0, 0, 0], [0, 5, 0]]))
    (1, 1)
    """
    check_array("anomaly_map", anomaly_map, dtype=np.float32, shape=("H", "W"))
    y, x = divmod(int(anomaly_map.argmax()), anomaly_map.shape[1])
    return x, y


def regions(anomaly_map: Float32, threshold: float, *, min_area_px: int = 1) -> tuple[Region, ...]:
    """Return the 8-connected regions where the map is above `threshold`, highest score first.

    Args:
        anomaly_map: (H, W) float32.
        threshold: pixels strictly above it, both as float32, count.

    Returns:
        The regions; those of equal score in reading order.
    """
    check_array("anomaly_map", anomaly_map, dtype=np.float32, shape=("H", "W"))
    check_number("threshold", threshold, low=-np.inf, high=np.inf)
    check_number("min_area_px", min_area_px, low=1, high=np.inf)
    with np.errstate(over="ignore"):  # beyond float32 is infinity
        mask = anomaly_map > np.float32(threshold)
    left, top, width, height = cv2.boundingRect(mask.view(np.uint8))
    if width == 0:
        return ()
    window = np.ascontiguousarray(mask[top : top + height, left : left + width])
    # OpenCV's own statistics of components take five times as long as the labels and the sums below.
    n, labels = cv2.connectedComponents(window.view(np.uint8), connectivity=8, ltype=cv2.CV_32S)
    inside = np.flatnonzero(window)
    y = inside // width
    x = inside - y * width
    label = labels.reshape(-1)[inside]
    areas = np.maximum(np.bincount(label, minlength=n), 1)
    centroid_x = np.bincount(label, x, minlength=n) / areas + left
    centroid_y = np.bincount(label, y, minlength=n) / areas + top
    scores = np.full(n, -np.inf, np.float32)
    np.maximum.at(scores, label, anomaly_map[top : top + height, left : left + width][window])
    outlines = _outlines(window, labels)
    offset = np.array([left, top], np.int32)
    # An outline starts at the region's first pixel in reading order.
    order = sorted(outlines, key=lambda i: (-scores[i], outlines[i][0, 1], outlines[i][0, 0]))
    return tuple(
        _region(outlines[i] + offset, int(areas[i]), float(scores[i]), (float(centroid_x[i]), float(centroid_y[i])))
        for i in order
        if areas[i] >= min_area_px
    )


def _region(contour: NDArray[np.int32], area_px: int, score: float, centroid_xy: tuple[float, float]) -> Region:
    """Return the region with the bounding box of its outline."""
    (x, y), (right, bottom) = contour.min(axis=0).tolist(), contour.max(axis=0).tolist()
    return Region((x, y, right + 1 - x, bottom + 1 - y), area_px, score, centroid_xy, contour)


def _outlines(window: NDArray[np.bool_], labels: NDArray[np.int32]) -> dict[int, NDArray[np.int32]]:
    """Return the outer contour, (n, 2) int32 (x, y), of each label."""
    # RETR_CCOMP: with RETR_EXTERNAL a region inside the hole of another had no outline. Outer outlines have no parent.
    contours, hierarchy = cv2.findContours(window.view(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    outer = [contour[:, 0] for contour, links in zip(contours, hierarchy[0], strict=True) if links[3] == -1]
    return {int(labels[contour[0, 1], contour[0, 0]]): contour for contour in outer}
