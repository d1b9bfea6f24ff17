"""Good images that are kept to compare versions of a model, and never learnt from."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from blemish.evaluation.thresholds import Count
from blemish.evaluation.versions import compare_versions
from blemish.ops.conformal import percent

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from blemish.detectors.base import AnyDetector
    from blemish.types import Progress


def is_kept(part_id: str, sha256: str, every: int | None) -> bool:
    """Return whether the image of a good part is kept: one in so many, by a hash of its part id, or of the image if it
    has none. It depends on nothing else, so that it stays the same whatever is reviewed when, and by whom.
    """
    key = f"part {part_id}" if part_id else sha256
    return every is not None and int(hashlib.sha256(key.encode()).hexdigest()[:8], 16) % every == 0


def compared(
    present: AnyDetector,
    new: AnyDetector,
    good: Sequence[Path],
    defective: Sequence[Path],
    kept: Sequence[Path],
    *,
    progress: Progress,
) -> dict[str, Any]:
    """Return wrong results of two versions on reviewed and on kept images as JSON values, with a sentence for each that
    is worse.

    Args:
        present: the version in service.
        new: the one that may take its place.
        good: reviewed images of good parts; those that a version has learnt count by their held-out scores.
        defective: reviewed images of defective parts.
        kept: reviewed images of good parts that no version has learnt.
    """
    reviewed = compare_versions(present, new, good, defective, progress=progress)
    apart = compare_versions(present, new, kept, (), progress=progress)
    found = {"now": reviewed.defects_before, "new": reviewed.defects_after}
    alarms = {"now": reviewed.good_before, "new": reviewed.good_after}
    of_kept = {"now": apart.good_before, "new": apart.good_after}
    missed = {side: Count(count.n - count.n_above, count.n) for side, count in found.items()}
    return {
        "n_good": reviewed.good_after.n,
        "n_defective": reviewed.defects_after.n,
        "n_kept": apart.good_after.n,
        **{side: [alarms[side].n_above, missed[side].n_above] for side in alarms},
        "kept": {side: count.n_above for side, count in of_kept.items()},
        "worse": [
            *_worse("good parts kept apart are called defective", of_kept["now"], of_kept["new"], new),
            *_worse("good parts that people reviewed are called defective", alarms["now"], alarms["new"], new),
            *_worse("defective parts that people reviewed are missed", missed["now"], missed["new"], None),
        ],
    }


def _worse(text: str, now: Count, new: Count, detector: AnyDetector | None) -> list[str]:
    """Return a sentence if the new version is worse; of false positives also whether they are more than is stated."""
    if new.n_above <= now.n_above:
        return []
    sentence = f"Worse than the version in service: {new.n_above} of {new.n} {text}, not {now.n_above}."
    if detector is not None:
        stated = percent(detector.false_positive_rate)
        is_more = new.interval[0] > detector.false_positive_rate
        sentence += (
            f" That is more than the stated {stated}." if is_more else f" By chance that happens at {stated} too."
        )
    return [sentence]
