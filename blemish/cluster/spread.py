"""The fit of one category over all nodes: the passes of PatchCore's fit as tasks of Ray, with the same result.

    some images        -> network inputs, from which the scaling of the features is learnt here
    blocks of images   -> features, which stay on the node, and what is kept of each image
    chunks of patches  -> a coreset of each
    here               -> coreset of the coresets, near-duplicates, position, thresholds
    blocks of images   -> distances to the memory bank, for the thresholds

Chunks and their order are those of `StreamingCoreset` on one machine, and so are the bytes of the model. The
features of a block are made again where their node died before they were reduced.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from blemish.backbones.embedding import Extractor
from blemish.cluster.node_tasks import DiedError, check_seen
from blemish.data.training_images import ImageFacts, ImageLook, TrainingImages, facts_of, network_inputs
from blemish.detectors.fusion import MultiScaleFeatures
from blemish.detectors.patchcore.fit import CalibrationChoice, GoodSearch, LocalPasses, first_of, first_pass, fit
from blemish.detectors.patchcore.memory_bank import PatchCollection, chunk_of, stream_of
from blemish.errors import ImageError, message
from blemish.ops.merge_reduce import chunk_images, joined

if TYPE_CHECKING:
    from blemish.cluster.node_tasks import Tasks
    from blemish.detectors.base import AnyDetector
    from blemish.detectors.patchcore.fit import FirstPass
    from blemish.detectors.patchcore.scoring import PatchDistances
    from blemish.detectors.patchcore.settings import PatchcoreSettings
    from blemish.imaging.geometry import Geometry
    from blemish.ops.merge_reduce import Chunk, ChunkReduction, ReducedChunk, StreamingCoreset
    from blemish.types import Float32, Int64, Progress, Sample, UInt8

T = TypeVar("T")
# Files whose headers and hashes one task reads.
FACTS_BLOCK = 64
# Images that one task reads again.
BLOCK = 16


@dataclass(frozen=True)
class Network:
    """All that makes features of an image."""

    graph: bytes
    geometry: Geometry
    bit_depth: int | None
    threads: int


class SeenImage(NamedTuple):
    """What is kept of an image; its global descriptor where the score is fused."""

    look: ImageLook
    summary: Float32 | None


class Piece(NamedTuple):
    """Images of a block that are of one chunk.

    Attributes:
        features: reference of the block's.
        first: number of the first one, among the images that can be decoded.
        start, stop: their rows of the features.
    """

    features: Any
    first: int
    start: int
    stop: int


# --- on the nodes -----------------------------------------------------------------------------------------------------


def facts_here(samples: Sequence[Sample], bit_depth: int | None) -> list[ImageFacts | ImageError]:
    """Return size and hash of each image."""
    check_seen(samples)
    return [facts_of(sample, bit_depth) for sample in samples]


def inputs_here(samples: Sequence[Sample], geometry: Geometry, bit_depth: int | None) -> list[UInt8 | ImageError]:
    """Return the network input of each image."""
    check_seen(samples)
    return list(network_inputs(samples, geometry, bit_depth, threads=1))


def look_here(
    samples: Sequence[Sample], sizes_hw: Sequence[tuple[int, int]], network: Network, with_summary: bool
) -> tuple[Float32, list[SeenImage | ImageError]]:
    """Return the (n, h, w, D) features of the images that can be decoded, and what is kept of each image."""
    check_seen(samples)
    extractor = extractor_of(network.graph, network.threads)
    features: list[Float32] = []
    seen: list[SeenImage | ImageError] = []
    inputs = network_inputs(samples, network.geometry, network.bit_depth, threads=network.threads)
    for image, size_hw in zip(inputs, sizes_hw, strict=True):
        if isinstance(image, ImageError):
            seen.append(image)
            continue
        features.append(extractor.features(image))
        summary = extractor.summary(image) if with_summary else None
        seen.append(SeenImage(ImageLook.of(image, size_hw), summary))
    return np.stack(features) if features else np.empty((0, 0, 0, 0), np.float32), seen


def reduced_here(reduction: ChunkReduction, pieces: Sequence[Piece], *features: Float32) -> ReducedChunk:
    """Return the coreset of a chunk."""
    return reduction.reduced(chunk_here(pieces, features))


def chunk_here(pieces: Sequence[Piece], features: Sequence[Float32]) -> Chunk:
    """Return the chunk that is made of pieces of blocks, whose features these are."""
    return joined(
        [
            chunk_of(maps[row], piece.first + row - piece.start)
            for piece, maps in zip(pieces, features, strict=True)
            for row in range(piece.start, piece.stop)
        ]
    )


def parts_here(samples: Sequence[Sample], network: Network) -> list[Float32 | ImageError]:
    """Return the coarse features of each image."""
    extractor = extractor_of(network.graph, network.threads)
    return [image if isinstance(image, ImageError) else extractor.parts(image) for image in _inputs(samples, network)]


def nearest_here(
    samples: Sequence[Sample],
    network: Network,
    indices: Sequence[int],
    search: tuple[PatchcoreSettings, Float32, np.ndarray[Any, np.dtype[np.int32]], Int64],
) -> list[PatchDistances | ImageError]:
    """Return the distances of each image's patches to the memory bank without its own part's rows."""
    extractor, good = extractor_of(network.graph, network.threads), GoodSearch(*search)
    return [
        image if isinstance(image, ImageError) else good.distances(i, extractor.features(image))
        for i, image in zip(indices, _inputs(samples, network), strict=True)
    ]


def _inputs(samples: Sequence[Sample], network: Network) -> Iterator[Any]:
    check_seen(samples)
    return network_inputs(samples, network.geometry, network.bit_depth, threads=network.threads)


@lru_cache(maxsize=1)
def extractor_of(graph: bytes, threads: int) -> Extractor:
    """Return the extractor; a process that runs many tasks loads it once."""
    return Extractor(graph, threads=threads)


# --- on the machine where the command runs ----------------------------------------------------------------------------


def facts_over_nodes(samples: Sequence[Sample], bit_depth: int | None, tasks: Tasks) -> list[ImageFacts | ImageError]:
    """Return size and hash of each image."""
    given = (samples[i : i + FACTS_BLOCK] for i in range(0, len(samples), FACTS_BLOCK))
    started = (tasks.submit(facts_here, block, bit_depth) for block in given)
    return [facts for reference in ahead(started, tasks.n_ahead) for facts in tasks.result(reference)]


def fit_over_nodes(
    detector: AnyDetector,
    samples: Sequence[Sample],
    facts: Iterable[ImageFacts | ImageError],
    tasks: Tasks,
    progress: Progress,
) -> None:
    """Fit PatchCore on good images, with the result of its `fit`.

    Args:
        detector: a PatchCore, not fitted.
        samples: the good images, which all nodes see.
        facts: of each.
        tasks: runs functions on the nodes.
        progress: called as progress(stage, done, total).

    Raises:
        ClusterError: if a task returns nothing.
        DataError, InputError: as of `fit`.
    """
    settings = detector.settings
    images = TrainingImages(
        samples,
        bit_depth=settings.bit_depth,
        threads=settings.n_threads,
        least=detector.least_images,
        facts=facts,
    )
    passes = NodePasses(settings, images, tasks, progress)
    detector.accept(images, fit(settings, detector.pretrained, images, progress=progress, passes=passes))


@dataclass(frozen=True)
class NodePasses:
    """The passes over the images on the nodes; see `LocalPasses`."""

    settings: PatchcoreSettings
    images: TrainingImages
    tasks: Tasks
    progress: Progress

    def inputs(self, geometry: Geometry, chosen: Sequence[int]) -> Iterator[UInt8 | ImageError]:
        """Yield the network input of each chosen image, decoded on some node, or why there is none."""
        started = ((block, self._decoding(block, geometry)) for block in _blocks(chosen, BLOCK))
        for block, reference in ahead(started, self.tasks.n_ahead):
            yield from self._decoded(block, reference, geometry)

    def _decoding(self, block: Sequence[int], geometry: Geometry) -> Any:
        return self.tasks.submit(inputs_here, [self.images.items[i] for i in block], geometry, self.settings.bit_depth)

    def _decoded(self, block: Sequence[int], reference: Any, geometry: Geometry) -> Iterator[UInt8 | ImageError]:
        """Yield the inputs of a block; one by one where its process died each time."""
        try:
            yield from self.tasks.result(reference)
        except DiedError as error:
            if len(block) == 1:
                yield ImageError(str(error))
                return
            for i in block:
                yield from self._decoded([i], self._decoding([i], geometry), geometry)

    def first(self, extractor: Extractor, geometry: Geometry) -> FirstPass:
        """Read every image on some node; those that can't be decoded are left out of the images from here on."""
        images, settings = self.images, self.settings
        height, width, _ = extractor.features(np.zeros((*geometry.network_hw, 3), np.uint8)).shape
        stream = stream_of(settings, len(images) * height * width)
        if stream is None:
            return first_pass(settings, images, extractor, geometry, self.progress)
        network = self._network(extractor, geometry)
        choice, summaries = CalibrationChoice(len(images)), list[Any]()
        n_images = chunk_images(height * width)
        with closing(self._looked(network, n_images)) as blocks:
            self._reduce(chunks_of(self._noted(blocks, choice, summaries), n_images), stream, height * width)
        multi_scale = None
        if settings.score_fusion:
            multi_scale = MultiScaleFeatures()
            chosen = [images.items[choice.good[k]] for k in choice.chosen]
            parts = dict(zip(choice.chosen, self._parts(chosen, network), strict=True))
            for k, summary in enumerate(summaries):
                multi_scale.add(summary, parts.get(k))
        return first_of(images, choice, PatchCollection(settings, len(images), stream=stream), multi_scale)

    def nearest(
        self, extractor: Extractor, geometry: Geometry, first: FirstPass, search: GoodSearch
    ) -> list[PatchDistances]:
        """Return the distances of the patches of each chosen image to the memory bank without its own part's rows."""
        if first.patches.are_held:
            return LocalPasses(self.settings, self.images, self.progress).nearest(extractor, geometry, first, search)
        network = self._network(extractor, geometry)
        shared = self.tasks.shared((self.settings, search.index.memory_bank, search.source, search.groups))
        items = self.images.items
        started = (
            (block, self.tasks.submit(nearest_here, [items[i] for i in block], network, block, shared))
            for block in _blocks(first.chosen, BLOCK)
        )
        found: list[PatchDistances] = []
        done = 0
        for block, reference in ahead(started, self.tasks.n_ahead):
            for i, distances in zip(block, self.tasks.result(reference), strict=True):
                if isinstance(distances, ImageError):
                    self.images.note(i, distances)
                else:
                    found.append(distances)
            done += len(block)
            self.progress("calibrating", done, len(first.chosen))
        return found

    def _network(self, extractor: Extractor, geometry: Geometry) -> Any:
        settings = self.settings
        return self.tasks.shared(Network(extractor.model, geometry, settings.bit_depth, settings.n_threads))

    def _looked(self, network: Any, n_images: int) -> Generator[tuple[Sequence[int], Any, list[Any]], None, None]:
        """Yield blocks of images: their indices, the reference of the features, and what is kept of each image."""
        blocks = _blocks(range(len(self.images)), n_images)
        started = ((block, self._look(block, network)) for block in blocks)
        for block, references in ahead(started, self.tasks.n_ahead):
            yield from self._settled(block, references, network)

    def _look(self, block: Sequence[int], network: Any) -> Sequence[Any]:
        samples, sizes_hw = [self.images.items[i] for i in block], [self.images.sizes_hw[i] for i in block]
        fused = self.settings.score_fusion
        references: Sequence[Any] = self.tasks.submit(look_here, samples, sizes_hw, network, fused, n_returns=2)
        return references

    def _settled(
        self, block: Sequence[int], references: Sequence[Any], network: Any
    ) -> Iterator[tuple[Sequence[int], Any, list[Any]]]:
        """Yield a block; or its images one by one where its process died each time, without the one that ends it."""
        features, kept = references
        try:
            yield block, features, self.tasks.result(kept)
        except DiedError:
            if len(block) > 1:
                for i in block:
                    yield from self._settled([i], self._look([i], network), network)
                return
            where = self.images.names[block[0]]
            got = "a process that died each time that it had this image, as of a fault in a native library"
            yield block, None, [ImageError(message("image", "features", got, where=where))]

    def _noted(
        self, blocks: Iterator[tuple[Sequence[int], Any, list[Any]]], choice: CalibrationChoice, summaries: list[Any]
    ) -> Iterator[tuple[Any, int]]:
        """Yield the reference of each block's features and how many there are; note what is kept of each image."""
        done = 0
        for block, features, kept in blocks:
            n_good = 0
            for i, seen in zip(block, kept, strict=True):
                if isinstance(seen, ImageError):
                    self.images.note(i, seen)
                    continue
                self.images.note(i, seen.look)
                choice.add(i)
                summaries.append(seen.summary)
                n_good += 1
            done += len(block)
            self.progress("reading images", done, len(self.images))
            yield features, n_good

    def _reduce(self, chunks: Iterator[list[Piece]], stream: StreamingCoreset, n_each: int) -> None:
        """Add the coreset of each chunk to the stream, in order; the next ones are made meanwhile.

        Args:
            chunks: pieces of each.
            stream: of the patches.
            n_each: patches of an image.
        """
        tasks = self.tasks

        def reducing() -> Iterator[Any]:
            for pieces in chunks:
                reduction = stream.reduction(n_each * sum(piece.stop - piece.start for piece in pieces))
                places = [piece._replace(features=None) for piece in pieces]
                yield tasks.submit(reduced_here, reduction, places, *(piece.features for piece in pieces))

        for reference in ahead(reducing(), tasks.n_ahead):
            stream.keep(tasks.result(reference))

    def _parts(self, samples: Sequence[Any], network: Any) -> Iterator[Float32]:
        """Yield the coarse features of images that were read before."""
        started = (self.tasks.submit(parts_here, block, network) for block in _blocks(samples, BLOCK))
        for reference in ahead(started, self.tasks.n_ahead):
            for parts in self.tasks.result(reference):
                if isinstance(parts, ImageError):
                    raise parts
                yield parts


