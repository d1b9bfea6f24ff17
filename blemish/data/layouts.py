"""Public data sets by name: how each is recognised, and how its files are read.

Most state their roles in folder names and go to the one reader of such names, `NamedTree`; KolektorSDD and DAGM state
the class in the masks, VisA the split in a table, and Real-IAD everything in a JSON file.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from blemish.data.discovery import (
    ListedDataSet,
    describe_path,
    find_images,
    folders_in,
    natural_key,
)
from blemish.data.roles import mask_stem
from blemish.data.tree import NamedTree
from blemish.errors import DataError, message
from blemish.types import Sample


class Layout(NamedTuple):
    """The layout of a public data set.

    Attributes:
        title: the data set's name.
        shape: its folders, for people.
        recognises: returns whether a folder is one category of that layout, by its folders' names alone.
        read: returns the data set in the folder of one category.
    """

    title: str
    shape: str
    recognises: Callable[[Path], bool]
    read: Callable[[Path], ListedDataSet]


class VisA(NamedTree):
    """One category of VisA: `Data/Images/{Normal,Anomaly}` and `Data/Masks/Anomaly`.

    The split is that of `split_csv/1cls.csv` beside the category, if it is there; else a fifth of the normal images is
    held out for the test.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(root, leave_out=[root / "Data" / "Images" / "Prompt"])
        table = root.parent / "split_csv" / "1cls.csv"
        if not table.is_file():
            self.notes += (f"There is no {table}: a fifth of the normal images is held out for the test.",)
            return
        splits = _visa_splits(table, root)
        images = {sample.path: sample for sample in (*self.train, *self.test)}
        unknown = [path for path in images if path not in splits]
        train = [path for path in images if splits.get(path) == "train" and not images[path].is_defective]
        test = [sample for path, sample in images.items() if splits.get(path) == "test"]
        if not train:
            todo = f"Compare the table with the files of {root}."
            raise DataError(message("split", f"training images of {root.name}", "none", where=table, todo=todo))
        good = sorted((sample.path for sample in test if not sample.is_defective), key=natural_key)
        self.train = tuple(Sample(path, "train") for path in sorted(train, key=natural_key))
        self.test = (*(Sample(path) for path in good), *(sample for sample in test if sample.is_defective))
        self.skipped = (*self.skipped, *unknown)
        self.notes += (f"The split is that of {table}.",)


def _visa_splits(table: Path, root: Path) -> dict[Path, str]:
    """Return the split of each image of a category that the table names."""
    try:
        rows = list(csv.DictReader(table.read_text(encoding="utf-8-sig").splitlines()))
        return {root.parent / row["image"]: row["split"] for row in rows if row["object"] == root.resolve().name}
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, TypeError) as error:
        expected = "a CSV table with the columns object, split, label, image and mask"
        raise DataError(message("split", expected, repr(error), where=table)) from error


class RealIAD(ListedDataSet):
    """One category of Real-IAD, from its JSON file with the lists `train` and `test`.

    Args:
        table: the JSON file, such as `realiad_jsons/realiad_jsons/audiojack.json`.

    Raises:
        DataError: if the file is not of that form, an image that it names is not there, or there are several
            resolutions beside it.
    """

    def __init__(self, table: Path) -> None:
        self.path, self.name = table, table.stem
        try:
            document = json.loads(table.read_text(encoding="utf-8-sig"))
            meta, lists = document["meta"], {split: list(document[split]) for split in ("train", "test")}
            normal, prefix = str(meta.get("normal_class", "OK")), str(meta.get("prefix", ""))
        except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
            expected = "a JSON file of Real-IAD, with meta, train and test"
            raise DataError(message("data set", expected, repr(error)[:200], where=table)) from error
        base = _realiad_base(table, lists["train"], prefix)
        samples = {split: [_realiad_sample(row, split, normal, base, table) for row in lists[split]] for split in lists}
        bad = [sample.path for sample in samples["train"] if sample.is_defective]
        self.train = tuple(sample for sample in samples["train"] if not sample.is_defective)
        self.test = tuple(sorted(samples["test"], key=lambda sample: sample.is_defective))
        self.skipped = tuple(bad)
        self.notes = ("Read as Real-IAD.",)
        if bad:
            self.notes += (f"Defective training images are not used: {len(bad)}, such as {bad[0]}.",)
        if not self.train:
            raise DataError(message("data set", "good images to train on", "none", where=table))

    def __repr__(self) -> str:
        return self._described(repr(str(self.path)))


def _realiad_base(table: Path, rows: list[Any], prefix: str) -> Path:
    """Return the folder that image paths of a JSON file start at: the one in which the first image is."""
    first = str(rows[0].get("image_path")) if rows and isinstance(rows[0], dict) else ""
    places = [table.parent, *list(table.resolve().parents)[1:4]]
    places = [place for parent in places for place in (parent, *folders_in(parent))]
    bases = [base for place in places for base in (place, place / prefix, place / table.stem)]
    found = list(dict.fromkeys(base.resolve() for base in bases if first and (base / first).is_file()))
    if len(found) == 1:
        return found[0]
    got = "no folder that holds it" if not found else ", ".join(map(str, found))
    todo = "Put the JSON file beside the images of one resolution: realiad_jsons/ beside realiad_256/."
    raise DataError(message("images", f"{first or 'the first image'} in one folder", got, where=table, todo=todo))


