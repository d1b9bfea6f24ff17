"""The good images that a detector is fitted on: what they are, which are broken, and their feature maps."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from blemish._io.prefetch import prefetch
from blemish.data.grouping import parts_of
from blemish.errors import DataError, ImageError, message
from blemish.imaging.decode import path_of, read_facts, read_image
from blemish.imaging.drift import GoodRange, image_statistics
from blemish.ops.near_duplicates import LEAST_GROUPS, LEAST_SIDE_PX, fingerprint
from blemish.types import Float32, Float64, ImageInput, Problem, Progress, Sample, UInt8

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from blemish.imaging.geometry import Geometry

# Each image is scored by the others while thresholds are calibrated.
MIN_IMAGES = 2


class ImageFacts(NamedTuple):
    """Size and SHA-256 of a training image, of the file or of the pixels of an array."""

    size_hw: tuple[int, int]
    sha256: str


class ImageLook(NamedTuple):
    """What is kept of a network input: its `image_statistics`, and its fingerprint unless the image is too small."""

    statistics: Float64
    fingerprint: NDArray[np.int8] | None

    @classmethod
    def of(cls, network_input: UInt8, size_hw: tuple[int, int]) -> ImageLook:
        """Return it of a network input, (h, w, 3) uint8, of an image of this size."""
        detailed = min(size_hw) >= LEAST_SIDE_PX
        return cls(image_statistics(network_input), fingerprint(network_input) if detailed else None)


def facts_of(item: ImageInput, bit_depth: int | None) -> ImageFacts | ImageError:
    """Return size and hash of one image, or why it can't be read; files are not decoded."""
    path = path_of(item)
    try:
        if path is not None:
            return ImageFacts(*read_facts(path))
    except ImageError as error:
        return error
    image = read_image(item, bit_depth)
    return ImageFacts((image.shape[0], image.shape[1]), hashlib.sha256(image.tobytes()).hexdigest())


