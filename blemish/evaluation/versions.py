"""Comparison of a detector with its update, on the images that people reviewed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from blemish.evaluation.thresholds import Count
from blemish.imaging.decode import path_of
from blemish.types import Problem, no_progress

if TYPE_CHECKING:
    from blemish.detectors.base import AnyDetector
    from blemish.types import ImageInput, Progress


class Versions(NamedTuple):
    """What two versions of a detector call defective.

    Attributes:
        good_before, good_after: of the reviewed good images; the update is judged by scores that leave out the part.
        defects_before, defects_after: of the reviewed defective images.
        problems: images that could not be read.
    """

    good_before: Count
    good_after: Count
    defects_before: Count
    defects_after: Count
    problems: tuple[Problem, ...] = ()

    @property
    def is_worse(self) -> bool:
        """Whether the update misses a reviewed defect more, or calls more of the reviewed good images defective."""
        more_false = self.good_after.n > 0 and _share(self.good_after) > _share(self.good_before)
        return more_false or self.defects_after.n_above < self.defects_before.n_above

    def lines(self) -> list[str]:
        """Return sentences for the user."""
        lines = []
        if self.good_after.n:
            lines.append(
                f"Good images called defective: {_text(self.good_before)} before, {_text(self.good_after)} now."
            )
        if self.defects_after.n:
            lines.append(f"Defects found: {_text(self.defects_before)} before, {_text(self.defects_after)} now.")
        if self.is_worse:
            lines.append("warning: the update is worse on the reviewed images: look at them before it goes in service.")
        return lines

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        counts = {
            name: {"above": value.n_above, "images": value.n}
            for name, value in self._asdict().items()
            if name != "problems"
        }
        return {**counts, "is_worse": self.is_worse}


def compare_versions(
    before: AnyDetector,
    after: AnyDetector,
    good: Iterable[ImageInput],
    defective: Iterable[ImageInput],
    *,
    progress: Progress = no_progress,
) -> Versions:
    """Return what a detector and its update call defective.

    Args:
        before: which learnt none of these images.
        after: its update, which learnt the good ones; their scores are those of calibration, without their own parts.
        good: images that people found good, as files.
        defective: images that people found defective.
        progress: called as progress(stage, done, total).
    """
    problems: list[Problem] = []
    paths = {str(path_of(item)) for item in good}
    training = after.fitted.training
    held_out = {
        p: score for p, score in zip(training.paths, training.scores, strict=True) if p in paths and score is not None
    }
    good_before = _count(before, sorted(held_out), "comparing good images", progress, problems)
    good_after = Count(sum(score > after.threshold for score in held_out.values()), len(held_out))
    items = list(defective)
    defects_before = _count(before, items, "comparing defects", progress, problems)
    defects_after = _count(after, items, "comparing defects", progress, [])
    return Versions(good_before, good_after, defects_before, defects_after, tuple(problems))


def _count(
    detector: AnyDetector, items: Sequence[ImageInput], stage: str, progress: Progress, problems: list[Problem]
) -> Count:
    above = []
    for done, prediction in enumerate(detector.predict_many(items), start=1):
        if isinstance(prediction, Problem):
            problems.append(prediction)
        else:
            above.append(prediction.label)
        progress(stage, done, len(items))
    return Count(sum(above), len(above))


def _share(count: Count) -> float:
    return count.n_above / count.n if count.n else 0.0


def _text(count: Count) -> str:
    return f"{count.n_above} of {count.n}"