def _realiad_sample(row: object, split: str, normal: str, base: Path, table: Path) -> Sample:
    """Return one entry of the lists of a JSON file of Real-IAD."""
    if not isinstance(row, dict) or not isinstance(row.get("image_path"), str) or "anomaly_class" not in row:
        expected = "entries with image_path and anomaly_class"
        raise DataError(message(split, expected, repr(row)[:100], where=table))
    path = base / row["image_path"]
    mask = base / str(row["mask_path"]) if row.get("mask_path") else None
    for file in (path, mask):
        if file is not None and not file.is_file():
            raise DataError(message(split, "an image that is there", str(file), where=table))
    defect = "good" if row["anomaly_class"] == normal else str(row["anomaly_class"])
    return Sample(path, split, defect, None if defect == "good" else mask)


def _private_tests(root: Path) -> NamedTree:
    """Read a category of MVTec AD 2; the images of the private tests have no labels."""
    private = [folder for folder in folders_in(root) if folder.name.startswith("test_private")]
    dataset = NamedTree(root, leave_out=private)
    if private:
        names = ", ".join(folder.name for folder in private)
        dataset.notes += (f"{names}: not read, their images have no public labels.",)
        dataset.skipped += tuple(path for folder in private for path in find_images(folder).images)
    return dataset


def _has(*folders: str) -> Callable[[Path], bool]:
    return lambda root: all((root / folder).is_dir() for folder in folders)


def _is_loco(root: Path) -> bool:
    return _has("train/good", "validation/good", "test")(root) and not (root / "test_public").is_dir()


def _is_dagm(root: Path) -> bool:
    return _has("Train/Label", "Test/Label")(root)


def _is_kolektor(root: Path) -> bool:
    """Return whether folders kos01, kos02, ... hold Part0.jpg and Part0_label.bmp."""
    items = [folder for folder in folders_in(root) if folder.name.startswith("kos")]
    return bool(items) and any(mask_stem(path.stem) for path in items[0].iterdir())


def _is_kolektor2(root: Path) -> bool:
    """Return whether the folders train and test hold 10000.png and 10000_GT.png."""
    return all((root / split).is_dir() and any((root / split).glob("*_GT.png")) for split in ("train", "test"))


# The order counts: the first that recognises a folder reads it.
LAYOUTS: Mapping[str, Layout] = {
    "mvtec-ad-2": Layout(
        "MVTec AD 2",
        "train/good, validation/good, test_public/{good,bad}, test_public/ground_truth/bad",
        _has("train/good", "test_public"),
        _private_tests,
    ),
    "mvtec-loco": Layout(
        "MVTec LOCO AD",
        "train/good, validation/good, test/{good,...}, ground_truth/<defect>/<image>/000.png",
        _is_loco,
        NamedTree,
    ),
    "btad": Layout("BTAD", "train/ok, test/{ok,ko}, ground_truth/ko", _has("train/ok", "test"), NamedTree),
    "visa": Layout("VisA", "Data/Images/{Normal,Anomaly}, Data/Masks/Anomaly", _has("Data/Images/Normal"), VisA),
    "kolektor-sdd": Layout(
        "KolektorSDD",
        "kos01/Part0.jpg, kos01/Part0_label.bmp",
        _is_kolektor,
        lambda root: NamedTree(root, unit_of=lambda path: path.parent),
    ),
    "kolektor-sdd2": Layout("KolektorSDD2", "{train,test}/10000.png, 10000_GT.png", _is_kolektor2, NamedTree),
    "dagm": Layout("DAGM 2007", "{Train,Test}/0576.PNG, Label/0576_label.PNG", _is_dagm, NamedTree),
}


def recognised(root: Path) -> str | None:
    """Return the name of the layout of a category's folder; None if it is none of these."""
    return next((name for name, layout in LAYOUTS.items() if layout.recognises(root)), None)


def realiad_tables(root: Path) -> dict[str, Path]:
    """Return the JSON files of Real-IAD by category, at `root` or in its folder `realiad_jsons`."""
    folders = [root / "realiad_jsons" / "realiad_jsons", root / "realiad_jsons", root]
    for folder in folders if (root / "realiad_jsons").is_dir() else []:
        tables = sorted(folder.glob("*.json"))
        if tables:
            return {table.stem: table for table in tables}
    return {}


def read(root: Path, layout: str) -> ListedDataSet:
    """Return a category read by the layout of that name.

    Raises:
        DataError: if there is no such layout, or the folder is not of it.
    """
    if layout not in LAYOUTS:
        raise DataError(message("layout", f"one of {', '.join(LAYOUTS)}", repr(layout)))
    chosen = LAYOUTS[layout]
    if not chosen.recognises(root):
        raise DataError(message("data set", f"{chosen.title}: {chosen.shape}", describe_path(root), where=root))
    dataset = chosen.read(root)
    dataset.notes = (f"Read as {chosen.title}.", *dataset.notes)
    return dataset
