"""Folders of images as data sets: which file is what. Nothing is decoded here.

Three layouts: `MVTecAD`, `Folder` for any folders of good and defective images, and `Manifest` for a list in a file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, runtime_checkable

from blemish._validation.anomalib_arguments import OF_DATA_SETS, refuses, warn_without_effect
from blemish.data.discovery import (
    IMAGE_ENDINGS,
    Listing,
    folders_in,
    list_images,
    natural_key,
    no_images,
    pair_masks,
    seen,
)
from blemish.data.folder import Folder, PathLike
from blemish.data.manifest import MANIFEST_ENDINGS, Manifest
from blemish.errors import DataError, message
from blemish.types import Sample

__all__ = ["DataSet", "Folder", "MVTec", "MVTecAD", "Manifest", "categories", "open_dataset"]

MVTEC_LAYOUT = "<category>/train/good, <category>/test/<defect>, <category>/ground_truth/<defect>/000_mask.png"
SORTED_LAYOUT = "good/, a folder for each kind of defect, and masks/<defect>/000_mask.png if there are any"
# What the folder of good images, and that of masks, is called beside those of defects.
GOOD_NAMES = ("good", "normal", "ok")
MASK_NAMES = ("ground_truth", "masks")
# A folder that holds one of these is sorted into kinds already.
TELLING_NAMES = (*GOOD_NAMES, *MASK_NAMES, "train", "test", "bad", "abnormal", "ng", "defect", "defects")


@runtime_checkable
class DataSet(Protocol):
    """What a detector is fitted on and tested with."""

    @property
    def name(self) -> str:
        """What reports call it."""
        ...

    @property
    def train(self) -> tuple[Sample, ...]:
        """The good images to learn from, in natural order (2 before 10)."""
        ...

    @property
    def test(self) -> tuple[Sample, ...]:
        """The images to test on, good ones first; empty where there are none."""
        ...


class MVTecAD:
    """One category in the layout of MVTec AD.

    `<root>/<category>/train/good`, `test/good` and `test/<defect>`, `ground_truth/<defect>`. A mask has its image's
    name, with `_mask` or without; images may have any ending that `images.load` reads, in capitals or not.

    Args:
        root: the folder that holds the categories.
        category: the folder of one of them.
        train_batch_size: taken so that calls written for anomalib work; images go through the network one by one.
        eval_batch_size: as `train_batch_size`.
        num_workers: as `train_batch_size`; images are decoded ahead in `threads=` of the detector.

    Raises:
        DataError: if the folders are not there; the text says what is.

    Warns:
        UserWarning: if one of the last three is given, since it changes nothing.
    """

    @refuses("MVTecAD", OF_DATA_SETS | {"seed": "Nothing is drawn: the folders say what is for testing."})
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
        self.category = category
        self.folder = _category_folder(self.root, category)
        self._listing = _mvtec_listing(self.folder)

    @property
    def name(self) -> str:
        """The category."""
        return self.category

    @property
    def train(self) -> tuple[Sample, ...]:
        """The good images of `train`."""
        return self._listing.train

    @property
    def test(self) -> tuple[Sample, ...]:
        """The images of `test`, good ones first, then the defect types in natural order."""
        return self._listing.test

    @property
    def skipped(self) -> tuple[Path, ...]:
        """Files of the category's folder that are not used, other than masks."""
        return self._listing.skipped

    @property
    def unused_masks(self) -> tuple[Path, ...]:
        """Masks that belong to no defective image."""
        return self._listing.unused_masks

    def __repr__(self) -> str:
        return f"MVTecAD({str(self.root)!r}, {self.category!r}): {self._listing}"


MVTec = MVTecAD  # anomalib's name before 2.0


def open_dataset(path: PathLike, *, category: str | None = None) -> DataSet:
    """Return the data set that is at `path`, whichever layout it has.

    Args:
        path: an MVTec AD category, or a root of categories together with `category`, or a manifest file, or a
            folder with `good` and the kinds of defects in it, of whose good ones a fifth is held out for the test, or
            a folder of good images (sub-folders too), which then has no test images.
        category: which one, if `path` is a root of categories.

    Raises:
        DataError: if it is none of these; the text says what was found.
    """
    path = Path(path)
    if path.is_file():
        if path.suffix.lower() not in MANIFEST_ENDINGS:
            todo = f"A list of images ends in {', '.join(MANIFEST_ENDINGS)}."
            raise DataError(message("data set", "a folder or a manifest", "a file", where=path, todo=todo))
        return Manifest(path)
    if category is not None:
        return MVTecAD(path, category)
    if not path.is_dir():
        raise DataError(message("data set", "a folder or a manifest", seen(path), where=path))
    if (path / "train" / "good").is_dir():
        return MVTecAD(path.parent, path.name) if path.name else MVTecAD(path.resolve().parent, path.resolve().name)
    names = categories(path)
    if names:
        todo = f"It holds several: name one of {', '.join(names)}."
        raise DataError(message("category", "one category", f"a folder of {len(names)}", where=path, todo=todo))
    if any(folder.name.lower() in TELLING_NAMES for folder in folders_in(path)):
        return _sorted_folder(path)
    return Folder(path.resolve().name, normal_dir=path)


