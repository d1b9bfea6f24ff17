"""Mask files and their images: masks beside images, and masks in folders of their own.

A mask belongs to one image. An image may have several masks, `000_mask_1.png` and `000_mask_2.png` or `000/000.png` and
`000/001.png`; their union marks its defect.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

from blemish.data.discovery import natural_key
from blemish.data.masks import is_two_valued, may_be_mask
from blemish.data.roles import mask_stem, split_of, tell
from blemish.errors import DataError, message
from blemish.types import Sample

MasksOf: TypeAlias = "dict[Path, list[Path]]"


def with_masks(path: Path, split: str, defect: str, masks: Mapping[Path, Sequence[Path]]) -> Sample:
    """Return the sample of an image with all its masks."""
    own = tuple(masks.get(path, ()))
    return Sample(path, split, defect, own[0] if own else None, own[1:])


class Beside(NamedTuple):
    """Files of some folders.

    Attributes:
        images: all that are no masks.
        masks_of: the masks that lie beside their image.
        orphans: masks by name and values, without an image beside them.
    """

    images: list[Path]
    masks_of: MasksOf
    orphans: list[Path]


def beside(paths: Sequence[Path]) -> Beside:
    """Separate images from masks that lie beside them.

    A mask has the name of an image in its folder and `_mask`, `_GT`, `_label` or the like behind it, and few
    brightnesses: bottle_label.png may be a photograph. With the same name and another ending, or with anything else
    behind it, it is a mask if it has two brightnesses and the image has more.

    Cost: decodes the files whose name starts with that of another file.
    """
    by_folder: dict[Path, list[Path]] = defaultdict(list)
    for path in paths:
        by_folder[path.parent].append(path)
    masks: MasksOf = defaultdict(list)
    for inside in by_folder.values():
        for path, image in _masks_in(inside).items():
            masks[image].append(path)
    taken = {mask for own in masks.values() for mask in own}
    rest = [path for path in paths if path not in taken]
    orphans = [path for path in rest if _is_mask_name(path.stem) and may_be_mask(path)]
    without = set(orphans)
    return Beside([path for path in rest if path not in without], dict(masks), orphans)


def _is_mask_name(stem: str) -> bool:
    """Return whether the name of a file is that of a mask: 000_mask, or no more than "mask"."""
    return mask_stem(stem) is not None or ((said := tell(stem)) is not None and said.kind == "mask")


def _masks_in(paths: Sequence[Path]) -> dict[Path, Path]:
    """Return the image of each mask among the files of one folder."""
    by_stem: dict[str, list[Path]] = defaultdict(list)
    for path in paths:
        by_stem[path.stem].append(path)
    images: dict[Path, Path] = {}
    for path in paths:
        stem = mask_stem(path.stem)
        if stem in by_stem and may_be_mask(path):
            images[path] = by_stem[stem][0]
    for path in paths:
        if path not in images and (image := _look_alike(path, by_stem, images)) is not None:
            images[path] = image
    return images


def _look_alike(path: Path, by_stem: Mapping[str, Sequence[Path]], masks: Mapping[Path, Path]) -> Path | None:
    """Return the image whose name another file continues, if that file is two-valued and the image is not."""
    starts = [path.stem[: match.start()] for match in re.finditer(r"[_\-. (]+", path.stem)]
    for stem in (path.stem, *reversed(starts)):
        for image in by_stem.get(stem, ()):
            is_other = image != path and image not in masks and _bytes(path) <= _bytes(image)
            if is_other and is_two_valued(path) and not is_two_valued(image):
                return image
    return None


def elsewhere(paths: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Separate images from masks that lie in folders whose names do not say so; return both.

    A folder holds masks if files in it have names of images in other folders, and two brightnesses where those have
    more. Of each such folder the first, the middle and the last file are looked at; if one is a mask, all are.

    Cost: decodes up to three files of each folder that shares names with another, and all files of folders of masks.
    """
    by_stem: dict[str, list[Path]] = defaultdict(list)
    by_folder: dict[Path, list[Path]] = defaultdict(list)
    for path in paths:
        by_stem[path.stem].append(path)
    for path in paths:
        if _named_alike(path, by_stem):
            by_folder[path.parent].append(path)

    def is_mask(path: Path) -> bool:
        return is_two_valued(path) and any(not is_two_valued(image) for image in _named_alike(path, by_stem)[:2])

    masks: list[Path] = []
    for inside in by_folder.values():
        if any(is_mask(inside[place]) for place in {0, len(inside) // 2, len(inside) - 1}):
            masks += [path for path in inside if is_mask(path)]
    taken = set(masks)
    return [path for path in paths if path not in taken], masks


def _named_alike(path: Path, by_stem: Mapping[str, Sequence[Path]]) -> list[Path]:
    """Return the images in other folders whose name a file has, with `_mask` or the like behind it or not."""
    stems = dict.fromkeys([path.stem, mask_stem(path.stem) or path.stem])
    return [image for stem in stems for image in by_stem.get(stem, ()) if image.parent != path.parent]


def _bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def assign(masks: Iterable[Path], images: Sequence[Path]) -> MasksOf:
    """Return the masks of each image that has some: masks in other folders than the images.

    A mask has its image's name, with `_mask` or the like behind it or not, or lies in a folder of that name. Among
    images of one name it belongs to the one with which it shares most folder names: masks/dent/000.png to dent/000.png.

    Raises:
        DataError: if a mask matches two images equally well.
    """
    by_stem: dict[str, list[Path]] = defaultdict(list)
    for image in images:
        by_stem[image.stem.casefold()].append(image)
    scores = {mask: _scores(mask, by_stem) for mask in masks}
    most_shared = max((max(scored.values()).shared for scored in scores.values() if scored), default=0)
    best: dict[Path, tuple[_Likeness, Path]] = {}
    for mask, scored in scores.items():
        top = max(scored.values(), default=None)
        if top is None or (top.n_foreign and top.shared < most_shared):  # the mask of an image that is missing
            continue
        first, *more = [image for image, score in scored.items() if score == top]
        if more:
            got = f"{len(more) + 1}: {', '.join(map(str, [first, *more][:3]))}"
            todo = "Sort masks like images: masks/<defect>/000.png for <defect>/000.png."
            raise DataError(message("mask", "one image that it marks", got, where=mask, todo=todo))
        best[mask] = (top, first)
    highest: dict[Path, _Likeness] = {}
    for score, image in best.values():
        highest[image] = max(score, highest.get(image, score))
    chosen: MasksOf = defaultdict(list)
    for mask, (score, image) in best.items():
        if score[:3] == highest[image][:3]:
            chosen[image].append(mask)
    return {image: sorted(own, key=natural_key) for image, own in chosen.items()}


class _Likeness(NamedTuple):
    """How well a mask fits an image; compared field by field.

    Attributes:
        shared: number of folder names in common.
        n_foreign: minus the number of the mask's folders that the image does not have and that tell no role.
        rank: 2 for the image's name with `_mask` or the like, 1 for the name or a folder of that name, 0 with a number.
        is_exact: whether capitals agree.
    """

    shared: int
    n_foreign: int
    rank: int
    is_exact: bool


def _scores(mask: Path, by_stem: Mapping[str, Sequence[Path]]) -> dict[Path, _Likeness]:
    """Return the images that a mask may mark, each with its likeness."""
    scores: dict[Path, _Likeness] = {}
    numbered = re.fullmatch(r"(.+?)[_\-. (]+\d+\)?", mask.stem)
    parent = mask.parent
    names = [(mask_stem(mask.stem), parent, 2), (mask.stem, parent, 1)]
    names += [(mask_stem(parent.name), parent.parent, 1), (parent.name, parent.parent, 1)]
    for stem, folder, rank in [*names, (numbered[1] if numbered else None, parent, 0)]:
        if stem is None or (rank == 0 and scores):
            continue
        for image in by_stem.get(stem.casefold(), ()):
            shared = Counter(folder.parts) & Counter(image.parent.parts)
            others = (Counter(folder.parts) - shared).elements()
            n_foreign = sum(tell(part) is None and split_of(part) is None for part in others)
            score = _Likeness(shared.total(), -n_foreign, rank, image.stem == stem)
            scores[image] = max(score, scores.get(image, score))
    return scores
