"""Frozen records shared by the packages, and the types of arrays, images and progress."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias, Union

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Bool = NDArray[np.bool_]
UInt8 = NDArray[np.uint8]
Int64 = NDArray[np.int64]
# Called with stage, items done and items in total.
Progress: TypeAlias = Callable[[str, int, int], None]
Outcome = Literal["good", "look again", "defective"]


def no_progress(stage: str, done: int, total: int) -> None:
    """Report no progress."""


@dataclass(frozen=True)
class Sample:
    """One image of a data set, with its split, class and mask. Nothing is read yet.

    Attributes:
        path: the image's file.
        split: "train" or "test".
        defect: "good", or the name of the defect type.
        mask_path: the file of the defect mask, if there is one.
        further_masks: more mask files of the same image; the defect is the union of all.
        group: the part that it shows, where several images show one; "" for a part of its own.
    """

    path: Path
    split: str = "test"
    defect: str = "good"
    mask_path: Path | None = None
    further_masks: tuple[Path, ...] = ()
    group: str = ""

    @property
    def mask_paths(self) -> tuple[Path, ...]:
        """All mask files."""
        return () if self.mask_path is None else (self.mask_path, *self.further_masks)

    @property
    def is_defective(self) -> bool:
        """Whether the image is labelled defective."""
        return self.defect != "good"


ImageInput: TypeAlias = Union[Sample, str, "os.PathLike[str]", UInt8]


class Neighbors(NamedTuple):
    """The nearest bank rows of each query, nearest first.

    Attributes:
        distances: (Q, k) float32, Euclidean (not squared).
        indices: (Q, k) int64, rows of the bank.
    """

    distances: Float32
    indices: Int64


class Curve(NamedTuple):
    """A curve as three arrays of one length.

    Attributes:
        x: (n,) float64, non-decreasing, such as the false positive rate.
        y: (n,) float64, such as the true positive rate.
        thresholds: (n,) float64; at point i scores at or above thresholds[i] are defective.
    """

    x: Float64
    y: Float64
    thresholds: Float64


class Region(NamedTuple):
    """One connected anomalous region of an image, in pixels of the original image.

    Attributes:
        box: (x, y, width, height), the bounding box.
        area_px: number of pixels.
        score: highest value of the anomaly map inside.
        centroid_xy: (x, y), the mean position of its pixels.
        contour: (n, 2) int32 (x, y), the outer outline.
    """

    box: tuple[int, int, int, int]
    area_px: int
    score: float
    centroid_xy: tuple[float, float]
    contour: NDArray[np.int32]


class GoodPatch(NamedTuple):
    """The good training patch nearest to the most anomalous patch.

    Attributes:
        path: name of the training image when the detector was fitted.
        box: (x, y, width, height) in pixels of that training image.
        distance: Euclidean distance in feature space.
        sha256: of the image's file, by which alone it is shown; "" where the model does not say it.
        root: a folder in or above which a relative path is looked for, besides the working directory.
    """

    path: str
    box: tuple[int, int, int, int]
    distance: float
    sha256: str = ""
    root: str = ""

    def __eq__(self, other: object) -> bool:
        """Return whether it is the same patch, whatever folder its image is looked for in."""
        return isinstance(other, GoodPatch) and self[:-1] == other[:-1]

    def __ne__(self, other: object) -> bool:
        """Return whether it is another patch."""
        return not self == other

    def __hash__(self) -> int:
        """Return the hash of all but the folder."""
        return hash(self[:-1])


def _good_patch_fields(patch: GoodPatch) -> dict[str, Any]:
    return {"path": patch.path, "sha256": patch.sha256, "box": list(patch.box), "distance": patch.distance}


def outcome_of(label: bool, score: float, upper_threshold: float | None) -> Outcome:
    """Return the outcome of an inspection: a score above the threshold is "look again" up to `upper_threshold`.

    >>> [outcome_of(score > 2, score, 3.0) for score in (2.0, 3.0, 4.0)]
    ['good', 'look again', 'defective']
    """
    if not label:
        return "good"
    return "defective" if upper_threshold is None or score > upper_threshold else "look again"


class Suspect(NamedTuple):
    """A good training image that looks defective.

    Attributes:
        path: name of the image when the detector was fitted.
        score: its leave-one-out image score, or its rarity.
        threshold: the value of `measure` above which no good image of a thousand is expected.
        p_value: share of good images expected to score at least as high.
        measure: "score"; or "rarity", where images that are alike hide each other from the score.
    """

    path: str
    score: float
    threshold: float
    p_value: float
    measure: str


@dataclass(frozen=True)
class Prediction:
    """Result of a detector for one image.

    Attributes:
        score: how anomalous the image is; unbounded, higher is more anomalous.
        label: True if `score` is above `threshold`.
        threshold: the calibrated image threshold.
        p_value: share of good images expected to score at least as high, in (0, 1].
        anomaly_map: (H, W) float32 at the size of the image; higher is more anomalous.
        mask: (H, W) bool, where `anomaly_map` is above `pixel_threshold`. Where the detector has a pixel share
            (PatchCore), it is empty in images called good, and in others above 35 % of the highest value too.
        pixel_threshold: the calibrated threshold of the map.
        regions: the connected parts of `mask`, most anomalous first.
        peak_xy: (x, y) in pixels, where the map is highest.
        nearest_good: the good patch nearest to the most anomalous patch, if the detector has it.
        path: the image's file, if it came from one.
        score_components: terms of the score by name: weighted -log p among good images of the most anomalous "patch",
            the most anomalous "part" and the whole "image"; empty if the score is that of the patch alone.
        good_peak: lower quartile of the pixel scores of the calibration images, where the colours of a heat map
            start; None if it is unknown.
        upper_threshold: the score above which no good image of a thousand is expected; None where the calibration
            has no such level (rule "conformal", or another program's thresholds).
        drift: why the image may not be comparable, such as "brighter than the good images"; "" if it is.
    """

    score: float
    label: bool
    threshold: float
    p_value: float
    anomaly_map: Float32 = field(repr=False)
    mask: Bool = field(repr=False)
    pixel_threshold: float
    regions: tuple[Region, ...] = field(default=(), repr=False)
    peak_xy: tuple[int, int] = (0, 0)
    nearest_good: GoodPatch | None = None
    path: Path | None = None
    score_components: Mapping[str, float] = field(default_factory=dict)
    good_peak: float | None = None
    upper_threshold: float | None = None
    drift: str = ""

    @property
    def outcome(self) -> Outcome:
        """The outcome: "good", "look again" (from `threshold` to `upper_threshold`), or "defective" above."""
        return outcome_of(self.label, self.score, self.upper_threshold)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values, without the map, its `good_peak`, the mask and the contours."""
        nearest = self.nearest_good
        return {
            "path": None if self.path is None else str(self.path),
            "score": self.score,
            "label": self.label,
            "outcome": self.outcome,
            "threshold": self.threshold,
            "upper_threshold": self.upper_threshold,
            "p_value": self.p_value,
            "score_components": dict(self.score_components),
            "drift": self.drift,
            "pixel_threshold": self.pixel_threshold,
            "peak_xy": list(self.peak_xy),
            "height_width": list(self.anomaly_map.shape),
            "regions": [
                {"box": list(box), "area_px": area_px, "score": score, "centroid_xy": list(centroid_xy)}
                for box, area_px, score, centroid_xy, _ in self.regions
            ],
            "nearest_good": None if nearest is None else _good_patch_fields(nearest),
        }


@dataclass(frozen=True)
class Problem:
    """One problem of a file or folder of a data set.

    Attributes:
        path: the file or folder.
        kind: a short stable word: "unreadable", "mask-size", "no-mask", "duplicate", ...
        text: one sentence for the user: the problem and its consequence.
        fatal: True if a detector can't be fitted or tested on the data set.
    """

    path: Path
    kind: str
    text: str
    fatal: bool = False


@dataclass(frozen=True)
class Tested:
    """Result of one test image, without its map.

    Attributes:
        sample: the image, with its class and mask.
        score: raw anomaly score.
        label: True if the detector labelled it defective.
        p_value: share of good images expected to score at least as high.
        predict_s: seconds from file to prediction.
        drift: as of its prediction.
    """

    sample: Sample
    score: float
    label: bool
    p_value: float
    predict_s: float
    drift: str = ""


@dataclass(frozen=True)
class Report:
    """Test results of one detector on one category.

    Attributes:
        category: name of the data set.
        metrics: metric name to value; undefined metrics are absent.
        by_defect: defect type to metric name to value; "good" holds the false positives.
        intervals: image metric name to its bootstrap (low, high) 95 % interval.
        threshold: the calibrated image threshold.
        false_positive_rate_set: the requested rate.
        tested: the images, in the data set's order.
        problems: of images that were left out.
        timings: "fit_s", "test_s", "predict_ms" and the like.
        upper_threshold: as in `Prediction`.
        notes: sentences on choices that the fit made.
    """

    category: str
    metrics: Mapping[str, float]
    by_defect: Mapping[str, Mapping[str, float]]
    intervals: Mapping[str, tuple[float, float]]
    threshold: float
    false_positive_rate_set: float
    tested: tuple[Tested, ...]
    problems: tuple[Problem, ...] = ()
    timings: Mapping[str, float] = field(default_factory=dict)
    upper_threshold: float | None = None
    notes: tuple[str, ...] = ()

    def outcome(self, tested: Tested) -> Outcome:
        """Return the outcome of one of the images."""
        return outcome_of(tested.label, tested.score, self.upper_threshold)
