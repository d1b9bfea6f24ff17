"""Image thresholds of a fitted detector by false positive rate, with the detection rate to expect at each."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from blemish.data.datasets import open_dataset
from blemish.data.synthetic.defects import synthetic_defects
from blemish.errors import DataError, ImageError, message
from blemish.evaluation.report.text import wilson_interval
from blemish.imaging.decode import load
from blemish.ops.conformal import percent
from blemish.types import Problem, Sample, no_progress

if TYPE_CHECKING:
    from blemish.detectors.base import AnyDetector
    from blemish.ops.conformal import Calibration
    from blemish.types import Progress, UInt8

RATES = (0.005, 0.01, 0.02, 0.05, 0.1)
MAX_IMAGES = 60
N_DEFECTS = 90  # ten of each kind
LEAST_SHOWN = 5e-5  # below it an interval begins at 0 %
# A higher rate has to find a twentieth more defects: below 20 labelled ones that is one defect.
ENOUGH = 0.95


class Scored(NamedTuple):
    """An image's kind and its score."""

    kind: str
    score: float


class Count(NamedTuple):
    """Images above a threshold, of a number of images."""

    n_above: int
    n: int

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the share (Wilson 1927)."""
        return wilson_interval(self.n_above, self.n)


class ThresholdRow(NamedTuple):
    """The threshold at one false positive rate, and the images above it."""

    calibration: Calibration
    good: Count
    synthetic: Count
    labelled: Count
    synthetic_by_kind: dict[str, Count]

    def to_dict(self) -> dict[str, Any]:
        """Return the row as JSON values; a count without images is None."""
        counts = {"good": self.good, "synthetic": self.synthetic, "labelled": self.labelled}
        return {
            "false_positive_rate": self.calibration.false_positive_rate,
            **threshold_fields(self.calibration),
            **{name: {**x._asdict(), "interval": x.interval} if x.n else None for name, x in counts.items()},
            "synthetic_by_kind": {kind: count._asdict() for kind, count in self.synthetic_by_kind.items()},
        }


@dataclass(frozen=True)
class Evidence:
    """Scores that a threshold is chosen by.

    Attributes:
        calibration: of the detector.
        good: held-out good images.
        synthetic: synthetic defects on good images.
        labelled: defective images.
        notes: sentences for the user on the origin of the scores.
        problems: images that could not be read.
    """

    calibration: Calibration
    good: tuple[Scored, ...] = ()
    synthetic: tuple[Scored, ...] = ()
    labelled: tuple[Scored, ...] = ()
    notes: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()

    def rows(self) -> list[ThresholdRow]:
        """Return a row for each of `RATES` and for the detector's own rate, the lowest first."""
        rates = sorted({*RATES, self.calibration.false_positive_rate})
        return [self._row(self.calibration.with_rate(rate)) for rate in rates]

    def recommended(self) -> ThresholdRow | None:
        """Return the row of the lowest rate that finds at least `ENOUGH` of the labelled defects that 10 % finds.

        A higher rate rejects more good parts for certain. Its gain has to be larger than chance: one defect of five is
        worth it, one of a hundred is not. None if no labelled defect is found.
        """
        rows = [row for row in self.rows() if row.calibration.false_positive_rate <= RATES[-1]]
        most = max(row.labelled.n_above for row in rows)
        return next((row for row in rows if row.labelled.n_above >= ENOUGH * most), None) if most else None

    def _row(self, calibration: Calibration) -> ThresholdRow:
        def count(scored: Iterable[Scored]) -> Count:
            above = [item.score > calibration.threshold for item in scored]
            return Count(sum(above), len(above))

        kinds = sorted({item.kind for item in self.synthetic})
        by_kind = {kind: count(item for item in self.synthetic if item.kind == kind) for kind in kinds}
        return ThresholdRow(calibration, count(self.good), count(self.synthetic), count(self.labelled), by_kind)


def threshold_fields(calibration: Calibration) -> dict[str, Any]:
    """Return thresholds and the expected false positive rate of a calibration as JSON values."""
    return {
        "threshold": calibration.threshold,
        "upper_threshold": calibration.upper_threshold if calibration.rule == "tail" else None,
        "false_positive_rate_promised": calibration.false_positive_rate_promised,
        "false_positive_rate_interval": list(calibration.rate_interval),
    }


def interval_text(calibration: Calibration) -> str:
    """Return the 90 % interval of the false positive rate; of very few images it begins at nearly nothing."""
    low, high = calibration.rate_interval
    return f"{100 * low if low > LEAST_SHOWN else 0:.2g} to {percent(high)}"


def threshold_sentence(calibration: Calibration) -> str:
    """Return the thresholds of a calibration in words."""
    threshold, rate = f"Threshold {calibration.threshold:.4g}", percent(calibration.false_positive_rate_promised)
    if calibration.rule == "conformal":
        return f"{threshold}: at most {rate} false positives."
    text = f"{threshold}: about {rate} false positives expected (90 % interval {interval_text(calibration)})."
    if calibration.upper_threshold > calibration.threshold:
        text += f" Above {calibration.upper_threshold:.4g} no good image is expected."
    return text


