"""Tail probability of a score among good images', as -log p: scores of different kinds on one scale that can be added.

Source: the sum of -log p over independent tests is Fisher's method (Fisher 1932, Statistical Methods for Research
    Workers, section 21.1).
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from blemish._validation.checks import check_array

if TYPE_CHECKING:
    from blemish.types import Float64

# Least mean excess over the median, as a share of the median: copies of one image have none.
MIN_EXCESS = 0.01
TINY = 1e-6
MOST_EXPONENT = 100.0  # of the predictive quantile: it stays a number at any rate


class Prior(NamedTuple):
    """What is known of a tail before its scores are.

    Attributes:
        mean_excess: expected mean of (score - median) above the median.
        n: number of scores above the median that this counts as.
    """

    mean_excess: float
    n: int


@dataclass(frozen=True)
class Tail:
    """Distribution of good images' scores: empirical up to the median, with an exponential tail above it.

    Attributes:
        lower: (m,) float64, rising, the scores up to the median.
        median: of all scores.
        mean_excess: of the exponential distribution of (score - median) above the median, estimated.
        n_above: number of scores above the median that the estimate rests on; at least 1.
        n_prior: number of scores that the prior counts as.
        predictive: whether `survival` allows for an estimate of the mean that is too small.
    """

    lower: Float64
    median: float
    mean_excess: float
    n_above: int
    n_prior: int = 0
    predictive: bool = True

    @classmethod
    def from_scores(
        cls, scores: Float64, *, censored: float = 0.0, prior: Prior | None = None, predictive: bool = True
    ) -> Tail:
        """Return the distribution of good images' scores.

        Args:
            scores: (n,) float64, n at least 1.
            censored: share of the scores above the median, the highest, of which only the number counts.
            prior: what is known of the mean excess.
            predictive: as the attribute.

        Raises:
            InputError: if the scores are not finite float64 (n,).

        Source: maximum likelihood of a censored exponential sample (Epstein and Sobel 1953, Life testing). The prior is
            the conjugate one, an inverse gamma distribution (Raiffa and Schlaifer 1961, chapter 10).
        """
        check_array("scores", scores, dtype=np.float64, shape=("n",))
        ordered = np.sort(scores)
        median = float(np.median(ordered))
        excess = ordered[ordered > median] - median
        n_used = max(math.ceil(len(excess) * (1 - censored) - 1e-9), 1)
        total = float(excess[:n_used].sum())
        if n_used < len(excess):
            total += (len(excess) - n_used) * float(excess[n_used - 1])
        known = prior or Prior(0.0, 0)
        mean = (total + known.n * known.mean_excess) / (n_used + known.n)
        least = max(MIN_EXCESS * abs(median), TINY)
        return cls(ordered[ordered <= median], median, max(mean, least), n_used, known.n, predictive)

    @property
    def weight(self) -> int:
        """The number of scores above the median that the estimate and its prior count as."""
        return self.n_above + self.n_prior

    def neg_log_p(self, score: float) -> float:
        """Return -log of the probability that a good image scores as high: log 2 at the median, 0 or more.

        Above the median it is the predictive tail of an exponential distribution whose mean was estimated from
        `weight` scores: heavier than exponential, since with few scores that mean may be too small.

        Source: the predictive distribution of an exponential variable after n of them is Pareto's (Aitchison and
            Dunsmore 1975, Statistical Prediction Analysis, table 2.3).
        """
        if score >= self.median:
            excess = (score - self.median) / (self.weight * self.mean_excess)
            return float(np.log(2) + self.weight * np.log1p(excess))
        return -float(np.log1p(-self._share_below(score)))

    def survival(self, score: float) -> float:
        """Return the probability that a good image scores higher: 0.5 at the median.

        That of `neg_log_p`, or by maximum likelihood where the tail is not predictive.
        """
        if score < self.median:
            return 1 - self._share_below(score)
        if self.predictive:
            return max(math.exp(-self.neg_log_p(score)), sys.float_info.min)
        return max(0.5 * math.exp(-(score - self.median) / self.mean_excess), sys.float_info.min)

    def _share_below(self, score: float) -> float:
        """Return the share of good images that score lower than a score below the median, at most 0.5."""
        n_lower = int(np.searchsorted(self.lower, score, side="right"))
        if n_lower == 0:
            return 0.0
        fraction = 0.0  # np.interp divides by the distance of two scores, which may be too small to divide by
        if n_lower < len(self.lower):
            low, high = self.lower[n_lower - 1], self.lower[n_lower]
            fraction = float((score - low) / (high - low))
        return min((n_lower + fraction) / (2 * len(self.lower)), 0.5)

    def quantile(self, probability: float) -> float:
        """Return the score that a good image exceeds with this probability, in (0, 1): the inverse of `survival`."""
        if probability <= 0.5:
            excess = -math.log(2 * probability)
            if self.predictive:
                excess = self.weight * math.expm1(min(excess / self.weight, MOST_EXPONENT))
            return self.median + self.mean_excess * excess
        position = 2 * len(self.lower) * (1 - probability) - 1
        return float(np.interp(position, np.arange(len(self.lower)), self.lower))

    def probability_interval(self, score: float) -> tuple[float, float]:
        """Return the 90 % interval of the probability that a good image scores higher, of a score above the median.

        The estimated mean of n exponential excesses, over the true one, has a gamma distribution of shape n; its
        quantiles are those of Wilson and Hilferty (1931). A prior narrows nothing: the interval is that of `n_above`.
        """
        excess = max(score - self.median, 0.0) / self.mean_excess
        shape = self.n_above
        low, high = (max(1 - 1 / (9 * shape) + sign * 1.645 / (3 * math.sqrt(shape)), 0.0) ** 3 for sign in (-1, 1))
        return 0.5 * math.exp(-excess * high), 0.5 * math.exp(-excess * low)


def leave_one_out_neg_log_p(scores: Float64, *, censored: float = 0.0) -> Float64:
    """Return -log p of each good image's score under the distribution of the other scores.

    Args:
        scores: (n,) float64, n at least 2.
        censored: as in `Tail.from_scores`.

    Returns:
        (n,) float64.

    Raises:
        InputError: if the scores are not finite float64 (n,).
    """
    tails = (Tail.from_scores(np.delete(scores, i), censored=censored) for i in range(len(scores)))
    return np.array([tail.neg_log_p(float(score)) for tail, score in zip(tails, scores, strict=True)])
