"""Manifests: lists of images in CSV and JSON-lines files, with errors that name the line."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any

from blemish.data.discovery import IMAGE_ENDINGS, ListedDataSet, list_images
from blemish.data.grouping import check_groups
from blemish.data.roles import label_class, split_of, tell
from blemish.errors import DataError, message
from blemish.types import Sample

MANIFEST_ENDINGS = (".csv", ".jsonl", ".ndjson")
COLUMNS = ("path", "split", "defect", "label", "mask", "group")
# Labels of a defective image of unnamed type; any other that is not good is the defect type.
BAD_WORDS = ("1", "1.0", "true")


class Manifest(ListedDataSet):
    """A list of images in a CSV or JSON-lines file.

    Columns (or keys): `path`, and optionally `split` ("train" or "test"), `defect` or `label`, `mask`, `group`. Paths
    are relative to the manifest's folder. Without `defect` or `label` an image is good; a label may also be a number, 0
    for good, or a word such as PASS or "no defect". Several masks of one image are united: a folder of them, a list in
    JSON, or names with `|` between them.
    Without `split` the good images are for training and the defective ones for the test. Images with the same `group`
    show one part: they count once for thresholds, and are either all to fit or all to test on.

    Args:
        path: the file; its ending is .csv, .jsonl or .ndjson.

    Raises:
        DataError: with the line's number, if a line is not of that form or its file does not exist.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.name = self.path.stem
        samples = read_manifest(self.path)
        self.train = tuple(sample for sample in samples if sample.split == "train")
        self.test = tuple(sample for sample in samples if sample.split == "test")

    def __repr__(self) -> str:
        return self._described(repr(str(self.path)))


def read_manifest(path: Path) -> tuple[Sample, ...]:
    """Return the samples that a manifest lists, in its order.

    Args:
        path: a CSV file with a header line, or one JSON object a line; UTF-8. Relative paths start at its folder.

    Raises:
        DataError: with file and line, if it can't be read, a line is not of that form, a file it names does not exist,
            an image is listed twice, or it lists no good image to train on.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        got = getattr(error, "strerror", None) or "bytes that are not UTF-8"
        raise DataError(message("manifest", "a UTF-8 text file", repr(got), where=path)) from error
    rows = _csv_rows(text, path) if path.suffix.lower() == ".csv" else _json_rows(text, path)
    samples: list[Sample] = []
    lines: dict[str, int] = {}
    for line, row in rows:
        where = f"{path}, line {line}"
        sample = _sample(row, path.parent, where)
        place = os.path.realpath(sample.path)
        if place in lines:
            got = f"{sample.path} again, after line {lines[place]}"
            raise DataError(message("manifest", "each image once", got, where=where))
        lines[place] = line
        samples.append(sample)
    masks = {os.path.realpath(mask): sample for sample in samples for mask in sample.mask_paths}
    both = next((sample for sample in samples if os.path.realpath(sample.path) in masks), None)
    if both is not None:
        got = f"{both.path}, which is the mask of {masks[os.path.realpath(both.path)].path}"
        where = f"{path}, line {lines[os.path.realpath(both.path)]}"
        raise DataError(message("manifest", "images in the column path", got, where=where))
    if not any(sample.split == "train" for sample in samples):
        got = f"{len(samples)} lines without one" if samples else "no lines"
        raise DataError(message("manifest", "good images of split train", got, where=path))
    if any(sample.group for sample in samples):
        train, test = ([sample for sample in samples if sample.split == split] for split in ("train", "test"))
        check_groups(train, test, "group")
    return tuple(samples)


def _csv_rows(text: str, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    first = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=first.count)  # spreadsheets write semicolons where the comma is the decimal point
    reader = csv.reader(text.splitlines(), delimiter=delimiter, strict=True)
    try:
        header = [name.strip().lower() for name in next(reader, [])]
        _check_columns(header, f"{path}, line 1")
        for row in reader:
            if not any(cell.strip() for cell in row):
                continue
            if len(row) != len(header):
                got = f"{len(row)} values"
                raise DataError(
                    message("manifest", f"{len(header)} values", got, where=f"{path}, line {reader.line_num}")
                )
            yield reader.line_num, dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise DataError(message("manifest", "CSV", str(error), where=f"{path}, line {reader.line_num}")) from error


def _json_rows(text: str, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, row in enumerate(text.split("\n"), 1):
        if not row.strip():
            continue
        where = f"{path}, line {line}"
        try:
            values = json.loads(row, object_pairs_hook=_each_once)
        except (ValueError, RecursionError) as error:
            raise DataError(message("manifest", "one JSON object a line", str(error)[:200], where=where)) from error
        if not isinstance(values, dict):
            raise DataError(message("manifest", "a JSON object", type(values).__name__, where=where))
        _check_columns(list(values), where)
        yield line, values


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the values by key; ValueError if a key is there twice, of which the first would be lost."""
    values = dict(pairs)
    if len(values) < len(pairs):
        twice = next(key for i, (key, _) in enumerate(pairs) if key in dict(pairs[:i]))
        raise ValueError(f"the key {twice!r} twice")
    return values


