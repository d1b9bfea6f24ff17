"""Data sets whose roles are stated by the names of their folders and files: one rule for every tree.

Each image gets a class (good, defective or none), and a split, from the names between the root and the file. Names that
contradict each other, or images whose class is not stated beside others whose class is, are refused: nothing is learnt
as good because its name was not understood.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Literal

from blemish.data.annotations import find_annotations
from blemish.data.discovery import FoundFiles, ListedDataSet, describe_path, find_images, natural_key
from blemish.data.holdout import hold_out_units
from blemish.data.mask_files import MasksOf, assign, beside, elsewhere, with_masks
from blemish.data.masks import load_union, may_be_mask
from blemish.data.roles import (
    Split,
    Tell,
    are_opposites,
    has_only_class_words,
    is_class_number,
    is_filler,
    speaks_of_defect,
    split_of,
    tell,
)
from blemish.errors import DataError, ImageError, message
from blemish.types import Sample

Class = Literal["good", "defective"]
Parts = tuple[str, ...]
SHAPES = (
    "Layouts: good/, a folder for each kind of defect, and masks/<defect>/000_mask.png if there are any; or "
    "<category>/train/good, <category>/test/<defect>, <category>/ground_truth/<defect>/000_mask.png. "
    "Others need Folder(...) or a manifest."
)
MANIFEST = "or list the images in a manifest, which states the class of each"


@dataclass(frozen=True)
class Named:
    """An image, with the roles that its path states.

    Attributes:
        folders: names of the folders between the root and the file.
        label: the class; None if no name states one.
        split: None if no name states one.
        defect: "good", or the name of the defect type; empty without a class.
        level: place of the folder that states the class; -1 if the file's name does, or nothing.
    """

    path: Path
    folders: Parts
    label: Class | None = None
    split: Split | None = None
    defect: str = ""
    level: int = -1


@dataclass
class _Sorted:
    """Files of a tree by role."""

    images: list[Named] = field(default_factory=list)
    masks: list[Path] = field(default_factory=list)
    skipped: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    black: list[Path] = field(default_factory=list)  # masks that say of an image that it is good


class NamedTree(ListedDataSet):
    """A folder, at any depth, in which names of folders and files state the class, the split and the masks.

    Args:
        root: the folder.
        plain: class of the images of a folder in which no name states a class.
        leave_out: folders that are not read.
        unit_of: what is held out as one: images with the same value stay on one side of the split.
        share: of the good images, held out for the test where no split is stated and there are defective images.

    Raises:
        DataError: if names contradict each other, the class of an image is not known, or there is no good image.
    """

    def __init__(
        self,
        root: Path,
        *,
        plain: Class = "good",
        leave_out: Sequence[Path] = (),
        unit_of: Callable[[Path], object] | None = None,
        share: float = 0.2,
        seed: int = 0,
    ) -> None:
        self.path, self.name = root, root.resolve().name
        found = find_images(root, leave_out=leave_out)
        by_role = _by_role(root, found.images)
        images, masks_beside, orphans = beside([image.path for image in by_role.images])
        by_role.masks += orphans
        _take_masks(by_role, *elsewhere(images))
        named, masks = _with_classes(root, by_role, masks_beside, plain)
        if plain == "good" and not any(image.level >= 0 or image.defect != "good" for image in named):
            _check_annotations(root, found)
        if not any(image.label == "good" for image in named) and plain == "good":
            raise _no_good(root, found, by_role)
        stated = [(image.folders, image.level) for image in named if image.label == "good" and image.level >= 0]
        by_role.notes += [*_several_parts(named), *inside_good(stated)]
        self._share, self._seed, self._unit_of = share, seed, unit_of
        self._list(named, masks, by_role.notes)
        used = {*by_role.black, *(mask for own in masks.values() for mask in own)}
        all_masks = [*by_role.masks, *(mask for own in masks_beside.values() for mask in own)]
        self.unused_masks = tuple(mask for mask in all_masks if mask not in used)
        self.skipped = (*found.others, *found.outputs, *by_role.skipped, *self.skipped)
        self.notes = tuple(by_role.notes)

    def __repr__(self) -> str:
        return self._described(repr(str(self.path)))

    def _list(self, images: Sequence[Named], masks: MasksOf, notes: list[str]) -> None:
        """Set the training and the test images, and those that are neither."""
        has_test = any(image.split == "test" for image in images)
        if not has_test:  # without a test split, the validation images are the test
            has_test = any(image.split == "validation" for image in images)
            images = [replace(image, split="test") if image.split == "validation" else image for image in images]
        good = [image for image in images if image.label == "good"]
        defective = [image for image in images if image.label == "defective"]
        rest = [image for image in images if image.split == "validation"]
        if has_test:
            train = [image.path for image in good if image.split in ("train", None)]
            good_test = [image.path for image in good if image.split == "test"]
            rest += [image for image in defective if image.split == "train"]
            defective = [image for image in defective if image.split in ("test", None)]
        elif defective and good:
            paths = [image.path for image in good]
            train, good_test = hold_out_units(paths, self._share, self._seed, self._unit_of)
        else:
            train, good_test = [image.path for image in good], []
        if has_test and not train:
            notes.append("All good images are in a folder of a test: there are none to fit on.")
        defective.sort(key=lambda image: (natural_key(Path(image.defect)), natural_key(image.path)))
        self.train = tuple(Sample(path, "train") for path in train)
        samples = [with_masks(image.path, "test", image.defect, masks) for image in defective]
        self.test = (*(Sample(path, "test") for path in good_test), *samples)
        self.skipped = tuple(path for image in rest for path in (image.path, *masks.get(image.path, ())))
        for words in ("validation", "train"):
            left = [image.path for image in rest if image.split == words]
            if left:
                kind = "Validation images" if words == "validation" else "Defective training images"
                notes.append(f"{kind} are not used: {len(left)}, such as {left[0]}.")


def _take_masks(by_role: _Sorted, images: Sequence[Path], masks: Sequence[Path]) -> None:
    """Keep these images, and take others for masks because of their pixels.

    Raises:
        DataError: if a folder's name says of one of them that it is good or defective.
    """
    kept, taken = set(images), set(masks)
    wrong = next((image for image in by_role.images if image.path in taken and image.level >= 0), None)
    if wrong is not None:
        got = (
            f"a file with two brightnesses that is named like another image, in a folder {wrong.folders[wrong.level]!r}"
        )
        todo = f"Move masks into a folder masks, {MANIFEST}."
        raise DataError(message("data set", "an image, or a mask", got, where=wrong.path, todo=todo))
    by_role.images = [image for image in by_role.images if image.path in kept]
    by_role.masks += masks
    if masks:
        by_role.notes.append(f"Taken as masks because of two brightnesses: {len(masks)}, such as {masks[0]}.")


def _several_parts(images: Sequence[Named]) -> list[str]:
    """Return a sentence if several folders have good images of their own: cameras of one part, or different parts."""
    folders = [image.folders[: image.level] for image in images if image.label == "good" and image.level >= 0]
    places = ["/".join(names) for names in dict.fromkeys(folders) if not any(map(split_of, names))]
    if len(places) < 2:
        return []
    listed = ", ".join(place or "the folder itself" for place in places[:3]) + (", ..." if len(places) > 3 else "")
    return [
        f"Good images of {len(places)} folders are read as one part: {listed}. Name one of them if they are several."
    ]


def inside_good(folders: Iterable[tuple[Parts, int]]) -> list[str]:
    """Return a sentence if folders inside of good ones have names of which the vocabulary knows nothing.

    Args:
        folders: of each good image, from the root on, and the place of the one that says that it is good.
    """
    inside = dict.fromkeys(
        "/".join(names)
        for names, level in folders
        if any(tell(name) is None and not _is_plain(name) for name in names[level + 1 :])
    )
    if not inside:
        return []
    listed = ", ".join(list(inside)[:3]) + (", ..." if len(inside) > 3 else "")
    return [f"Folders inside of good ones are read as good: {listed}. Move out what is not."]


def _unnamed(images: Sequence[Named]) -> list[str]:
    """Return a sentence if images of no stated class lie in several folders of which the vocabulary knows nothing."""
    places = dict.fromkeys("/".join(image.folders) for image in images if not all(map(_is_plain, image.folders)))
    if len(places) < 2:
        return []
    listed = ", ".join(list(places)[:3]) + (", ..." if len(places) > 3 else "")
    return [
        f"No name states a class: images of {len(places)} folders are read as good, {listed}. Move out what is not."
    ]


def _is_plain(name: str) -> bool:
    """Return whether a name is a number, a date, a split, or says that files are images."""
    return not any(letter.isalpha() for letter in name) or split_of(name) is not None or is_filler(name)


def _check_annotations(root: Path, found: FoundFiles) -> None:
    """Refuse images that would be good because no name states their class, beside files that annotate them."""
    annotations = find_annotations(root, found.images, found.others)
    if annotations:
        got = f"annotations that are not read, {len(annotations)} such as {annotations[0].relative_to(root)}"
        todo = f"Sort the images into good and a folder for each kind of defect, {MANIFEST}."
        raise DataError(message("data set", "good images", got, where=root, todo=todo))


def _by_role(root: Path, images: Sequence[Path]) -> _Sorted:
    """Return the images with the class and split that their paths state, and the masks."""
    by_role = _Sorted()
    mask_folders: dict[Parts, list[Path]] = defaultdict(list)
    for path in images:
        folders = path.relative_to(root).parts[:-1]
        tells = [tell(name) for name in folders]
        kinds = {said.kind for said in tells if said is not None}
        if "mask" in kinds:
            by_role.masks.append(path)
            level = next(level for level, said in enumerate(tells) if said is not None and said.kind == "mask")
            mask_folders[folders[: level + 1]].append(path)
        elif "derived" in kinds:
            by_role.skipped.append(path)
        else:
            by_role.images.append(_named(path, folders, tells))
    for folders, inside in mask_folders.items():
        _check_masks(root.joinpath(*folders), inside)
    derived = by_role.skipped
    if derived:
        by_role.notes.append(f"Previews and heat maps are not used: {len(derived)}, such as {derived[0]}.")
    return by_role


def _check_masks(folder: Path, masks: Sequence[Path]) -> None:
    """Refuse a folder of masks that holds images; the first, the middle and the last file are looked at."""
    places = sorted({0, len(masks) // 2, len(masks) - 1})
    if not any(may_be_mask(masks[place]) for place in places):
        todo = f"Rename the folder if these are images of parts, {MANIFEST}."
        got = f"{masks[0].name} with the brightnesses of a photograph"
        raise DataError(message("masks", "masks, by the name of the folder", got, where=folder, todo=todo))


def _named(path: Path, folders: Parts, tells: Sequence[Tell | None]) -> Named:
    """Return an image with class and split, from what each of its folders and its own name state.

    A folder whose name is not clear, such as ok_and_ng, states nothing where a folder inside states more.
    """
    splits = [split for name in folders if (split := split_of(name)) is not None]
    stated = [(level, said) for level, said in enumerate(tells) if said is not None]
    if (by_file := tell(path.stem)) is not None and by_file.kind not in ("mask", "derived"):
        stated.append((-1, by_file))
    if stated and stated[-1][1].kind == "unclear":
        raise unclear_name(path, stated[-1][1].name)
    names: dict[str, str] = {said.kind: said.name for _, said in reversed(stated)}
    if "good" in names and "defective" in names:
        raise contradiction(path, names["good"], names["defective"])
    split = splits[-1] if splits else None
    level = next((level for level, said in stated if said.kind != "unclear"), -1)
    if "good" in names:
        return Named(path, folders, "good", split, "good", level)
    if "defective" not in names:
        return Named(path, folders, None, split)
    return Named(path, folders, "defective", split, _type(folders, level) if level >= 0 else "defect", level)


def _type(folders: Parts, level: int) -> str:
    """Return the defect type of an image: the folder inside that of defects, or that folder itself."""
    inside = [name for name in folders[level + 1 :] if split_of(name) is None and not is_filler(name)]
    return inside[0] if inside else folders[level]


def contradiction(path: Path, good: str, bad: str) -> DataError:
    """Return the error for a path in which one name says good and another defective."""
    got = f"{good!r} says good and {bad!r} says defective"
    todo = f"Rename one, move the folder out of the other, {MANIFEST}."
    return DataError(message("data set", "one class for each image", got, where=path, todo=todo))


def unclear_name(path: Path, name: str) -> DataError:
    """Return the error for a name that speaks of a class and does not say which."""
    todo = f"Name it good, or by its defect, or move it out; {MANIFEST}."
    return DataError(message("data set", "a name that says good or defective", repr(name), where=path, todo=todo))


def _with_classes(root: Path, by_role: _Sorted, masks_beside: MasksOf, plain: Class) -> tuple[list[Named], MasksOf]:
    """Return all images with a class, and the masks of each image."""
    images = by_role.images
    told = [image for image in images if image.label is not None]
    rest = [image for image in images if image.label is None]
    if told:
        by_place = _PlaceRule(root, told, plain)
        named = told + [by_place(image, by_role.notes) for image in rest]
        named.sort(key=lambda image: natural_key(image.path))
        marked = [image.path for image in named if image.label == "defective"]
        own = {path: masks for path, masks in masks_beside.items() if path in set(marked)}
        masks = _merge(own, assign(by_role.masks, [path for path in marked if path not in own]))
        return named, masks
    masks = _merge(masks_beside, assign(by_role.masks, [image.path for image in images]))
    said = said_by_root(root)
    _check_plain(root, [image for image in images if image.path not in masks], plain, said, has_masks=bool(masks))
    if masks:
        named = [_by_mask(image, masks) for image in images]
        n_without = sum(image.path not in masks for image in images)
        text = "The masks state the class: an image whose mask marks pixels is defective, the others are good"
        by_role.notes.append(f"{text}, also the {n_without} without a mask." if n_without else f"{text}.")
        defective = {image.path for image in named if image.label == "defective"}
        by_role.black = [mask for path, own in masks.items() if path not in defective for mask in own]
        return named, {path: own for path, own in masks.items() if path in defective}
    label: Class = "good" if said is not None and said.kind == "good" else plain
    if label == "good":
        by_role.notes += _unnamed(images)
    return [_plain(root, image, label) for image in images], {}


def _merge(*parts: MasksOf) -> MasksOf:
    return {path: masks for part in parts for path, masks in part.items()}


def _plain(root: Path, image: Named, plain: Class) -> Named:
    defect = "good" if plain == "good" else (image.folders[-1] if image.folders else root.resolve().name)
    return replace(image, label=plain, split=None, defect=defect)


def _by_mask(image: Named, masks: MasksOf) -> Named:
    """Return an image with the class that its mask states; one without a mask is good."""
    own = masks.get(image.path)
    try:
        is_defective = own is not None and bool(load_union(own).any())
    except ImageError as error:
        todo = "Whether its image is good is not known: repair the mask, or remove both."
        raise DataError(f"{error} {todo}") from error
    if is_defective:
        return replace(image, label="defective", defect="defect")
    return replace(image, label="good", defect="good")


class _PlaceRule:
    """The class of an image that no name states, from the classes of the images around it."""

    def __init__(self, root: Path, told: Sequence[Named], plain: Class) -> None:
        self._root, self._plain = root, plain
        good = [image for image in told if image.label == "good"]
        self._has_good = bool(good)
        self._beside_good = {image.folders[: image.level] for image in good if image.level >= 0}
        self._told_splits = {image.split for image in told}

    def __call__(self, image: Named, notes: list[str]) -> Named:
        """Return the image with its class.

        Raises:
            DataError: if the class is not known.
        """
        folders = image.folders
        if self._plain == "defective" and not self._has_good:
            return _plain(self._root, image, "defective")
        if folders in self._beside_good:
            todo = f"Move them into one of the folders, {MANIFEST}: whether they are good is not known."
            got = f"{image.path.name} beside them"
            raise DataError(
                message("data set", "images in folders", got, where=self._root.joinpath(*folders), todo=todo)
            )
        level = self._level_of_defect(folders)
        if level is not None and is_filler(folders[level]):
            raise unclear_name(image.path, folders[level])
        if level is not None:
            return replace(image, label="defective", defect=_type(folders, level))
        if image.split == "train" and "train" not in self._told_splits:
            note = "Images of the training split whose names state no class are taken as good."
            notes += [] if note in notes else [note]
            return replace(image, label="good", defect="good")
        where = image.path
        got = f"{describe_path(self._root)}, and no name that says whether {where.name} is good"
        todo = f"Move good images into a folder good, {MANIFEST}."
        raise DataError(message("data set", "good images only, or a known layout", got, where=where, todo=todo))

    def _level_of_defect(self, folders: Parts) -> int | None:
        """Return the place of the folder that is a kind of defect: beside good images, or in a test split."""
        for level in range(len(folders) - 1, -1, -1):
            if folders[:level] in self._beside_good and split_of(folders[level]) is None:
                return level
        tests = [level for level, name in enumerate(folders) if split_of(name) == "test"]
        return tests[-1] + 1 if self._has_good and tests and len(folders) > tests[-1] + 1 else None


def _check_plain(root: Path, images: Sequence[Named], plain: Class, said: Tell | None, *, has_masks: bool) -> None:
    """Refuse a tree without a stated class whose folders, or whose own name, state something else after all.

    Args:
        images: those without a mask.
    """
    if not images:
        return
    for image in images:
        if image.split in ("test", "validation") and plain == "good" and not has_masks:
            todo = f"Sort them into good and a folder for each kind of defect, {MANIFEST}."
            got = f"{image.split} images of unknown class"
            raise DataError(message("data set", "good images", got, where=image.path, todo=todo))
    children: dict[Parts, set[str]] = defaultdict(set)
    for image in images:
        for level, name in enumerate(image.folders):
            children[image.folders[:level]].add(name)
    for parent, names in children.items():
        signs = any(not any(map(str.isalnum, name)) for name in names)
        opposed = any(are_opposites(*pair) for pair in combinations(sorted(names)[:100], 2))
        if opposed or names == {"0", "1"} or (len(names) > 1 and (signs or any(map(is_class_number, names)))):
            todo = f"Rename them to good and to a kind of defect, {MANIFEST}."
            where, got = root.joinpath(*parent), " and ".join(f"{name}/" for name in sorted(names)[:3])
            raise DataError(message("data set", "names that say which is good", got, where=where, todo=todo))
    speaking = [image.path for image in images if any(map(speaks_of_defect, (*image.folders, image.path.stem)))]
    if plain == "good" and speaking and (has_masks or len(speaking) < len(images)):
        got = f"{len(speaking)} of {len(images)} images whose names speak of a defect, such as {speaking[0].name}"
        todo = f"Sort the images into good and a folder for each kind of defect, {MANIFEST}."
        raise DataError(message("data set", "good images", got, where=speaking[0], todo=todo))
    if said is not None and said.kind != "good" and plain == "good":
        todo = f"Name a folder of good images; if these are good, rename {said.name}, {MANIFEST}."
        kind = {"mask": "masks", "derived": "previews or heat maps"}.get(said.kind, f"{said.kind} images")
        raise DataError(message("data set", "good images", f"{kind} by the name {said.name!r}", where=root, todo=todo))


def said_by_root(root: Path) -> Tell | None:
    """Return the role that the name of a folder or of the two folders around it states, the nearest first.

    Only names that consist of such words count: ng, not rejects_2024.
    """
    whole = root.resolve()
    names = [whole.name, *(parent.name for parent in list(whole.parents)[:2])]
    return next((said for name in names if has_only_class_words(name) and (said := tell(name)) is not None), None)


def _no_good(root: Path, found: FoundFiles, by_role: _Sorted) -> DataError:
    got = describe_path(root)
    if found.images and not by_role.images:
        got += ", of which all images are masks or previews by their names"
    return DataError(message("data set", "good images only, or a known layout", got, where=root, todo=SHAPES))


def without_masks(folder: Path, images: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Separate images of parts from masks and previews, by the names of the folders and beside the images."""
    rest = [
        path
        for path in images
        if not any(said.kind in ("mask", "derived") for said in map(tell, path.relative_to(folder).parts[:-1]) if said)
    ]
    kept = beside(rest).images
    taken = set(kept)
    return kept, [path for path in images if path not in taken]


def check_below(folder: Path, images: Iterable[Path], label: Class) -> tuple[list[Path], list[Path], list[Path]]:
    """Separate the images of a folder of one class from masks and from previews that lie below it.

    Raises:
        DataError: if a name below the folder says the other class, or that the class is not known.
    """
    own: list[Path] = []
    masks: list[Path] = []
    derived: list[Path] = []
    for path in images:
        said = [found for name in path.relative_to(folder).parts[:-1] if (found := tell(name)) is not None]
        kinds = {found.kind for found in said}
        if (by_file := tell(path.stem)) is not None and by_file.kind not in ("mask", "derived"):
            said.append(by_file)
        other = next((found for found in said if found.kind not in (label, "mask", "derived")), None)
        if "mask" in kinds:
            masks.append(path)
        elif "derived" in kinds:
            derived.append(path)
        elif other is not None and other.kind == "unclear":
            raise unclear_name(path, other.name)
        elif other is not None:
            good, bad = (folder.name, other.name) if label == "good" else (other.name, folder.name)
            raise contradiction(path, good, bad)
        else:
            own.append(path)
    return own, masks, derived
