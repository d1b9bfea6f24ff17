"""Discovery of images below a folder, by ending and by content, in natural order."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from blemish.data.outputs import OUTPUT_ENDINGS, is_output
from blemish.errors import DataError, message
from blemish.types import Sample

START_BYTES = 16  # that tell an image
IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
# First bytes of image files; those that can't be decoded are listed too, so that they are named and not passed over.
IMAGE_MAGIC = (
    b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"GIF8", b"8BPS", b"\xff\x0a",
    b"\0\0\0\x0cjP  ", b"\0\0\0\x0cJXL ", b"\x76\x2f\x31\x01", b"II\xbc\x01",
)  # fmt: skip
# Folders that an operating system or a file server keeps for itself; hidden like names that begin with a dot.
SYSTEM_FOLDERS = frozenset({
    "__macosx", "@eadir", "@recycle", "@recently-snapshot", "@tmp", "#recycle", "#snapshot", "$recycle.bin", "recycler",
    "system volume information", "lost+found", "~snapshot", "__pycache__",
})  # fmt: skip
BRANDS = (b"avif", b"heic", b"heix", b"mif1", b"jxl ")


class FoundFiles(NamedTuple):
    """Files of a folder and below it, each list in natural order.

    Attributes:
        images: by their ending, or by their first bytes.
        others: files that are no images.
        outputs: figures and masks that Blemish wrote.
    """

    images: list[Path]
    others: list[Path]
    outputs: list[Path]


class ListedDataSet:
    """A data set whose files were listed when it was made; base of the three layouts.

    Attributes:
        name: in reports.
        train: good images to fit on, in natural order.
        test: good images, then the defect types in natural order; a manifest's in its own order.
        skipped: files that are no images, or lie where none are expected; images that are not used, with their masks.
        unused_masks: masks of no defective image.
        notes: sentences on how the files were read.
    """

    name: str
    train: tuple[Sample, ...]
    test: tuple[Sample, ...]
    skipped: tuple[Path, ...] = ()
    unused_masks: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()

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
    """Return the images in a folder and below it, and all other files, as `find_images` finds them."""
    found = find_images(folder, endings, leave_out=leave_out)
    return found.images, sorted([*found.others, *found.outputs], key=natural_key)


def find_images(
    folder: Path, endings: tuple[str, ...] = IMAGE_ENDINGS, *, leave_out: Sequence[Path] = ()
) -> FoundFiles:
    """Return the images in a folder and below it, the other files, and the figures that Blemish wrote.

    Hidden files and folders are ignored, those of file servers (@eaDir) too; a missing folder holds nothing. Links to
    folders are followed, each folder once, so that a loop of links ends.

    Args:
        endings: of image names, lower case with the dot; capitals match too. With `IMAGE_ENDINGS`, a file of another
            ending or none is an image if its first bytes are those of one.

    Raises:
        DataError: if a folder can't be read.
    """
    found = FoundFiles([], [], [])
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
            elif entry.suffix.lower() in endings or (endings is IMAGE_ENDINGS and has_image_bytes(entry)):
                is_figure = entry.suffix.lower() in OUTPUT_ENDINGS and is_output(entry)
                (found.outputs if is_figure else found.images).append(entry)
            else:
                found.others.append(entry)
    return FoundFiles(*(sorted(paths, key=natural_key) for paths in found))


def has_image_bytes(path: Path) -> bool:
    """Return whether a file starts like an image, of a format that can be decoded or not. False if it can't be read."""
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return is_start_of_image(file.read(START_BYTES), path.stat().st_size)
    except OSError:
        return False


def is_start_of_image(start: bytes, size: int) -> bool:
    r"""Return whether the first `START_BYTES` of a file of `size` bytes are those of an image.

    >>> is_start_of_image(b"\xff\xd8\xff\xe0", 900), is_start_of_image(b"BMW and others", 14)
    (True, False)
    """
    if start.startswith(b"BM"):  # two letters may be text: the four bytes behind them are the file's size
        return int.from_bytes(start[2:6], "little") == size
    if start[:2] in (b"P5", b"P6"):
        return start[2:3].isspace()
    return (
        start.startswith(IMAGE_MAGIC)
        or (start[:4] == b"RIFF" and start[8:12] == b"WEBP")
        or (start[4:8] == b"ftyp" and start[8:12] in BRANDS)
    )


def folders_in(folder: Path) -> list[Path]:
    """Return the folders directly inside a folder, without hidden ones, in natural order; none if it is no folder."""
    inside = _entries(folder) if folder.is_dir() else []
    return sorted((entry for entry in inside if entry.is_dir()), key=natural_key)


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


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is not looked at: its name begins with a dot, or is one of a file server's own.

    >>> is_hidden(".thumbnails"), is_hidden("@eaDir"), is_hidden("@home")
    (True, True, False)
    """
    return name.startswith(".") or name.lower() in SYSTEM_FOLDERS


def _entries(folder: Path) -> list[Path]:
    try:
        return [entry for entry in folder.iterdir() if not is_hidden(entry.name)]
    except OSError as error:
        raise DataError(message("folder", "a readable one", repr(error.strerror), where=folder)) from error
