"""Export of inspections: a CSV table, COCO, and folders in the layout of MVTec AD."""

from __future__ import annotations

import hashlib
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
from blemish.data.roles import is_filler, split_of, tell
from blemish.errors import SaveError, message
from blemish.station.inspections import iso_time

if TYPE_CHECKING:
    from blemish.station.files import Files
    from blemish.station.inspections import Inspection

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

    A type that is no name of a folder, or would be read as good or as masks, gets another; `types.json` says which.
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
        names = FolderNames()
        for inspection in self._inspections:
            if inspection.review is None:
                continue
            is_good = inspection.review.verdict == "good"
            kind = "good" if is_good else names.of(inspection.review.defect_type)
            image = self._image(inspection, f"{inspection.model}/test/{kind}")
            if image is None:
                continue
            yield image
            if not is_good and inspection.details["regions"]:
                name = f"{inspection.model}/ground_truth/{kind}/{inspection.id}_mask.png"
                yield name, _mask_png(inspection)
        if names.changed():
            yield "types.json", json.dumps(names.changed(), indent=1).encode()


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


def _mask_png(inspection: Inspection) -> bytes:
    """Return the mask of an inspection, without the mark of figures: a data set reads it."""
    mask = np.zeros((inspection.height, inspection.width), np.uint8)
    for region in inspection.details["regions"]:
        cv2.drawContours(mask, [np.array(region["contour"], np.int32)], -1, 255, cv2.FILLED)
    done, encoded = cv2.imencode(".png", mask)
    assert done
    return encoded.tobytes()


class FolderNames:
    """Names of folders for types of defects, each of its own, none of which means another role where they are read.

    A type such as "ok", "normal wear" or "mask" would be read as good images or as masks.

    >>> names = FolderNames()
    >>> [names.of(text) for text in ("Scratch / deep", "Scratch_deep", "../normal wear", "")]
    ['Scratch_deep', 'Scratch_deep_ce1f8574', 'defect_5b6bcd52', 'defect']
    """

    def __init__(self) -> None:
        self._names: dict[str, str] = {}

    def of(self, defect_type: str) -> str:
        """Return the name of the folder of a type."""
        known = self._names.get(defect_type)
        if known is not None:
            return known
        digest = hashlib.sha256(defect_type.encode("utf-8", "surrogatepass")).hexdigest()[:8]
        name = re.sub(r"[^\w-]+", "_", defect_type).strip("_-")[:80] or NO_TYPE
        if not _means_a_defect(name):
            name = f"{NO_TYPE}_{digest}"
        if name.casefold() in map(str.casefold, self._names.values()):
            name = f"{name}_{digest}"
        self._names[defect_type] = name
        return name

    def changed(self) -> dict[str, str]:
        """Return the types whose folder has another name, by that name."""
        return {name: defect_type for defect_type, name in self._names.items() if name != (defect_type or NO_TYPE)}


def _means_a_defect(name: str) -> bool:
    said = tell(name)
    return (said is None or said.kind == "defective") and not is_filler(name) and split_of(name) is None


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
