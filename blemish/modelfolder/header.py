"""Parts of `model.json` that all detectors have, read strictly: geometry, calibrations and training images."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import numpy as np

from blemish._io.files import file_sha256, known_file
from blemish._validation.checks import check_number, check_whole
from blemish.errors import BlemishError, InputError, ModelFileError, message
from blemish.imaging.drift import LATER, STATISTICS, GoodRange, ShapeRange
from blemish.imaging.geometry import Geometry, MapRule, Upsampling, choose_geometry
from blemish.ops.conformal import Calibration, TailOptions
from blemish.ops.near_duplicates import LEAST_GROUPS
from blemish.ops.tail_probability import Prior

if TYPE_CHECKING:
    from blemish.modelfolder.folder import ModelFolder

Read = TypeVar("Read")
# Scores are float32 distances, and maps are compared with thresholds as float32.
LARGEST_SCORE = float(np.finfo(np.float32).max)
LARGEST_SIDE_PX = 2**31 - 1
# Share of the scores above the median that are censored, in folders that do not state it.
CENSORED_BEFORE = 0.1
MOST_PRIOR = 10_000  # scores that a prior may count as
# Images of one group, at most, that are listed, dropped and confirmed together.
MOST_SHOTS = 5
CONFIRMED, DROPPED = "confirmed", "dropped"
REVIEWS = ("", CONFIRMED, DROPPED)
# Fields of a training image in `model.json`: the attribute of `Training`, and the value where it is unknown.
UNKNOWN: dict[str, tuple[str, Any]] = {
    "score": ("scores", None),
    "map_peak": ("map_peaks", None),
    "rarity": ("rarities", None),
    "review": ("reviews", ""),
    "sha256": ("sha256s", ""),
    "group": ("groups", None),
}
# Fields that folders of earlier versions lack.
NEW_FIELDS = ("sha256", "group")


@dataclass(frozen=True)
class Training:
    """The training images of a detector.

    The others are given for all images or for none (an empty tuple), and are None or "" where unknown.

    Attributes:
        paths: path of each, or "array i".
        sizes_hw: (height, width) of each.
        scores: leave-one-out image score of each; None outside the calibration set.
        map_peaks: value of each one's leave-one-out map for the pixel threshold; None with `scores`.
        rarities: distance of each one's global descriptor to the k-th nearest (`ops.outliers`); None where unknown.
        reviews: "confirmed" (good, though it scores high), "dropped" from the detector, or "".
        sha256s: SHA-256 of each file, by which alone it may be shown or learnt from; "" in folders of 0.1.
        groups: index of the first image that shows the same part; None where unknown.
        root: the model folder, or the working directory of the fit: relative paths are looked for in it and above it.
    """

    paths: tuple[str, ...] = ()
    sizes_hw: tuple[tuple[int, int], ...] = ()
    scores: tuple[float | None, ...] = ()
    map_peaks: tuple[float | None, ...] = ()
    rarities: tuple[float | None, ...] = ()
    reviews: tuple[str, ...] = ()
    sha256s: tuple[str, ...] = ()
    groups: tuple[int | None, ...] = ()
    root: str = field(default="", compare=False)  # the same images, whatever folder they are looked for in

    def __post_init__(self) -> None:
        for name, unknown in UNKNOWN.values():
            object.__setattr__(self, name, getattr(self, name) or (unknown,) * len(self.paths))

    @classmethod
    def calibrated(
        cls,
        paths: Sequence[str],
        sizes_hw: Sequence[tuple[int, int]],
        *,
        chosen: Sequence[int],
        scores: Iterable[float],
        map_peaks: Iterable[float],
        rarities: Iterable[float] = (),
    ) -> Training:
        """Return the training images with the leave-one-out values of those of indices `chosen`."""

        def spread(values: Iterable[float]) -> tuple[float | None, ...]:
            by_index = dict(zip(chosen, map(float, values), strict=False))
            return tuple(by_index.get(i) for i in range(len(paths)))

        columns = spread(scores), spread(map_peaks), spread(rarities)
        return cls(tuple(paths), tuple(sizes_hw), *columns)

    def alike(self, indices: Iterable[int]) -> list[int]:
        """Return these images and those that show the same parts; larger groups are chains of similar images.

        Where there are too few groups, images count as parts.
        """
        given = set(indices)
        if len(set(self.groups)) < LEAST_GROUPS:
            return sorted(given)
        groups = {group for i in given if (group := self.groups[i]) is not None}
        groups = {group for group in groups if self.groups.count(group) <= MOST_SHOTS}
        return sorted(given | {i for i, group in enumerate(self.groups) if group in groups})

    @cached_property
    def shape_range(self) -> ShapeRange | None:
        """The ranges of the images' aspect ratios and sizes; None where no image is known."""
        return ShapeRange.of(self.sizes_hw) if self.sizes_hw else None

    @property
    def chosen(self) -> list[int]:
        """The indices of the calibration set."""
        return [i for i, score in enumerate(self.scores) if score is not None]

    def reviewed(self, indices: Iterable[int], review: str) -> Training:
        """Return it with a review of some images; those "dropped" lose their scores."""
        changed = set(indices)

        def column(values: tuple[Any, ...], value: Any) -> tuple[Any, ...]:
            return tuple(value if i in changed else old for i, old in enumerate(values))

        result = replace(self, reviews=column(self.reviews, review))
        if review != DROPPED:
            return result
        scores, map_peaks, rarities = (column(values, None) for values in (self.scores, self.map_peaks, self.rarities))
        return replace(result, scores=scores, map_peaks=map_peaks, rarities=rarities)

    def files(self, training_sha256: str = "") -> list[Path | None]:
        """Return the file of each image, None where there is none of that content any more.

        Args:
            training_sha256: the hash of all images' hashes, by which folders without those of single files know them.
        """
        if any(self.sha256s):
            pairs = zip(self.paths, self.sha256s, strict=True)
            return [known_file(path, sha256, root=self.root) for path, sha256 in pairs]
        digests = [file_sha256(path) for path in self.paths] if training_sha256 else [""]
        if "" in digests or hashlib.sha256("".join(digests).encode("ascii")).hexdigest() != training_sha256:
            return [None] * len(self.paths)
        return [Path(path) for path in self.paths]

    def to_json(self) -> list[dict[str, Any]]:
        """Return what `model.json` holds."""
        names = ("path", "height_width", *UNKNOWN)
        columns = (self.paths, self.sizes_hw, *(getattr(self, name) for name, _ in UNKNOWN.values()))
        rows = [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
        unknown = {name: UNKNOWN[name][1] for name in NEW_FIELDS}
        return [{k: v for k, v in row.items() if k not in unknown or v != unknown[k]} for row in rows]


def read_fitted(model: ModelFolder, detector: str, read: Callable[[], Read]) -> Read:
    """Return the result of `read` on a model folder; whatever it raises becomes an error of the folder. ModelFileError
    if it is another detector's, or its parts do not fit each other.
    """
    held = model.header["detector"]
    if held != detector:
        raise ModelFileError(message("detector", detector, repr(held), where=model.path))
    try:
        return read()
    except ModelFileError:
        raise
    except (BlemishError, KeyError, TypeError, ValueError, IndexError) as error:
        got = f"{type(error).__name__}: {error}".strip()
        todo = "Fit again, or copy the model folder again."
        raise ModelFileError(message("model.json", f"a {detector} model", got, where=model.path, todo=todo)) from error


def read_geometry(header: Mapping[str, Any]) -> Geometry:
    """Return the geometry that `input` and `anomaly_map` describe."""
    size, crop = header["input"]["resize_hw"], header["input"]["crop_hw"]
    chosen = choose_geometry([(1, 1)], (*size,), None if crop is None else (*crop,))
    in_graph, rule = header["input"]["resize_in_graph"], header["anomaly_map"]
    if not isinstance(in_graph, bool):
        raise InputError(message("input.resize_in_graph", "true or false", repr(in_graph)))
    if rule["upsampling"] not in get_args(Upsampling):
        expected = " or ".join(get_args(Upsampling))
        raise InputError(message("anomaly_map.upsampling", expected, repr(rule["upsampling"])))
    sigma_px = float(check_number("anomaly_map.sigma_px", rule["sigma_px"], low=0, high=100))
    return Geometry(chosen.resize_hw, chosen.crop_hw, in_graph, MapRule(rule["upsampling"], sigma_px))


def read_calibration(header: Mapping[str, Any], name: str) -> Calibration:
    """Return the calibration of the "image" or "pixel" scores; rate and threshold must follow from them. InputError if
    they do not.
    """
    stored, rate = header["thresholds"], header["settings"]["false_positive_rate"]
    rule = header["settings"]["calibration"]
    scores, stated = stored[f"{name}_scores"], stored["false_positive_rate"]
    calibration = Calibration.from_scores(scores, stated, rule, _read_tail(stored, name))
    for score in calibration.scores[[0, -1]]:
        check_number(f"thresholds.{name}_scores", float(score), low=-LARGEST_SCORE, high=LARGEST_SCORE)
    if rate != calibration.false_positive_rate:
        expected = f"{calibration.false_positive_rate} as thresholds say"
        raise InputError(message("false_positive_rate", expected, repr(rate)))
    if stored[name] != calibration.threshold:
        todo = "Move thresholds with set_false_positive_rate, and save."
        expected = f"{calibration.threshold}, which follows from its scores"
        raise InputError(message(f"thresholds.{name}", expected, repr(stored[name]), todo=todo))
    return calibration


def tail_fields(image: TailOptions, pixel: TailOptions) -> dict[str, Any]:
    """Return the fields of `thresholds` that say how the tails are estimated, as the folder that was read had them."""
    if not image.predictive:
        return {"censored": image.censored}
    return {"image_tail": _tail_entry(image), "pixel_tail": _tail_entry(pixel)}


def _tail_entry(options: TailOptions) -> dict[str, Any]:
    known = {} if options.prior is None else {"prior": options.prior._asdict()}
    return {"censored": options.censored, **known}


def _read_tail(stored: Mapping[str, Any], name: str) -> TailOptions:
    """Return how the tail of the "image" or "pixel" scores is estimated."""
    key = f"{name}_tail"
    if key not in stored:
        censored = check_number("thresholds.censored", stored.get("censored", CENSORED_BEFORE), low=0, high=0.9)
        return TailOptions(float(censored), predictive=False)
    tail = stored[key]
    censored = check_number(f"thresholds.{key}.censored", tail["censored"], low=0, high=0.9)
    if "prior" not in tail:
        return TailOptions(float(censored))
    mean = check_number(f"thresholds.{key}.prior.mean_excess", tail["prior"]["mean_excess"], low=0, high=LARGEST_SCORE)
    n = check_whole(f"thresholds.{key}.prior.n", tail["prior"]["n"], 1, MOST_PRIOR)
    return TailOptions(float(censored), Prior(float(mean), n))


def read_pixel_share(header: Mapping[str, Any]) -> float:
    """Return the share of pixels that the pixel scores are exceeded by; 0, the highest, where it is not stated."""
    return float(check_number("thresholds.pixel_share", header["thresholds"].get("pixel_share", 0.0), low=0, high=1))


def read_training(header: Mapping[str, Any]) -> Training:
    """Return the training images; scores that are given must be those of `thresholds`. InputError if they are not."""
    rows = header["training"]
    if not isinstance(rows, list):
        raise InputError(message("training", "a list of images", type(rows).__name__))
    for row in rows:
        if not isinstance(row["path"], str):
            raise InputError(message("path", "text", repr(row["path"])))
    sizes = ((check_whole("height_width", side, 1, LARGEST_SIDE_PX) for side in row["height_width"]) for row in rows)
    sizes_hw = tuple((height, width) for height, width in sizes)
    for row in rows:
        if row["review"] not in REVIEWS or (row["review"] == DROPPED and row["score"] is not None):
            got = f"{row['review']!r}, score {row['score']!r}"
            raise InputError(message("training.review", "'', confirmed, or dropped without a score", got))
    scores, peaks, rarities = (_numbers(rows, name) for name in ("score", "map_peak", "rarity"))
    _check_same(header, "image", scores, scores)
    _check_same(header, "pixel", peaks, scores)
    _check_same(header, None, rarities, scores)
    reviews = tuple(row["review"] for row in rows)
    hashes = tuple(row.get("sha256", "") for row in rows)
    if not all(isinstance(sha256, str) and re.fullmatch("([0-9a-f]{64})?", sha256) for sha256 in hashes):
        raise InputError(message("training.sha256", "a SHA-256 in hex", "something else"))
    groups = tuple(row.get("group") for row in rows)
    for i, group in enumerate(groups):
        if group is not None and groups[check_whole("training.group", group, 0, i)] != group:
            raise InputError(message("training.group", "the first image of each group", str(group)))
    paths = tuple(row["path"] for row in rows)
    return Training(paths, sizes_hw, scores, peaks, rarities, reviews, hashes, groups)


def _numbers(rows: list[Any], name: str) -> tuple[float | None, ...]:
    """Return a field of each training image, a number or None."""
    for row in rows:
        if row[name] is not None:
            check_number(f"training.{name}", row[name], low=-LARGEST_SCORE, high=LARGEST_SCORE)
    return tuple(row[name] for row in rows)


def _check_same(
    header: Mapping[str, Any],
    threshold: str | None,
    values: tuple[float | None, ...],
    scores: tuple[float | None, ...],
) -> None:
    """Raise unless values are those of the images that have scores, and the calibration scores of a threshold."""
    given = sorted(value for value in values if value is not None)
    has_score = [score is not None for score in scores]
    same = [value is not None for value in values] == has_score
    if threshold is None:
        same = same or not given
    elif any(has_score):
        same = same and given == list(header["thresholds"][f"{threshold}_scores"])
    if not same:
        expected = f"one of each calibration image, as thresholds.{threshold or 'image'}_scores has them"
        raise InputError(message("training", expected, f"{len(given)} others"))


def read_good_range(header: Mapping[str, Any]) -> GoodRange | None:
    """Return the range of the good images' statistics; None if the model has none. InputError if it is not a range."""
    if "good_range" not in header:
        return None
    stored = header["good_range"]
    if not isinstance(stored, dict) or set(stored) | LATER != set(STATISTICS):
        raise InputError(message("good_range", f"ranges of {', '.join(STATISTICS)}", repr(stored)[:100]))
    limits = {}
    for name in STATISTICS:
        if name not in stored:
            continue
        pair = stored[name]
        if not isinstance(pair, list) or len(pair) != 2:
            raise InputError(message(f"good_range.{name}", "[low, high]", repr(pair)[:100]))
        low, high = (float(check_number(f"good_range.{name}", limit, low=-10, high=10)) for limit in pair)
        if low >= high:
            raise InputError(message(f"good_range.{name}", "low below high", repr(pair)))
        limits[name] = low, high
    return GoodRange(limits)
