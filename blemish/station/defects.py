"""Past defects of a station that look like an inspection: a store for each model, filled by reviews."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from blemish.errors import BlemishError
from blemish.search import DefectStore, most_anomalous_region
from blemish.station.inspections import InspectionFilter

if TYPE_CHECKING:
    from collections.abc import Mapping

    from blemish.station.deployments import Deployments, ModelInService
    from blemish.station.files import Files
    from blemish.station.inspections import Inspection
    from blemish.station.records import Records
    from blemish.types import Float32

REGION, IMAGE = "region", "image"
# Reviewed defects that a store of another model is filled with.
MAX_REFILLED = 2000


class SimilarDefect(NamedTuple):
    """A past defect that looks like an inspection.

    Attributes:
        id: of its inspection.
        similarity: cosine, at most 1.
        defect_type: that a person said; "" for none.
        box: (x, y, width, height) in pixels of its image.
    """

    id: str
    similarity: float
    defect_type: str
    box: tuple[int, int, int, int]


class Similar(NamedTuple):
    """The past defects most similar to an inspection.

    Attributes:
        defects: the nearest first.
        suggested_type: the type with most of the neighbors' votes; "" if there is none.
        confidence: its share of the votes.
        is_novel: whether even the nearest one is far.
    """

    defects: tuple[SimilarDefect, ...]
    suggested_type: str
    confidence: float
    is_novel: bool

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON values."""
        return {**self._asdict(), "defects": [defect._asdict() for defect in self.defects]}


class Defects:
    """The defects that people confirmed, by model. Needs `blemish[search]`.

    A store belongs to one fit of a model: another one under its name gets a new store, which is filled from the
    records. Threads may share this.

    Args:
        root: folder of the stores.
    """

    def __init__(self, root: Path, deployments: Deployments, records: Records, files: Files) -> None:
        self._root, self._deployments, self._records, self._files = root, deployments, records, files
        self._lock, self._stores = threading.Lock(), dict[str, DefectStore]()
        self._later = ThreadPoolExecutor(1, thread_name_prefix="defects")

    def similar(self, inspection: Inspection, k: int = 5) -> Similar:
        """Return the confirmed defects that look like the most anomalous region of an inspection.

        Raises:
            BlemishError: if the model is not in service, or its training images are gone, against which regions are
                encoded.
        """
        store = self._store(self._deployments[inspection.model])
        region = most_anomalous_region(store.encode(self._path(inspection), force=True))
        matches, suggestion = store.similar(region, k), store.suggest(region)
        defects = tuple(
            SimilarDefect(Path(match.defect.path).stem, match.similarity, match.defect.label or "", match.defect.box)
            for match in matches
        )
        return Similar(defects, suggestion.label or "", suggestion.confidence, suggestion.is_novel)

    def learn(self, inspection: Inspection) -> Future[str]:
        """Let the store follow the review of an inspection, in a thread; the result is "", or why it could not."""
        return self._later.submit(self._learn, inspection)

    def _learn(self, inspection: Inspection) -> str:
        try:
            self._follow(self._store(self._deployments[inspection.model]), inspection)
        except BlemishError as error:  # the review counts; only the search lacks it
            return str(error)
        return ""

    def _follow(self, store: DefectStore, inspection: Inspection) -> None:
        review = inspection.review
        if review is None or review.verdict == "good":
            store.remove(inspection.sha256)
            return
        label = review.defect_type or None
        store.add(self._path(inspection), label=label, labelled_by=review.who if label else None, force=True)

    def relabel(self, name: str, labels: Mapping[str, str], by: str) -> Future[str]:
        """Give stored images other types, in a thread; the result is "", or why it could not.

        Args:
            name: of the model.
            labels: SHA-256 of an image's file to the type; "" for none.
            by: the person who says so.
        """
        return self._later.submit(self._relabel, name, labels, by)

    def _relabel(self, name: str, labels: Mapping[str, str], by: str) -> str:
        try:
            store = self._store(self._deployments[name])
            ids: dict[str, list[str]] = {}
            for kind in (REGION, IMAGE):
                for defect in store.defects(kind=kind):
                    if defect.sha256 in labels:
                        ids.setdefault(labels[defect.sha256], []).append(defect.id)
            for label, chosen in ids.items():
                store.label(chosen, label or None, by=by if label else None)
        except BlemishError as error:  # the types in the records count; only suggestions lack them
            return str(error)
        return ""

    def look(self, inspection: Inspection) -> Float32:
        """Return the unit vector of the most anomalous region of an inspection; nothing is stored.

        Raises:
            BlemishError: as of `similar`.
        """
        store = self._store(self._deployments[inspection.model])
        return most_anomalous_region(store.encode(self._path(inspection), force=True)).vector

    def has_image(self, inspection: Inspection) -> bool:
        """Return whether the image of an inspection is there."""
        return self._path(inspection).is_file()

    def vectors(self, name: str) -> dict[str, Float32]:
        """Return the unit vector of the most anomalous region of each confirmed defect of a model, by SHA-256 of the
        image's file.

        Raises:
            BlemishError: if the model is not in service, or `blemish[search]` is not installed.
        """
        return self._later.submit(self._vectors, name).result()  # after the reviews before it

    def _vectors(self, name: str) -> dict[str, Float32]:
        best: dict[str, tuple[float, Float32]] = {}
        for defect, vector in self._store(self._deployments[name]).regions():
            if defect.sha256 not in best or defect.score > best[defect.sha256][0]:
                best[defect.sha256] = defect.score, vector
        return {sha256: vector for sha256, (_, vector) in best.items()}

    def _path(self, inspection: Inspection) -> Path:
        return self._files.image(inspection.id, inspection.format)

    def _store(self, model: ModelInService) -> DefectStore:
        deployment = model.deployment
        key = f"{deployment.model}-{deployment.digest[:16]}"
        with self._lock:
            if key in self._stores:
                return self._stores[key]
            store = DefectStore(self._root / key, model=model.detector, category=deployment.model)
            self._stores[key] = store
            if not len(store):
                self._refill(store, deployment.model)
            return store

    def _refill(self, store: DefectStore, name: str) -> None:
        confirmed = self._records.all(InspectionFilter(model=name, reviewed="defective"))
        for _, inspection in zip(range(MAX_REFILLED), confirmed, strict=False):
            if self._path(inspection).is_file():
                self._follow(store, inspection)

    def close(self) -> None:
        """Finish what was begun, and close the stores."""
        self._later.shutdown(wait=True)
        for store in self._stores.values():
            store.close()
