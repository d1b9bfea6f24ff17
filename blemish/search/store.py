"""Have we seen this defect before? A store of anomalous regions in Qdrant, and what it answers."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, TypeAlias

from blemish._validation.checks import check_whole
from blemish.errors import InputError, StoreError, message
from blemish.search.encoder import DescribedRegion, RegionEncoder, worst_region
from blemish.search.metadata import Meta
from blemish.search.place import Place
from blemish.search.points import also, points_of, stamped, where_of
from blemish.search.queries import VOTERS, grouped, known_distances, nearest, suggestion
from blemish.search.records import IMAGE, REGION, Added, Filter, Group, Match, StoredDefect, Suggestion
from blemish.search.reindex import Reindexed, reindex
from blemish.search.text import check_id, check_time, check_word
from blemish.types import no_progress

if TYPE_CHECKING:
    from blemish.detectors.registry import Detector
    from blemish.search.encoder import Described
    from blemish.types import Float32, Float64, GoodPatch, ImageInput, Progress

Asked: TypeAlias = "ImageInput | DescribedRegion | StoredDefect"

# Cosine of whole-image vectors from which on two images count as the same one.
SAME = 0.995
MOST = 10_000


class DefectStore:
    """Anomalous regions of images with what they were called, searchable by what they look like.

    It lives in a folder (Qdrant's engine in this process; one process at a time), in one that is gone when it is closed
    (":memory:"), or on a Qdrant server (`url=`; any number of stations). One store may hold several kinds of part, each
    described by a model of its own.

    Args:
        folder: where the store is or shall be; ":memory:" for a trial. Not with `url`.
        model: the detector that finds regions; needed to make a store, to add images and to ask about images.
            Without it one can label, list and group, and ask about what is stored. A `RegionEncoder` spares several
            stores learning the same.
        category: what kind of part the images show; None for the one that this model describes, or the only one there
            is, or "part".
        good: good images to describe defects against, for a model whose training images are no longer where they
            were. Only needed once for each kind of part: the store keeps what it learns of them.
        create: whether a store that is not there is made, if there is a model; else it is an error.
        url: of a Qdrant server, such as http://localhost:6333.
        api_key: if the server wants one.
        collection: name of the store on the server.
        timeout_s: how long one call of the server may take.
        retries: how often such a call is tried again.

    Raises:
        InputError: if a setting can't be.
        StoreError: if the store is not there, in use by another process, damaged, of a newer version, of another model,
            or the server can't be reached.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str] | None = None,
        *,
        model: Detector | RegionEncoder | None = None,
        category: str | None = None,
        good: Sequence[ImageInput] | None = None,
        create: bool = True,
        url: str | None = None,
        api_key: str | None = None,
        collection: str = "blemish",
        timeout_s: float = 10.0,
        retries: int = 4,
    ) -> None:
        wanted = None if category is None else check_word("category", category)
        place = Place(folder, url, api_key, collection, timeout_s, retries)
        self.name = place.name
        self._describer = RegionEncoder(model) if model is not None and not isinstance(model, RegionEncoder) else model
        self._lock = threading.RLock()
        self._known: tuple[Filter, int, Float64] | None = None
        self._good = good
        self._backend = place.open(make=create and self._describer is not None)
        try:
            self._meta = Meta.of(self._backend, self._describer, self.name)
        except BaseException:
            self._backend.close()
            raise
        self.category = wanted or self._meta.category_of(self._describer)

    def __len__(self) -> int:
        return self.count()

    @property
    def categories(self) -> tuple[str, ...]:
        """The kinds of part that are in it."""
        return tuple(self._meta.models)

    def count(self, *, category: str | None = None, label: str | None = None, kind: str = REGION) -> int:
        """Return how many regions (or images: kind="image") are stored; None stands for any."""
        return self._backend.count(where_of(kind, category=category, label=label))

    def defects(
        self, *, category: str | None = None, label: str | None = None, unlabelled: bool = False, kind: str = REGION
    ) -> Iterator[StoredDefect]:
        """Yield what is stored in order of id; None stands for any."""
        where = where_of(kind, category=category, label=label)
        where = replace(where, empty=("label",)) if unlabelled else where
        return (StoredDefect.from_payload(found) for found in self._backend.scan(where))

    def get(self, ids: Iterable[str]) -> list[StoredDefect]:
        """Return the stored defects of these ids, in their order.

        Raises:
            InputError: if one is not in the store.
        """
        wanted = [check_id(one) for one in ids]
        found = {one.id: StoredDefect.from_payload(one) for one in self._backend.get(wanted)}
        for one in wanted:
            if one not in found:
                raise InputError(message("id", "one that is in the store", one, where=self.name))
        return [found[one] for one in wanted]

    def add(
        self, image: ImageInput, *, label: str | None = None, labelled_by: str | None = None, force: bool = False
    ) -> Added:
        """Store the anomalous regions of an image, and how it looks as a whole. When it returns, the disk has them.

        An image that is there already changes nothing, but for its label if another one is given.

        Args:
            image: a path, sample or array.
            label: the defect type, if it is known.
            labelled_by: who says so.
            force: store the most anomalous place also where nothing is above the threshold.

        Raises:
            ImageError: if the file can't be read.
            InputError: if the label can't be, or the array is no image.
            StoreError: if the store can't take it; what was acknowledged before is there.
        """
        stamped(label, labelled_by)  # what is wrong with it is said before the network runs
        return self.add_described(self.describe(image, force=force), label=label, labelled_by=labelled_by)

    def add_described(self, described: Described, *, label: str | None = None, labelled_by: str | None = None) -> Added:
        """Store what `describe` returned, as `add` does.

        Raises:
            InputError: if a vector is not finite, or the label can't be.
            StoreError: if the store can't take it.
        """
        words = stamped(label, labelled_by)
        with self._lock:
            model = self._meta.bind(self._backend, self._ready(), self.category)
            points = points_of(described, category=self.category, model=model, words=words)
            there = {found.id: found.payload for found in self._backend.get([one.id for one in points])}
            new = [one for one in points if one.id not in there]
            if new:
                self._backend.insert(new)
            changed = [
                i for i, payload in there.items() if label is not None and payload.get("label") != words["label"]
            ]
            if changed:
                self._backend.set_payload(changed, words)
        ids = tuple(one.id for one in points[1:])
        note = "" if ids else "Nothing in it is above the threshold, so only the whole image was stored."
        path = "" if described.path is None else str(described.path)
        n_new = sum(one.id in ids for one in new)
        return Added(described.sha256, path, ids, n_new, sum(i in ids for i in changed), note)

    def label(self, ids: Iterable[str], label: str | None, *, by: str | None = None) -> int:
        """Say what stored defects are called, or take their label away with None; return how many there were.

        Raises:
            InputError: if the label can't be, or an id is not in the store.
            StoreError: if the store can't be written.
        """
        words = stamped(label, by)
        with self._lock:
            chosen = [one.id for one in self.get(dict.fromkeys(ids))]
            if chosen:
                self._backend.set_payload(chosen, words)
        return len(chosen)

    def reindex(self, *, category: str | None = None, progress: Progress | None = None) -> Reindexed:
        """Describe the images of a kind of part again with the model that the store was opened with; labels are kept.

        Args:
            category: it; None for the store's own, or the only one there is.
            progress: called now and then as progress(stage, done, total).

        Raises:
            DataError: if there are no good images to describe against; nothing was changed then.
            StoreError: if there is no model, or the store can't be written: call it again.
        """
        describer = self._with_model("describe images again")
        only = self.categories[0] if len(self.categories) == 1 else self.category
        chosen = category or (self.category if self.category in self.categories else only)
        with self._lock:
            if self._meta.model_of(chosen) != describer.model_id:
                if describer.good is None:
                    describer.learn(self._good, progress=progress)
                self._meta.rebind(self._backend, describer, chosen)
            self._meta.teach(describer, chosen)
            self.category = chosen
            return reindex(self._backend, describer, chosen, progress or no_progress)

    def remove(self, sha256: str) -> int:
        """Remove all that is stored of one image; return how many regions there were."""
        with self._lock:
            n = self._backend.count(also(where_of(REGION), sha256=sha256))
            self._backend.delete(Filter(equals={"sha256": [sha256]}))
        return n

    def describe(self, image: ImageInput, *, force: bool = False) -> Described:
        """Return the anomalous regions of an image with their vectors, without storing anything.

        Raises:
            ImageError: if the file can't be read.
            InputError: if the array is no image.
            DataError: if it is the first of its kind and there are no good images to describe it against.
            StoreError: if the store was opened without a model, or has another one's vectors.
        """
        with self._lock:
            return self._ready().describe(image, force=force)

    def similar(
        self,
        image_or_region: Asked,
        k: int = 5,
        *,
        category: str | None = None,
        label: str | None = None,
        since: str | datetime | None = None,
        force: bool = False,
    ) -> tuple[Match, ...]:
        """Return the stored defects that are most like this one, nearest first: one of each other image at most.

        Args:
            image_or_region: an image (its most anomalous region is asked about), a region out of `describe`, or a
                defect out of the store.
            k: how many at most.
            category: of this kind of part; None for the store's own, or that of the stored defect.
            label: only those with this label.
            since: only those that were added at or after this time (ISO 8601).
            force: ask about the most anomalous place also where nothing is above the threshold.

        Raises:
            ImageError: if the image can't be read.
            InputError: if nothing in the image is above the threshold, or an argument can't be.
            StoreError: if the store can't be asked.
        """
        check_whole("k", k, 1, MOST)
        vector, where = self._question(image_or_region, category, force)
        if label is not None:
            where = also(where, label=check_word("label", label))
        return nearest(self._backend, REGION, vector, k, replace(where, since=check_time(since)))

    def suggest(
        self, image_or_region: Asked, *, k: int = VOTERS, category: str | None = None, force: bool = False
    ) -> Suggestion:
        """Return what a defect may be called, by its labelled neighbours, or that nothing like it was ever seen.

        It counts as never seen if at most 1 in 20 stored images have their most anomalous region as far from its own
        nearest. Of defects like those stored, no more are called so on average: `search_answers.novelty_p_value`.

        Args:
            image_or_region: as for `similar`.
            k: how many labelled neighbours vote.
            category: as for `similar`.
            force: as for `similar`.

        Raises:
            ImageError: if the image can't be read.
            InputError: if nothing in the image is above the threshold, or an argument can't be.
            StoreError: if the store can't be asked.
        """
        check_whole("k", k, 1, MOST)
        vector, where = self._question(image_or_region, category, force)
        return suggestion(self._backend, vector, k, where, self._known_distances(replace(where, differs={})))

    def groups(self, *, category: str | None = None, least_similarity: float | None = None) -> list[Group]:
        """Return the stored regions in groups that look alike, the largest first, named by their members' labels.

        Args:
            category: of this kind of part; None for the store's own.
            least_similarity: how similar two groups are on average to be one; None for what 19 of 20 stored images
                have with their nearest.

        Raises:
            InputError: if `least_similarity` is no number.
            StoreError: if the store can't be asked.
        """
        where = self._comparable(REGION, category or self.category)
        return grouped(self._backend, where, least_similarity, self._known_distances(where))

    def duplicates(self, image: ImageInput | StoredDefect, *, least_similarity: float = SAME) -> tuple[Match, ...]:
        """Return stored images that look the same as this one: taken twice, or stored in another format.

        Args:
            image: an image, or anything of one out of the store.
            least_similarity: cosine of whole-image vectors from which on two count as the same.

        Raises:
            ImageError: if the image can't be read.
            InputError: if the array is no image.
            StoreError: if the store can't be asked.
        """
        if isinstance(image, StoredDefect):
            whole = also(self._comparable(IMAGE, image.category), sha256=image.sha256)
            vector, sha256, category = self._stored_vector(IMAGE, whole, image), image.sha256, image.category
        else:
            described = self.describe(image)
            vector, sha256, category = described.vector, described.sha256, self.category
        where = replace(self._comparable(IMAGE, category), differs={"sha256": sha256})
        found = nearest(self._backend, IMAGE, vector, 100, where)
        return tuple(one for one in found if one.similarity >= least_similarity)

    def similar_good(self, image: ImageInput, k: int = 5) -> tuple[GoodPatch, ...]:
        """Return the good patches that the most anomalous place is nearest to: what it should look like here.

        Args:
            image: a path, sample or array.
            k: how many at most, each from another training image.

        Raises:
            ImageError: if the image can't be read.
            InputError: if the array is no image.
            StoreError: if the store was opened without a model.
        """
        check_whole("k", k, 1, MOST)
        return self._with_model("compare with good images").good_patches(image, k)

    def optimise(self) -> None:
        """Build the index that keeps a large store fast; worth it after many additions."""
        with self._lock:
            self._backend.optimise()

    def close(self) -> None:
        """Let go of the store; a second call does nothing."""
        with self._lock:
            self._backend.close()

    def __enter__(self) -> DefectStore:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"DefectStore({self.name!r}, category={self.category!r})"

    def _with_model(self, what: str) -> RegionEncoder:
        if self._describer is None:
            todo = "Open it with DefectStore(..., model=Patchcore.load(...))."
            raise StoreError(message("model", f"one, to {what}", "none", where=self.name, todo=todo))
        return self._describer

    def _ready(self) -> RegionEncoder:
        """Return the describer, once it knows what good images look like: from the store, or by learning it."""
        describer = self._with_model("describe images")
        if not self._meta.teach(describer, self.category) and describer.good is None:
            describer.learn(self._good)
        return describer

    def _question(self, asked: Asked, category: str | None, force: bool) -> tuple[Float32, Filter]:
        """Return what is looked for, and which stored regions count."""
        if isinstance(asked, StoredDefect):
            own = also(self._comparable(REGION, asked.category), sha256=asked.sha256)
            vector, sha256, model = self._stored_vector(REGION, own, asked), asked.sha256, asked.model
        else:
            ready = self._ready()
            region = asked if isinstance(asked, DescribedRegion) else worst_region(self.describe(asked, force=force))
            vector, sha256, model = region.vector, region.sha256, ready.model_id
        chosen = category or (asked.category if isinstance(asked, StoredDefect) else self.category)
        self._meta.check(model, chosen)
        return vector, replace(self._comparable(REGION, chosen), differs={"sha256": sha256})

    def _stored_vector(self, kind: str, where: Filter, asked: StoredDefect) -> Float32:
        for found in self._backend.scan(where, using=kind):
            if found.vector is not None and (kind == IMAGE or found.id == asked.id):
                return found.vector
        raise InputError(message("defect", "one that is in the store", asked.id, where=self.name))

    def _comparable(self, kind: str, category: str) -> Filter:
        """Return the points of a kind of part whose vectors can be compared: those of its one model."""
        return where_of(kind, category=category, model=self._meta.model_of(category))

    def _known_distances(self, where: Filter) -> Float64:
        with self._lock:
            n = self._backend.count(where)
            if self._known is None or self._known[:2] != (where, n):
                self._known = where, n, known_distances(self._backend, where)
            return self._known[2]
