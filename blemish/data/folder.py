"""Folders of good and defective images, with or without masks, as one data set."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeAlias

from blemish._validation.anomalib_arguments import OF_DATA_SETS, refuses, warn_without_effect
from blemish._validation.checks import check_number
from blemish.data.discovery import (
    IMAGE_ENDINGS,
    ListedDataSet,
    describe_path,
    list_images,
    natural_key,
    no_images,
)
from blemish.data.grouping import check_groups, group_of_pattern, grouped, unit_of
from blemish.data.holdout import hold_out_units
from blemish.data.mask_files import MasksOf, assign, beside, elsewhere, with_masks
from blemish.data.tree import Class, check_below
from blemish.errors import DataError, InputError, message
from blemish.types import Sample

PathLike: TypeAlias = "str | os.PathLike[str]"


class Folder(ListedDataSet):
    """Folders of good and defective images, with the arguments of anomalib's `Folder`.

    Folders are searched with their sub-folders. In an abnormal folder each sub-folder is a defect type; images directly
    inside have the folder's own name as defect type. A mask has its image's name, with `_mask` or without, or lies in a
    folder of that name; several masks of one image are united. Masks beside the images are recognised.

    Args:
        name: of the data set, for reports.
        normal_dir: one folder of good images or several.
        root: base of relative folders; None means the current folder.
        abnormal_dir: one folder of defective images or several.
        normal_test_dir: good images to test on. Without it, and where there are defective images, a share of
            the good ones is held out: `normal_split_ratio`.
        mask_dir: one folder of masks, or as many as `abnormal_dir` has, in the same order.
        extensions: endings to read, such as [".png"]; None means all that `imaging.decode.load` reads.
        normal_split_ratio: share of the good images held out for the test (at least one), in [0, 1). 0.2 is
            anomalib's test_split_ratio.
        seed: of the choice of held-out images; the same files and seed give the same ones.
        group_by: a regular expression of the part that an image shows, searched in its path below `root`. Images of one
            part are held out together, and count once for thresholds.
        train_batch_size, eval_batch_size, num_workers: accepted for calls written for anomalib; images go through the
            network one by one, decoded ahead in `threads=` of the detector.

    Raises:
        DataError: if a folder is missing, holds no images or is named twice, a name below a folder says another class
            than that folder, or one mask matches two images; if no path matches `group_by`, or a part is both to fit
            and to test on.
        InputError: if a number is out of range, or `group_by` is no regular expression.

    Warns:
        UserWarning: if one of the last three is given: they have no effect.
    """

    @refuses("Folder", OF_DATA_SETS)
    def __init__(
        self,
        name: str,
        *,
        normal_dir: PathLike | Sequence[PathLike],
        root: PathLike | None = None,
        abnormal_dir: PathLike | Sequence[PathLike] | None = None,
        normal_test_dir: PathLike | Sequence[PathLike] | None = None,
        mask_dir: PathLike | Sequence[PathLike] | None = None,
        extensions: Sequence[str] | None = None,
        normal_split_ratio: float = 0.2,
        seed: int = 0,
        group_by: str | None = None,
        train_batch_size: int | None = None,
        eval_batch_size: int | None = None,
        num_workers: int | None = None,
    ) -> None:
        given = {"train_batch_size": train_batch_size, "eval_batch_size": eval_batch_size, "num_workers": num_workers}
        warn_without_effect("Folder", given)
        base = Path(root) if root is not None else Path()
        self.name = name
        self._endings = _endings(extensions)
        self._normal = _folders("normal_dir", base, normal_dir)
        self._abnormal = _folders("abnormal_dir", base, abnormal_dir)
        self._normal_test = _folders("normal_test_dir", base, normal_test_dir)
        self._masks = _folders("mask_dir", base, mask_dir)
        if self._masks and not self._abnormal:
            raise DataError(message("mask_dir", "an abnormal_dir whose images it marks", "none"))
        _check_apart([*self._normal, *self._abnormal, *self._normal_test, *self._masks])
        if len(self._masks) not in (0, 1, len(self._abnormal)):
            got = f"{len(self._masks)} for {len(self._abnormal)}"
            raise DataError(message("mask_dir", "one folder, or one for each abnormal_dir", got))
        self._ratio = check_number("normal_split_ratio", float(normal_split_ratio), low=0, high=0.999)
        self._seed = seed
        self._group_of = None if group_by is None else group_of_pattern(group_by, base)
        self._list()
        if group_by is not None:
            check_groups(self.train, self.test, group_by)

    def __repr__(self) -> str:
        return self._described(repr(self.name))

    def _list(self) -> None:
        self._left_out: list[Path] = []
        good = self._find("normal_dir", self._normal, "good")
        good_test = self._find("normal_test_dir", self._normal_test, "good") if self._normal_test else []
        defective = self._defective()
        if defective and not self._normal_test:
            unit = None if self._group_of is None else unit_of(self._group_of)
            good, good_test = hold_out_units(good, self._ratio, self._seed, unit)
        used = {mask for sample in defective for mask in sample.mask_paths}
        masks, _ = self._images_of(self._masks)
        skipped = self._images_of([*self._normal, *self._abnormal, *self._normal_test, *self._masks])[1]
        self.train = tuple(Sample(path, "train") for path in good)
        self.test = (*(Sample(path, "test") for path in good_test), *defective)
        if self._group_of is not None:
            self.train, self.test = grouped(self.train, self._group_of), grouped(self.test, self._group_of)
        self.skipped = (*skipped, *(path for path in self._left_out if path not in used))
        self.unused_masks = tuple(mask for mask in masks if mask not in used)

    def _defective(self) -> list[Sample]:
        named: dict[Path, str] = {}
        pairs: MasksOf = {}
        for index, folder in enumerate(self._abnormal):
            paths = self._find("abnormal_dir", [folder], "defective", pairs)
            named.update((path, _defect_of(path, folder)) for path in paths)
            if len(self._masks) > 1:
                pairs |= assign(self._images_of([self._masks[index]])[0], [path for path in paths if path not in pairs])
        if len(self._masks) == 1:
            pairs |= assign(self._images_of(self._masks)[0], [path for path in named if path not in pairs])
        samples = [with_masks(path, "test", defect, pairs) for path, defect in named.items()]
        return sorted(samples, key=lambda sample: (natural_key(Path(sample.defect)), natural_key(sample.path)))

    def _find(self, name: str, folders: Sequence[Path], label: Class, pairs: MasksOf | None = None) -> list[Path]:
        """Return the images of folders of one class; masks that lie among them go to `pairs`, or are left out."""
        images: list[Path] = []
        for folder in folders:
            inside, masks_beside, orphans = beside(self._images_of([folder])[0])
            own, masks, derived = check_below(folder, inside, label)
            own, more_masks = elsewhere(own)
            masks += [*more_masks, *orphans]
            images += own
            if pairs is not None:
                pairs |= masks_beside | assign(masks, [path for path in own if path not in masks_beside])
            self._left_out += [*masks, *derived, *(mask for found in masks_beside.values() for mask in found)]
        if not images:
            raise no_images(name, folders, self._endings)
        return list(dict.fromkeys(images))

    def _images_of(self, folders: Iterable[Path]) -> tuple[list[Path], list[Path]]:
        """Return images and other files of some folders, without those in the other folders of the data set."""
        named = [*self._normal, *self._abnormal, *self._normal_test, *self._masks]
        images: dict[Path, None] = {}
        skipped: dict[Path, None] = {}
        for folder in folders:
            inside, others = list_images(folder, self._endings, leave_out=[path for path in named if path != folder])
            images.update(dict.fromkeys(inside))
            skipped.update(dict.fromkeys(others))
        return list(images), list(skipped)


def _folders(name: str, base: Path, given: PathLike | Sequence[PathLike] | None) -> list[Path]:
    if given is None:
        return []
    folders = [base / folder for folder in ([given] if isinstance(given, (str, os.PathLike)) else given)]
    for folder in folders:
        if not folder.is_dir():
            raise DataError(message(name, "a folder", describe_path(folder), where=folder))
    return folders


def _check_apart(folders: Sequence[Path]) -> None:
    places: set[str] = set()
    for folder in folders:
        place = os.path.realpath(folder)
        if place in places:
            raise DataError(message("folder", "each one named once", "the same one twice", where=folder))
        places.add(place)


def _endings(extensions: Sequence[str] | None) -> tuple[str, ...]:
    if extensions is None:
        return IMAGE_ENDINGS
    if isinstance(extensions, str) or not extensions:
        raise InputError(message("extensions", 'a list such as [".png"]', repr(extensions)))
    return tuple("." + ending.lower().lstrip(".") for ending in extensions)


def _defect_of(path: Path, folder: Path) -> str:
    inside = path.relative_to(folder).parts
    return inside[0] if len(inside) > 1 else folder.resolve().name
