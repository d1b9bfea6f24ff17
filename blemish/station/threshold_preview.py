"""Effect of another threshold on the inspections in the records."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from blemish.ops.conformal import Calibration
    from blemish.station.records import Scored
    from blemish.types import Float64

N_BINS = 48


class Preview(NamedTuple):
    """What a threshold would have done to the stored inspections of the model in service.

    Attributes:
        false_positive_rate: that belongs to the threshold.
        threshold: of the image score.
        upper_threshold: None if the calibration has none.
        n: stored inspections.
        n_above: those whose score is above the threshold.
        n_now_good: of those, the ones that are above the present threshold but not above this one.
        n_now_defective: the ones above this threshold alone.
        n_good, n_false_positives: inspections that a person called good, and those of them above the threshold.
        n_defective, n_missed: inspections that a person called defective, and those of them not above it.
        rate_interval: 90 % interval of the false positive rate.
    """

    false_positive_rate: float
    threshold: float
    upper_threshold: float | None
    n: int
    n_above: int
    n_now_good: int
    n_now_defective: int
    n_good: int
    n_false_positives: int
    n_defective: int
    n_missed: int
    rate_interval: tuple[float, float]


def preview(calibration: Calibration, present: float, scored: Sequence[Scored]) -> Preview:
    """Return the effect of a calibration's threshold.

    Args:
        present: the threshold in service.
        scored: the stored inspections.
    """
    limit = calibration.threshold
    scores = np.array([item.score for item in scored], np.float64)
    good = np.array([item.score for item in scored if item.verdict == "good"], np.float64)
    defective = np.array([item.score for item in scored if item.verdict == "defective"], np.float64)
    return Preview(
        false_positive_rate=calibration.false_positive_rate,
        threshold=limit,
        upper_threshold=calibration.upper_threshold if calibration.rule == "tail" else None,
        n=len(scores),
        n_above=int((scores > limit).sum()),
        n_now_good=int(((scores > present) & (scores <= limit)).sum()),
        n_now_defective=int(((scores <= present) & (scores > limit)).sum()),
        n_good=len(good),
        n_false_positives=int((good > limit).sum()),
        n_defective=len(defective),
        n_missed=int((defective <= limit).sum()),
        rate_interval=calibration.rate_interval,
    )


def histogram(calibration: Calibration, scored: Sequence[Scored]) -> dict[str, Any]:
    """Return bins of the calibration scores and of the inspections by verdict, as JSON values.

    Returns:
        "edges", (n + 1,), and for "calibration", "good", "defective" and "not reviewed" the n counts.
    """
    groups: dict[str, Float64] = {"calibration": calibration.scores}
    for name, verdict in (("good", "good"), ("defective", "defective"), ("not reviewed", None)):
        groups[name] = np.array([item.score for item in scored if item.verdict == verdict], np.float64)
    everything = np.concatenate([*groups.values(), [calibration.threshold, calibration.upper_threshold]])
    low, high = float(everything.min()), float(everything.max())
    edges = np.linspace(low, high if high > low else low + 1.0, N_BINS + 1)
    return {"edges": edges.tolist(), **{name: np.histogram(x, edges)[0].tolist() for name, x in groups.items()}}
