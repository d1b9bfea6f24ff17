"""Store of defects: anomalous regions of images in Qdrant, with labels, searchable by similarity."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from blemish._validation.checks import check_whole
from blemish.detectors.base import Detector
from blemish.errors import InputError, StoreError, message
from blemish.search.backends.address import check_address
from blemish.search.backends.edge import EdgeBackend
from blemish.search.backends.interface import IMAGE, REGION, Filter
from blemish.search.backends.process import SENT, OpenedHere
from blemish.search.backends.server import ServerBackend
from blemish.search.backends.version_1 import with_present_names
from blemish.search.encoder import DIMS, EncodedRegion, RegionEncoder, most_anomalous_region
from blemish.search.metadata import Metadata
from blemish.search.payload import check_id, check_text, check_time, label_payload, payload_filter, to_points
from blemish.search.queries import groups, nearest, reference_distances, suggest
from blemish.search.records import AddResult, Group, Match, ReindexResult, StoreCheck, StoredDefect, Suggestion
from blemish.search.reindex import reindex
from blemish.search.snapshot import save_snapshot
from blemish.search.voting import N_VOTERS
from blemish.types import Float32, Float64, GoodPatch, ImageInput, Progress, no_progress

if TYPE_CHECKING:
    from blemish.detectors.predictor import Predictor
    from blemish.search.backends.interface import Backend
    from blemish.search.encoder import EncodedImage

QueryInput: TypeAlias = "ImageInput | EncodedRegion | StoredDefect"

MEMORY = ":memory:"
# Cosine of whole-image vectors from which on two images count as duplicates.
DUPLICATE_SIMILARITY = 0.995
MAX_DUPLICATES = 100
MAX_K = 10_000


class DefectStore:
    """Anomalous regions of images with their labels, searchable by similarity.

    It lives in a folder (Qdrant's engine in this process; one process at a time), in a temporary one that is removed
    when it is closed (":memory:"), or on a Qdrant server (`url=`; any number of stations). One store may hold several
    product categories, each with a model of its own.

    Methods raise `StoreError` if the store can't be read or written; what was acknowledged before is stored. Those
    that take an image raise `ImageError` if its file can't be read, and `InputError` if an array is no image.

    Args:
        folder: of the store; ":memory:" for a trial. Not with `url`.
        model: the detector that finds regions; needed to make a store, to add images and to query by image. Without it
            a store can be labelled, listed and grouped, and queried by stored defects. A `RegionEncoder` is fitted once
            for several stores.
        category: product category of the images; None for that of this model, or the only one in the store, or "part".
        good: good images to encode defects against, for a model that does not carry their statistics and whose training
            images have moved. Needed once for each category: the store keeps the statistics.
        create: whether to make a store that does not exist, if there is a model; else it is an error.
        read_only: to ask only, also on a read-only disk: a folder is copied to a temporary one, which is removed when
            the store is closed, and changes are refused.
        url: of a Qdrant server, such as http://localhost:6333.
        api_key: of the server, if it wants one.
        collection: name of the store on the server.
        timeout_s: limit of one call of the server.
        retries: how often a failed call is repeated.

    Raises:
        InputError: if a setting is out of range.
        StoreError: if the store does not exist, is in use by another process, damaged, of a newer version or of another
            model, or the server can't be reached.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str] | None = None,
        *,
        model: Predictor | RegionEncoder | None = None,
        category: str | None = None,
        good: Sequence[ImageInput] | None = None,
        create: bool = True,
        read_only: bool = False,
        url: str | None = None,
        api_key: str | None = None,
        collection: str = "blemish",
        timeout_s: float = 10.0,
        retries: int = 4,
    ) -> None:
        if (folder is None) == (url is None):
            raise InputError(
                message("store", "a folder (or ':memory:'), or url=", "neither" if url is None else "both")
            )
        check_text("collection", collection)
        chosen = None if category is None else check_text("category", category)
        if url is not None:
            check_address(url)
        self.name = f"{url}, collection {collection}" if folder is None else os.fspath(folder)
        self._encoder = RegionEncoder(model) if model is not None and not isinstance(model, RegionEncoder) else model
        self._lock, self._process, self.read_only = threading.RLock(), OpenedHere(self.name), read_only
        self._references: tuple[Filter, int, Float64] | None = None
        self._good = good
        dims = DIMS if create and not read_only and self._encoder is not None else {}
        backend: Backend
        if url is None:
            backend = EdgeBackend(None if self.name == MEMORY else Path(self.name), dims, read_only=read_only)
        else:
            backend = ServerBackend(
                url, dims=dims, api_key=api_key, collection=collection, timeout_s=timeout_s, retries=retries
            )
        try:
            self._backend = with_present_names(backend)
            self._metadata = Metadata.open(self._backend, self._encoder, self.name)
        except BaseException:
            backend.close()
            raise
        self.category = chosen or self._metadata.category_of(self._encoder)

    def __len__(self) -> int:
        return self.count()

    @property
    def categories(self) -> tuple[str, ...]:
        """The product categories in the store."""
        return tuple(self._metadata.models)

    def count(self, *, category: str | None = None, label: str | None = None, kind: str = REGION) -> int:
        """Return the number of stored regions (or images: kind="image"); None stands for any."""
        return self._backend.count(payload_filter(kind, category=category, label=label))

    def defects(
        self, *, category: str | None = None, label: str | None = None, unlabelled: bool = False, kind: str = REGION
    ) -> Iterator[StoredDefect]:
        """Yield the stored defects in order of id; None stands for any."""
        where = payload_filter(kind, category=category, label=label)
        where = replace(where, empty=("label",)) if unlabelled else where
        return map(StoredDefect.from_point, self._backend.scan(where))

    def regions(self, *, category: str | None = None) -> Iterator[tuple[StoredDefect, Float32]]:
        """Yield the stored regions of a category's present model, each with its (D,) unit vector, in order of id.

        Args:
            category: None for the store's own.
        """
        for point in self._backend.scan(self._comparable(REGION, category or self.category), using=REGION):
            assert point.vector is not None
            yield StoredDefect.from_point(point), point.vector

    def get(self, ids: Iterable[str]) -> list[StoredDefect]:
        """Return the stored defects of these ids, in their order.

        Raises:
            InputError: if one is not in the store.
        """
        checked = [check_id(id_) for id_ in ids]
        stored = {point.id: StoredDefect.from_point(point) for point in self._backend.get(checked)}
        for id_ in checked:
            if id_ not in stored:
                raise InputError(message("id", "one that is in the store", id_, where=self.name))
        return [stored[id_] for id_ in checked]

    def add(
        self, image: ImageInput, *, label: str | None = None, labelled_by: str | None = None, force: bool = False
    ) -> AddResult:
        """Store the anomalous regions and the whole-image vector of an image; on return they are on disk.

        An image that is stored already changes nothing, except its label if another one is given.

        Args:
            image: a path, sample or array.
            label: the defect type, if known.
            labelled_by: the person or source of the label.
            force: where nothing is above the threshold, store the most anomalous region below it.

        Raises:
            InputError: if the label is refused.
        """
        label_payload(label, labelled_by)  # refuse a label before the network runs
        return self.add_encoded(self.encode(image, force=force), label=label, labelled_by=labelled_by)

    def add_encoded(
        self, encoded: EncodedImage, *, label: str | None = None, labelled_by: str | None = None
    ) -> AddResult:
        """Store an image that `encode` returned, as `add` does.

        Raises:
            InputError: if a vector is not finite, or the label is refused.
        """
        payload = label_payload(label, labelled_by)
        with self._locked(to_change=True):
            model_id = self._metadata.bind(self._backend, self._fitted_encoder(), self.category)
            points = to_points(encoded, category=self.category, model_id=model_id, label=payload)
            stored = {point.id: point.payload for point in self._backend.get([point.id for point in points])}
            new = [point for point in points if point.id not in stored]
            if new:
                self._backend.insert(new)
            relabelled = [
                id_ for id_, old in stored.items() if label is not None and old.get("label") != payload["label"]
            ]
            if relabelled:
                self._backend.set_payload(relabelled, payload)
        ids = tuple(point.id for point in points[1:])
        n_new, n_labelled = sum(point.id in ids for point in new), sum(id_ in ids for id_ in relabelled)
        note = "" if ids else "Nothing in it is above the threshold, so only the whole image was stored."
        path = "" if encoded.path is None else str(encoded.path)
        return AddResult(encoded.sha256, path, ids, n_new, n_labelled, note)

    def label(self, ids: Iterable[str], label: str | None, *, by: str | None = None) -> int:
        """Set the label of stored defects, or remove it with None; return the number of defects.

        Raises:
            InputError: if the label is refused, or an id is not in the store.
        """
        payload = label_payload(label, by)
        with self._locked(to_change=True):
            chosen = [defect.id for defect in self.get(dict.fromkeys(ids))]
            if chosen:
                self._backend.set_payload(chosen, payload)
        return len(chosen)

    def reindex(self, *, category: str | None = None, progress: Progress | None = None) -> ReindexResult:
        """Encode the images of a category again with the model that the store was opened with; labels are kept.

        Args:
            category: None for the store's own, or the only one in it.
            progress: called as progress(stage, done, total).

        Raises:
            DataError: if there are no good images to encode against; nothing was changed then.
            StoreError: if there is no model, or the store can't be written: call it again.
        """
        encoder = self._require_encoder("encode images again")
        only = self.categories[0] if len(self.categories) == 1 else self.category
        chosen = category or (self.category if self.category in self.categories else only)
        with self._locked(to_change=True):
            if self._metadata.model_id(chosen) not in encoder.ids:
                if encoder.normal is None:
                    encoder.fit(self._good, progress=progress)
                self._metadata.rebind(self._backend, encoder, chosen)
            self._metadata.load_statistics(encoder, chosen)
            self.category = chosen
            model_id = self._metadata.model_id(chosen)
            return reindex(self._backend, encoder, chosen, model_id, progress or no_progress)

    def remove(self, sha256: str) -> int:
        """Remove the regions and the whole-image vector of one image; return the number of regions."""
        with self._locked(to_change=True):
            n_regions = self._backend.count(payload_filter(REGION).with_equals(sha256=sha256))
            self._backend.delete(Filter().with_equals(sha256=sha256))
        return n_regions

    def encode(self, image: ImageInput, *, force: bool = False) -> EncodedImage:
        """Return the anomalous regions of an image with their vectors; nothing is stored.

        Raises:
            DataError: if it is the first of its category and there are no good images to encode it against.
            StoreError: if the store was opened without a model, or has vectors of another one.
        """
        with self._locked():
            return self._fitted_encoder().encode(image, force=force)

    def similar(
        self,
        image_or_region: QueryInput,
        k: int = 5,
        *,
        category: str | None = None,
        label: str | None = None,
        since: str | datetime | None = None,
        force: bool = False,
    ) -> tuple[Match, ...]:
        """Return the k stored defects most similar to this one, nearest first, at most one of each other image.

        Args:
            image_or_region: an image (its most anomalous region is the query), a region from `encode`, or a stored
                defect.
            k: number of matches at most.
            category: to search; None for the store's own, or that of the stored defect.
            label: only defects with this label.
            since: only defects added at or after this time (ISO 8601).
            force: where nothing is above the threshold, query by the most anomalous region below it.

        Raises:
            InputError: if nothing in the image is above the threshold, or an argument is out of range.
        """
        check_whole("k", k, 1, MAX_K)
        vector, where = self._query(image_or_region, category, force)
        if label is not None:
            where = where.with_equals(label=check_text("label", label))
        return nearest(self._backend, REGION, vector, k, replace(where, since=check_time(since)))

    def suggest(
        self, image_or_region: QueryInput, *, k: int = N_VOTERS, category: str | None = None, force: bool = False
    ) -> Suggestion:
        """Return the label with most of the nearest labelled neighbors' votes, or that the defect is novel.

        It is novel if at most 1 in 20 stored images have their most anomalous region as far from its nearest neighbor.
        Of defects like the stored ones at most 1 in 20 are called novel, on average: see `novelty_p_value`.

        Args:
            image_or_region, category, force: as for `similar`.
            k: number of labelled neighbors that vote.

        Raises:
            InputError: if nothing in the image is above the threshold, or an argument is out of range.
        """
        check_whole("k", k, 1, MAX_K)
        vector, where = self._query(image_or_region, category, force)
        return suggest(self._backend, vector, k, where, self._reference_distances(replace(where, differs={})))

    def groups(self, *, category: str | None = None, least_similarity: float | None = None) -> list[Group]:
        """Return the clusters of similar regions, the largest first, named by their members' labels.

        Args:
            category: to group; None for the store's own.
            least_similarity: clusters merge while their mean cosine is at least this; None for the similarity that 19
                of 20 stored images have with their nearest neighbor.

        Raises:
            InputError: if `least_similarity` is not a finite number.
        """
        where = self._comparable(REGION, category or self.category)
        return groups(self._backend, where, least_similarity, self._reference_distances(where))

    def duplicates(
        self, image: ImageInput | StoredDefect, *, least_similarity: float = DUPLICATE_SIMILARITY
    ) -> tuple[Match, ...]:
        """Return stored images that look the same as this one: taken twice, or saved in another format.

        Args:
            image: an image, or a stored defect for its image.
            least_similarity: least cosine of the whole-image vectors.
        """
        if isinstance(image, StoredDefect):
            vector, sha256, category = self._stored_vector(IMAGE, image), image.sha256, image.category
        else:
            encoded = self.encode(image)
            vector, sha256, category = encoded.vector, encoded.sha256, self.category
        where = replace(self._comparable(IMAGE, category), differs={"sha256": sha256})
        matches = nearest(self._backend, IMAGE, vector, MAX_DUPLICATES, where)
        return tuple(match for match in matches if match.similarity >= least_similarity)

    def similar_good(self, image: ImageInput, k: int = 5) -> tuple[GoodPatch, ...]:
        """Return the good training patches nearest to the most anomalous patch, each of another training image.

        Args:
            image: a path, sample or array.
            k: number of patches at most.

        Raises:
            StoreError: if the store was opened without a model.
        """
        check_whole("k", k, 1, MAX_K)
        model = self._require_encoder("compare with good images").model
        if isinstance(model, Detector):
            return model.nearest_good_patches(image, k)
        patch = model.predict(image).nearest_good
        return () if patch is None else (patch,)

    def check(self) -> StoreCheck:
        """Read all regions and images, and compare them with what was acknowledged.

        Opening a store compares less: its files with how they were closed or, after a kill, what it holds.
        """
        with self._locked():
            found = self._backend.check()
        return StoreCheck(self.count(), self.count(kind=IMAGE), found.lost, found.changed)

    def snapshot(self, path: str | os.PathLike[str]) -> int:
        """Write all regions and images with their labels into one file, from which `restore` makes a store.

        Returns:
            The number of regions and images.

        Raises:
            SaveError: if the file can't be written.
        """
        with self._locked():
            return save_snapshot(self._backend, path)

    def optimise(self) -> None:
        """Build the index that keeps queries of a large store fast; worth it after many additions."""
        with self._locked(to_change=True):
            self._backend.optimise()

    def close(self) -> None:
        """Release the store; a second call does nothing, nor does one in a fork, whose parent has it open."""
        if self._process:
            with self._locked():
                self._backend.close()

    def __enter__(self) -> DefectStore:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"DefectStore({self.name!r}, category={self.category!r})"

    def __reduce__(self) -> tuple[type, tuple[str]]:
        raise StoreError(message("store", "use in this process", "a pickle for another", where=self.name, todo=SENT))

    @contextmanager
    def _locked(self, *, to_change: bool = False) -> Iterator[None]:
        """Let one thread in at a time. StoreError in a fork, where a thread that is gone may hold the lock for ever,
        and where a change is not allowed.
        """
        self._process.check()
        if to_change and self.read_only:
            todo = "Open it without read_only=True."
            raise StoreError(message("store", "one that may be changed", "a read-only one", where=self.name, todo=todo))
        with self._lock:
            yield

    def _require_encoder(self, purpose: str) -> RegionEncoder:
        if self._encoder is None:
            todo = "Open it with DefectStore(..., model=Patchcore.load(...))."
            raise StoreError(message("model", f"one, to {purpose}", "none", where=self.name, todo=todo))
        return self._encoder

    def _fitted_encoder(self) -> RegionEncoder:
        """Return the encoder with its statistics of good images, from the store or newly fitted."""
        encoder = self._require_encoder("encode images")
        if not self._metadata.load_statistics(encoder, self.category) and encoder.normal is None:
            encoder.fit(self._good)
        return encoder

    def _query(self, query: QueryInput, category: str | None, force: bool) -> tuple[Float32, Filter]:
        """Return the vector of a query and the filter of the regions to search."""
        if isinstance(query, StoredDefect):
            chosen = category or query.category
            self._metadata.check_model((query.model,), chosen)
            vector, sha256 = self._stored_vector(REGION, query), query.sha256
        else:
            chosen = category or self.category
            self._metadata.check_model(self._fitted_encoder().ids, chosen)
            encoded = query if isinstance(query, EncodedRegion) else self.encode(query, force=force)
            region = encoded if isinstance(encoded, EncodedRegion) else most_anomalous_region(encoded)
            vector, sha256 = region.vector, region.sha256
        return vector, replace(self._comparable(REGION, chosen), differs={"sha256": sha256})

    def _stored_vector(self, kind: str, defect: StoredDefect) -> Float32:
        """Return the vector of a stored region, or of its whole image."""
        where = self._comparable(kind, defect.category).with_equals(sha256=defect.sha256)
        for point in self._backend.scan(where, using=kind):
            if point.vector is not None and (kind == IMAGE or point.id == defect.id):
                return point.vector
        raise InputError(message("defect", "one that is in the store", defect.id, where=self.name))

    def _comparable(self, kind: str, category: str) -> Filter:
        """Return the filter of a category's points whose vectors can be compared: those of its present model."""
        return payload_filter(kind, category=category, model=self._metadata.model_id(category))

    def _reference_distances(self, where: Filter) -> Float64:
        """Return the reference distances of novelty, computed again when the number of regions has changed."""
        with self._locked():
            n = self._backend.count(where)
            if self._references is None or self._references[:2] != (where, n):
                self._references = where, n, reference_distances(self._backend, where)
            return self._references[2]