def categories(root: PathLike) -> list[str]:
    """Return the names of the folders in `root` that have a `train/good`, in natural order."""
    return [folder.name for folder in folders_in(Path(root)) if (folder / "train" / "good").is_dir()]


def _sorted_folder(path: Path) -> Folder:
    """Return the data set in a folder that is sorted into `good`, kinds of defects and perhaps masks, or raise.

    Learning all that is in it as good would be wrong.
    """
    folders = folders_in(path)
    good = [folder for folder in folders if folder.name.lower() in GOOD_NAMES]
    masks = [folder for folder in folders if folder.name.lower() in MASK_NAMES]
    unclear = {folder.name.lower() for folder in folders} & {"train", "test"}
    around = path.resolve().parent
    if path.resolve().name == "test" and (around / "train" / "good").is_dir():
        todo = f"It is part of {around}: name that."
        raise DataError(message("data set", "a whole one", "the test images of one", where=path, todo=todo))
    if len(good) != 1 or len(masks) > 1 or unclear:
        todo = f"Layouts: {SORTED_LAYOUT}; or {MVTEC_LAYOUT}. Others need Folder(...) or a manifest."
        raise DataError(message("data set", "good images only, or a known layout", seen(path), where=path, todo=todo))
    loose, _ = list_images(path, IMAGE_ENDINGS, leave_out=folders)
    if loose:
        todo = "Move them into one of the folders: nothing says what they are."
        raise DataError(message("data set", "images in folders", f"{loose[0].name} beside them", where=path, todo=todo))
    others = [folder for folder in folders if folder not in (*good, *masks)]
    defects = [folder for folder in others if list_images(folder, IMAGE_ENDINGS)[0]]
    return Folder(path.resolve().name, normal_dir=good, abnormal_dir=defects or None, mask_dir=masks or None)


def _category_folder(root: Path, category: str) -> Path:
    if not root.is_dir():
        raise DataError(message("root", f"a folder that holds {MVTEC_LAYOUT}", seen(root), where=root))
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
        got = f"{seen(folder)}" if not (folder / "train").is_dir() else f"train with {seen(folder / 'train')}"
        raise DataError(message("category", "train/good in it", got, where=folder, todo=f"Layout: {MVTEC_LAYOUT}."))
    todo = f"Those there are: {', '.join(names)}." if names else f"It holds {seen(root)}. Layout: {MVTEC_LAYOUT}."
    raise DataError(message("category", "one that is there", repr(category), where=root, todo=todo))


def _mvtec_listing(folder: Path) -> Listing:
    good, _ = list_images(folder / "train" / "good", IMAGE_ENDINGS)
    if not good:
        raise no_images("train/good", [folder / "train" / "good"], IMAGE_ENDINGS)
    test: list[Sample] = []
    paired: set[Path] = set()
    defects = folders_in(folder / "test")
    defects.sort(key=lambda path: (path.name != "good", natural_key(Path(path.name))))
    for defect in defects:
        paths, _ = list_images(defect, IMAGE_ENDINGS)
        found = pair_masks(defect, paths, [folder / "ground_truth" / defect.name], IMAGE_ENDINGS)
        paired.update(found.values())
        if defect.name == "good":  # some copies have all-black masks for good images: they say nothing
            found = {}
        test += [Sample(path, "test", defect.name, found.get(path)) for path in paths]
    masks = [mask for mask in list_images(folder / "ground_truth", IMAGE_ENDINGS)[0] if mask not in paired]
    images, others = list_images(folder, IMAGE_ENDINGS)
    used = {*good, *(sample.path for sample in test), *paired, *masks}
    skipped = [path for path in (*images, *others) if path not in used]
    return Listing(tuple(Sample(path, "train") for path in good), tuple(test), tuple(skipped), tuple(masks))
