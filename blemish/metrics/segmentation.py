"""Metrics of anomaly maps against masks, at full resolution and in bounded memory: pixel AUROC, AP, F1-max and AUPRO.

The maps are counted one by one into a fine histogram and forgotten, so 500 images of 1024 x 1024 need no more memory
than one. The bins are the float32 numbers themselves without their last few bits, as few as the range of the scores
allows, so no range need be known beforehand; all values in one bin count as equal. A bin is at most 1 / 8192 of the
score wide; where the scores differ by a factor of 50, 1 / 65536; where they differ by 3 % or less, one number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

from blemish._validation.checks import blocks, check_array, check_number
from blemish.errors import InputError, message
from blemish.metrics.classification import auroc_of_counts, average_precision_of_counts, f1_of_counts
from blemish.types import Curve, Float64, Int64

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from blemish.types import Bool, Float32

# Bins are made coarser, by dropping one more bit, when there would be more than this (3 arrays of 4 MB) ...
_MOST_BINS = 1 << 19
# ... but no coarser than this, which keeps 13 of the mantissa's 23 bits: then there are at most 2 ** 22 (100 MB).
_MOST_DROPPED = 10
# Room is made for this many bins at a time, so that it seldom has to be.
_ROOM = 1 << 13
# Pixels are counted in blocks that stay in the processor's cache.
_BLOCK = 1 << 16


class _Histogram:
    """Counts of good and defective pixels, and the overlap they stand for, in bins of keys (see `_keys`)."""

    def __init__(self, low: int, high: int, dropped: int) -> None:
        self.dropped = dropped
        self.first = (low >> dropped) // _ROOM * _ROOM
        size = ((high >> dropped) // _ROOM + 1) * _ROOM - self.first
        self.good: Int64 = np.zeros(size, np.int64)
        self.defective: Int64 = np.zeros(size, np.int64)
        # A pixel of a region weighs 1 / area, so a region weighs 1.
        self.overlap: Float64 = np.zeros(size, np.float64)

    def covers(self, low: int, high: int) -> bool:
        """Whether both keys have a bin."""
        return self.first <= low >> self.dropped and (high >> self.dropped) - self.first < len(self.good)

    def places(self, keys: NDArray[np.int32]) -> NDArray[np.intp]:
        """Return the index of each key's bin."""
        places: NDArray[np.intp] = (keys >> self.dropped).astype(np.intp)
        places -= self.first
        return places

    def held(self) -> NDArray[np.intp]:
        """Return the indices of the bins that hold pixels, rising."""
        return np.flatnonzero(self.good + self.defective)

    def pour(self, other: _Histogram) -> None:
        """Add the counts of a histogram whose bins are as fine or finer: a coarse bin holds whole fine ones."""
        held = other.held()
        places = ((held + other.first) >> (self.dropped - other.dropped)) - self.first
        np.add.at(self.good, places, other.good[held])
        np.add.at(self.defective, places, other.defective[held])
        np.add.at(self.overlap, places, other.overlap[held])


class _Levels(NamedTuple):
    """The bins that hold any pixel, highest first: (G,) each."""

    values: Float64
    defective: Int64
    good: Int64
    overlap: Float64