def ahead(started: Iterable[T], n: int) -> Generator[T, None, None]:
    """Yield items in order; the next `n` are taken, which starts them, before one is needed.

    >>> list(ahead(iter("abc"), 1))
    ['a', 'b', 'c']
    """
    waiting: deque[T] = deque()
    for item in started:
        waiting.append(item)
        if len(waiting) > n:
            yield waiting.popleft()
    yield from waiting


def chunks_of(blocks: Iterable[tuple[Any, int]], n_images: int) -> Iterator[list[Piece]]:
    """Yield chunks of `n_images` images each, the last one of fewer.

    Args:
        blocks: the reference of each one's features, and how many images they are of.
        n_images: of a chunk.

    >>> [[(piece.first, piece.start, piece.stop) for piece in chunk] for chunk in chunks_of([("a", 3), ("b", 2)], 2)]
    [[(0, 0, 2)], [(2, 2, 3), (3, 0, 1)], [(4, 1, 2)]]
    """
    pieces: list[Piece] = []
    first = n = 0
    for features, n_good in blocks:
        start = 0
        while start < n_good:
            stop = min(n_good, start + n_images - n)
            pieces.append(Piece(features, first, start, stop))
            first, n, start = first + stop - start, n + stop - start, stop
            if n == n_images:
                yield pieces
                pieces, n = [], 0
    if pieces:
        yield pieces


def _blocks(items: Sequence[T], n: int) -> Iterator[Sequence[T]]:
    return (items[i : i + n] for i in range(0, len(items), n))
