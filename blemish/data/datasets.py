"""Data sets: the layout of MVTec AD, and `open_dataset` that recognises the layout of a path.

Others: `Folder` for named folders of good and defective images, `Manifest` for a list in a file, the public data sets
of `layouts`, and `NamedTree` for any tree in which names state the roles.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from blemish._validation.anomalib_arguments import OF_DATA_SETS, refuses, warn_without_effect
from blemish.data.discovery import (
    IMAGE_ENDINGS,
    ListedDataSet,
    describe_path,
    folders_in,
    list_images,
    natural_key,
    no_images,
)
from blemish.data.folder import Folder, PathLike
from blemish.data.grouping import GroupOf, check_groups, group_of_pattern, grouped, sentence, unit_of
from blemish.data.layouts import LAYOUTS, RealIAD, read, realiad_tables, recognised
from blemish.data.manifest import MANIFEST_ENDINGS, Manifest
from blemish.data.mask_files import assign, beside, elsewhere, with_masks
from blemish.data.roles import fold, is_filler, split_of, tell
from blemish.data.tree import NamedTree, check_below, inside_good, unclear_name
from blemish.errors import DataError, message
from blemish.types import Sample

__all__ = ["DataSet", "Folder", "MVTec", "MVTecAD", "Manifest", "categories", "open_dataset"]

MVTEC_LAYOUT = "<category>/train/good, <category>/test/<defect>, <category>/ground_truth/<defect>/000_mask.png"
MVTEC, REAL_IAD = "mvtec-ad", "real-iad"
LAYOUT_NAMES = (MVTEC, *LAYOUTS, REAL_IAD)


@runtime_checkable
class DataSet(Protocol):
    """Training and test images of one category."""

    @property
    def name(self) -> str:
        """The name in reports."""
        ...

    @property
    def train(self) -> tuple[Sample, ...]:
        """The good images to fit on, in natural order (2 before 10)."""
        ...

    @property
    def test(self) -> tuple[Sample, ...]:
        """The images to test on, good ones first; empty where there are none."""
        ...


class MVTecAD(ListedDataSet):
    """One category in the layout of MVTec AD.

    `<root>/<category>/train/good`, `test/good` and `test/<defect>`, `ground_truth/<defect>`. A mask has its image's
    name, with `_mask` or without, or lies in a folder of that name; several of one image are united. Images may have
    any ending that `imaging.decode.load` reads, in capitals or not.

    Args:
        root: the folder that holds the categories.
        category: the folder of one of them.
        train_batch_size, eval_batch_size, num_workers: accepted for calls written for anomalib; images go through the
            network one by one, decoded ahead in `threads=` of the detector.

    Raises:
        DataError: if the folders are missing (the text lists those that exist), or a name below `train/good` or below a
            folder of the test says another class.

    Warns:
        UserWarning: if one of the last three is given: they have no effect.
    """

    @refuses("MVTecAD", OF_DATA_SETS | {"seed": "Nothing is random: the folders define the test images."})
    def __init__(
        self,
        root: PathLike = "./datasets/MVTecAD",
        category: str = "bottle",
        *,
        train_batch_size: int | None = None,
        eval_batch_size: int | None = None,
        num_workers: int | None = None,
    ) -> None:
        given = {"train_batch_size": train_batch_size, "eval_batch_size": eval_batch_size, "num_workers": num_workers}
        warn_without_effect("MVTecAD", given)
        self.root = Path(root)
        self.name = self.category = category
        self.folder = _category_folder(self.root, category)
        self._list()

    def __repr__(self) -> str:
        return self._described(f"{str(self.root)!r}, {self.category!r}")

    def _list(self) -> None:
        folder = self.folder
        inside = beside(list_images(folder / "train" / "good", IMAGE_ENDINGS)[0]).images
        good, _ = elsewhere(check_below(folder / "train" / "good", inside, "good")[0])
        if not good:
            raise no_images("train/good", [folder / "train" / "good"], IMAGE_ENDINGS)
        said = {path: tell(path.name) for path in folders_in(folder / "test")}
        inside_test = [path for path, found in said.items() if found is None or found.kind != "derived"]
        tests = [(path, self._defect(path)) for path in inside_test]
        tests.sort(key=lambda pair: (pair[1] != "good", natural_key(Path(pair[0].name))))
        mask_folders = [folder / "ground_truth", *(path for path, defect in tests if defect is None)]
        self._mask_files = [mask for each in mask_folders for mask in list_images(each, IMAGE_ENDINGS)[0]]
        self._masks_of_good: set[Path] = set()
        test = [sample for path, defect in tests if defect is not None for sample in self._test_of(path, defect)]
        paired = {mask for sample in test for mask in sample.mask_paths} | self._masks_of_good
        masks = [mask for mask in self._mask_files if mask not in paired]
        images, others = list_images(folder, IMAGE_ENDINGS)
        used = {*good, *(sample.path for sample in test), *paired, *masks}
        self.train, self.test = tuple(Sample(path, "train") for path in good), tuple(test)
        self.skipped = tuple(path for path in (*images, *others) if path not in used)
        self.unused_masks = tuple(masks)
        self.notes = tuple(inside_good((path.relative_to(folder).parts[:-1], 1) for path in good))

    def _defect(self, folder: Path) -> str | None:
        """Return the class of a folder of test images: "good", a defect type, or None for masks."""
        said = tell(folder.name)
        if is_filler(folder.name) or (said is not None and said.kind == "unclear"):
            raise unclear_name(folder, folder.name)
        kind = "defective" if said is None else said.kind
        return {"good": "good", "mask": None}.get(kind, folder.name)

    def _test_of(self, folder: Path, defect: str) -> list[Sample]:
        """Return the test images of one folder, with their masks."""
        inside, pairs, orphans = beside(list_images(folder, IMAGE_ENDINGS)[0])
        paths, masks, _ = check_below(folder, inside, "good" if defect == "good" else "defective")
        name = fold(folder.name)
        own = [mask for mask in self._mask_files if name in map(fold, mask.relative_to(self.folder).parts[:-1])]
        masks_of = {**assign([*own, *masks, *orphans], [path for path in paths if path not in pairs]), **pairs}
        if defect == "good":  # some copies have all-black masks for good images
            self._masks_of_good.update(mask for found in masks_of.values() for mask in found)
            masks_of = {}
        return [with_masks(path, "test", defect, masks_of) for path in paths]


MVTec = MVTecAD  # anomalib's name before 2.0


def open_dataset(
    path: PathLike,
    *,
    category: str | None = None,
    layout: str | None = None,
    plain: Literal["good", "defective"] = "good",
    group_by: str | None = None,
) -> DataSet:
    """Return the data set at `path`, with its layout recognised.

    Args:
        path: a category of a public data set; a root of categories, with `category`; a manifest file; a folder, at any
            depth, whose folder names say which images are good, with a fifth of the good ones held out where no split
            is stated; or a folder of good images (sub-folders too), without test images.
        category: of a root of categories.
        layout: one of `LAYOUT_NAMES` to be read as; recognised by default.
        plain: class of the images of a folder in which no name states one.
        group_by: a regular expression of the part that an image shows, searched in its path below `path`. Images of one
            part are held out together, and count once for thresholds. A manifest may have a column `group` instead.

    Raises:
        DataError: if it is none of these, or the role of an image is not clear; the text names the path. If no path
            matches `group_by`, or a part is both to fit and to test on.
        InputError: if `group_by` is no regular expression.
    """
    path = Path(path)
    group_of = None if group_by is None else group_of_pattern(group_by, path)
    dataset = _open(path, category, layout, plain, group_of)
    if group_of is not None and group_by is not None:
        dataset.train, dataset.test = (grouped(samples, group_of) for samples in (dataset.train, dataset.test))
        check_groups(dataset.train, dataset.test, group_by)
    if any(sample.group for sample in dataset.train):
        dataset.notes = (*dataset.notes, sentence(dataset.train))
    return dataset


def _open(
    path: Path,
    category: str | None,
    layout: str | None,
    plain: Literal["good", "defective"],
    group_of: GroupOf | None,
) -> ListedDataSet:
    if layout is not None and layout not in LAYOUT_NAMES:
        raise DataError(message("layout", f"one of {', '.join(LAYOUT_NAMES)}", repr(layout)))
    if path.is_file():
        return _from_file(path, layout)
    if category is not None or layout == MVTEC:
        return _of_category(path, category, layout, group_of)
    if not path.is_dir():
        raise DataError(message("data set", "a folder or a manifest", describe_path(path), where=path))
    names = categories(path)
    is_whole = (path / "train" / "good").is_dir() or recognised(path) is not None
    if names and not is_whole:
        todo = f"It holds several: name one of {', '.join(names)}."
        raise DataError(message("category", "one category", f"a folder of {len(names)}", where=path, todo=todo))
    if layout == REAL_IAD:
        todo = "Put the folder realiad_jsons beside the images, or name a JSON file."
        raise DataError(message("data set", "realiad_jsons/ in it", describe_path(path), where=path, todo=todo))
    if layout is not None:
        return read(path, layout)
    return _by_names(path, plain, group_of)


def _by_names(path: Path, plain: Literal["good", "defective"], group_of: GroupOf | None) -> ListedDataSet:
    """Return the data set of a folder: of a public layout, or of any names."""
    known = recognised(path)
    if known is not None:
        return read(path, known)
    splits = {split_of(folder.name) for folder in folders_in(path)}
    if (path / "train" / "good").is_dir() and ((path / "test").is_dir() or not splits & {"test", "validation"}):
        return MVTecAD(path.resolve().parent if not path.name else path.parent, path.name or path.resolve().name)
    around = path.resolve().parent
    if path.resolve().name == "test" and (around / "train" / "good").is_dir():
        todo = f"It is part of {around}: name that."
        raise DataError(message("data set", "a complete one", "the test images of one", where=path, todo=todo))
    return NamedTree(path, plain=plain, unit_of=None if group_of is None else unit_of(group_of))


def _from_file(path: Path, layout: str | None) -> ListedDataSet:
    if layout == REAL_IAD or path.suffix.lower() == ".json":
        return RealIAD(path)
    if path.suffix.lower() not in MANIFEST_ENDINGS:
        todo = f"A list of images ends in {', '.join(MANIFEST_ENDINGS)}."
        raise DataError(message("data set", "a folder or a manifest", "a file", where=path, todo=todo))
    return Manifest(path)


def _of_category(root: Path, category: str | None, layout: str | None, group_of: GroupOf | None) -> ListedDataSet:
    """Return one category of a root of several."""
    if category is None:
        return MVTecAD(root.resolve().parent, root.resolve().name)
    tables = realiad_tables(root)
    if category in tables and layout in (None, REAL_IAD):
        return RealIAD(tables[category])
    folder = root / category
    if layout in LAYOUTS:
        return read(folder, str(layout))
    is_there = Path(category).name == category and folder.is_dir() and not (root / "train" / "good").is_dir()
    return _by_names(folder, "good", group_of) if is_there and layout is None else MVTecAD(root, category)


def categories(root: PathLike) -> list[str]:
    """Return the names of the folders in `root` that are a category of a public data set, in natural order."""
    root = Path(root)
    tables = realiad_tables(root)
    if tables:
        return sorted(tables)
    return [path.name for path in folders_in(root) if (path / "train" / "good").is_dir() or recognised(path)]


def _category_folder(root: Path, category: str) -> Path:
    if not root.is_dir():
        raise DataError(message("root", f"a folder that holds {MVTEC_LAYOUT}", describe_path(root), where=root))
    if not isinstance(category, str) or not category or Path(category).name != category:
        todo = f"Those there are: {', '.join(categories(root)) or 'none'}."
        raise DataError(message("category", "the name of one folder", repr(category), where=root, todo=todo))
    folder = root / category
    if (folder / "train" / "good").is_dir():
        return folder
    if (root / "train" / "good").is_dir():
        todo = f"{root} is a category itself: pass its parent as root and {root.resolve().name!r} as category."
        raise DataError(message("root", "a folder of categories", "one category", where=root, todo=todo))
    names = categories(root)
    if folder.is_dir():
        got = (
            describe_path(folder)
            if not (folder / "train").is_dir()
            else f"train with {describe_path(folder / 'train')}"
        )
        raise DataError(message("category", "train/good in it", got, where=folder, todo=f"Layout: {MVTEC_LAYOUT}."))
    todo = (
        f"Those there are: {', '.join(names)}." if names else f"It holds {describe_path(root)}. Layout: {MVTEC_LAYOUT}."
    )
    raise DataError(message("category", "one that is there", repr(category), where=root, todo=todo))
