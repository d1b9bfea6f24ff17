"""Groups of images that show the same part: stated by a pattern of their paths, copies, and near-duplicates."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from blemish.errors import DataError, InputError, message
from blemish.ops.near_duplicates import merged, near_duplicates
from blemish.types import Sample

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from blemish.types import Int64

GroupOf = Callable[[Path], str]


def group_of_pattern(pattern: str, root: Path) -> GroupOf:
    r"""Return the function from a path to its group, "" for a path without one.

    Args:
        pattern: a regular expression that is searched in the path below `root`, written with `/`; the group is its
            first capturing group, or what it matches.
        root: the data set.

    Raises:
        InputError: if it is no regular expression.

    >>> group_of = group_of_pattern(r"part\d+", Path("images"))
    >>> group_of(Path("images/good/part7_left.png")), group_of(Path("images/good/x.png"))
    ('part7', '')
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        todo = r"Write one such as 'part\d+'."
        raise InputError(message("group_by", "a regular expression", f"{pattern!r}: {error}", todo=todo)) from error

    def group_of(path: Path) -> str:
        below = path.relative_to(root) if path.is_relative_to(root) else path
        found = compiled.search(below.as_posix())
        if found is None:
            return ""
        return (found[1] if compiled.groups else found[0]) or ""

    return group_of


def unit_of(group_of: GroupOf) -> Callable[[Path], object]:
    """Return the function from a path to what must not be divided: its group, or the image itself."""
    return lambda path: group_of(path) or path


def grouped(samples: Iterable[Sample], group_of: GroupOf) -> tuple[Sample, ...]:
    """Return the samples with their groups; those that have one keep it."""
    return tuple(sample if sample.group else replace(sample, group=group_of(sample.path)) for sample in samples)


def check_groups(train: Iterable[Sample], test: Iterable[Sample], group_by: str) -> None:
    """Raise DataError if no image has a group, or images of one are both to fit and to test on."""
    train, test = tuple(train), tuple(test)
    if not any(sample.group for sample in (*train, *test)):
        example = f", such as {train[0].path}" if train else ""
        got = f"{group_by!r}, which is in none of {len(train) + len(test)} paths{example}"
        todo = r"Write a pattern of the part's name, such as 'part\d+'."
        raise DataError(message("group_by", "a pattern of the images' paths", got, todo=todo))
    learnt = {sample.group: sample.path for sample in train if sample.group}
    both = next((sample for sample in test if sample.group in learnt), None)
    if both is not None:
        got = f"{both.group!r} in both: {learnt[both.group]} and {both.path}"
        todo = "Move all images of a part to one side, or write the pattern so that it names single parts."
        raise DataError(message("group_by", "each part either to fit or to test on", got, todo=todo))


def sentence(samples: Iterable[Sample]) -> str:
    """Return a sentence on how many parts the samples show."""
    samples = tuple(samples)
    n_parts = len({sample.group or sample.path for sample in samples})
    return f"{len(samples)} good images to fit on show {n_parts} parts, by their stated groups."


def parts_of(
    stated: Sequence[str], digests: Sequence[Hashable], fingerprints: Sequence[NDArray[np.int8] | None]
) -> Int64:
    """Return the group of each image, (n,) int64: the index of the one that stands for those that show the same part.

    Args:
        stated: the group of each, "" if none is stated.
        digests: equal for copies.
        fingerprints: of each (`ops.near_duplicates`); unless all are of one size, near-duplicates are not looked for.
    """
    first: dict[tuple[str, Hashable], int] = {}
    links = []
    for i, (group, digest) in enumerate(zip(stated, digests, strict=True)):
        links.append((i, first.setdefault(("digest", digest), i)))
        if group:
            links.append((i, first.setdefault(("group", group), i)))
    groups = merged(np.arange(len(stated)), links)
    prints = [x for x in fingerprints if x is not None]
    if len(prints) < len(stated) or len({x.shape for x in prints}) > 1:
        return groups
    alike = near_duplicates(prints)
    joined = merged(groups, list(enumerate(alike.tolist())))
    # The image that stands for a group of near-duplicates stands for the whole.
    return alike[joined]
