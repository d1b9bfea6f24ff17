"""Validation of a data set before a run: every image and mask is read once, and its problems are listed."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from blemish._io.prefetch import prefetch
from blemish.data.grouping import parts_of
from blemish.data.masks import load_union, may_be_mask
from blemish.data.training_images import MIN_IMAGES
from blemish.errors import ImageError
from blemish.imaging.decode import read_stored
from blemish.ops.conformal import percent
from blemish.ops.near_duplicates import LEAST_SIDE_PX, fingerprint
from blemish.types import Problem, Progress, Sample, no_progress

if TYPE_CHECKING:
    from blemish.data.datasets import DataSet
    from blemish.types import UInt8

# From here on the 90 % interval of a false positive rate of 2 % ends below 7 %, and position can count.
ENOUGH_GOOD = 50
FEW_GOOD = 10
UNUSED_MASK = "This mask belongs to no defective image. It is not used; is its image missing or named otherwise?"
CAMERA_BITS = (10, 12, 14)
# Shares of the image and of its border that an inverted mask marks, and a defect seldom does.
HALF, MOSTLY = 0.5, 0.9
# Relative difference of aspect ratios up to which resizing to one size does not distort a part visibly.
ASPECT_TOLERANCE = 0.05


@dataclass(frozen=True)
class Summary:
    """Counts of a data set's images.

    Attributes:
        parts: number of parts that the images to fit on show: stated groups, copies and near-duplicates count once.
        test: defect type ("good" among them) to number of readable test images.
        masks: number of readable masks of their image's size.
        formats: "PNG", "JPEG", ... to number of images.
        channels: "grey", "colour", "with alpha" to number of images; grey stored as three equal channels is grey.
        lowest_false_positive_rate: lowest rate that so many parts can guarantee, 1 / (parts + 1).
    """

    name: str
    train: int
    parts: int
    test: Mapping[str, int]
    masks: int
    unreadable: int
    skipped: int
    formats: Mapping[str, int]
    sizes: Mapping[str, int]
    channels: Mapping[str, int]
    depths: Mapping[str, int]
    lowest_false_positive_rate: float


class Survey(NamedTuple):
    """Problems and summary of a data set.

    Attributes:
        problems: the fatal ones first.
    """

    problems: tuple[Problem, ...]
    summary: Summary


class _Facts(NamedTuple):
    """Properties of one readable image."""

    sample: Sample
    format: str
    height_width: tuple[int, int]
    channels: str
    depth: str
    largest: int
    digest: bytes
    fingerprint: NDArray[np.int8] | None
    has_mask: bool
    problems: tuple[Problem, ...]


def survey_dataset(dataset: DataSet, *, progress: Progress = no_progress, threads: int = 2) -> Survey:
    """Return the problems and the summary of a data set.

    Cost: decodes every image and mask once: about 30 ms for a 1024 x 1024 PNG.
    """
    samples = [*dataset.train, *dataset.test]
    facts: list[_Facts] = []
    problems: list[Problem] = []
    for done, result in enumerate(prefetch(_read_facts, samples, threads=threads), 1):
        if isinstance(result, Problem):
            problems.append(result)
        else:
            facts.append(result)
            problems.extend(result.problems)
        progress("reading images", done, len(samples))
    train = [fact for fact in facts if fact.sample.split == "train"]
    test = [fact for fact in facts if fact.sample.split == "test"]
    folder, n_parts = _folder(samples), _n_parts(train)
    # The protocol DataSet has neither of these: a caller's own class may lack them.
    skipped: Sequence[Path] = getattr(dataset, "skipped", ())
    unused_masks: Sequence[Path] = getattr(dataset, "unused_masks", ())
    problems += [
        *_good_images(n_parts, train, test, folder),
        *_missing_masks(test),
        *_duplicates(facts),
        *_mixed(facts, folder),
        *_depths(facts, folder),
        *(Problem(path, "unused-mask", UNUSED_MASK) for path in unused_masks),
        *_skipped(skipped),
    ]
    problems.sort(key=lambda problem: not problem.fatal)
    n_unreadable, n_left_over = len(samples) - len(facts), len(skipped) + len(unused_masks)
    return Survey(tuple(problems), _summary(dataset.name, facts, n_parts, n_unreadable, n_left_over))


def _n_parts(train: Sequence[_Facts]) -> int:
    """Return how many different parts the images to fit on show."""
    groups = [fact.sample.group for fact in train]
    return len(np.unique(parts_of(groups, [fact.digest for fact in train], [fact.fingerprint for fact in train])))


def _summary(name: str, facts: Sequence[_Facts], n_parts: int, n_unreadable: int, n_left_over: int) -> Summary:
    return Summary(
        name=name,
        train=sum(fact.sample.split == "train" for fact in facts),
        parts=n_parts,
        test=dict(Counter(fact.sample.defect for fact in facts if fact.sample.split == "test")),
        masks=sum(fact.has_mask for fact in facts),
        unreadable=n_unreadable,
        skipped=n_left_over,
        formats=dict(Counter(fact.format for fact in facts)),
        sizes=dict(Counter(_size(fact.height_width) for fact in facts)),
        channels=dict(Counter(fact.channels for fact in facts)),
        depths=dict(Counter(fact.depth for fact in facts)),
        lowest_false_positive_rate=1 / (n_parts + 1),
    )


def _read_facts(sample: Sample) -> _Facts | Problem:
    try:
        header, stored = read_stored(sample.path)
    except ImageError as error:
        return Problem(sample.path, "unreadable", f"{error} It is left out.")
    depth = str(8 * stored.dtype.itemsize) if stored.dtype.kind == "u" else str(stored.dtype)
    if depth not in ("8", "16"):
        return Problem(sample.path, "unreadable", f"Its pixels are {depth}; 8 or 16 bits are read. It is left out.")
    channels, pixels = _channels(stored)
    height_width = (stored.shape[0], stored.shape[1])
    is_compared = sample.split == "train" and min(height_width) >= LEAST_SIDE_PX
    problem = _mask_problem(sample, height_width) if sample.mask_path is not None else None
    return _Facts(
        sample=sample,
        format=header.format,
        height_width=height_width,
        channels=channels,
        depth=depth,
        largest=int(pixels.max()) if depth == "16" else 0,
        # Of the pixels, not the file: the same image saved again as BMP is the same image.
        digest=hashlib.sha256(f"{pixels.shape} {depth}".encode() + np.ascontiguousarray(pixels).tobytes()).digest(),
        fingerprint=fingerprint(_rgb8(pixels)) if is_compared else None,
        has_mask=sample.mask_path is not None and problem is None,
        problems=() if problem is None else (problem,),
    )


def _rgb8(pixels: NDArray[Any]) -> UInt8:
    """Return (H, W, 3) uint8 of stored pixels, for their detail: colours may be in any order, alpha does not count."""
    eight = pixels if pixels.dtype == np.uint8 else (pixels >> 8).astype(np.uint8)
    if eight.ndim == 2 or eight.shape[2] < 3:
        eight = np.repeat((eight if eight.ndim == 2 else eight[..., 0])[..., None], 3, axis=2)
    return np.ascontiguousarray(eight[..., :3])


def _channels(stored: NDArray[Any]) -> tuple[str, NDArray[Any]]:
    """Return the kind of channels, and the pixels with three equal channels as one."""
    if stored.ndim == 2:
        return "grey", stored
    if stored.shape[2] in (2, 4):
        return "with alpha", stored
    first = stored[..., 0]
    if stored.shape[2] == 1 or (np.array_equal(first, stored[..., 1]) and np.array_equal(first, stored[..., 2])):
        return "grey", first
    return "colour", stored


def _mask_problem(sample: Sample, height_width: tuple[int, int]) -> Problem | None:
    assert sample.mask_path is not None
    left_out = f"{sample.path.name} is left out of the pixel metrics."
    try:
        mask = load_union(sample.mask_paths)
    except ImageError as error:
        return Problem(sample.mask_path, "unreadable-mask", f"{error} {left_out}")
    if mask.shape != height_width:
        text = f"The mask is {_size(mask.shape)} and its image {_size(height_width)} pixels. {left_out}"
        return Problem(sample.mask_path, "mask-size", text)
    if not mask.any():
        text = f"The mask of an image of {sample.defect!r} marks no pixel. {left_out}"
        return Problem(sample.mask_path, "mask-empty", text)
    photograph = next((path for path in sample.mask_paths if not may_be_mask(path)), None)
    if photograph is not None:
        text = f"It has more brightnesses than a mask: is it an image? It is taken as the mask of {sample.path.name}."
        return Problem(photograph, "mask-image", text)
    border = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
    if border.mean() > MOSTLY and mask.mean() > HALF and not mask.all():
        text = f"It marks {percent(float(mask.mean()))} of {sample.path.name}, with the border: is it inverted?"
        return Problem(sample.mask_path, "mask-inverted", text)
    return None


def _good_images(n_parts: int, train: Sequence[_Facts], test: Sequence[_Facts], folder: Path) -> list[Problem]:
    problems = []
    n = len(train)
    shown = f"{n} good images to fit on" if n_parts == n else f"{n_parts} parts in the {n} good images to fit on"
    if n < MIN_IMAGES:
        images = "no good image" if n == 0 else f"only {n} good image"
        text = f"There is {images} to fit on that can be read. A detector needs at least {MIN_IMAGES}, better 100."
        problems.append(Problem(folder, "few-good" if n else "no-good", text, fatal=True))
    elif n_parts < FEW_GOOD:
        text = f"There are only {shown}: the threshold is a guess. Give at least {FEW_GOOD}."
        problems.append(Problem(folder, "few-good", text))
    elif n_parts < ENOUGH_GOOD:
        text = f"There are {shown}. From {ENOUGH_GOOD} on the false positive rate is surer."
        problems.append(Problem(folder, "few-good", text))
    good = sum(not fact.sample.is_defective for fact in test)
    if test and good == 0:
        text = "There is no good image to test on: AUROC, AP and the false positive rate are not defined."
        problems.append(Problem(folder, "no-good-test", text))
    if good and good == len(test):
        text = "There is no defective image to test on. Only false positives can be counted."
        problems.append(Problem(folder, "no-defective-test", text))
    return problems


def _missing_masks(test: Sequence[_Facts]) -> list[Problem]:
    defective = [fact.sample for fact in test if fact.sample.is_defective]
    without: dict[str, list[Path]] = defaultdict(list)
    for sample in defective:
        if sample.mask_path is None:
            without[sample.defect].append(sample.path)
    if defective and sum(map(len, without.values())) == len(defective):
        text = "None of the defective images has a mask. There will be image metrics and no pixel metrics."
        return [Problem(_folder(defective), "no-mask", text)]
    return [
        Problem(
            paths[0].parent, "no-mask", f"{_files(paths)} of {defect!r} without a mask: left out of the pixel metrics."
        )
        for defect, paths in without.items()
    ]


def _duplicates(facts: Sequence[_Facts]) -> list[Problem]:
    same: dict[bytes, list[Sample]] = defaultdict(list)
    for fact in facts:
        same[fact.digest].append(fact.sample)
    # In the data set's order: training images come first.
    pairs = [(first, copy) for first, *copies in same.values() for copy in copies]
    return [Problem(copy.path, *_duplicate(first, copy)) for first, copy in pairs]


def _duplicate(first: Sample, copy: Sample) -> tuple[str, str]:
    """Return kind and text of the problem of an image with the same pixels as another."""
    same = f"It has the same pixels as {first.path}."
    if copy.split == "train":
        return "duplicate-train", f"{same} Both count as one part."
    if first.split == "train" and copy.is_defective:
        return "duplicate-train-test", f"{same} It is fitted on as good and tested as defective."
    if first.split == "train":
        return "duplicate-train-test", f"{same} It is fitted on and tested: metrics come out too good."
    if first.defect != copy.defect:
        return "duplicate-test", f"{same} One is called {first.defect!r}, the other {copy.defect!r}."
    return "duplicate-test", f"{same} It counts twice in the test."


def _mixed(facts: Sequence[_Facts], folder: Path) -> list[Problem]:
    """Return the problems of sizes, aspect ratios and channels that differ between images."""
    problems = []
    sizes = Counter(fact.height_width for fact in facts)
    if len(sizes) > 1:
        aspects = [width / height for height, width in sizes]
        listed = ", ".join(f"{_size(size)} ({count})" for size, count in sizes.most_common(4))
        listed += f" and {len(sizes) - 4} more" if len(sizes) > 4 else ""
        if max(aspects) / min(aspects) > 1 + ASPECT_TOLERANCE:
            text = f"Images have different aspect ratios: {listed}. At one common size some are squeezed."
            problems.append(Problem(folder, "mixed-aspect", text))
        else:
            text = f"Images have different sizes: {listed}. All are resized to one; the scale of detail differs."
            problems.append(Problem(folder, "mixed-size", text))
    kinds = Counter(fact.channels for fact in facts)
    if len(kinds) > 1:
        listed = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        text = f"Images differ in colour: {listed}. Grey against colour can itself look like a defect."
        problems.append(Problem(folder, "mixed-color", text))
    return problems


def _depths(facts: Sequence[_Facts], folder: Path) -> list[Problem]:
    deep = [fact for fact in facts if fact.depth == "16"]
    if not deep:
        return []
    problems = []
    if len(deep) < len(facts):
        text = f"Images of 16 bits a channel: {len(deep)}; of 8: {len(facts) - len(deep)}. Brightness may differ."
        problems.append(Problem(folder, "mixed-depth", text))
    largest = max(fact.largest for fact in deep)
    bits = next((bits for bits in CAMERA_BITS if largest < 2**bits), 16)
    if bits < 16:
        text = f"16-bit images use values up to {largest} of 65535 and will be nearly black. Set bit_depth={bits}."
        problems.append(Problem(folder, "bit-depth", text))
    return problems


def _skipped(paths: Sequence[Path]) -> list[Problem]:
    if not paths:
        return []
    text = f"{_files(paths)} not used: no images, or not of a role that is used."
    return [Problem(paths[0].parent, "not-used", text)]


def _files(paths: Sequence[Path]) -> str:
    names = ", ".join(path.name for path in paths[:3]) + (", ..." if len(paths) > 3 else "")
    return f"{len(paths)} {'file' if len(paths) == 1 else 'files'} ({names})"


def _size(height_width: Sequence[int]) -> str:
    return f"{height_width[0]} x {height_width[1]}"


def _folder(samples: Sequence[Sample]) -> Path:
    return samples[0].path.parent if samples else Path()
