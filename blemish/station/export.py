"""Export of inspections: a CSV table, COCO, and folders in the layout of MVTec AD."""

from __future__ import annotations

import json
import os
import re
import shutil
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np

from blemish._io.files import save_error
from blemish._io.text import csv_text
from blemish.data.outputs import output_png
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
    export = CocoExport(inspections, files)
    return _written(folder, export, export.entries())


def to_folders(folder: str | os.PathLike[str], inspections: Iterable[Inspection], files: Files) -> Exported:
    """Write reviewed images in the layout of MVTec AD: MODEL/test/good, MODEL/test/TYPE and MODEL/ground_truth/TYPE.

    Masks are the model's regions, since no one draws any in a review; a defect that the model did not see has none.

    Args:
        folder: new or empty.

    Raises:
        SaveError: if it is neither, or can't be written.
    """
    export = FolderExport(inspections, files)
    return _written(folder, export, export.entries())


class Export(ABC):
    """The files of an export, one after the other: whoever writes them needs the memory of one.

    Attributes:
        n: inspections so far.
        left_out: those so far whose image is gone, and why.
    """

    def __init__(self, inspections: Iterable[Inspection], files: Files) -> None:
        self._inspections, self._files = inspections, files
        self.n, self.left_out = 0, list[str]()

    @abstractmethod
    def entries(self) -> Iterator[tuple[str, Path | bytes]]:
        """Yield the name of each file, with slashes, and the file to be copied or its content."""

    def _image(self, inspection: Inspection, folder: str) -> tuple[str, Path] | None:
        source = self._files.image(inspection.id, inspection.format)
        if not source.is_file():
            self.left_out.append(f"{inspection.id}: its image is gone.")
            return None
        self.n += 1
        return f"{folder}/{source.name}", source


class CocoExport(Export):
    """Images and `annotations.json`, as `to_coco` writes them."""

    def entries(self) -> Iterator[tuple[str, Path | bytes]]:
        """Yield the name of each file, with slashes, and the file to be copied or its content."""
        images, annotations = list[dict[str, Any]](), list[dict[str, Any]]()
        kinds: dict[str, int] = {}
        for inspection in self._inspections:
            image = self._image(inspection, "images")
            if image is None:
                continue
            yield image
            images.append(_coco_image(inspection, image[0], len(images) + 1))
            if inspection.review is not None and inspection.review.verdict == "good":
                continue
            kind = inspection.review.defect_type if inspection.review is not None else ""
            category = kinds.setdefault(kind or NO_TYPE, len(kinds) + 1)
            for region in inspection.details["regions"]:
                annotations.append(_coco_annotation(region, len(annotations) + 1, len(images), category))
        categories = [{"id": number, "name": name, "supercategory": NO_TYPE} for name, number in kinds.items()]
        document = {"images": images, "annotations": annotations, "categories": categories}
        yield "annotations.json", json.dumps(document, indent=1).encode()


class FolderExport(Export):
    """Reviewed images and masks in the layout of MVTec AD, as `to_folders` writes them."""

    def entries(self) -> Iterator[tuple[str, Path | bytes]]:
        """Yield the name of each file, with slashes, and the file to be copied or its content."""
        for inspection in self._inspections:
            if inspection.review is None:
                continue
            is_good = inspection.review.verdict == "good"
            kind = "good" if is_good else _folder_name(inspection.review.defect_type)
            image = self._image(inspection, f"{inspection.model}/test/{kind}")
            if image is None:
                continue
            yield image
            if not is_good and inspection.details["regions"]:
                name = f"{inspection.model}/ground_truth/{kind}/{inspection.id}_mask.png"
                yield name, output_png(_mask(inspection))


EXPORTS: dict[str, type[Export]] = {"coco": CocoExport, "folders": FolderExport}


def to_zip(export: Export) -> Iterator[bytes]:
    """Yield the pieces of a zip file of an export, made as it is read; what was left out stands in `left-out.txt`.

    Images are not compressed again. A file that goes while it is read is left out too.
    """
    sink = _Sink()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as archive:
        for name, source in export.entries():
            try:
                content = source if isinstance(source, bytes) else source.read_bytes()
            except OSError as error:
                export.left_out.append(f"{name}: {error.strerror}.")
                continue
            archive.writestr(zipfile.ZipInfo(name), content)
            yield sink.taken()
        if export.left_out:
            archive.writestr(zipfile.ZipInfo("left-out.txt"), "\n".join(export.left_out) + "\n")
    yield sink.taken()


class _Sink:
    """A file that can't be wound back, of which what was written is taken."""

    def __init__(self) -> None:
        self._pieces = list[bytes]()

    def write(self, data: bytes) -> int:
        self._pieces.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass

    def taken(self) -> bytes:
        data = b"".join(self._pieces)
        self._pieces.clear()
        return data


def _written(folder: str | os.PathLike[str], export: Export, entries: Iterator[tuple[str, Path | bytes]]) -> Exported:
    root = _new_folder(folder)
    for name, source in entries:
        path = root / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(source, bytes):
                path.write_bytes(source)
            else:
                shutil.copyfile(source, path)
        except OSError as error:
            raise save_error("export", path, error) from error
    return Exported(export.n, tuple(export.left_out))


def _coco_image(inspection: Inspection, name: str, number: int) -> dict[str, Any]:
    shape = {"width": inspection.width, "height": inspection.height}
    facts = {"inspection": inspection.id, "score": inspection.score, "outcome": inspection.outcome}
    return {"id": number, "file_name": name, **shape, "date_captured": iso_time(inspection.time), **facts}


def _coco_annotation(region: dict[str, Any], number: int, image: int, category: int) -> dict[str, Any]:
    polygon = [value for point in region["contour"] for value in point]
    shape = {"bbox": region["box"], "area": region["area_px"], "segmentation": [polygon], "iscrowd": 0}
    return {"id": number, "image_id": image, "category_id": category, **shape, "score": region["score"]}


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
