"""Thresholds with a stated false positive rate, from the scores of good images alone."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Literal, NamedTuple, overload

import numpy as np

from blemish._validation.checks import check_array, check_number, describe
from blemish.errors import InputError, message
from blemish.ops.tail_probability import Prior, Tail

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from blemish.types import Float64

Rule = Literal["tail", "conformal"]
RULES: tuple[Rule, ...] = ("tail", "conformal")
# Share of the scores above the median that are censored: a fifth of the images may then be defective and count as no
# more than high scores. With .1 one defective image in forty adds half to the misses (benchmarks/contamination.py); on
# clean sets .3 to .5 do as well as .1 or better (benchmarks/defaults.py).
CENSORED = 0.4
# Of a thousand good images none is expected above the threshold of this rate.
UPPER_RATE = 0.001
# From here on the 90 % interval of a rate of 2 % ends below 7 %, from 100 on below 5 %.
FEW = 50


class TailOptions(NamedTuple):
    """How the tail of calibration scores is estimated.

    Attributes:
        censored: share of the scores above the median, the highest, of which the tail takes the number alone.
        prior: what is known of scores of this kind before any is there.
        predictive: whether the threshold allows for what few scores may hide; folders that do not state it do not.
    """

    censored: float = CENSORED
    prior: Prior | None = None
    predictive: bool = True


PLAIN = TailOptions()


@dataclass(frozen=True, eq=False)
class Calibration:
    """Image or pixel thresholds and the calibration scores of good images that they came from.

    Rule "tail": the threshold is a predictive quantile of an exponential tail, fitted to the scores above the median
    with the highest 40 % of those censored. It extrapolates beyond the highest score, so that ten images are enough for
    a threshold, and one defective image among twenty good ones hardly moves it. The fewer the scores, the higher it is,
    so that the rate is nearly the stated one on average over calibration sets. For one set it is an estimate:
    `rate_interval` says how sure.

    Rule "conformal": the threshold is a rank of the scores (split conformal prediction). If the calibration images and
    a new good image are exchangeable (drawn alike, in any order), the new one scores above it with a probability of at
    most `false_positive_rate_promised`, for any distribution of the scores and any number of images. The guarantee is
    an average over calibration sets as well as over images. A single defective image among the good ones moves it.

    Neither holds once the line changes (light, lens, material), or if the calibration images are near-copies of each
    other, such as frames of one video; neither says anything of defective images.

    Make it with `from_scores`. An image is labelled defective where its score is strictly above `threshold`.

    Attributes:
        scores: (n,) float64, rising and read-only: one score per good image, computed without that image.
        false_positive_rate: the requested rate, in (0, 1).
        threshold: the score that a good image exceeds with that probability.
        false_positive_rate_promised: rule "tail": the expected rate, which is the requested one. Rule "conformal": the
            guaranteed rate: at most the requested one, or 1 / (n + 1) if n is too small for that.
        rule: "tail" or "conformal".
        options: how the tail is estimated.

    Source: Vovk, Gammerman & Shafer 2005, chapter 2; Angelopoulos & Bates 2021 (arXiv 2107.07511), section 1 and
    appendix D; p-values as in Bates et al. 2023 (arXiv 2104.08279), equation 2.
    """

    scores: Float64 = field(repr=False)
    false_positive_rate: float
    threshold: float
    false_positive_rate_promised: float
    rule: Rule = "conformal"
    options: TailOptions = field(default=PLAIN, repr=False)

    @classmethod
    def from_scores(
        cls,
        scores: ArrayLike,
        false_positive_rate: float,
        rule: Rule = "conformal",
        options: TailOptions = PLAIN,
    ) -> Calibration:
        """Return the calibration of scores of good images at a false positive rate.

        Args:
            scores: (n,) finite numbers, n at least 1, higher is more anomalous.
            false_positive_rate: share of good images that may be labelled defective, in (0, 1).
            rule: "tail" or "conformal".
            options: how the tail is estimated.

        Raises:
            InputError: if there are no scores, one is NaN or infinite, the rate is not in (0, 1), or the rule is none.

        >>> Calibration.from_scores(range(1, 100), 0.05)
        Calibration(false_positive_rate=0.05, threshold=95.0, false_positive_rate_promised=0.05, rule='conformal')
        """
        rate = _check_rate(false_positive_rate)
        array = np.asarray(scores)
        if array.dtype.kind not in "fiu":
            raise InputError(message("scores", "numbers (n,)", describe(array)))
        if rule not in RULES:
            raise InputError(message("calibration", " or ".join(RULES), repr(rule)))
        rising: Float64 = np.sort(check_array("scores", array.astype(np.float64), dtype=np.float64, shape=("n",)))
        rising.setflags(write=False)
        n = len(rising)
        if rule == "tail":
            threshold = Tail.from_scores(rising, **options._asdict()).quantile(rate)
            return cls(rising, rate, threshold, rate, rule, options)
        # The (n + 1)(1 - rate)-th smallest, rounded up, counted from above; 1e-9 because 100 * 0.29 is not quite 29.
        n_above = min(n, max(1, math.floor((n + 1) * rate + 1e-9)))
        return cls(rising, rate, float(rising[n - n_above]), n_above / (n + 1), rule, options)

    @cached_property
    def tail(self) -> Tail:
        """The exponential tail of the scores."""
        return Tail.from_scores(self.scores, **self.options._asdict())

    @property
    def upper_threshold(self) -> float:
        """The score above which no good image of a thousand is expected, by the tail; `threshold` or more."""
        return max(self.threshold, self.tail.quantile(UPPER_RATE))

    @property
    def rate_interval(self) -> tuple[float, float]:
        """The 90 % interval of the rate of good images above `threshold`, by the number of calibration scores."""
        return self.tail.probability_interval(self.threshold)

    @property
    def n(self) -> int:
        """The number of calibration scores."""
        return len(self.scores)

    @property
    def warning(self) -> str:
        """A sentence for the user if n is too small for the requested rate, else an empty string."""
        if self.rule == "tail":
            return "" if self.n >= FEW else self._few()
        if self.false_positive_rate_promised <= self.false_positive_rate * (1 + 1e-9):
            return ""
        needed = math.ceil(1 / self.false_positive_rate - 1e-9) - 1
        images = "1 good image supports" if self.n == 1 else f"{self.n} good images support"
        return (
            f"{images} a false positive rate of {percent(self.false_positive_rate_promised)} at best; "
            f"{percent(self.false_positive_rate)} was requested and needs at least {needed}. "
            "The threshold is the highest score of the good images."
        )

    def _few(self) -> str:
        images = "1 good image" if self.n == 1 else f"{self.n} good images"
        return (
            f"The threshold is extrapolated from {images}: {percent(self.false_positive_rate)} false positives are "
            f"expected, and up to {percent(self.rate_interval[1])} are possible. {FEW} or more make it surer."
        )

    def with_rate(self, false_positive_rate: float) -> Calibration:
        """Return the calibration of the same scores at another false positive rate.

        Raises:
            InputError: if the rate is not in (0, 1).
        """
        return Calibration.from_scores(self.scores, false_positive_rate, self.rule, self.options)

    def with_scores(self, scores: ArrayLike) -> Calibration:
        """Return the calibration of other scores by the same rule and at the same rate.

        Raises:
            InputError: as `from_scores`.
        """
        return Calibration.from_scores(scores, self.false_positive_rate, self.rule, self.options)

    @overload
    def p_value(self, score: float) -> float: ...
    @overload
    def p_value(self, score: Float64) -> Float64: ...
    def p_value(self, score: float | Float64) -> float | Float64:
        """Return the probability that a good image scores as high.

        Rule "tail": by the fitted tail; below `false_positive_rate` where the score is above `threshold`.
        Rule "conformal": (1 + number of calibration scores at or above `score`) / (n + 1); for a new good image it is
        at most a with a probability of at most a.

        Args:
            score: one score, or an array of them.

        Raises:
            InputError: if a score is NaN.

        >>> Calibration.from_scores([1, 2, 3], 0.25).p_value(2.5)
        0.5
        """
        values = _check_scores(score)
        if self.rule == "tail":
            shares = np.array([self.tail.survival(float(value)) for value in values.reshape(-1)])
            return _like(score, shares.reshape(values.shape))
        n_at_or_above = self.n - np.searchsorted(self.scores, values, side="left")
        return _like(score, (1 + n_at_or_above) / (self.n + 1))


def _check_rate(rate: float) -> float:
    """Return the rate as a float if it is in (0, 1), or raise."""
    if check_number("false_positive_rate", rate, low=0, high=1) in (0, 1):
        todo = "No threshold guarantees 0, and at 1 every image is defective."
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
    """Return `values` as a float for a single score."""
    return float(values) if np.ndim(given) == 0 else values


def percent(share: float) -> str:
    """Return a share as percent with two digits.

    >>> percent(0.0123), percent(0.5), percent(0.996), percent(1.0)
    ('1.2 %', '50 %', '100 %', '100 %')
    """
    return f"{100 * share:.2g} %" if share < 0.995 else "100 %"
