"""Tail probability of a score among good images', as -log p: scores of different kinds on one scale that can be added.

Source: the sum of -log p over independent tests is Fisher's method (Fisher 1932, Statistical Methods for Research
    Workers, section 21.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from blemish._validation.checks import check_array

if TYPE_CHECKING:
    from blemish.types import Float64

# Least mean excess over the median, as a share of the median: copies of one image have none.
MIN_EXCESS = 0.01
TINY = 1e-6


@dataclass(frozen=True)
class Tail:
    """Distribution of good images' scores: empirical up to the median, with an exponential tail above it.

    Attributes:
        lower: (m,) float64, rising, the scores up to the median.
        median: of all scores.
        mean_excess: mean of (score - median) over the scores above the median.
        n_above: number of scores above the median; 1 if there are none.
    """

    lower: Float64
    median: float
    mean_excess: float
    n_above: int

    @classmethod
    def from_scores(cls, scores: Float64) -> Tail:
        """Return the distribution of good images' scores.

        Args:
            scores: (n,) float64, 0 or more, n at least 1.

        Raises:
            InputError: if the scores are not finite float64 (n,).
        """
        check_array("scores", scores, dtype=np.float64, shape=("n",))
        ordered = np.sort(scores)
        median = float(np.median(ordered))
        above = ordered[ordered > median]
        mean_excess = float(above.mean()) - median if above.size else 0.0
        least = max(MIN_EXCESS * abs(median), TINY)
        return cls(ordered[ordered <= median], median, max(mean_excess, least), max(len(above), 1))

    def neg_log_p(self, score: float) -> float:
        """Return -log of the probability that a good image scores as high: log 2 at the median, 0 or more.

        Above the median it is the predictive tail of an exponential distribution whose mean was estimated from
        `n_above` scores: heavier than exponential, since with few scores that mean may be too small.

        Source: the predictive distribution of an exponential variable after n of them is Pareto's (Aitchison and
            Dunsmore 1975, Statistical Prediction Analysis, table 2.3).
        """
        if score >= self.median:
            excess = (score - self.median) / (self.n_above * self.mean_excess)
            return float(np.log(2) + self.n_above * np.log1p(excess))
        n_lower = int(np.searchsorted(self.lower, score, side="right"))
        if n_lower == 0:
            return 0.0
        fraction = 0.0  # np.interp divides by the distance of two scores, which may be too small to divide by
        if n_lower < len(self.lower):
            low, high = self.lower[n_lower - 1], self.lower[n_lower]
            fraction = float((score - low) / (high - low))
        return -float(np.log1p(-min((n_lower + fraction) / (2 * len(self.lower)), 0.5)))


def leave_one_out_neg_log_p(scores: Float64) -> Float64:
    """Return -log p of each good image's score under the distribution of the other scores.

    Args:
        scores: (n,) float64, n at least 2.

    Returns:
        (n,) float64.

    Raises:
        InputError: if the scores are not finite float64 (n,).
    """
    return np.array([Tail.from_scores(np.delete(scores, i)).neg_log_p(float(scores[i])) for i in range(len(scores))])
