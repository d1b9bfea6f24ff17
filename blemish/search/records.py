"""Records of the store of defects: stored defects, matches, suggestions and groups."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from blemish.errors import StoreError, message

if TYPE_CHECKING:
    from blemish.search.backends.interface import StoredPoint


@dataclass(frozen=True)
class StoredDefect:
    """One anomalous region (or whole image) in the store.

    Attributes:
        id: its UUID.
        kind: "region", or "image" for a whole image.
        category: product category of the image.
        path: the image's file when it was added; it may be gone since.
        sha256: of that file.
        box: (x, y, width, height) in pixels of the image.
        area_px: number of pixels of the region.
        contour: (n, 2) int32 (x, y), its outer outline.
        score: highest value of the anomaly map inside; of an image, its image score.
        p_value: of the image.
        model: id of the detector that found it.
        time: when it was added, ISO 8601 in UTC.
        label: defect type; None while unlabelled.
        labelled_by: the person or source of the label.
        forced: True if nothing was above the threshold and this is the most anomalous region below it.
    """

    id: str
    kind: str
    category: str
    path: str
    sha256: str
    box: tuple[int, int, int, int]
    area_px: int
    contour: NDArray[np.int32] = field(repr=False)
    score: float
    p_value: float
    model: str
    time: str
    label: str | None = None
    labelled_by: str | None = None
    forced: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON values: everything but the contour."""
        names = ("id", "kind", "category", "path", "sha256", "box", "area_px", "score", "p_value", "model", "time")
        return {name: getattr(self, name) for name in (*names, "label", "labelled_by", "forced")}

    @classmethod
    def from_point(cls, point: StoredPoint) -> StoredDefect:
        """Return the record of a stored point. StoreError if it is not that of a region or image."""
        try:
            return cls.of(point.id, point.payload)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            got, todo = f"{error!r:.100}, in {point.id}", "Put back a snapshot, or index the images into a new store."
            raise StoreError(message("store", "the fields of a region or image", got, todo=todo)) from error

    @classmethod
    def of(cls, id_: str, payload: Mapping[str, Any]) -> StoredDefect:
        """Return the record of a payload; another error than `StoreError` if a field is missing or of another type."""
        x, y, width, height = (int(side) for side in payload["box"])
        return cls(
            id=id_,
            box=(x, y, width, height),
            contour=np.array([xy.split(",") for xy in payload["contour"].split()], np.int32).reshape(-1, 2),
            label=payload.get("label"),
            labelled_by=payload.get("labelled_by"),
            forced=bool(payload.get("forced", False)),
            area_px=int(payload["area_px"]),
            score=float(payload["score"]),
            p_value=float(payload["p_value"]),
            **{name: str(payload[name]) for name in ("kind", "category", "path", "sha256", "model", "time")},
        )


class Match(NamedTuple):
    """A stored defect and its similarity to the query.

    Attributes:
        defect: the stored defect.
        similarity: cosine, at most 1. Which values are near depends on the store: see `Suggestion.p_value`.
    """

    defect: StoredDefect
    similarity: float

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON values."""
        return {"similarity": self.similarity, **self.defect.to_dict()}


@dataclass(frozen=True)
class Suggestion:
    """Suggested label of a defect, from its labelled neighbors.

    Attributes:
        label: the defect type with most votes; None if the defect is novel or has no labelled neighbor.
        confidence: its share of the votes, 0 to 1.
        votes: defect type to share of the votes, highest first.
        is_novel: True if even the nearest stored defect is too far.
        p_value: novelty p-value: share of stored defects at least as far from their own nearest neighbor; None in a
            store too small to tell.
        matches: the labelled neighbors, nearest first.
    """

    label: str | None
    confidence: float
    votes: Mapping[str, float]
    is_novel: bool
    p_value: float | None
    matches: tuple[Match, ...] = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON values."""
        plain = {name: getattr(self, name) for name in ("label", "confidence", "is_novel", "p_value")}
        return {**plain, "votes": dict(self.votes), "matches": [match.to_dict() for match in self.matches]}


@dataclass(frozen=True)
class Group:
    """A cluster of similar defects.

    Attributes:
        name: the most frequent label of its members; None if none is labelled.
        members: most typical first.
        labels: defect type to number of members.
        similarity: mean cosine of two members; 1 for a single one.
    """

    name: str | None
    members: tuple[StoredDefect, ...] = field(repr=False)
    labels: Mapping[str, int]
    similarity: float

    @property
    def n_unlabelled(self) -> int:
        """Number of members without a label."""
        return len(self.members) - sum(self.labels.values())

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON values."""
        counts = {"name": self.name, "n": len(self.members), "n_unlabelled": self.n_unlabelled}
        members = [member.to_dict() for member in self.members]
        return {**counts, "labels": dict(self.labels), "similarity": self.similarity, "members": members}


@dataclass(frozen=True)
class AddResult:
    """Result of adding one image.

    Attributes:
        sha256: of the image.
        path: as it was given; empty for an array.
        ids: of its regions, most anomalous first.
        new: number of regions that were not stored before.
        labelled: number of stored regions with another label than before.
        note: a remark for the user; empty if none.
    """

    sha256: str
    path: str
    ids: tuple[str, ...]
    new: int
    labelled: int = 0
    note: str = ""


class StoreCheck(NamedTuple):
    """Comparison of a store with what it acknowledged.

    Attributes:
        regions: number of stored regions.
        images: number of stored images.
        lost: ids of acknowledged regions and images that are not there; of a store on a server nothing is known.
        changed: ids of those with another content.
    """

    regions: int
    images: int
    lost: tuple[str, ...]
    changed: tuple[str, ...]

    @property
    def is_whole(self) -> bool:
        """Whether nothing is lost or changed."""
        return not self.lost and not self.changed


class ReindexResult(NamedTuple):
    """Result of encoding the images of a category again.

    Attributes:
        images: number of images that were encoded again.
        regions: number of their regions.
        left_out: images that are gone or were changed, and why; they stay in the store, but no query returns them.
    """

    images: int
    regions: int
    left_out: tuple[str, ...]