def _check_columns(names: list[str], where: str) -> None:
    unknown = [name for name in names if name not in COLUMNS]
    if "path" not in names or unknown or len(set(names)) < len(names):
        expected = "the columns path and optionally split, defect or label, mask, group"
        raise DataError(message("manifest", expected, ", ".join(names) or "nothing", where=where))


def _sample(row: dict[str, Any], folder: Path, where: str) -> Sample:
    path = _file(row.get("path"), "path", folder, where)
    if path is None:
        raise DataError(message("path", "the name of an image", "nothing", where=where))
    defect = _defect(row, where)
    if not any(row.get(column) not in (None, "") for column in ("defect", "label")):
        _check_path(str(row["path"]), where)
    split = row.get("split")
    split = split.strip() if isinstance(split, str) and split.strip() else split or None
    if isinstance(split, str) and (name := split_of(split)) != "validation":
        split = name or split
    if split is None:
        split = "train" if defect == "good" else "test"
    if split not in ("train", "test"):
        raise DataError(message("split", '"train" or "test"', repr(split), where=where))
    if split == "train" and defect != "good":
        todo = "Detectors are fitted on good images alone: make it test, or leave it out."
        raise DataError(message("split", "test for a defective image", "train", where=where, todo=todo))
    masks = _masks(row.get("mask"), folder, where)
    group = row.get("group")
    if group is not None and (isinstance(group, bool) or not isinstance(group, (str, int))):
        raise DataError(message("group", "the name of a part", repr(group), where=where))
    part = "" if group is None else str(group).strip()
    return Sample(path, split, defect, masks[0] if masks else None, masks[1:], part)


def _check_path(name: str, where: str) -> None:
    """Refuse an image without a label whose path says that it is not good."""
    path = PurePath(name.replace("\\", "/"))
    said = [found for part in (*path.parts[:-1], path.stem) if (found := tell(part)) is not None]
    other = next((found for found in said if found.kind != "good"), None)
    if other is not None:
        todo = 'Add a column defect: "good", or the name of the defect. Masks belong into the column mask.'
        raise DataError(
            message("defect", f"a label, for {other.name!r} is in the path", "none", where=where, todo=todo)
        )


def _masks(value: object, folder: Path, where: str) -> tuple[Path, ...]:
    """Return the mask files that a cell or a JSON value names."""
    if isinstance(value, str) and "|" in value and not (folder / value.strip()).exists():
        value = value.split("|")
    masks: list[Path] = []
    for each in value if isinstance(value, list) else [value]:
        inside = folder / each.strip() if isinstance(each, str) and each.strip() else None
        if inside is not None and "\0" not in str(inside) and inside.is_dir():
            masks += list_images(inside, IMAGE_ENDINGS)[0]
        elif (mask := _file(each, "mask", folder, where)) is not None:
            masks.append(mask)
    return tuple(masks)


def _file(value: object, column: str, folder: Path, where: str) -> Path | None:
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if not isinstance(value, str):
        raise DataError(message(column, "the name of a file", repr(value), where=where))
    path = folder / value.strip()
    try:
        exists = path.is_file()
    except (OSError, ValueError):  # too long, or a zero byte in it
        exists = False
    if not exists:
        todo = f"Names are relative to {folder}." if folder != Path() else "Names are relative to the manifest."
        raise DataError(message(column, "a file that exists", repr(value), where=where, todo=todo))
    return path


def _defect(row: dict[str, Any], where: str) -> str:
    words = []
    for column in ("defect", "label"):
        value = row.get(column)
        if value is None or (isinstance(value, str) and not value.strip()):
            continue
        if not isinstance(value, (str, bool, int, float)):
            raise DataError(message(column, '"good" or the name of a defect', repr(value), where=where))
        words.append(str(value).strip())
    classes = [label_class(word, where=where) for word in words]
    if len(set(classes)) > 1:
        raise DataError(message("label", "the same as defect", " and ".join(map(repr, words)), where=where))
    if not words or classes[0] == "good":
        return "good"
    return next((word for word in words if word.lower() not in BAD_WORDS), "defect")
