"""Images of an updated detector: those that it was fitted on, and further ones that people found good."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from blemish._io.files import file_sha256
from blemish.errors import InputError, message
from blemish.imaging.decode import path_of, read_image
from blemish.modelfolder.header import CONFIRMED, DROPPED
from blemish.types import ImageInput, Sample

if TYPE_CHECKING:
    from blemish.modelfolder.header import Training


def learnt_images(training: Training, provenance: Mapping[str, object], left_out: Collection[int] = ()) -> list[Sample]:
    """Return the training images that were not dropped, with their parts, from where their files are now.

    Args:
        training: of the detector.
        provenance: of the detector.
        left_out: indices of further training images that are left out.

    Raises:
        InputError: if the file of one is absent, or another one now.
    """
    files = training.files(str(provenance.get("training_sha256", "")))
    kept = [i for i, review in enumerate(training.reviews) if review != DROPPED and i not in left_out]
    lost = [training.paths[i] for i in kept if files[i] is None]
    if lost or not kept:
        got = f"{len(lost)} of {len(kept)} that are absent or have changed, the first: {lost[0]}" if lost else "none"
        todo = "Put them back, or fit a new model on the good images that there are."
        raise InputError(message("training images", "those that the model was fitted on", got, todo=todo))
    n_shots = Counter(training.groups)
    shared = {group for group, n in n_shots.items() if n > 1 and group is not None}
    pairs = ((files[i], training.groups[i]) for i in kept)
    return [Sample(p, "train", group=f"part {g}" if g in shared else "") for p, g in pairs if p is not None]


def new_images(training: Training, good: Iterable[ImageInput], bit_depth: int | None) -> list[ImageInput]:
    """Return the images whose content is none of the training images', each once.

    Raises:
        InputError: if there are none.
        ImageError: if an array is no image.
    """
    given = list(good)
    seen, found = set(training.sha256s), list[ImageInput]()
    for item in given:
        digest = _digest(item, bit_depth)
        if digest not in seen:
            found.append(replace(item, split="train") if isinstance(item, Sample) else item)
        seen.add(digest or str(path_of(item)))
    if not found:
        got = f"{len(given)} that it has learnt already" if given else "none"
        raise InputError(message("good", "images that the model has not learnt", got))
    return found


def _digest(item: ImageInput, bit_depth: int | None) -> str:
    """Return the SHA-256 of a file, or of the pixels of an array, as that of training images; "" if it is no file."""
    path = path_of(item)
    return hashlib.sha256(read_image(item, bit_depth).tobytes()).hexdigest() if path is None else file_sha256(str(path))


def marked(training: Training, before: Training, known: Sequence[Sample], new: Sequence[ImageInput]) -> Training:
    """Return the training images with new ones, and those that were before, confirmed as good.

    Args:
        training: of the new fit, on `known` and `new`.
        before: of the detector that was updated.
        known: its images.
        new: those that people found good.
    """
    confirmed = {sha256 for sha256, review in zip(before.sha256s, before.reviews, strict=True) if review == CONFIRMED}
    names = {str(path_of(item) or f"array {len(known) + i}") for i, item in enumerate(new)}
    pairs = zip(training.paths, training.sha256s, strict=True)
    return training.reviewed((i for i, (path, sha) in enumerate(pairs) if path in names or sha in confirmed), CONFIRMED)
