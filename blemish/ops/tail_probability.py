"""Scores of different kinds brought to one scale: how surprising each is among good images, so that they add up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from blemish._validation.checks import check_array

if TYPE_CHECKING:
    from blemish.types import Float64

# The mean excess over the median is at least this share of the median: copies of one image do not vary at all.
LEAST_EXCESS = 0.01
TINY = 1e-6


@dataclass(frozen=True)
class Tail:
    """How high good images score: their scores up to the median as they are, above it a tail.

    Attributes:
        lower: (m,) float64, ascending, the scores up to the median.
        median: of all scores.
        excess: by how much scores above the median exceed it on average.
        n_above: how many these are; 1 if there are none.
    """

    lower: Float64
    median: float
    excess: float
    n_above: int

    @classmethod
    def from_scores(cls, scores: Float64) -> Tail:
        """Return the tail of good images' scores.

        Args:
            scores: (n,) float64, 0 or more, n at least 1.

        Raises:
            InputError: if the scores are not finite float64 (n,).
        """
        check_array("scores", scores, dtype=np.float64, shape=("n",))
        ordered = np.sort(scores)
        median = float(np.median(ordered))
        above = ordered[ordered > median]
        excess = float(above.mean()) - median if above.size else 0.0
        least = max(LEAST_EXCESS * abs(median), TINY)
        return cls(ordered[ordered <= median], median, max(excess, least), max(len(above), 1))

    def neg_log_p(self, score: float) -> float:
        """Return -log of the share of good images that score as high: log 2 at their median, 0 or more.

        The tail is an exponential one whose mean is known from so many scores: with few of them a score that is far
        beyond them surprises less, since their mean may be too small.

        Source: the sum of such terms is Fisher's method of combining tests (Fisher 1932, Statistical Methods for
        Research Workers, section 21.1). The predictive distribution of an exponential variable after n of them is
        Pareto's (Aitchison and Dunsmore 1975, Statistical Prediction Analysis, table 2.3).
        """
        if score >= self.median:
            beyond = (score - self.median) / (self.n_above * self.excess)
            return float(np.log(2) + self.n_above * np.log1p(beyond))
        n_lower = int(np.searchsorted(self.lower, score, side="right"))
        if n_lower == 0:
            return 0.0
        between = 0.0  # np.interp divides by the distance of two scores, which may be too small to divide by
        if n_lower < len(self.lower):
            low, high = self.lower[n_lower - 1], self.lower[n_lower]
            between = float((score - low) / (high - low))
        return -float(np.log1p(-min((n_lower + between) / (2 * len(self.lower)), 0.5)))


def leave_one_out_neg_log_p(scores: Float64) -> Float64:
    """Return the surprise of each good image's score, judged by the tail of the others.

    Args:
        scores: (n,) float64, n at least 2.

    Returns:
        (n,) float64.

    Raises:
        InputError: if the scores are not finite float64 (n,).
    """
    return np.array([Tail.from_scores(np.delete(scores, i)).neg_log_p(float(scores[i])) for i in range(len(scores))])
