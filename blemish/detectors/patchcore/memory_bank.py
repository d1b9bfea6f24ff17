"""The memory bank of PatchCore: patch features of good images, collected in one pass and reduced to a coreset."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from blemish.ops.merge_reduce import Chunk, StreamingCoreset, coreset, coreset_bytes, streaming_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from blemish.detectors.patchcore.settings import PatchcoreSettings
    from blemish.types import Float32, Progress


class MemoryBank(NamedTuple):
    """Coreset of the patches of good images.

    Attributes:
        features: (n, D) float32, scaled.
        source: (n, 3) int32: image, row and column of each.
        radius: covering radius: no patch of the good images is farther from the bank.
    """

    features: Float32
    source: NDArray[np.int32]
    radius: float


def chunk_of(features: Float32, image: int) -> Chunk:
    """Return the patches of an image, (h, w, D) float32, as rows with their source."""
    height, width, n_features = features.shape
    places = np.mgrid[:height, :width].reshape(2, -1)
    source = np.column_stack([np.full(height * width, image), *places]).astype(np.int32)
    return Chunk(features.reshape(-1, n_features), source)


def stream_of(settings: PatchcoreSettings, n_rows: int) -> StreamingCoreset | None:
    """Return the coreset of a stream of about so many patches; None if they are few enough to be held."""
    if n_rows <= settings.max_rows:
        return None
    n_select = settings.bank_rows(n_rows)
    return StreamingCoreset(n_select, n_rows=n_rows, max_rows=settings.max_rows, seed=settings.seed)


class PatchCollection:
    """Patch features of good images as they come: all of them where they fit into `max_rows`, else a coreset.

    Args:
        settings: of the detector.
        n_images: expected images; fewer may come.
        stream: of patches that were reduced already.
    """

    def __init__(self, settings: PatchcoreSettings, n_images: int, *, stream: StreamingCoreset | None = None) -> None:
        self._settings, self._n_images = settings, n_images
        self._n_added = 0
        self._maps: Float32 | None = None  # (n_images, h, w, D), the first `n_added` of which are set
        self._stream = stream

    def add(self, features: Float32) -> None:
        """Add the (h, w, D) float32 features of the next image."""
        if self._n_added == 0:
            self._begin(features.shape)
        if self._stream is not None:
            self._stream.add(*chunk_of(features, self._n_added))
        else:
            assert self._maps is not None
            self._maps[self._n_added] = features
        self._n_added += 1

    def memory_bank(self, progress: Progress) -> MemoryBank:
        """Return the memory bank."""
        settings = self._settings
        if self._stream is not None:
            n_select = settings.bank_rows(self._stream.n_added)
            return MemoryBank(*self._stream.finish(n_select, progress=progress))
        assert self._maps is not None, "there are at least two images"
        maps = self._maps[: self._n_added]
        rows = maps.reshape(-1, maps.shape[-1])
        indices, radius = coreset(rows, settings.bank_rows(len(rows)), seed=settings.seed, progress=progress)
        source = np.column_stack(np.unravel_index(indices, maps.shape[:3])).astype(np.int32)
        return MemoryBank(rows[indices], source, radius)

    @property
    def are_held(self) -> bool:
        """Whether the features of all images are held."""
        return self._maps is not None

    def maps(self, chosen: Sequence[int], *, stage: str, progress: Progress) -> Iterator[tuple[int, Float32]] | None:
        """Return index and (h, w, D) features of each chosen image; None if they are not held."""
        return None if self._maps is None else _counted(self._maps, chosen, stage, progress)

    def _begin(self, shape: tuple[int, ...]) -> None:
        """Hold all features, or begin a stream."""
        self._stream = stream_of(self._settings, self._n_images * shape[0] * shape[1])
        if self._stream is None:
            self._maps = np.empty((self._n_images, *shape), np.float32)


def _counted(maps: Float32, chosen: Sequence[int], stage: str, progress: Progress) -> Iterator[tuple[int, Float32]]:
    for done, i in enumerate(chosen, start=1):
        yield i, maps[i]
        progress(stage, done, len(chosen))


def collection_bytes(settings: PatchcoreSettings, n_rows: int, n_features: int) -> int:
    """Return the peak memory of a collection and its memory bank, in bytes."""
    n_select = settings.bank_rows(n_rows)
    bank = n_select * (4 * n_features + 12)
    if n_rows > settings.max_rows:
        return bank + streaming_bytes(n_rows, n_features, n_select, settings.max_rows)
    return bank + 4 * n_rows * n_features + coreset_bytes(n_rows, n_features, n_select)
