"""Files that annotate images and are no masks: tables of labels, and lists of regions as annotation tools write them.

Blemish does not read them. Where nothing else states a class, they tell that some images may be defective.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from blemish.data.roles import tell

ENDINGS = (".json", ".jsonl", ".xml", ".txt", ".csv", ".tsv", ".xlsx", ".yaml", ".yml")
MAX_READ = 1 << 16  # bytes of a file that are looked at
MAX_FILES = 200
# Pascal VOC; COCO, LabelMe, VIA, Label Studio, Supervisely.
REGIONS = re.compile(
    rb'<object>|<bndbox>|"(annotations|shapes|regions|bbox|polygon|segmentation|objects|defects?)"\s*:'
)
# YOLO: a class and the box, or the polygon, in shares of the image.
YOLO = re.compile(rb"\s*\d+(\s+[01]?\.\d+|\s+[01](?=\s)){4,}\s")


def find_annotations(root: Path, images: Iterable[Path], others: Sequence[Path]) -> list[Path]:
    """Return the files that annotate images by their names or, with an image's name, by their content.

    A file annotates by its name if it, or a folder between the root and the file, is named like masks or defects:
    labels/000.txt, annotations.json, defects.csv. A file of an image's name, 000.json beside 000.png, may as well be
    a camera's: it annotates if it lists regions.

    Cost: reads the first 64 kB of at most 200 files.
    """
    listed = [path for path in others if path.suffix.lower() in ENDINGS]
    named = [path for path in listed if _is_named_so((*path.relative_to(root).parts[:-1], path.stem))]
    if named:
        return named
    stems = {path.stem for path in images}
    beside = [path for path in listed if path.stem in stems]
    return [path for path in beside[:MAX_FILES] if _lists_regions(path)]


def _is_named_so(names: Iterable[str]) -> bool:
    return any(said.kind in ("mask", "defective") for name in names if (said := tell(name)) is not None)


def _lists_regions(path: Path) -> bool:
    """Return whether a file starts like one of an annotation tool; False if it is a pipe or can't be read."""
    if not path.is_file():  # opening a pipe would wait for ever
        return False
    try:
        with path.open("rb") as file:
            start = file.read(MAX_READ)
    except OSError:
        return False
    return bool(REGIONS.search(start)) or (path.suffix.lower() == ".txt" and bool(YOLO.match(start + b"\n")))
