"""Metrics of anomaly maps against masks, at full resolution and in bounded memory: pixel AUROC, AP, F1-max and AUPRO.

Maps are counted one by one into a fine histogram, so memory does not grow with the number of images. The bins are the
float32 numbers without their last few bits, as few as the range of the scores allows, so that no range must be known
beforehand; all values in one bin are ties. A bin is at most 1 / 8192 of the score wide; where the scores differ by a
factor of 50, 1 / 65536; where they differ by 3 % or less, one number.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from blemish._validation.checks import blocks, check_array, check_number
from blemish.errors import InputError, message
from blemish.metrics.classification import auroc_of_counts, average_precision_of_counts, f1_of_counts
from blemish.types import Bool, Curve, Float32, Float64, Int64

# Bins are made coarser, by dropping one more bit, beyond this number (3 arrays of 4 MB) ...
_MAX_BINS = 1 << 19
# ... but no coarser than this, which keeps 13 of the mantissa's 23 bits: then there are at most 2 ** 22 (100 MB).
_MAX_DROPPED = 10
# Bins are allocated in multiples of this.
_ALLOCATED = 1 << 13
# Pixels of a block: it stays in the processor's cache.
_BLOCK = 1 << 16


class _Histogram:
    """Counts of good and defective pixels, and the region overlap of the latter, in bins of keys (see `_keys`)."""

    def __init__(self, low: int, high: int, dropped: int) -> None:
        self.dropped = dropped
        self.first = (low >> dropped) // _ALLOCATED * _ALLOCATED
        size = ((high >> dropped) // _ALLOCATED + 1) * _ALLOCATED - self.first
        self.good: Int64 = np.zeros(size, np.int64)
        self.defective: Int64 = np.zeros(size, np.int64)
        # A pixel weighs 1 / area of its region, so every region weighs 1.
        self.overlap: Float64 = np.zeros(size, np.float64)

    def covers(self, low: int, high: int) -> bool:
        """Whether both keys have a bin."""
        return self.first <= low >> self.dropped and (high >> self.dropped) - self.first < len(self.good)

    def bins(self, keys: NDArray[np.int32]) -> NDArray[np.intp]:
        """Return the index of each key's bin."""
        bins: NDArray[np.intp] = (keys >> self.dropped).astype(np.intp)
        bins -= self.first
        return bins

    def occupied(self) -> NDArray[np.intp]:
        """Return the indices of non-empty bins, rising."""
        return np.flatnonzero(self.good + self.defective)

    def add(self, other: _Histogram) -> None:
        """Add the counts of a histogram of equal or finer bins: a coarse bin is a union of fine ones."""
        occupied = other.occupied()
        bins = ((occupied + other.first) >> (self.dropped - other.dropped)) - self.first
        np.add.at(self.good, bins, other.good[occupied])
        np.add.at(self.defective, bins, other.defective[occupied])
        np.add.at(self.overlap, bins, other.overlap[occupied])


class _Levels(NamedTuple):
    """The non-empty bins, highest first: (G,) each."""

    values: Float64
    defective: Int64
    good: Int64
    overlap: Float64


