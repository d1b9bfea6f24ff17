"""Export of inspections: a CSV table, COCO, and folders in the layout of MVTec AD."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np

from blemish._io.files import atomic_write, save_error
from blemish._io.text import csv_text
from blemish.data.outputs import save_output
from blemish.errors import SaveError, message
from blemish.station.inspections import iso_time

if TYPE_CHECKING:
    from blemish.station.files import Files
    from blemish.station.inspections import Inspection
    from blemish.types import Bool

CSV_COLUMNS = (
    "number", "id", "time", "model", "digest", "part_id", "source", "score", "threshold", "upper_threshold", "p_value",
    "outcome", "drift", "verdict", "defect_type", "comment", "reviewed_by", "reviewed_at", "sha256",
)  # fmt: skip
NO_TYPE = "defect"


class Exported(NamedTuple):
    """Result of an export.

    Attributes:
        n: inspections that were written.
        left_out: those whose image could not be read, and why.
    """

    n: int
    left_out: tuple[str, ...]


def to_csv(inspections: Iterable[Inspection]) -> str:
    """Return a CSV table of inspections, one row each."""
    return csv_text(CSV_COLUMNS, map(_cells, inspections))


def _cells(inspection: Inspection) -> list[object]:
    review = inspection.review
    said: Sequence[object] = ("",) * 5
    if review is not None:
        said = (review.verdict, review.defect_type, review.comment, review.who, iso_time(review.time))
    plain = [getattr(inspection, name) for name in CSV_COLUMNS[: CSV_COLUMNS.index("verdict")] if name != "time"]
    plain.insert(2, iso_time(inspection.time))
    return ["" if value is None else value for value in (*plain, *said, inspection.sha256)]


def to_coco(folder: str | os.PathLike[str], inspections: Iterable[Inspection], files: Files) -> Exported:
    """Write images and `annotations.json` in COCO's format: a polygon for each region above the threshold.

    Regions are the model's, types of defects those of reviews; a part that was called good has no annotation.

    Args:
        folder: new or empty.

    Raises:
        SaveError: if it is neither, or can't be written.
    """
    root = _new_folder(folder)
    images, annotations, left_out = list[dict[str, Any]](), list[dict[str, Any]](), list[str]()
    kinds: dict[str, int] = {}
    for inspection in inspections:
        name = _copied(inspection, files, root / "images", left_out)
        if name is None:
            continue
        images.append(_coco_image(inspection, f"images/{name}", len(images) + 1))
        if inspection.review is not None and inspection.review.verdict == "good":
            continue
        kind = inspection.review.defect_type if inspection.review is not None else ""
        category = kinds.setdefault(kind or NO_TYPE, len(kinds) + 1)
        for region in inspection.details["regions"]:
            annotations.append(_coco_annotation(region, len(annotations) + 1, len(images), category))
    categories = [{"id": number, "name": name, "supercategory": NO_TYPE} for name, number in kinds.items()]
    document = {"images": images, "annotations": annotations, "categories": categories}
    atomic_write(root / "annotations.json", json.dumps(document, indent=1).encode(), name="annotations")
    return Exported(len(images), tuple(left_out))


def _coco_image(inspection: Inspection, name: str, number: int) -> dict[str, Any]:
    shape = {"width": inspection.width, "height": inspection.height}
    facts = {"inspection": inspection.id, "score": inspection.score, "outcome": inspection.outcome}
    return {"id": number, "file_name": name, **shape, "date_captured": iso_time(inspection.time), **facts}


def _coco_annotation(region: dict[str, Any], number: int, image: int, category: int) -> dict[str, Any]:
    polygon = [value for point in region["contour"] for value in point]
    shape = {"bbox": region["box"], "area": region["area_px"], "segmentation": [polygon], "iscrowd": 0}
    return {"id": number, "image_id": image, "category_id": category, **shape, "score": region["score"]}


def to_folders(folder: str | os.PathLike[str], inspections: Iterable[Inspection], files: Files) -> Exported:
    """Write reviewed images in the layout of MVTec AD: MODEL/test/good, MODEL/test/TYPE and MODEL/ground_truth/TYPE.

    Masks are the model's regions, since no one draws any in a review; a defect that the model did not see has none.

    Args:
        folder: new or empty.

    Raises:
        SaveError: if it is neither, or can't be written.
    """
    root, n, left_out = _new_folder(folder), 0, list[str]()
    for inspection in inspections:
        if inspection.review is None:
            continue
        is_good = inspection.review.verdict == "good"
        kind = "good" if is_good else _folder_name(inspection.review.defect_type)
        name = _copied(inspection, files, root / inspection.model / "test" / kind, left_out)
        if name is None:
            continue
        n += 1
        if not is_good and inspection.details["regions"]:
            masks = root / inspection.model / "ground_truth" / kind
            save_output(masks / f"{inspection.id}_mask.png", _mask(inspection))
    return Exported(n, tuple(left_out))


def _mask(inspection: Inspection) -> Bool:
    mask = np.zeros((inspection.height, inspection.width), np.uint8)
    for region in inspection.details["regions"]:
        cv2.drawContours(mask, [np.array(region["contour"], np.int32)], -1, 1, cv2.FILLED)
    return mask.astype(np.bool_)


def _folder_name(defect_type: str) -> str:
    """Return a type of defect as the name of a folder.

    >>> _folder_name("Scratch / deep"), _folder_name("../good"), _folder_name("")
    ('Scratch_deep', 'defect_good', 'defect')
    """
    name = re.sub(r"[^\w-]+", "_", defect_type).strip("_-")[:80]
    if name != defect_type and name.lower() == "good":
        return "defect_good"
    return "defect_good" if name.lower() == "good" else name or NO_TYPE


def _new_folder(folder: str | os.PathLike[str]) -> Path:
    root = Path(folder)
    try:
        root.mkdir(parents=True, exist_ok=True)
        is_empty = not any(root.iterdir())
    except OSError as error:
        raise save_error("export", root, error) from error
    if not is_empty:
        raise SaveError(message("export", "a new or empty folder", "one that holds files", where=root))
    return root


def _copied(inspection: Inspection, files: Files, folder: Path, left_out: list[str]) -> str | None:
    """Copy an image and return its name; None, and a sentence in `left_out`, if it is gone."""
    source = files.image(inspection.id, inspection.format)
    if not source.is_file():
        left_out.append(f"{inspection.id}: its image is gone.")
        return None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, folder / source.name)
    except OSError as error:
        raise save_error("export", folder / source.name, error) from error
    return source.name
