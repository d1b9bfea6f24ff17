"""Indexing of defects from all nodes into a store on a Qdrant server.

The id of a region follows from the image's content and the region: an image that is indexed twice, by a node that died
in between or by a second run, changes nothing.
"""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from blemish.cluster.connection import check_nodes, check_versions, connected
from blemish.cluster.pool import ActorPool, Dead
from blemish.cluster.predictions import WorkerSpec, died, pool_of, spec_of
from blemish.detectors.registry import load
from blemish.errors import ImageError
from blemish.search.store import DefectStore

if TYPE_CHECKING:
    from blemish.search.records import AddResult

# An actor gets so many at once: each is a prediction and a call of the server.
CHUNK = 8


class ImageToIndex(NamedTuple):
    """An image with its label, None for none."""

    path: str
    label: str | None


@dataclass(frozen=True)
class IndexSpec:
    """All that a worker needs to index: the model, and how to reach the store.

    Attributes:
        force: whether the most anomalous region is stored where none is above the threshold.
    """

    worker: WorkerSpec
    url: str
    api_key: str | None = field(repr=False)
    collection: str
    category: str
    force: bool


class Indexer:
    """A worker: loads the model once, and stores the defects of the images that it is given."""

    def __init__(self, spec: IndexSpec) -> None:
        check_versions(spec.worker.versions)
        self._force = spec.force
        with tempfile.TemporaryDirectory(prefix="blemish-model-") as folder:
            for name, data in spec.worker.files.items():
                (Path(folder) / name).write_bytes(data)
            detector = load(folder, threads=spec.worker.threads)
        self._store = DefectStore(
            model=detector,
            category=spec.category,
            create=False,
            url=spec.url,
            api_key=spec.api_key,
            collection=spec.collection,
        )

    def ready(self) -> str:
        """Return the name of the machine, once model and store are opened."""
        return socket.gethostname()

    def run(self, images: Sequence[ImageToIndex]) -> list[AddResult | str]:
        """Store the defects of each image; return what was added, or why nothing was."""
        return [added_to(self._store, image, self._force) for image in images]


def index_many(
    store: DefectStore,
    model: str | os.PathLike[str],
    images: Sequence[tuple[str | os.PathLike[str], str | None]],
    *,
    url: str,
    api_key: str | None = None,
    collection: str = "blemish",
    force: bool = False,
    address: str | None = None,
    threads: int = 1,
) -> Iterator[AddResult | str]:
    """Store the defects of images from all nodes of a Ray cluster; yield what was added of each, or why it was not.

    The first image that can be read is added here: it binds the store to the model, which then all nodes find there.

    Args:
        store: opened with the model, on the server that `url` names.
        model: its model folder.
        images: path and label of each, None for no label; each node must see the paths.
        url: of the server, as nodes reach it.
        api_key: of the server; it is sent to the nodes.
        collection: of the store on the server.
        force: as of `DefectStore.add`.
        address: as of `fit_many`.
        threads: of each worker, which are its CPUs.

    Raises:
        ClusterError: if the cluster can't be joined, a node has other versions or does not see the images, or there is
            no room for a worker.
        InputError: if Ray is not installed.
        StoreError: if the server does not answer, or the store is of another model.
    """
    todo = [ImageToIndex(os.path.abspath(path), label) for path, label in images]  # noqa: PTH100  # keeps links
    spec = IndexSpec(spec_of(model, threads, {})[0], url, api_key, collection, store.category, force)
    with connected(address) as found:
        check_nodes(found, {image.path: Path(image.path).stat().st_size for image in todo[:1]})
        first = 0
        added: AddResult | str = ""
        while first < len(todo) and isinstance(added, str):
            added = added_to(store, todo[first], force)
            first += 1
            yield added
        rest = todo[first:]
        if rest:
            yield from _added_by(pool_of(Indexer, spec, spec.worker), rest)


def _added_by(
    pool: ActorPool[ImageToIndex, AddResult | str], images: Sequence[ImageToIndex]
) -> Iterator[AddResult | str]:
    """Yield the results of a pool, in order."""
    paths = (image.path for image in images)
    with closing(pool.map(images[i : i + CHUNK] for i in range(0, len(images), CHUNK))) as chunks:
        for chunk in chunks:
            for path, added in zip(islice(paths, len(chunk)), chunk, strict=True):
                yield died(path) if isinstance(added, Dead) else added


def added_to(store: DefectStore, image: ImageToIndex, force: bool) -> AddResult | str:
    """Return what was added of an image, or why nothing was."""
    labelled_by = "folder" if image.label else None
    try:
        return store.add(image.path, label=image.label, labelled_by=labelled_by, force=force)
    except ImageError as error:
        return str(error)
