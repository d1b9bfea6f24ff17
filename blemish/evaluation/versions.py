"""Comparison of two versions of a detector on the images that people reviewed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from blemish._io.files import file_sha256
from blemish.evaluation.thresholds import Count
from blemish.imaging.decode import path_of
from blemish.types import Problem, no_progress

if TYPE_CHECKING:
    from blemish.detectors.base import AnyDetector
    from blemish.types import ImageInput, Progress


class Versions(NamedTuple):
    """What two versions of a detector call defective.

    Attributes:
        good_before, good_after: of the reviewed good images.
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
    """Return what two versions of a detector call defective.

    An image that a version was fitted on counts by its calibration score, which leaves out its part, or not at all if
    it has none.

    Args:
        before: such as the one in service.
        after: such as its update.
        good: files of images that people found good.
        defective: files of images that people found defective.
        progress: called as progress(stage, done, total).
    """
    problems: list[Problem] = []
    counts = {}
    for name, items in (("good", list(good)), ("defects", list(defective))):
        known = [_held_out(version, items) for version in (before, after)]
        common = [i for i in range(len(items)) if all(scores.get(i, 0.0) is not None for scores in known)]
        for side, version, scores in (("before", before, known[0]), ("after", after, known[1])):
            new = [i for i in common if i not in scores]
            above = [score > version.threshold for i in common if (score := scores.get(i)) is not None]
            stage = f"comparing {name}"
            above += _labels(version, [items[i] for i in new], stage, progress, problems if side == "before" else [])
            counts[f"{name}_{side}"] = Count(sum(above), len(above))
    return Versions(**counts, problems=tuple(problems))


def _held_out(detector: AnyDetector, items: Sequence[ImageInput]) -> dict[int, float | None]:
    """Return the calibration score of each image that the detector was fitted on, None if it has none, by its index."""
    training = detector.fitted.training
    pairs = zip(training.sha256s, training.scores, strict=True)
    scores = {sha256: score for sha256, score in pairs if sha256}
    digests = ((i, file_sha256(str(path_of(item)))) for i, item in enumerate(items))
    return {i: scores[digest] for i, digest in digests if digest in scores}


def _labels(
    detector: AnyDetector, items: Sequence[ImageInput], stage: str, progress: Progress, problems: list[Problem]
) -> list[bool]:
    labels = []
    for done, prediction in enumerate(detector.predict_many(items), start=1):
        if isinstance(prediction, Problem):
            problems.append(prediction)
        else:
            labels.append(prediction.label)
        progress(stage, done, len(items))
    return labels


def _share(count: Count) -> float:
    return count.n_above / count.n if count.n else 0.0


def _text(count: Count) -> str:
    return f"{count.n_above} of {count.n}"
