"""The good images that a detector is fitted on: what they are, which are broken, and their feature maps."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from blemish._io.prefetch import prefetch
from blemish.data.grouping import parts_of
from blemish.errors import DataError, ImageError, message
from blemish.imaging.decode import path_of, read_facts, read_image
from blemish.imaging.drift import GoodRange, image_statistics
from blemish.ops.near_duplicates import LEAST_SIDE_PX, fingerprint
from blemish.types import Float32, Float64, ImageInput, Int64, Problem, Progress, Sample, UInt8

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from blemish.imaging.geometry import Geometry

# Each image is scored by the others while thresholds are calibrated.
MIN_IMAGES = 2
# Fewer parts say nothing of others; images then count as parts, and a warning says so.
LEAST_GROUPS = 5


class TrainingImages:
    """The readable good images of a training set, and the problems of the others.

    Attributes:
        items: the images, without the broken ones found so far.
        names: the path of each, or its index if it came as an array.
        sizes_hw: (height, width) of each.
        problems: of the broken images.
        statistics: the `image_statistics` of each network input, once it was prepared.
        groups: (n,) int64, the group of each image: the lowest index of those that show the same part. Copies of a file
            are one group, images whose samples name one, and, after `keep`, near-duplicates.

    Raises:
        DataError: if fewer than `least` can be read: each image is scored by the others.
    """

    def __init__(
        self, items: Sequence[ImageInput], *, bit_depth: int | None, threads: int, least: int = MIN_IMAGES
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
        for i, (item, facts) in enumerate(zip(items, prefetch(self._facts, items, threads=threads), strict=True)):
            name = str(path_of(item) or f"array {i}")
            if isinstance(facts, ImageError):
                self._leave_out(name, facts)
                continue
            self.items.append(item)
            self.names.append(name)
            self.sizes_hw.append(facts[0])
            self.statistics.append(None)
            self._fingerprints.append(None)
            self._digests.append(facts[1])
        self._check_enough()
        self.groups = self._known_groups()

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

        def prepare(i: int) -> UInt8 | ImageError:
            try:
                return geometry.prepare(read_image(self.items[i], self._bit_depth))
            except ImageError as error:
                return error

        prepared = prefetch(prepare, chosen, threads=self._threads)
        for done, (i, image) in enumerate(zip(chosen, prepared, strict=True), start=1):
            if isinstance(image, ImageError):
                self._leave_out(self.names[i], image)
            else:
                if self.statistics[i] is None:
                    self.statistics[i] = image_statistics(image)
                    if min(self.sizes_hw[i]) >= LEAST_SIDE_PX:
                        self._fingerprints[i] = fingerprint(image)
                yield i, image
            progress(stage, done, len(chosen))

    def representatives(self, chosen: Iterable[int]) -> list[int]:
        """Return the first image of each group out of `chosen`."""
        first: dict[int, int] = {}
        for i in chosen:
            first.setdefault(int(self.groups[i]), i)
        return list(first.values())

    def keep(self, good: Sequence[int]) -> None:
        """Keep only the images of these indices, all of them prepared, and find near-duplicates among them."""
        self.items = [self.items[i] for i in good]
        self.names = [self.names[i] for i in good]
        self.sizes_hw = [self.sizes_hw[i] for i in good]
        self.statistics = [self.statistics[i] for i in good]
        self._fingerprints = [self._fingerprints[i] for i in good]
        self._digests = [self._digests[i] for i in good]
        self._check_enough()
        self.groups = self._known_groups()

    def good_range(self) -> GoodRange | None:
        """Return the range of the statistics of all images that were prepared; None before."""
        rows = [row for row in self.statistics if row is not None]
        return GoodRange.of(rows) if rows else None

    def _facts(self, item: ImageInput) -> tuple[tuple[int, int], str] | ImageError:
        """Return (height, width) and hash of one image; files are not decoded."""
        path = path_of(item)
        try:
            if path is not None:
                return read_facts(path)
        except ImageError as error:
            return error
        image = read_image(item, self._bit_depth)
        return (image.shape[0], image.shape[1]), hashlib.sha256(image.tobytes()).hexdigest()

    def _known_groups(self) -> Int64:
        """Return the groups of copies, of samples that name one, and of near-duplicates; none if too few are left."""
        stated = [item.group if isinstance(item, Sample) else "" for item in self.items]
        groups = parts_of(stated, self._digests, self._fingerprints)
        return groups if len(np.unique(groups)) >= LEAST_GROUPS else np.arange(len(groups))

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
