"""Metrics of raw scores: AUROC, average precision, F1-max, the ROC curve and bootstrap intervals.

Only the order of the scores matters: nothing is normalised or clipped. Every metric is computed from the counts of good
and defective images (or pixels, or resampled images) at each distinct score. The `*_of_counts` functions are that one
computation; `metrics.segmentation` calls them too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from blemish._validation.checks import blocks, check_array, check_number, describe
from blemish.errors import InputError, message
from blemish.types import Bool, Curve, Float64, Int64

if TYPE_CHECKING:
    Counts = NDArray[np.int64] | NDArray[np.float64]

Metric = Literal["image_AUROC", "image_AP", "image_F1Max"]

# Resamples are counted in blocks of about this many numbers (8 MB each), however many images there are.
_BLOCK = 1 << 20


class Tally(NamedTuple):
    """Counts of good and defective images at each distinct score, highest score first.

    Attributes:
        values: (G,) float64, strictly falling.
        defective: (G,) int64.
        good: (G,) int64.
    """

    values: Float64
    defective: Int64
    good: Int64


def auroc(scores: ArrayLike, labels: ArrayLike) -> float:
    """Return the area under the ROC curve: the probability that a defective image outscores a good one, ties half.

    Args:
        scores: (n,) finite numbers, higher is more anomalous.
        labels: (n,) bool or 0 and 1, True for defective.

    Raises:
        InputError: if one class has no images, a score is NaN or infinite, or the lengths differ.

    >>> auroc([1, 2, 2, 3], [False, False, True, True])
    0.875
    """
    tally = _tally(*_check(scores, labels, both=True))
    return float(auroc_of_counts(tally.defective, tally.good))


def average_precision(scores: ArrayLike, labels: ArrayLike) -> float:
    """Return the average precision: precision averaged over the steps of recall, without interpolation.

    Arguments and errors as for `auroc`.

    >>> round(average_precision([4, 3, 2, 1], [True, False, True, False]), 4)
    0.8333
    """
    tally = _tally(*_check(scores, labels, both=True))
    return float(average_precision_of_counts(tally.defective, tally.good))


def roc_curve(scores: ArrayLike, labels: ArrayLike) -> Curve:
    """Return the ROC curve: x the false positive rate, y the true positive rate.

    One point per distinct score, after (0, 0) with threshold infinity; ends at (1, 1). Arguments and errors as for
    `auroc`.
    """
    tally = _tally(*_check(scores, labels, both=True))
    x = np.cumsum(tally.good) / tally.good.sum()
    y = np.cumsum(tally.defective) / tally.defective.sum()
    return Curve(np.r_[0.0, x], np.r_[0.0, y], np.r_[np.inf, tally.values])


def image_metrics(scores: ArrayLike, labels: ArrayLike) -> dict[str, float]:
    """Return image_AUROC, image_AP and image_F1Max by name; an empty dict if all images are of one class.

    Arguments as for `auroc`.

    Raises:
        InputError: if a score is NaN or infinite, there are no scores, or the lengths differ.
    """
    values, defective = _check(scores, labels)
    if defective.all() or not defective.any():
        return {}
    tally = _tally(values, defective)
    return {name: float(metric(tally.defective, tally.good)) for name, metric in _OF_COUNTS.items()}


def bootstrap_intervals(
    scores: ArrayLike,
    labels: ArrayLike,
    *,
    metrics: tuple[Metric, ...] = ("image_AUROC", "image_AP", "image_F1Max"),
    n_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Return the bootstrap percentile interval of each of `metrics`, all from the same resamples.

    Stratified: good and defective images are resampled separately, so every resample has as many of each as the test
    set. The interval covers the choice of test images, not that of training images; where good and defective images are
    fully separated it is (1, 1).

    Args:
        metrics: of "image_AUROC", "image_AP" and "image_F1Max".
        level: confidence level, 0.95 for 95 %.

    Raises:
        InputError: as for `auroc`, or if a setting is out of range or a metric is unknown.

    Source: Efron & Tibshirani 1993, chapter 13 (percentile interval).
    """
    for name in metrics:
        if name not in _OF_COUNTS:
            raise InputError(message("metric", "one of " + ", ".join(_OF_COUNTS), repr(name)))
    check_number("n_resamples", n_resamples, low=1, high=np.inf)
    check_number("level", level, low=0, high=1)
    values, defective = _check(scores, labels, both=True)
    falling, group = np.unique(-values, return_inverse=True)
    rng = np.random.default_rng(seed)
    results: dict[str, list[Float64]] = {name: [] for name in metrics}
    for block in blocks(n_resamples, max(1, _BLOCK // len(falling))):
        size = block.stop - block.start
        good = _resampled(rng, group[~defective], size, len(falling))
        bad = _resampled(rng, group[defective], size, len(falling))
        for name in metrics:
            results[name].append(_OF_COUNTS[name](bad, good))
    tails = [(1 - level) / 2, (1 + level) / 2]
    limits = {name: np.quantile(np.concatenate(parts), tails) for name, parts in results.items()}
    return {name: (float(low), float(high)) for name, (low, high) in limits.items()}


def auroc_of_counts(defective: Counts, good: Counts) -> Float64:
    """Return the AUROC of (..., G) counts by falling score, one number per leading index."""
    not_above = good.sum(axis=-1, keepdims=True, dtype=np.float64) - np.cumsum(good, axis=-1, dtype=np.float64)
    won = (defective * (not_above + good / 2)).sum(axis=-1)
    area: Float64 = np.asarray(won / defective.sum(axis=-1, dtype=np.float64) / good.sum(axis=-1, dtype=np.float64))
    return area


def average_precision_of_counts(defective: Counts, good: Counts) -> Float64:
    """Return the average precision of (..., G) counts by falling score, one number per leading index."""
    true_positives = np.cumsum(defective, axis=-1, dtype=np.float64)
    positives = true_positives + np.cumsum(good, axis=-1)
    # Before the first image of a resample both are 0, and so is the step of recall.
    precision = true_positives / np.maximum(positives, 1)
    mean: Float64 = np.asarray((defective * precision).sum(axis=-1) / true_positives[..., -1])
    return mean


def f1_of_counts(defective: Counts, good: Counts) -> Float64:
    """Return the (..., G) float64 F1 at each score: it and all higher ones are defective."""
    true_positives = np.cumsum(defective, axis=-1, dtype=np.float64)
    f1: Float64 = 2 * true_positives / (true_positives + np.cumsum(good, axis=-1) + true_positives[..., -1:])
    return f1


def _highest_f1(defective: Counts, good: Counts) -> Float64:
    highest: Float64 = np.asarray(f1_of_counts(defective, good).max(axis=-1))
    return highest


_OF_COUNTS: dict[str, Callable[[Counts, Counts], Float64]] = {
    "image_AUROC": auroc_of_counts,
    "image_AP": average_precision_of_counts,
    "image_F1Max": _highest_f1,
}


def _check(scores: ArrayLike, labels: ArrayLike, *, both: bool = False) -> tuple[Float64, Bool]:
    """Return scores as float64 (n,) and labels as bool (n,), or raise; `both` requires images of both classes."""
    array = np.asarray(scores)
    if array.dtype.kind not in "fiub":
        raise InputError(message("scores", "numbers (n,)", describe(array)))
    values: Float64 = check_array("scores", array.astype(np.float64), dtype=np.float64, shape=("n",))
    classes = np.asarray(labels)
    if classes.dtype != np.bool_ and not (classes.dtype.kind in "iu" and np.isin(classes, (0, 1)).all()):
        raise InputError(message("labels", "bool (n,) or 0 and 1", describe(classes)))
    defective: Bool = check_array("labels", classes.astype(np.bool_), dtype=np.bool_, shape=(len(values),))
    if both and (defective.all() or not defective.any()):
        n = int(defective.sum())
        got = f"{len(values) - n} good and {n} defective"
        raise InputError(message("labels", "both good and defective images", got))
    return values, defective


def _tally(values: Float64, defective: Bool) -> Tally:
    """Return the counts of each distinct score, highest first."""
    negated, group = np.unique(-values, return_inverse=True)
    n = len(negated)
    return Tally(-negated, np.bincount(group[defective], minlength=n), np.bincount(group[~defective], minlength=n))


def _resampled(rng: np.random.Generator, group: Int64, size: int, n_groups: int) -> Int64:
    """Return (size, n_groups) counts: each row holds len(group) draws with replacement from `group`."""
    drawn = group[rng.integers(0, len(group), (size, len(group)))]
    drawn += np.arange(size)[:, None] * n_groups
    counts: Int64 = np.bincount(drawn.ravel(), minlength=size * n_groups).reshape(size, n_groups)
    return counts