class PixelCounts:
    """Histogram of good and defective pixels by score, over any number of images of any sizes.

    Every pixel outside a mask is good, in defective images too. Regions are the 8-connected components of a mask and
    weigh the same in PRO for any area. Counts can be added, so that good images are counted once and shared between
    defect types: `(good + scratches).aupro()`.

    Every point of a curve is a point of the exact curve, with straight lines between them. Metrics raise InputError if
    there are no defective pixels, or no good ones.

    >>> counts = PixelCounts()
    >>> counts.add(np.float32([[1, 2], [3, 9]]), np.array([[False, False], [False, True]]))
    >>> counts.pixel_auroc(), counts.aupro()
    (1.0, 1.0)

    Cost: a few ms for a map of 1024 x 1024.
    Source: PRO as in Bergmann et al. 2021 (The MVTec Anomaly Detection Dataset, IJCV 129), section 5; regions and area
    as in MVTec's evaluation code: a full 3 x 3 structure, so 8-connected, and the area is divided by the limit.
    """

    def __init__(self) -> None:
        self.n_images = 0
        self.n_regions = 0
        self._low = self._high = 0
        self._histogram = _Histogram(0, 0, 0)

    @property
    def n_good(self) -> int:
        """The number of good pixels."""
        return int(self._histogram.good.sum())

    @property
    def n_defective(self) -> int:
        """The number of defective pixels."""
        return int(self._histogram.defective.sum())

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
        histogram = self._histogram
        flat = anomaly_map.reshape(-1)
        for block in blocks(flat.size, _BLOCK):
            np.add.at(histogram.good, histogram.bins(_keys(flat[block])), 1)
        self.n_images += 1
        if mask is None or not mask.any():
            return
        n, labels = cv2.connectedComponents(mask.view(np.uint8), connectivity=8, ltype=cv2.CV_32S)
        region = labels[mask]
        share = 1 / np.maximum(np.bincount(region, minlength=n), 1)
        bins = histogram.bins(_keys(anomaly_map[mask]))
        np.subtract.at(histogram.good, bins, 1)
        np.add.at(histogram.defective, bins, 1)
        np.add.at(histogram.overlap, bins, share[region])
        self.n_regions += n - 1

    def __add__(self, other: PixelCounts) -> PixelCounts:
        """Return the counts of the images of both."""
        if not isinstance(other, PixelCounts):
            return NotImplemented
        both = PixelCounts()
        for part in (self, other):
            if not part.n_images:
                continue
            both._widen(part._low, part._high)
            both._histogram.add(part._histogram)
            both.n_images += part.n_images
            both.n_regions += part.n_regions
        return both

    def pixel_auroc(self) -> float:
        """Return the area under the ROC curve of all pixels."""
        levels = self._levels()
        return float(auroc_of_counts(levels.defective, levels.good))

    def pixel_average_precision(self) -> float:
        """Return the average precision of all pixels."""
        levels = self._levels()
        return float(average_precision_of_counts(levels.defective, levels.good))

    def pixel_f1_max(self) -> tuple[float, float]:
        """Return the highest F1 of all pixels at any threshold, and that threshold: higher scores are defective."""
        levels = self._levels()
        f1 = f1_of_counts(levels.defective, levels.good)
        best = int(f1.argmax())
        # The next lower float32: a map is above it exactly where it is in this bin or a higher one.
        return float(f1[best]), float(np.nextafter(np.float32(levels.values[best]), np.float32(-np.inf)))

    def pro_curve(self) -> Curve:
        """Return the PRO curve: x the false positive rate of pixels, y the mean true positive rate over regions.

        Returns:
            One point per non-empty bin, after (0, 0) with threshold infinity; ends at (1, 1).
        """
        levels = self._levels()
        x = np.cumsum(levels.good) / self.n_good
        overlap = np.cumsum(levels.overlap)
        y = overlap / overlap[-1]  # the last one is n_regions up to rounding: the curve ends at 1
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

    def metrics(self) -> dict[str, float]:
        """Return pixel_AUROC, pixel_AP, pixel_F1Max, AUPRO (limit 0.3) and AUPRO_0.05 by name.

        An empty dict if there are no defective pixels, or no good ones: the metrics are not defined then.
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
        """Extend the histogram to keys from `low` to `high`, with coarser bins if necessary.

        The width of the bins depends on the whole range alone, not on the order of images: the bins of a sum are never
        finer than those of its parts.
        """
        if self.n_images:
            low, high = min(low, self._low), max(high, self._high)
        dropped = self._histogram.dropped
        while dropped < _MAX_DROPPED and (high >> dropped) - (low >> dropped) >= _MAX_BINS:
            dropped += 1
        self._low, self._high = low, high
        if dropped != self._histogram.dropped or not self._histogram.covers(low, high):
            wider = _Histogram(low, high, dropped)
            if self.n_images:
                wider.add(self._histogram)
            self._histogram = wider

    def _levels(self) -> _Levels:
        """Return the non-empty bins, or raise if the metrics are not defined."""
        if not self.n_defective or not self.n_good:
            got = f"{self.n_good} good and {self.n_defective} defective pixels in {self.n_images} images"
            todo = "Pixel metrics need masks that mark a part of some image."
            raise InputError(message("masks", "both good and defective pixels", got, todo=todo))
        histogram = self._histogram
        bins = histogram.occupied()[::-1]
        values = _values((bins + histogram.first) << histogram.dropped)
        return _Levels(values, histogram.defective[bins], histogram.good[bins], histogram.overlap[bins])


class MaskCounts(NamedTuple):
    """Pixels of predicted masks against those of ground truth, over any number of images.

    Attributes:
        hit: defective pixels that are in the predicted mask.
        false: good pixels that are.
        missed: defective pixels that are not.
    """

    hit: int = 0
    false: int = 0
    missed: int = 0

    def with_image(self, predicted: Bool, mask: Bool | None) -> MaskCounts:
        """Return the counts with one more image.

        Args:
            predicted: (H, W) bool.
            mask: (H, W) bool, True where defective; None for a good image.
        """
        n_predicted = int(np.count_nonzero(predicted))
        if mask is None:
            return self._replace(false=self.false + n_predicted)
        hit = int(np.count_nonzero(predicted & mask))
        n_defective = int(np.count_nonzero(mask))
        return MaskCounts(self.hit + hit, self.false + n_predicted - hit, self.missed + n_defective - hit)

    def plus(self, other: MaskCounts) -> MaskCounts:
        """Return the counts of the images of both."""
        return MaskCounts(*(a + b for a, b in zip(self, other, strict=True)))

    @property
    def f1(self) -> float:
        """The F1 of all pixels, 0 to 1; 0 where there are none.

        >>> MaskCounts(hit=6, false=2, missed=2).f1
        0.75
        """
        total = 2 * self.hit + self.false + self.missed
        return 2 * self.hit / total if total else 0.0


def _check_limit(fpr_limit: float) -> None:
    if check_number("fpr_limit", fpr_limit, low=0, high=1) == 0:
        raise InputError(message("fpr_limit", "a number above 0", "0"))


def _keys(values: Float32) -> NDArray[np.int32]:
    """Return order-preserving int32 keys of float32 values."""
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
