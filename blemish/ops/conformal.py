"""Thresholds with a stated false positive rate, from the scores of good images alone (split conformal prediction)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, overload

import numpy as np

from blemish._validation.checks import check_array, check_number, describe
from blemish.errors import InputError, message

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from blemish.types import Float64

# An estimate of the tail from fewer scores would rest on two or three of them.
_FEWEST_FOR_TAIL = 10


@dataclass(frozen=True, eq=False)
class Calibration:
    """A threshold, the scores of good images that it came from, and what they promise.

    The promise: if the calibration images and a new good image are exchangeable (drawn alike, in any order), the
    new one scores above `threshold` with a probability of at most `false_positive_rate_promised`, whatever the
    distribution of the scores. It needs no model of the scores and holds for any number of images.

    Its limits. It is an average over calibration sets as well as over images: with one set of n images in hand the
    true rate varies around the promise with a standard deviation of about sqrt(rate * (1 - rate) / n). It says nothing
    of defective images. It does not hold once the line changes (light, lens, material) or if the calibration
    images are near-copies of each other, such as frames of one video.

    Make it with `from_scores`. An image is called defective where its score is strictly above `threshold`, which is
    the same as a `p_value` of at most `false_positive_rate_promised`.

    Attributes:
        scores: (n,) float64, rising and read-only: one score per good image, each made without its own help.
        false_positive_rate: the rate that was asked for, in (0, 1).
        threshold: the score that good images exceed at most so often.
        false_positive_rate_promised: the rate that n scores can promise: at most the one asked for, or 1 / (n + 1) if n
            is too small for that; `warning` then says so.

    Source: Vovk, Gammerman & Shafer 2005, chapter 2; Angelopoulos & Bates 2021 (arXiv 2107.07511), section 1 and
    appendix D; p-values as in Bates et al. 2023 (arXiv 2104.08279), equation 2.
    """

    scores: Float64 = field(repr=False)
    false_positive_rate: float
    threshold: float
    false_positive_rate_promised: float

    @classmethod
    def from_scores(cls, scores: ArrayLike, false_positive_rate: float) -> Calibration:
        """Return the calibration of these scores of good images at this false positive rate.

        Args:
            scores: (n,) finite numbers, n at least 1, higher is more anomalous.
            false_positive_rate: share of good images that may be called defective, in (0, 1).

        Raises:
            InputError: if there are no scores, one is NaN or infinite, or the rate is not in (0, 1).

        >>> Calibration.from_scores(range(1, 100), 0.05)
        Calibration(false_positive_rate=0.05, threshold=95.0, false_positive_rate_promised=0.05)
        """
        rate = _check_rate(false_positive_rate)
        given = np.asarray(scores)
        if given.dtype.kind not in "fiu":
            raise InputError(message("scores", "numbers (n,)", describe(given)))
        rising: Float64 = np.sort(check_array("scores", given.astype(np.float64), dtype=np.float64, shape=("n",)))
        rising.setflags(write=False)
        n = len(rising)
        # The (n + 1)(1 - rate)-th smallest, rounded up, counted from above; 1e-9 because 100 * 0.29 is not quite 29.
        n_above = min(n, max(1, math.floor((n + 1) * rate + 1e-9)))
        return cls(rising, rate, float(rising[n - n_above]), n_above / (n + 1))

    @property
    def n(self) -> int:
        """The number of calibration scores."""
        return len(self.scores)

    @property
    def warning(self) -> str:
        """A sentence for the user if n is too small for the rate that was asked for, else an empty string."""
        if self.false_positive_rate_promised <= self.false_positive_rate * (1 + 1e-9):
            return ""
        needed = math.ceil(1 / self.false_positive_rate - 1e-9) - 1
        images = "1 good image supports" if self.n == 1 else f"{self.n} good images support"
        return (
            f"{images} a false positive rate of {percent(self.false_positive_rate_promised)} at best; "
            f"{percent(self.false_positive_rate)} was asked for and needs at least {needed}. "
            "The threshold is the highest score of the good images."
        )

    def with_rate(self, false_positive_rate: float) -> Calibration:
        """Return the calibration of the same scores at another false positive rate.

        Raises:
            InputError: if the rate is not in (0, 1).
        """
        return Calibration.from_scores(self.scores, false_positive_rate)

    @overload
    def p_value(self, score: float) -> float: ...
    @overload
    def p_value(self, score: Float64) -> Float64: ...
    def p_value(self, score: float | Float64) -> float | Float64:
        """Return (1 + number of calibration scores at or above `score`) / (n + 1), in [1 / (n + 1), 1].

        For a new good image it is at most a with a probability of at most a.

        Args:
            score: one score, or an array of them.

        Raises:
            InputError: if a score is NaN.

        >>> Calibration.from_scores([1, 2, 3], 0.25).p_value(2.5)
        0.5
        """
        values = _check_scores(score)
        n_at_or_above = self.n - np.searchsorted(self.scores, values, side="left")
        return _like(score, (1 + n_at_or_above) / (self.n + 1))

    @overload
    def estimated_p_value(self, score: float) -> float: ...
    @overload
    def estimated_p_value(self, score: Float64) -> Float64: ...
    def estimated_p_value(self, score: float | Float64) -> float | Float64:
        """Return the p-value with the tail of the scores smoothed: an estimate, not a promise.

        `p_value` cannot go below 1 / (n + 1), so it does not tell a score just above every good image from one far
        above. This one does, by taking the upper tail to be exponential: the k = ceil(sqrt(n)) highest scores give its
        scale, and the uncertainty of that scale is part of the answer. It is exact on average if the tail is
        exponential, too high if the tail is lighter (as a Gaussian's), and too low if it is heavier.

        Args:
            score: one score, or an array of them.

        Raises:
            InputError: if there are fewer than 10 calibration scores, or a score is NaN.

        Source: for k exponential excesses with sum s, a new excess e has P(e > x) = (1 + x / s) ** -k.
        """
        values = _check_scores(score)
        start, total, k = self._tail()
        plain = (1 + self.n - np.searchsorted(self.scores, values, side="left")) / (self.n + 1)
        if total == 0:  # the k highest scores are equal: there is no scale to go by
            return _like(score, plain)
        smooth = (k + 1) / (self.n + 1) * (1 + np.maximum(values - start, 0) / total) ** -k
        return _like(score, np.where(values > start, smooth, plain))

    def estimated_threshold(self, false_positive_rate: float) -> float:
        """Return the score whose `estimated_p_value` is `false_positive_rate`: an estimate, not a promise.

        For rates too low for n images to promise. At rates above (k + 1) / (n + 1) it is the plain threshold.

        Raises:
            InputError: if there are fewer than 10 calibration scores, or the rate is not in (0, 1).
        """
        rate = _check_rate(false_positive_rate)
        start, total, k = self._tail()
        if rate >= (k + 1) / (self.n + 1):
            return self.with_rate(rate).threshold
        ratio = (k + 1) / (self.n + 1) / rate
        return start + total * (math.pow(ratio, 1 / k) - 1)

    def _tail(self) -> tuple[float, float, int]:
        """Return where the tail starts, the sum of the excesses over that, and their number k."""
        if self.n < _FEWEST_FOR_TAIL:
            expected = f"at least {_FEWEST_FOR_TAIL} for an estimate of their tail"
            raise InputError(message("calibration scores", expected, str(self.n), todo="Fit on more good images."))
        k = math.ceil(math.sqrt(self.n))
        start = float(self.scores[-k - 1])
        return start, float((self.scores[-k:] - start).sum()), k


def _check_rate(rate: float) -> float:
    """Return the rate as a float if it is in (0, 1), or raise."""
    if check_number("false_positive_rate", rate, low=0, high=1) in (0, 1):
        todo = "No threshold promises 0, and 1 would call everything defective."
        raise InputError(
            message("false_positive_rate", "a number between 0 and 1, both excluded", repr(rate), todo=todo)
        )
    return float(rate)


def _check_scores(score: float | Float64) -> Float64:
    """Return the score or scores as float64 if none is NaN, or raise."""
    values = np.asarray(score, dtype=np.float64)
    if np.isnan(values).any():
        raise InputError(message("score", "a number", "NaN"))
    return values


def _like(given: float | Float64, values: Float64) -> float | Float64:
    """Return `values` as a float where one score was given."""
    return float(values) if np.ndim(given) == 0 else values


def percent(share: float) -> str:
    """Return a share in percent with two digits, as people read it.

    >>> percent(0.0123), percent(0.5), percent(0.996), percent(1.0)
    ('1.2 %', '50 %', '100 %', '100 %')
    """
    return f"{100 * share:.2g} %" if share < 0.995 else "100 %"