class PixelCounts:
    """How many good and defective pixels have each score, over any number of images of any sizes.

    Every pixel outside a mask is a good one, those of defective images included. The 8-connected parts of a mask
    are its regions, and weigh the same in PRO whatever their area. Counts can be added, so that good images are
    counted once and shared between defect types: `(good + scratches).aupro()`.

    Every point of a curve here is a point of the exact curve; between the two ends of one bin it is a straight line.
    `auroc_error` and `aupro_error` give the most that this can have cost, from the counts themselves.

    >>> counts = PixelCounts()
    >>> counts.add(np.float32([[1, 2], [3, 9]]), np.array([[False, False], [False, True]]))
    >>> counts.pixel_auroc(), counts.aupro()
    (1.0, 1.0)

    Attributes:
        n_images: how many images were counted.
        n_regions: how many regions their masks have.

    Cost: a few ms for a map of 1024 x 1024.
    Source: PRO as in Bergmann et al. 2021 (The MVTec Anomaly Detection Dataset, IJCV 129), section 5; regions and area
    as in MVTec's evaluation code: a full 3 x 3 structure, so 8-connected, and the area is divided by the limit.
    """

    def __init__(self) -> None:
        self.n_images = 0
        self.n_regions = 0
        self._low = self._high = 0
        self._bins = _Histogram(0, 0, 0)

    @property
    def n_good(self) -> int:
        """The number of good pixels."""
        return int(self._bins.good.sum())

    @property
    def n_defective(self) -> int:
        """The number of defective pixels."""
        return int(self._bins.defective.sum())

    def add(self, anomaly_map: Float32, mask: Bool | None = None) -> None:
        """Count one image.

        Args:
            anomaly_map: (H, W) float32, higher is more anomalous.
            mask: (H, W) bool, True where defective; None for a good image.

        Raises:
            InputError: if the map is not finite float32 (H, W), or the mask is not bool of the same shape.
        """
        check_array("anomaly_map", anomaly_map, dtype=np.float32, shape=("H", "W"))
        if mask is not None:
            todo = "Resize the map to the mask, not the mask to the map."
            check_array("mask", mask, dtype=np.bool_, shape=anomaly_map.shape, todo=todo)
        low, high = _keys(np.stack([anomaly_map.min(), anomaly_map.max()]))
        self._widen(int(low), int(high))
        bins = self._bins
        flat = anomaly_map.reshape(-1)
        for block in blocks(flat.size, _BLOCK):
            np.add.at(bins.good, bins.places(_keys(flat[block])), 1)
        self.n_images += 1
        if mask is None or not mask.any():
            return
        n, labels = cv2.connectedComponents(mask.view(np.uint8), connectivity=8, ltype=cv2.CV_32S)
        region = labels[mask]
        share = 1 / np.maximum(np.bincount(region, minlength=n), 1)
        places = bins.places(_keys(anomaly_map[mask]))
        np.subtract.at(bins.good, places, 1)
        np.add.at(bins.defective, places, 1)
        np.add.at(bins.overlap, places, share[region])
        self.n_regions += n - 1

    def __add__(self, other: PixelCounts) -> PixelCounts:
        """Return the counts of the images of both, as if all had been added to one."""
        if not isinstance(other, PixelCounts):
            return NotImplemented
        both = PixelCounts()
        for part in (self, other):
            if not part.n_images:
                continue
            both._widen(part._low, part._high)
            both._bins.pour(part._bins)
            both.n_images += part.n_images
            both.n_regions += part.n_regions
        return both

    def pixel_auroc(self) -> float:
        """Return the area under the ROC curve of all pixels.

        Raises:
            InputError: if there are no defective pixels, or no good ones.
        """
        levels = self._levels()
        return float(auroc_of_counts(levels.defective, levels.good))

    def pixel_average_precision(self) -> float:
        """Return the average precision of all pixels.

        Raises:
            InputError: if there are no defective pixels, or no good ones.
        """
        levels = self._levels()
        return float(average_precision_of_counts(levels.defective, levels.good))

    def pixel_f1_max(self) -> tuple[float, float]:
        """Return the highest F1 of all pixels at any threshold, and that threshold (see `metrics.f1_max`).

        Raises:
            InputError: if there are no defective pixels, or no good ones.
        """
        levels = self._levels()
        f1 = f1_of_counts(levels.defective, levels.good)
        best = int(f1.argmax())
        # The next lower float32: a map is above it exactly where it is in this bin or a higher one.
        return float(f1[best]), float(np.nextafter(np.float32(levels.values[best]), np.float32(-np.inf)))

    def pro_curve(self) -> Curve:
        """Return the PRO curve: x the share of good pixels called defective, y the mean share of a region found.

        Returns:
            One point per bin that holds a pixel, after (0, 0) with threshold infinity; ends at (1, 1).

        Raises:
            InputError: if there are no defective pixels, or no good ones.
        """
        levels = self._levels()
        x = np.cumsum(levels.good) / self.n_good
        found = np.cumsum(levels.overlap)
        y = found / found[-1]  # the last is n_regions up to rounding; so the curve ends at 1 and not beside it
        return Curve(np.r_[0.0, x], np.r_[0.0, y], np.r_[np.inf, levels.values])

    def aupro(self, fpr_limit: float = 0.3) -> float:
        """Return the area under the PRO curve from false positive rate 0 to `fpr_limit`, over `fpr_limit`.

        Args:
            fpr_limit: in (0, 1]; the curve is interpolated there.

        Returns:
            A number in [0, 1]; 1 if every defective pixel is above every good one, about fpr_limit / 2 by chance.

        Raises:
            InputError: if there are no defective pixels, or no good ones, or the limit is out of range.
        """
        _check_limit(fpr_limit)
        x, y, _ = self.pro_curve()
        n = int(np.searchsorted(x, fpr_limit, side="right"))
        x, y = np.r_[x[:n], fpr_limit], np.r_[y[:n], np.interp(fpr_limit, x, y)]
        area = float((np.diff(x) * (y[1:] + y[:-1])).sum() / 2)
        return min(1.0, area / fpr_limit)

    def auroc_error(self) -> float:
        """Return the most that `pixel_auroc` can differ from the exact one because of the bins.

        It holds for every order of the pixels within their bins, and is 0 where every bin is one number; what is
        really lost is a hundredth of it, as a rule.
        """
        levels = self._levels()
        if self._bins.dropped == 0:
            return 0.0
        return float((levels.defective * (levels.good / self.n_good)).sum() / self.n_defective / 2)

    def aupro_error(self, fpr_limit: float = 0.3) -> float:
        """Return the most that `aupro` can differ from the exact one because of the bins (see `auroc_error`)."""
        _check_limit(fpr_limit)
        x, y, _ = self.pro_curve()
        if self._bins.dropped == 0:
            return 0.0
        triangles = np.diff(x) * np.diff(y) / 2
        return float(triangles[x[:-1] < fpr_limit].sum() / fpr_limit)

    def metrics(self) -> dict[str, float]:
        """Return pixel_AUROC, pixel_AP, pixel_F1Max, AUPRO (limit 0.3) and AUPRO_0.05 by name.

        None of them is there if there are no defective pixels, or no good ones: they are not defined then.
        """
        if not self.n_defective or not self.n_good:
            return {}
        return {
            "pixel_AUROC": self.pixel_auroc(),
            "pixel_AP": self.pixel_average_precision(),
            "pixel_F1Max": self.pixel_f1_max()[0],
            "AUPRO": self.aupro(0.3),
            "AUPRO_0.05": self.aupro(0.05),
        }

    def _widen(self, low: int, high: int) -> None:
        """Make room for keys from `low` to `high`, in coarser bins if need be.

        How coarse depends on the whole range alone, not on the order in which it was met; so the bins of a sum are
        never finer than those of its parts.
        """
        if self.n_images:
            low, high = min(low, self._low), max(high, self._high)
        dropped = self._bins.dropped
        while dropped < _MOST_DROPPED and (high >> dropped) - (low >> dropped) >= _MOST_BINS:
            dropped += 1
        self._low, self._high = low, high
        if dropped != self._bins.dropped or not self._bins.covers(low, high):
            wider = _Histogram(low, high, dropped)
            if self.n_images:
                wider.pour(self._bins)
            self._bins = wider

    def _levels(self) -> _Levels:
        """Return the bins that hold pixels, or raise if a metric has no meaning."""
        if not self.n_defective or not self.n_good:
            got = f"{self.n_good} good and {self.n_defective} defective pixels in {self.n_images} images"
            todo = "Pixel metrics need masks that mark a part of some image."
            raise InputError(message("masks", "both good and defective pixels", got, todo=todo))
        bins = self._bins
        held = bins.held()[::-1]
        values = _values((held + bins.first) << bins.dropped)
        return _Levels(values, bins.defective[held], bins.good[held], bins.overlap[held])


