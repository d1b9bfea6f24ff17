"""Fitting, testing and prediction of a detector on a data set, and the metrics of a test."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np

from blemish._validation.anomalib_arguments import OF_ENGINE, refuses
from blemish._validation.checks import check_whole
from blemish.data.datasets import DataSet
from blemish.data.masks import load_union
from blemish.detectors.registry import Trained
from blemish.errors import DataError, ImageError, InputError, message
from blemish.metrics.classification import bootstrap_intervals, image_metrics
from blemish.metrics.segmentation import MaskCounts, PixelCounts
from blemish.types import Bool, ImageInput, Prediction, Problem, Progress, Report, Sample, Tested, no_progress

if TYPE_CHECKING:
    from blemish.detectors.predictor import Predictor


@dataclass
class _Tally:
    """Results and pixel counts accumulated over test images, so that no map is kept."""

    tested: list[Tested] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    pixels: dict[str, PixelCounts] = field(default_factory=dict)
    masks: dict[str, MaskCounts] = field(default_factory=dict)
    upper_threshold: float | None = None

    def add_map(self, defect: str, prediction: Prediction, mask: Bool | None) -> None:
        """Count the pixels of an image whose ground truth is known; None for a good one."""
        self.pixels.setdefault(defect, PixelCounts()).add(prediction.anomaly_map, mask)
        self.masks[defect] = self.masks.get(defect, MaskCounts()).with_image(prediction.mask, mask)

    def pixel_metrics(self, defects: Iterable[str]) -> dict[str, float]:
        """Return the pixel metrics on good images and images of these defect types."""
        chosen = [defect for defect in ("good", *defects) if defect in self.pixels]
        metrics = sum((self.pixels[defect] for defect in chosen), PixelCounts()).metrics()
        if metrics:
            metrics["SegF1"] = reduce(MaskCounts.plus, (self.masks[defect] for defect in chosen)).f1
        return metrics


class Engine:
    """Fits and tests detectors on data sets.

    Args:
        progress: called as progress(stage, done, total); None for none.
        max_epochs: limit of the epochs of a detector that trains (`EfficientAd`); None for the detector's own.
            `Patchcore` reads each image once at any value, as anomalib's.
        max_steps: limit of the training steps of such a detector.

    Raises:
        InputError: if a number is below 1.

    >>> from blemish import Engine, MVTecAD, Patchcore  # doctest: +SKIP
    >>> engine, model = Engine(), Patchcore()  # doctest: +SKIP
    >>> data = MVTecAD("datasets/MVTecAD", category="grid")  # doctest: +SKIP
    >>> engine.fit(model=model, datamodule=data)  # doctest: +SKIP
    >>> engine.test(model=model, datamodule=data)  # doctest: +SKIP
    [{'image_AUROC': 0.99, ...}]
    """

    @refuses("Engine", OF_ENGINE)
    def __init__(
        self, *, progress: Progress | None = None, max_epochs: int | None = None, max_steps: int | None = None
    ) -> None:
        self.progress: Progress = progress or no_progress
        self.limits = {"max_epochs": max_epochs, "max_steps": max_steps}
        for name, value in self.limits.items():
            if value is not None:
                check_whole(name, value, 1, 10**7)
        self._fit_s: WeakKeyDictionary[Predictor, float] = WeakKeyDictionary()

    def fit(self, model: Predictor, datamodule: DataSet) -> None:
        """Fit a detector on the good training images of a data set, and on nothing else of it.

        Raises:
            DataError: if fewer than two training images can be read.
        """
        start = time.perf_counter()
        if isinstance(model, Trained):
            model.limit(**self.limits)
        model.fit(datamodule.train, progress=self.progress)
        self._fit_s[model] = time.perf_counter() - start

    def test(self, model: Predictor, datamodule: DataSet) -> list[dict[str, float]]:
        """Return a list of one dictionary of metrics on the test images, the format of anomalib's `Engine.test`.

        Keys: image_AUROC, image_AP, image_F1Max, pixel_AUROC, pixel_AP, pixel_F1Max, AUPRO (FPR limit 0.3), AUPRO_0.05;
        SegF1 (F1 of all pixels), false_positive_rate and miss_rate at the calibrated thresholds. A metric that is
        undefined on the data (no masks, no defects) is absent.

        Raises:
            DataError: if no test image can be read.
        """
        return [dict(self.evaluate(model, datamodule).metrics)]

    def evaluate(self, model: Predictor, datamodule: DataSet) -> Report:
        """Return the full test report: metrics with intervals, metrics by defect type, the score of each image.

        Images are read and predicted one by one, so that the time per image is the latency of an inspection. A
        defective image whose mask is absent, empty, unreadable or of another size counts for image metrics only.

        Raises:
            DataError: if no test image can be read.
        """
        samples = datamodule.test
        if not samples:
            todo = "Give test images: a test folder, or abnormal_dir= of Folder."
            raise DataError(message("test images", "at least one", "none", where=datamodule.name, todo=todo))
        start = time.perf_counter()
        tally = _Tally()
        for done, sample in enumerate(samples, start=1):
            _test_image(model, sample, tally)
            self.progress("testing", done, len(samples))
        if not tally.tested:
            got = f"{len(tally.problems)} broken, the first: {tally.problems[0].text}"
            raise DataError(message("test images", "one that can be read", got, where=datamodule.name))
        timings = {
            "test_s": time.perf_counter() - start,
            "predict_ms": 1000 * float(np.median([result.predict_s for result in tally.tested])),
            "n_train": float(len(datamodule.train) - len(model.problems)),
            "n_test": float(len(tally.tested)),
        }
        if model in self._fit_s:
            timings["fit_s"] = self._fit_s[model]
        return _report(model, datamodule, tally, timings)

    def predict(self, model: Predictor, data: DataSet | Iterable[ImageInput]) -> Iterator[Prediction | Problem]:
        """Yield a prediction, or the problem of an unreadable image, for each test image or each image given."""
        images = data.test if isinstance(data, DataSet) else data
        return model.predict_many(images)


def load_defect_mask(sample: Sample, height_width: tuple[int, int]) -> Bool | Problem | None:
    """Load the ground truth of a defective image: its mask, None if it has none, or the mask's problem.

    Args:
        sample: the image; the mask of a good image is not read.
        height_width: size of the image; a mask of another size is a problem, it is not resized.

    Returns:
        (H, W) bool, None, or a problem.
    """
    if sample.mask_path is None or not sample.is_defective:
        return None
    try:
        mask = load_union(sample.mask_paths)
    except ImageError as error:
        return Problem(sample.mask_path, "unreadable-mask", f"{error} Its image counts for image metrics only.")
    todo = "Its image counts for image metrics only."
    if mask.shape != height_width:
        text = message("mask", str(height_width), str(mask.shape), where=sample.mask_path, todo=todo)
        return Problem(sample.mask_path, "mask-size", text)
    if not mask.any():
        text = message("mask", "a defective pixel", "none", where=sample.mask_path, todo=todo)
        return Problem(sample.mask_path, "mask-empty", text)
    return mask


def _test_image(model: Predictor, sample: Sample, tally: _Tally) -> None:
    start = time.perf_counter()
    try:
        prediction = model.predict(sample)
    except ImageError as error:
        tally.problems.append(Problem(sample.path, "unreadable", f"{error} It was left out."))
        return
    predict_s = time.perf_counter() - start
    tally.upper_threshold = prediction.upper_threshold
    tested = Tested(sample, prediction.score, prediction.label, prediction.p_value, predict_s, prediction.drift)
    tally.tested.append(tested)
    height, width = prediction.anomaly_map.shape
    mask = load_defect_mask(sample, (height, width))
    if isinstance(mask, Problem):
        tally.problems.append(mask)
    elif mask is not None or not sample.is_defective:
        tally.add_map(sample.defect, prediction, mask)


def _report(model: Predictor, datamodule: DataSet, tally: _Tally, timings: Mapping[str, float]) -> Report:
    tested = tally.tested
    scores = np.array([result.score for result in tested])
    labels = np.array([result.sample.is_defective for result in tested])
    called = np.array([result.label for result in tested])
    names = np.array([result.sample.defect for result in tested])
    defects = sorted(set(names.tolist()) - {"good"})
    by_defect: dict[str, dict[str, float]] = {}
    if not labels.all():
        by_defect["good"] = {"n": float((~labels).sum()), "false_positive_rate": float(called[~labels].mean())}
    for defect in defects:
        own = names == defect
        chosen = own | ~labels
        row = {"n": float(own.sum()), "miss_rate": float((~called[own]).mean())}
        row |= image_metrics(scores[chosen], labels[chosen]) | tally.pixel_metrics([defect])
        by_defect[defect] = row
    metrics = image_metrics(scores, labels) | tally.pixel_metrics(defects)
    if not labels.all():
        metrics["false_positive_rate"] = float(called[~labels].mean())
    if labels.any():
        metrics["miss_rate"] = float((~called[labels]).mean())
    return Report(
        category=datamodule.name,
        metrics=metrics,
        by_defect=by_defect,
        intervals=bootstrap_intervals(scores, labels) if 0 < labels.sum() < len(labels) else {},
        threshold=model.threshold,
        false_positive_rate_set=model.false_positive_rate,
        tested=tuple(tested),
        problems=(*model.problems, *tally.problems),
        timings=timings,
        upper_threshold=tally.upper_threshold,
        notes=model.notes,
    )


def average(reports: Sequence[Report]) -> dict[str, float]:
    """Return the mean over categories of each metric and timing that all of them have, or raise InputError if there are
    no reports.
    """
    if not reports:
        raise InputError(message("reports", "at least one", "none"))
    rows = [{**report.metrics, **report.timings} for report in reports]
    shared = [name for name in rows[0] if all(name in row for row in rows)]
    return {name: float(np.mean([row[name] for row in rows])) for name in shared}
