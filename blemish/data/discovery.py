"""Discovery of images below a folder in natural order, and pairing of masks with images."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from blemish.errors import DataError, message
from blemish.types import Sample

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
MASK_SUFFIXES = ("_mask", "-mask", "_gt", "")


class ListedDataSet:
    """A data set whose files were listed when it was made; base of the three layouts.

    Attributes:
        name: in reports.
        train: good images to fit on, in natural order.
        test: good images, then the defect types in natural order; a manifest's in its own order.
        skipped: files that are no images by their ending, or lie where none are expected.
        unused_masks: masks of no defective image.
    """

    name: str
    train: tuple[Sample, ...]
    test: tuple[Sample, ...]
    skipped: tuple[Path, ...] = ()
    unused_masks: tuple[Path, ...] = ()

    def _described(self, arguments: str) -> str:
        """Return the representation of a data set made with these arguments: its class and counts of images."""
        defective = sum(sample.is_defective for sample in self.test)
        counts = f"{len(self.train)} to train, {len(self.test) - defective} good and {defective} defective to test"
        return f"{type(self).__name__}({arguments}): {counts}"


def natural_key(path: Path) -> tuple[tuple[tuple[int, int, str], ...], str]:
    """Return a sorting key in natural order (2 before 10) without ties.

    >>> [path.name for path in sorted(map(Path, ["b10.png", "b2.png", "a.png"]), key=natural_key)]
    ['a.png', 'b2.png', 'b10.png']
    """
    pieces = re.split(r"([0-9]+)", path.as_posix())
    return tuple((1, int(piece), "") if piece.isdecimal() else (0, 0, piece) for piece in pieces), str(path)


def list_images(
    folder: Path, endings: tuple[str, ...], *, leave_out: Sequence[Path] = ()
) -> tuple[list[Path], list[Path]]:
    """Return the images in a folder and below it, and the other files, each in natural order.

    Hidden files and folders are ignored; a missing folder holds nothing. Links to folders are followed, each folder
    once, so that a loop of links ends.

    Args:
        endings: of image names, lower case with the dot; capitals match too.

    Raises:
        DataError: if a folder can't be read.
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
    """Return the folders directly inside a folder, without hidden ones, in natural order; none if it is no folder."""
    inside = _entries(folder) if folder.is_dir() else []
    return sorted((entry for entry in inside if entry.is_dir()), key=natural_key)


def pair_masks(
    folder: Path, images: Sequence[Path], mask_folders: Sequence[Path], endings: tuple[str, ...]
) -> dict[Path, Path]:
    """Return the mask of each image that has one.

    A mask has the image's path below `folder`, or its name where only one mask has it; with any ending, and with
    `_mask`, `-mask`, `_gt` or nothing behind the name.

    Raises:
        DataError: if two masks match an image equally well, or a folder can't be read.
    """
    by_path: dict[Path, list[Path]] = defaultdict(list)
    by_name: dict[str, list[Path]] = defaultdict(list)
    for mask_folder in mask_folders:
        masks, _ = list_images(mask_folder, endings)
        for mask in masks:
            by_path[mask.relative_to(mask_folder).with_suffix("")].append(mask)
            by_name[mask.stem].append(mask)
    pairs: dict[Path, Path] = {}
    for image in images:
        path = image.relative_to(folder).with_suffix("")
        # A mask folder may mirror the parent of the defect folders: masks/<defect>/000.png beside bad/<defect>.
        paths = [path, Path(folder.name) / path]
        matches = [by_path.get(each.with_name(each.name + suffix), []) for each in paths for suffix in MASK_SUFFIXES]
        matches += [by_name.get(image.stem + suffix, []) for suffix in MASK_SUFFIXES]
        best = next((masks for masks in matches if masks), [])
        if len(best) > 1:
            got = ", ".join(str(mask) for mask in best[:3])
            raise DataError(message("mask", f"one for {image}", f"{len(best)}: {got}", todo="Remove all but one."))
        if best:
            pairs[image] = best[0]
    return pairs


def describe_path(path: Path) -> str:
    """Return a few words on a path, for errors: missing, a file, an empty folder, or the names in a folder."""
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
    """Return the error for folders without an image; it lists their content."""
    got = "; ".join(describe_path(folder) for folder in folders)
    where = ", ".join(str(folder) for folder in folders)
    return DataError(message(name, f"images ({', '.join(endings)})", got, where=where))


def _entries(folder: Path) -> list[Path]:
    try:
        return [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    except OSError as error:
        raise DataError(message("folder", "a readable one", repr(error.strerror), where=folder)) from error
