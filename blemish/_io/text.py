"""Text files and file names made of text that others chose: CSV tables, and names of output files."""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

# OWASP, "CSV Injection": a cell that begins so is run as a formula. The wide forms count in East Asian spreadsheets.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
NAME_MAX = 255  # bytes of a file name on ext4, XFS, APFS and NTFS
HASH_LETTERS = 12


def csv_text(head: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    r"""Return a CSV table as RFC 4180 writes it: lines end in CR LF, cells with commas, quotes or line ends are quoted.

    Text that a spreadsheet would run as a formula gets an apostrophe before it; numbers stay as they are. Bytes of file
    names that are no text become escapes, so that the table can be encoded.

    >>> csv_text(["path", "score"], [["=cmd|' /C calc'!A0", -0.5], ["a\rb", 1]])
    'path,score\r\n\'=cmd|\' /C calc\'!A0,-0.5\r\n"a\rb",1\r\n'
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow([_cell(cell) for cell in head])
    writer.writerows([_cell(cell) for cell in line] for line in lines)
    return text.getvalue().encode("utf-8", "backslashreplace").decode("utf-8")


def output_name(number: int, source: Path, folder: Path, *, ending: str = ".png") -> str:
    r"""Return the name of the output file of an image: its number, and the image's name.

    Unprintable characters become underscores. A name that the file system does not take is cut, and ends in a hash of
    the image's path.

    Args:
        number: of the image, which makes the name unique.
        source: the image.
        folder: where the file is written; it need not exist.

    >>> output_name(7, Path("cam1/part\n3.jpeg"), Path())
    '0007-part_3.png'
    """
    stem = "".join(character if character.isprintable() else "_" for character in source.stem)
    name = f"{number:04d}-{stem}{ending}"
    limit = _name_max(folder)
    if len(name.encode("utf-8")) <= limit:
        return name
    digest = hashlib.sha256(os.fsencode(source)).hexdigest()[:HASH_LETTERS]
    n_bytes = limit - len(f"{number:04d}--{digest}{ending}")
    return f"{number:04d}-{cut(stem, n_bytes)}-{digest}{ending}"


def cut(text: str, n_bytes: int) -> str:
    """Return the beginning of a text that has at most so many bytes of UTF-8; half a character is left out.

    >>> cut("Größe", 3)
    'Gr'
    """
    return text.encode("utf-8", "ignore")[: max(n_bytes, 0)].decode("utf-8", "ignore")


def _cell(cell: object) -> object:
    if isinstance(cell, (int, float)):
        return cell
    text = str(cell)
    return f"'{text}" if text.startswith(FORMULA_STARTS) else text


def _name_max(folder: Path) -> int:
    """Return the bytes of the longest file name in a folder, or in the one that it will be made in."""
    if not hasattr(os, "pathconf"):
        return NAME_MAX
    place = next((path for path in (folder, *folder.absolute().parents) if path.is_dir()), Path())
    try:
        limit = os.pathconf(place, "PC_NAME_MAX")
    except (OSError, ValueError):
        return NAME_MAX
    return limit if 0 < limit < NAME_MAX else NAME_MAX
