"""Comparison of two versions of a detector on the images that people reviewed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from blemish._io.files import file_sha256
from blemish.evaluation.thresholds import Count
from blemish.imaging.decode import path_of
from blemish.ops.conformal import percent
from blemish.types import Problem, no_progress

if TYPE_CHECKING:
    from blemish.detectors.base import AnyDetector
    from blemish.types import ImageInput, Progress


class Versions(NamedTuple):
    """What two versions of a detector call defective.

    Attributes:
        good_before, good_after: of the reviewed good images.
        defects_before, defects_after: of the reviewed defective images.
        rate: the stated false positive rate of the version after.
        problems: images that could not be read.
    """

    good_before: Count
    good_after: Count
    defects_before: Count
    defects_after: Count
    rate: float
    problems: tuple[Problem, ...] = ()

    @property
    def warnings(self) -> list[str]:
        """What is worse now: fewer of the defects are found, or more good images called defective than is stated."""
        found = []
        if self.defects_after.n_above < self.defects_before.n_above:
            found.append("fewer of the reviewed defects are found")
        if _share(self.good_after) > _share(self.good_before) and self.good_after.interval[0] > self.rate:
            found.append(f"more of the good images are called defective than the stated {percent(self.rate)}")
        return [f"warning: {text}. Look at them before the new model goes in service." for text in found]

    def lines(self) -> list[str]:
        """Return sentences for the user."""
        lines = []
        if self.good_after.n:
            lines.append(
                f"Good images called defective: {_text(self.good_before)} before, {_text(self.good_after)} now."
            )
        if self.defects_after.n:
            lines.append(f"Defects found: {_text(self.defects_before)} before, {_text(self.defects_after)} now.")
        return [*lines, *self.warnings]

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        counts = ("good_before", "good_after", "defects_before", "defects_after")
        values = {name: {"above": getattr(self, name).n_above, "images": getattr(self, name).n} for name in counts}
        return {**values, "version_warnings": self.warnings}


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
    return Versions(**counts, rate=after.false_positive_rate, problems=tuple(problems))


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
