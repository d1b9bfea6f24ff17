"""Sentences of the pages, in an operator's words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from blemish.visualization.primitives import short_number

if TYPE_CHECKING:
    from blemish.station.inspections import Inspection
    from blemish.types import Float64


def why(inspection: Inspection) -> str:
    """Return why an inspection has its outcome."""
    score, threshold = short_number(inspection.score), short_number(inspection.threshold)
    if inspection.outcome == "good":
        return f"The score {score} is not above the threshold {threshold}: the part looks like the good ones."
    share = chance(inspection.p_value)
    if inspection.outcome == "look again":
        return (
            f"The score {score} is above the threshold {threshold}, but a good part can still score so high: {share}."
        )
    if inspection.upper_threshold is None:
        return f"The score {score} is above the threshold {threshold}: {share}."
    upper = short_number(inspection.upper_threshold)
    return f"The score {score} is above {upper}, which hardly any good part reaches: {share}."


def chance(p_value: float) -> str:
    """Return a p-value in words.

    >>> chance(0.0421), chance(1e-6)
    ('about 42 of 1,000 good parts do', 'fewer than 1 of 1,000 good parts do')
    """
    if p_value < 0.001:
        return "fewer than 1 of 1,000 good parts do"
    return f"about {round(1000 * p_value):,} of 1,000 good parts do"


def among(score: float, calibration: Float64) -> str:
    """Return where a score lies among those of good images.

    >>> import numpy as np
    >>> among(3.0, np.array([1.0, 2.0, 3.0, 4.0])), among(9.0, np.array([1.0]))
    ('2 of the 4 good images that the threshold rests on score as high', 'higher than each of the 1 good images that \
the threshold rests on')
    """
    n, n_as_high = len(calibration), int((calibration >= score).sum())
    if not n_as_high:
        return f"higher than each of the {n} good images that the threshold rests on"
    return f"{n_as_high} of the {n} good images that the threshold rests on score as high"
