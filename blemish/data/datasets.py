"""Data sets: the layout of MVTec AD, and `open_dataset` that recognises the layout of a path. Nothing is decoded.

Three layouts: `MVTecAD`, `Folder` for any folders of good and defective images, and `Manifest` for a list in a file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, runtime_checkable

from blemish._validation.anomalib_arguments import OF_DATA_SETS, refuses, warn_without_effect
from blemish.data.discovery import (
    IMAGE_ENDINGS,
    ListedDataSet,
    describe_path,
    folders_in,
    list_images,
    natural_key,
    no_images,
    pair_masks,
)
from blemish.data.folder import Folder, PathLike
from blemish.data.manifest import MANIFEST_ENDINGS, Manifest
from blemish.errors import DataError, message
from blemish.types import Sample

__all__ = ["DataSet", "Folder", "MVTec", "MVTecAD", "Manifest", "categories", "open_dataset"]

MVTEC_LAYOUT = "<category>/train/good, <category>/test/<defect>, <category>/ground_truth/<defect>/000_mask.png"
SORTED_LAYOUT = "good/, a folder for each kind of defect, and masks/<defect>/000_mask.png if there are any"
# Names of the folder of good images, and of that of masks, beside those of defects.
GOOD_NAMES = ("good", "normal", "ok")
MASK_NAMES = ("ground_truth", "masks")
# A folder with one of these in it is sorted into good images and defects.
SORTED_NAMES = (*GOOD_NAMES, *MASK_NAMES, "train", "test", "bad", "abnormal", "ng", "defect", "defects")


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
    name, with `_mask` or without; images may have any ending that `imaging.decode.load` reads, in capitals or not.

    Args:
        root: the folder that holds the categories.
        category: the folder of one of them.
        train_batch_size, eval_batch_size, num_workers: accepted for calls written for anomalib; images go through the
            network one by one, decoded ahead in `threads=` of the detector.

    Raises:
        DataError: if the folders are missing; the text lists those that exist.

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
        good, _ = list_images(folder / "train" / "good", IMAGE_ENDINGS)
        if not good:
            raise no_images("train/good", [folder / "train" / "good"], IMAGE_ENDINGS)
        test: list[Sample] = []
        paired: set[Path] = set()
        defects = folders_in(folder / "test")
        defects.sort(key=lambda path: (path.name != "good", natural_key(Path(path.name))))
        for defect in defects:
            paths, _ = list_images(defect, IMAGE_ENDINGS)
            pairs = pair_masks(defect, paths, [folder / "ground_truth" / defect.name], IMAGE_ENDINGS)
            paired.update(pairs.values())
            if defect.name == "good":  # some copies have all-black masks for good images
                pairs = {}
            test += [Sample(path, "test", defect.name, pairs.get(path)) for path in paths]
        masks = [mask for mask in list_images(folder / "ground_truth", IMAGE_ENDINGS)[0] if mask not in paired]
        images, others = list_images(folder, IMAGE_ENDINGS)
        used = {*good, *(sample.path for sample in test), *paired, *masks}
        skipped = [path for path in (*images, *others) if path not in used]
        self.train, self.test = tuple(Sample(path, "train") for path in good), tuple(test)
        self.skipped, self.unused_masks = tuple(skipped), tuple(masks)


MVTec = MVTecAD  # anomalib's name before 2.0


def open_dataset(path: PathLike, *, category: str | None = None) -> DataSet:
    """Return the data set at `path`, with its layout recognised.

    Args:
        path: an MVTec AD category; a root of categories, with `category`; a manifest file; a folder with `good` and the
            defect types in it, a fifth of whose good images is held out for the test; or a folder of good images
            (sub-folders too), without test images.
        category: of a root of categories.

    Raises:
        DataError: if it is none of these; the text describes the path.
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
        raise DataError(message("data set", "a folder or a manifest", describe_path(path), where=path))
    if (path / "train" / "good").is_dir():
        return MVTecAD(path.parent, path.name) if path.name else MVTecAD(path.resolve().parent, path.resolve().name)
    names = categories(path)
    if names:
        todo = f"It holds several: name one of {', '.join(names)}."
        raise DataError(message("category", "one category", f"a folder of {len(names)}", where=path, todo=todo))
    if any(folder.name.lower() in SORTED_NAMES for folder in folders_in(path)):
        return _sorted_folder(path)
    return Folder(path.resolve().name, normal_dir=path)


def categories(root: PathLike) -> list[str]:
    """Return the names of the folders in `root` that have a `train/good`, in natural order."""
    return [folder.name for folder in folders_in(Path(root)) if (folder / "train" / "good").is_dir()]


def _sorted_folder(path: Path) -> Folder:
    """Return the data set of a folder that is sorted into `good`, defect types and perhaps masks."""
    folders = folders_in(path)
    good = [folder for folder in folders if folder.name.lower() in GOOD_NAMES]
    masks = [folder for folder in folders if folder.name.lower() in MASK_NAMES]
    unclear = {folder.name.lower() for folder in folders} & {"train", "test"}
    around = path.resolve().parent
    if path.resolve().name == "test" and (around / "train" / "good").is_dir():
        todo = f"It is part of {around}: name that."
        raise DataError(message("data set", "a complete one", "the test images of one", where=path, todo=todo))
    if len(good) != 1 or len(masks) > 1 or unclear:
        todo = f"Layouts: {SORTED_LAYOUT}; or {MVTEC_LAYOUT}. Others need Folder(...) or a manifest."
        raise DataError(
            message("data set", "good images only, or a known layout", describe_path(path), where=path, todo=todo)
        )
    loose, _ = list_images(path, IMAGE_ENDINGS, leave_out=folders)
    if loose:
        todo = "Move them into one of the folders: whether they are good is not known."
        raise DataError(message("data set", "images in folders", f"{loose[0].name} beside them", where=path, todo=todo))
    others = [folder for folder in folders if folder not in (*good, *masks)]
    defects = [folder for folder in others if list_images(folder, IMAGE_ENDINGS)[0]]
    return Folder(path.resolve().name, normal_dir=good, abnormal_dir=defects or None, mask_dir=masks or None)


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
