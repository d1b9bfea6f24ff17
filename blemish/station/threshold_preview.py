"""Effect of another threshold on the inspections in the records."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from blemish.ops.conformal import Calibration
    from blemish.station.records import Scored
    from blemish.types import Float64, Int64

N_BINS = 48
# The bins end at so many times the span of the good images and the thresholds.
MAX_SPAN = 3.0


class Preview(NamedTuple):
    """What a threshold would have done to the stored inspections of the model in service.

    Attributes:
        false_positive_rate: that belongs to the threshold.
        threshold: of the image score.
        upper_threshold: None if the calibration has none.
        n: stored inspections.
        n_above: those whose score is above the threshold.
        n_look_again: of those, the ones whose score is not above the upper threshold.
        n_now_good: the ones that are above the present threshold but not above this one.
        n_now_defective: the ones above this threshold alone.
        n_changed: the ones whose outcome is another one than with the present thresholds.
        n_good, n_false_positives: inspections that a person called good, and those of them above the threshold.
        n_good_stopped: of those, the ones above the upper threshold, or above the threshold if there is none.
        n_defective, n_missed: inspections that a person called defective, and those of them not above the threshold.
        n_defective_doubtful: of the defective ones, those to be looked at again.
        rate_interval: 90 % interval of the false positive rate.
    """

    false_positive_rate: float
    threshold: float
    upper_threshold: float | None
    n: int
    n_above: int
    n_look_again: int
    n_now_good: int
    n_now_defective: int
    n_changed: int
    n_good: int
    n_false_positives: int
    n_good_stopped: int
    n_defective: int
    n_missed: int
    n_defective_doubtful: int
    rate_interval: tuple[float, float]


def preview(
    calibration: Calibration,
    upper: float | None,
    present: tuple[float, float | None],
    scored: Sequence[Scored],
) -> Preview:
    """Return the effect of a calibration's threshold and of an upper one.

    Args:
        calibration: has the threshold.
        upper: the upper threshold; None for none.
        present: the threshold and the upper threshold in service.
        scored: the stored inspections.
    """
    limit, now = calibration.threshold, present[0]
    stop = limit if upper is None else upper
    scores = np.array([item.score for item in scored], np.float64)
    good = np.array([item.score for item in scored if item.verdict == "good"], np.float64)
    defective = np.array([item.score for item in scored if item.verdict == "defective"], np.float64)
    return Preview(
        false_positive_rate=calibration.false_positive_rate,
        threshold=limit,
        upper_threshold=upper,
        n=len(scores),
        n_above=int((scores > limit).sum()),
        n_look_again=int(((scores > limit) & (scores <= stop)).sum()),
        n_now_good=int(((scores > now) & (scores <= limit)).sum()),
        n_now_defective=int(((scores <= now) & (scores > limit)).sum()),
        n_changed=int((_outcomes(scores, limit, stop) != _outcomes(scores, now, present[1])).sum()),
        n_good=len(good),
        n_false_positives=int((good > limit).sum()),
        n_good_stopped=int((good > stop).sum()),
        n_defective=len(defective),
        n_missed=int((defective <= limit).sum()),
        n_defective_doubtful=int(((defective > limit) & (defective <= stop)).sum()),
        rate_interval=calibration.rate_interval,
    )


def _outcomes(scores: Float64, threshold: float, upper: float | None) -> Int64:
    """Return 0 for good, 1 for look again, 2 for defective."""
    return (scores > threshold).astype(np.int64) + (scores > (threshold if upper is None else upper))


def histogram(calibration: Calibration, upper: float | None, scored: Sequence[Scored]) -> dict[str, Any]:
    """Return bins of the calibration scores and of the inspections by verdict, as JSON values.

    Args:
        calibration: of the model in service.
        upper: the upper threshold in service; None for none.
        scored: the stored inspections.

    Returns:
        "edges", (n + 1,), and for "calibration", "good", "defective" and "not reviewed" the n counts. Where "is_cut",
        the last bin has all higher scores too: a few coarse defects would press all others into the first bins.
    """
    groups: dict[str, Float64] = {"calibration": calibration.scores}
    for name, verdict in (("good", "good"), ("defective", "defective"), ("not reviewed", None)):
        groups[name] = np.array([item.score for item in scored if item.verdict == verdict], np.float64)
    everything = np.concatenate([*groups.values(), [calibration.threshold, calibration.upper_threshold]])
    low, highest = float(everything.min()), float(everything.max())
    top = max(calibration.threshold, calibration.upper_threshold, upper or 0.0, float(calibration.scores.max()))
    high = min(highest, low + MAX_SPAN * (top - low))
    edges = np.linspace(low, high if high > low else low + 1.0, N_BINS + 1)
    counts = {name: np.histogram(np.minimum(x, edges[-1]), edges)[0].tolist() for name, x in groups.items()}
    return {"edges": edges.tolist(), "is_cut": high < highest, **counts}
