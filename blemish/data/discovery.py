"""Which files of a folder are images, in an order people expect, and which mask belongs to which image."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from blemish.errors import DataError, message

if TYPE_CHECKING:
    from blemish.types import Sample

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
MASK_SUFFIXES = ("_mask", "-mask", "_gt", "")


class Listing(NamedTuple):
    """A data set's files: what is what.

    Attributes:
        train: good images to learn from.
        test: good and defective images to test on.
        skipped: files that are no images by their ending, or lie where none are expected.
        unused_masks: masks that belong to no defective image.
    """

    train: tuple[Sample, ...]
    test: tuple[Sample, ...]
    skipped: tuple[Path, ...] = ()
    unused_masks: tuple[Path, ...] = ()

    def __str__(self) -> str:
        defective = sum(sample.is_defective for sample in self.test)
        return f"{len(self.train)} to train, {len(self.test) - defective} good and {defective} defective to test"


def natural_key(path: Path) -> tuple[tuple[tuple[int, int, str], ...], str]:
    """Return a sorting key that puts 2 before 10, and decides every tie.

    >>> [path.name for path in sorted(map(Path, ["b10.png", "b2.png", "a.png"]), key=natural_key)]
    ['a.png', 'b2.png', 'b10.png']
    """
    pieces = re.split(r"([0-9]+)", path.as_posix())
    return tuple((1, int(piece), "") if piece.isdecimal() else (0, 0, piece) for piece in pieces), str(path)


def list_images(
    folder: Path, endings: tuple[str, ...], *, leave_out: Sequence[Path] = ()
) -> tuple[list[Path], list[Path]]:
    """Return the images in a folder and below it, and the files that are none, each in natural order.

    Hidden files and folders are left out without a word; a folder that does not exist holds nothing. Links to folders
    are followed, each folder once, so that a loop of links ends.

    Args:
        folder: where to look.
        endings: what an image's name ends in, lower case with the dot; capitals count too.
        leave_out: folders below that are not entered.

    Raises:
        DataError: if a folder can't be looked into.
    """
    images: list[Path] = []
    others: list[Path] = []
    closed = {os.path.realpath(path) for path in leave_out}
    waiting = [folder] if folder.is_dir() else []
    while waiting:
        current = waiting.pop()
        real = os.path.realpath(current)
        if real in closed:
            continue
        closed.add(real)
        for entry in _entries(current):
            if entry.is_dir():
                waiting.append(entry)
            elif entry.suffix.lower() in endings:
                images.append(entry)
            else:
                others.append(entry)
    return sorted(images, key=natural_key), sorted(others, key=natural_key)


def folders_in(folder: Path) -> list[Path]:
    """Return the folders directly inside, hidden ones left out, in natural order; none if it is no folder."""
    inside = _entries(folder) if folder.is_dir() else []
    return sorted((entry for entry in inside if entry.is_dir()), key=natural_key)


def pair_masks(
    folder: Path, images: Sequence[Path], mask_folders: Sequence[Path], endings: tuple[str, ...]
) -> dict[Path, Path]:
    """Return the mask of each image that has one.

    A mask lies at the image's place below `folder`, or has its name where only one mask has it; with any ending, and
    with `_mask`, `-mask`, `_gt` or nothing behind the name.

    Raises:
        DataError: if two masks fit an image equally well, or a folder can't be looked into.
    """
    by_place: dict[Path, list[Path]] = defaultdict(list)
    by_name: dict[str, list[Path]] = defaultdict(list)
    for mask_folder in mask_folders:
        found, _ = list_images(mask_folder, endings)
        for mask in found:
            by_place[mask.relative_to(mask_folder).with_suffix("")].append(mask)
            by_name[mask.stem].append(mask)
    pairs: dict[Path, Path] = {}
    for image in images:
        place = image.relative_to(folder).with_suffix("")
        # A mask folder may mirror the parent of the defect folders: masks/<defect>/000.png beside bad/<defect>.
        places = [place, Path(folder.name) / place]
        fits = [by_place.get(at.with_name(at.name + suffix), []) for at in places for suffix in MASK_SUFFIXES]
        fits += [by_name.get(image.stem + suffix, []) for suffix in MASK_SUFFIXES]
        best = next((fit for fit in fits if fit), [])
        if len(best) > 1:
            got = ", ".join(str(mask) for mask in best[:3])
            raise DataError(message("mask", f"one for {image}", f"{len(best)}: {got}", todo="Remove all but one."))
        if best:
            pairs[image] = best[0]
    return pairs


def seen(path: Path) -> str:
    """Return in a few words what is at a place, for errors: "nothing", "a file", "an empty folder", its content."""
    if not path.exists():
        return "nothing of that name"
    if not path.is_dir():
        return "a file"
    inside = sorted(_entries(path), key=natural_key)
    if not inside:
        return "an empty folder"
    names = [entry.name + ("/" if entry.is_dir() else "") for entry in inside]
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def no_images(name: str, folders: Sequence[Path], endings: tuple[str, ...]) -> DataError:
    """Return the error for folders in which there is no image; the text says what there is."""
    got = "; ".join(seen(folder) for folder in folders)
    where = ", ".join(str(folder) for folder in folders)
    return DataError(message(name, f"images ({', '.join(endings)})", got, where=where))


def _entries(folder: Path) -> list[Path]:
    try:
        return [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    except OSError as error:
        raise DataError(message("folder", "one that can be looked into", repr(error.strerror), where=folder)) from error