class TrainingImages:
    """The readable good images of a training set, and the problems of the others.

    Attributes:
        items: the images, without the broken ones found so far.
        names: the path of each, or its index if it came as an array.
        sizes_hw: (height, width) of each.
        problems: of the broken images.
        statistics: the `image_statistics` of each network input, once it was prepared.
        found_groups: (n,) int64, the group of each image: the index of the one that stands for those that show the same
            part. Copies of a file are one group, images whose samples name one, and, after `keep`, near-duplicates.
        groups: these, or each image its own where there are fewer than `LEAST_GROUPS`.

    Args:
        items: the images.
        bit_depth: bits in use in 16-bit images.
        threads: for decoding.
        least: images that must be readable.
        facts: of each image, where they are known.

    Raises:
        DataError: if fewer than `least` can be read: each image is scored by the others.
    """

    def __init__(
        self,
        items: Sequence[ImageInput],
        *,
        bit_depth: int | None,
        threads: int,
        least: int = MIN_IMAGES,
        facts: Iterable[ImageFacts | ImageError] | None = None,
    ) -> None:
        self.items: list[ImageInput] = []
        self.names: list[str] = []
        self.sizes_hw: list[tuple[int, int]] = []
        self.problems: list[Problem] = []
        self.statistics: list[Float64 | None] = []
        self._fingerprints: list[NDArray[np.int8] | None] = []
        self._digests: list[str] = []
        self._bit_depth = bit_depth
        self._threads = threads
        self._least = least
        if facts is None:
            facts = prefetch(lambda item: facts_of(item, bit_depth), items, threads=threads)
        for i, (item, known) in enumerate(zip(items, facts, strict=True)):
            name = str(path_of(item) or f"array {i}")
            if isinstance(known, ImageError):
                self._leave_out(name, known)
                continue
            self.items.append(item)
            self.names.append(name)
            self.sizes_hw.append(known.size_hw)
            self.statistics.append(None)
            self._fingerprints.append(None)
            self._digests.append(known.sha256)
        self._check_enough()
        self._find_groups()

    def __len__(self) -> int:
        return len(self.items)

    @property
    def sha256(self) -> str:
        """The SHA-256 of the images' hashes, in order."""
        return hashlib.sha256("".join(self._digests).encode("ascii")).hexdigest()

    @property
    def digests(self) -> tuple[str, ...]:
        """The SHA-256 of each image: of the file, or of the pixels of an array."""
        return tuple(self._digests)

    def feature_maps(
        self,
        extract: Callable[[UInt8], Float32],
        geometry: Geometry,
        chosen: Sequence[int],
        *,
        stage: str,
        progress: Progress,
    ) -> Iterator[tuple[int, Float32]]:
        """Yield index and feature map, `extract` of the network's input, of each chosen image."""
        for i, image in self.prepared(geometry, chosen, stage=stage, progress=progress):
            yield i, extract(image)

    def prepared(
        self, geometry: Geometry, chosen: Sequence[int], *, stage: str, progress: Progress
    ) -> Iterator[tuple[int, UInt8]]:
        """Yield index and network input, (h, w, 3) uint8, of each chosen image that can be decoded.

        Threads decode and resize a few images ahead.
        """
        inputs = network_inputs((self.items[i] for i in chosen), geometry, self._bit_depth, threads=self._threads)
        for done, (i, image) in enumerate(zip(chosen, inputs, strict=True), start=1):
            if isinstance(image, ImageError):
                self.note(i, image)
            else:
                if self.statistics[i] is None:
                    self.note(i, ImageLook.of(image, self.sizes_hw[i]))
                yield i, image
            progress(stage, done, len(chosen))

    def note(self, i: int, look: ImageLook | ImageError) -> None:
        """Note what is kept of the network input of image `i`, or why there is none."""
        if isinstance(look, ImageError):
            self._leave_out(self.names[i], look)
        else:
            self.statistics[i], self._fingerprints[i] = look

    def representatives(self, chosen: Iterable[int]) -> list[int]:
        """Return an image of each group out of `chosen`: the one that stands for it, or else the first."""
        of_group: dict[int, int] = {}
        for i in chosen:
            group = int(self.groups[i])
            if i == group or group not in of_group:
                of_group[group] = i
        return sorted(of_group.values())

    def keep(self, good: Sequence[int]) -> None:
        """Keep only the images of these indices, all of them prepared, and find near-duplicates among them."""
        self.items = [self.items[i] for i in good]
        self.names = [self.names[i] for i in good]
        self.sizes_hw = [self.sizes_hw[i] for i in good]
        self.statistics = [self.statistics[i] for i in good]
        self._fingerprints = [self._fingerprints[i] for i in good]
        self._digests = [self._digests[i] for i in good]
        self._check_enough()
        self._find_groups()

    def good_range(self) -> GoodRange | None:
        """Return the range of the statistics of all images that were prepared; None before."""
        rows = [row for row in self.statistics if row is not None]
        return GoodRange.of(rows) if rows else None

    def _find_groups(self) -> None:
        """Find the groups of copies, of samples that name one, and of near-duplicates."""
        stated = [item.group if isinstance(item, Sample) else "" for item in self.items]
        self.found_groups = parts_of(stated, self._digests, self._fingerprints)
        enough = len(np.unique(self.found_groups)) >= LEAST_GROUPS
        self.groups = self.found_groups if enough else np.arange(len(self.items))

    def _leave_out(self, name: str, error: ImageError) -> None:
        self.problems.append(Problem(Path(name), "unreadable", f"{error} It was left out."))

    def _check_enough(self) -> None:
        if len(self.items) >= self._least:
            return
        got = f"{len(self.items)} that can be read"
        if self.problems:
            got += f" and {len(self.problems)} broken, the first: {self.problems[0].text}"
        todo = f"Give at least {self._least}, better 100 or more: each is scored by the others."
        raise DataError(message("good images", f"at least {self._least}", got, todo=todo))


def network_inputs(
    items: Iterable[ImageInput], geometry: Geometry, bit_depth: int | None, *, threads: int
) -> Iterator[UInt8 | ImageError]:
    """Yield the network input, (h, w, 3) uint8, of each image in order, or why it can't be decoded.

    Threads decode and resize a few images ahead.
    """

    def prepare(item: ImageInput) -> UInt8 | ImageError:
        try:
            return geometry.prepare(read_image(item, bit_depth))
        except ImageError as error:
            return error

    return prefetch(prepare, items, threads=threads)