def pixel_auroc(maps: Iterable[Float32], masks: Iterable[Bool | None]) -> float:
    """Return the area under the ROC curve of all pixels of these maps and masks, taken one by one.

    Args:
        maps: each (H, W) float32.
        masks: each (H, W) bool, or None for a good image.

    Raises:
        InputError: if a mask does not fit its map, or there are no defective pixels, or no good ones.
    """
    return _counted(maps, masks).pixel_auroc()


def pro_curve(maps: Iterable[Float32], masks: Iterable[Bool | None]) -> Curve:
    """Return `PixelCounts.pro_curve` of these maps and masks; arguments and errors as for `pixel_auroc`."""
    return _counted(maps, masks).pro_curve()


def aupro(maps: Iterable[Float32], masks: Iterable[Bool | None], fpr_limit: float = 0.3) -> float:
    """Return `PixelCounts.aupro` of these maps and masks; arguments and errors as for `pixel_auroc`."""
    _check_limit(fpr_limit)
    return _counted(maps, masks).aupro(fpr_limit)


def _counted(maps: Iterable[Float32], masks: Iterable[Bool | None]) -> PixelCounts:
    """Return the counts of these maps and masks."""
    counts = PixelCounts()
    rest = iter(masks)
    for anomaly_map in maps:
        try:
            mask = next(rest)
        except StopIteration:
            raise InputError(message("masks", "one per map", f"only {counts.n_images}")) from None
        counts.add(anomaly_map, mask)
    if next(rest, counts) is not counts:
        raise InputError(message("masks", f"one per map, so {counts.n_images}", "more"))
    return counts


def _check_limit(fpr_limit: float) -> None:
    if check_number("fpr_limit", fpr_limit, low=0, high=1) == 0:
        raise InputError(message("fpr_limit", "a number above 0", "0"))


def _keys(values: Float32) -> NDArray[np.int32]:
    """Return integers in the order of the values, one for each float32, negative for negative ones."""
    # As an integer, a positive float32 keeps its order and a negative one reverses it; adding 0 turns -0 into 0.
    bits: NDArray[np.int32] = (values + np.float32(0)).view(np.int32)
    bits ^= (bits >> 31) & np.int32(0x7FFFFFFF)
    return bits


def _values(keys: NDArray[np.intp]) -> Float64:
    """Return the value of each key."""
    bits = keys.astype(np.int32)
    bits ^= (bits >> 31) & np.int32(0x7FFFFFFF)
    values: Float64 = bits.view(np.float32).astype(np.float64)
    return values