def collect(
    detector: AnyDetector,
    *,
    good: Path | None = None,
    labelled: Path | None = None,
    progress: Progress = no_progress,
) -> Evidence:
    """Score held-out good images, synthetic defects on them, and labelled defective images.

    Args:
        detector: fitted.
        good: a data set whose good images were not used for the fit; without it those among `labelled` are taken, and
            synthetic defects are drawn on training images if there are none.
        labelled: a data set with defective images, or a folder of them alone.
        progress: called as progress(stage, done, total).

    Raises:
        DataError: if there is no such data set, `good` has no new good image that can be read, or `labelled` no
            defective one.

    Cost: a prediction for each image and for each of the 90 synthetic defects.
    """
    defective, held_out = ([], []) if labelled is None else _labelled_samples(labelled)
    if good is not None:
        dataset = open_dataset(good)
        held_out = [sample for sample in (*dataset.train, *dataset.test) if not sample.is_defective]
    training = [Path(path) for path in detector.fitted.training.paths]
    known = detector.fitted.training.files(str(detector.fitted.provenance.get("training_sha256", "")))
    learnt = {os.path.realpath(path) for path in training}
    fresh = [sample for sample in held_out if os.path.realpath(sample.path) not in learnt]
    problems: list[Problem] = []
    good_scores = _scores(detector, fresh, "scoring good images", progress, problems)
    if good is not None and not good_scores:
        got = f"{len(held_out)}, of which {len(held_out) - len(fresh)} were used for the fit"
        raise DataError(message("good", "held-out good images that can be read", got, where=good))
    defect_scores = _scores(detector, defective, "scoring defective images", progress, problems)
    if labelled is not None and not defect_scores:
        todo = "Give folders of defects beside one of good images, or a folder of defective images alone."
        raise DataError(message("labelled", "a defective image that can be read", "none", where=labelled, todo=todo))
    images = _readable([sample.path for sample in fresh] if good_scores else [*filter(None, known)], detector.bit_depth)
    return Evidence(
        detector.calibration,
        good_scores,
        _synthetic_scores(detector, images, progress),
        defect_scores,
        (_origin(len(images), is_fresh=bool(good_scores)),),
        tuple(problems),
    )


def _labelled_samples(path: Path) -> tuple[list[Sample], list[Sample]]:
    """Return the defective images of a data set and its good test images; a folder of images alone is defective."""
    dataset = open_dataset(path, plain="defective")
    defective = [sample for sample in dataset.test if sample.is_defective]
    return defective, [sample for sample in dataset.test if not sample.is_defective]


def _scores(
    detector: AnyDetector, samples: Sequence[Sample], stage: str, progress: Progress, problems: list[Problem]
) -> tuple[Scored, ...]:
    scored = []
    for done, (sample, prediction) in enumerate(zip(samples, detector.predict_many(samples), strict=True), start=1):
        if isinstance(prediction, Problem):
            problems.append(prediction)
        else:
            scored.append(Scored(sample.defect, prediction.score))
        progress(stage, done, len(samples))
    return tuple(scored)


class _Images(Sequence["UInt8"]):
    """Images that are read when they are asked for."""

    def __init__(self, paths: Sequence[Path], bit_depth: int | None) -> None:
        self.paths, self.bit_depth = paths, bit_depth

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> UInt8:  # type: ignore[override]  # no slices
        return load(self.paths[i], bit_depth=self.bit_depth)


def _readable(paths: Sequence[Path], bit_depth: int | None) -> _Images:
    """Return a random sample of the images that can be read."""

    def can_be_read(path: Path) -> bool:
        try:
            load(path, bit_depth=bit_depth)
        except ImageError:
            return False
        return True

    mixed = (paths[i] for i in np.random.default_rng(0).permutation(len(paths)))
    return _Images(list(islice(filter(can_be_read, mixed), MAX_IMAGES)), bit_depth)


def _synthetic_scores(detector: AnyDetector, images: _Images, progress: Progress) -> tuple[Scored, ...]:
    scored: list[Scored] = []
    for defect in synthetic_defects(images, N_DEFECTS) if len(images) else ():
        scored.append(Scored(defect.kind, detector.predict(defect.image).score))
        progress("scoring synthetic defects", len(scored), N_DEFECTS)
    return tuple(scored)


def _origin(n_images: int, *, is_fresh: bool) -> str:
    if not n_images:
        return "No synthetic defects: the training images can't be read any more. Give others with --good."
    if is_fresh:
        return f"Synthetic defects were drawn on {n_images} held-out good images. They are not the defects of the line."
    return (
        f"Synthetic defects were drawn on {n_images} training images, which the detector knows: on new ones more are "
        "found. Give some with --good. They are not the defects of the line."
    )
