"""What a store of defects holds, is asked and answers: plain records, the same for every backend."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from blemish.types import Float32

# Names of the two vectors. A point has one of them: a region what is wrong there, an image how the whole looks.
REGION, IMAGE = "region", "image"
# Fields that are filtered or ordered by, and what a payload index must know of them.
INDEXED = {
    "kind": "keyword",
    "category": "keyword",
    "label": "keyword",
    "sha256": "keyword",
    "model": "keyword",
    "time": "datetime",
    "score": "float",
}

# Where no more vectors than these kilobytes hold (40,000 regions) could be the answer, all are compared: that is exact,
# and takes milliseconds. Among 10,000 of 100,000 regions a graph with the engine's own settings found 65 % of the true
# neighbours (benchmarks/store_scale.py); where one is used, so many candidates are kept instead of 100.
FULL_SCAN_KB, CANDIDATES = 40_000, 256
MAKE = "Make it with DefectStore(..., model=Patchcore.load(...)), or `blemish index`."


class Point(NamedTuple):
    """What is written: one region or image.

    Attributes:
        id: a UUID made from the content, so that writing it twice changes nothing.
        vectors: `region` or `image` to (D,) float32; none for a point that only carries a payload.
        payload: what fits in JSON.
    """

    id: str
    vectors: Mapping[str, Float32]
    payload: Mapping[str, Any]


class Found(NamedTuple):
    """What is read.

    Attributes:
        id: of the point.
        payload: as it was written.
        similarity: cosine to the query, -1 to 1; 0 where nothing was compared.
        vector: (D,) float32 of unit length, if it was asked for.
    """

    id: str
    payload: Mapping[str, Any]
    similarity: float = 0.0
    vector: Float32 | None = None


@dataclass(frozen=True)
class Filter:
    """Which points count: all conditions hold.

    Attributes:
        equals: field to the values that it may have.
        differs: field to a value that it must not have.
        empty: fields that must be absent.
        filled: fields that must be there.
        since: earliest `time`, ISO 8601.
    """

    equals: Mapping[str, Sequence[str]] = field(default_factory=dict)
    differs: Mapping[str, str] = field(default_factory=dict)
    empty: tuple[str, ...] = ()
    filled: tuple[str, ...] = ()
    since: str | None = None


class Query(NamedTuple):
    """One question to the vectors.

    Attributes:
        vector: (D,) float32.
        k: how many neighbours at most.
        where: which points count.
    """

    vector: Float32
    k: int
    where: Filter


class Backend(Protocol):
    """Where the vectors live. Whatever a method returns from is on disk: a kill afterwards loses nothing of it."""

    def insert(self, points: Sequence[Point]) -> None:
        """Write points; one whose id is there is replaced."""

    def search(self, using: str, queries: Sequence[Query], *, exact: bool = False) -> list[list[Found]]:
        """Return each query's nearest points by cosine, nearest first."""

    def get(self, ids: Sequence[str]) -> list[Found]:
        """Return those of the points that are there, with payload."""

    def scan(self, where: Filter, *, using: str | None = None) -> Iterator[Found]:
        """Yield every point that counts in order of its id, with the vector of that name if one is named."""

    def set_payload(self, ids: Sequence[str], payload: Mapping[str, Any]) -> None:
        """Set these fields of the points and leave their others; None removes one."""

    def delete(self, where: Filter) -> None:
        """Remove every point that counts."""

    def count(self, where: Filter) -> int:
        """Return how many points count, exactly."""

    def read_meta(self) -> dict[str, Any] | None:
        """Return what was written last with `write_meta`; None in a new store."""

    def write_meta(self, meta: Mapping[str, Any]) -> None:
        """Replace what the store says of itself, in one step."""

    def optimise(self) -> None:
        """Build what makes searches fast, if there is enough to be worth it."""

    def close(self) -> None:
        """Let go of the store; a second call does nothing."""


@dataclass(frozen=True)
class StoredDefect:
    """One anomalous region (or whole image) that the store knows.

    Attributes:
        id: its UUID.
        kind: "region", or "image" for the whole.
        category: what kind of part it is on.
        path: the image's file when it was added; it may be gone since.
        sha256: of that file.
        box: (x, y, width, height) in pixels of the image.
        area_px: number of pixels of the region.
        contour: (n, 2) int32 (x, y), its outer outline.
        score: highest value of the anomaly map inside; of an image, its image score.
        p_value: of the image.
        model: id of the detector that found it.
        time: when it was added, ISO 8601 in UTC.
        label: the defect type, once somebody said it.
        labelled_by: who said it.
        forced: True if nothing was above the threshold and this is the most anomalous place all the same.
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
        """Return what fits in JSON: everything but the contour."""
        names = ("id", "kind", "category", "path", "sha256", "box", "area_px", "score", "p_value", "model", "time")
        return {name: getattr(self, name) for name in (*names, "label", "labelled_by", "forced")}

    @classmethod
    def from_payload(cls, found: Found) -> StoredDefect:
        """Return the record of a point that was read."""
        said = found.payload
        x, y, width, height = (int(side) for side in said["box"])
        contour = np.array([xy.split(",") for xy in said["contour"].split()], np.int32).reshape(-1, 2)
        return cls(
            id=found.id,
            box=(x, y, width, height),
            contour=contour,
            label=said.get("label"),
            labelled_by=said.get("labelled_by"),
            forced=bool(said.get("forced", False)),
            area_px=int(said["area_px"]),
            score=float(said["score"]),
            p_value=float(said["p_value"]),
            **{name: str(said[name]) for name in ("kind", "category", "path", "sha256", "model", "time")},
        )


class Match(NamedTuple):
    """A stored defect, and how similar it is to what was asked.

    Attributes:
        defect: what is stored.
        similarity: cosine, at most 1: the same. What counts as near depends on the store: see `Suggestion.p_value`.
    """

    defect: StoredDefect
    similarity: float

    def to_dict(self) -> dict[str, Any]:
        """Return what fits in JSON."""
        return {"similarity": self.similarity, **self.defect.to_dict()}


@dataclass(frozen=True)
class Suggestion:
    """What a defect may be called.

    Attributes:
        label: the likeliest defect type; None if it was never seen before, or nothing near it has a label.
        confidence: share of the neighbours' votes for it, 0 to 1.
        votes: defect type to share of the votes, highest first.
        never_seen: True if even the nearest stored defect is too far.
        p_value: share of stored defects that are at least as far from their own nearest as this one; None where the
            store has too few to say.
        matches: the neighbours that voted, nearest first.
    """

    label: str | None
    confidence: float
    votes: Mapping[str, float]
    never_seen: bool
    p_value: float | None
    matches: tuple[Match, ...] = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Return what fits in JSON."""
        plain = {name: getattr(self, name) for name in ("label", "confidence", "never_seen", "p_value")}
        return {**plain, "votes": dict(self.votes), "matches": [one.to_dict() for one in self.matches]}


@dataclass(frozen=True)
class Group:
    """Defects that look alike.

    Attributes:
        name: the label that most of its labelled members have; None before one has any.
        members: most typical first.
        labels: defect type to how many members have it.
        similarity: mean cosine between two members; 1 for a single one.
    """

    name: str | None
    members: tuple[StoredDefect, ...] = field(repr=False)
    labels: Mapping[str, int]
    similarity: float

    @property
    def n_unlabelled(self) -> int:
        """Members without a label."""
        return len(self.members) - sum(self.labels.values())

    def to_dict(self) -> dict[str, Any]:
        """Return what fits in JSON."""
        return {
            "name": self.name,
            "n": len(self.members),
            "n_unlabelled": self.n_unlabelled,
            "labels": dict(self.labels),
            "similarity": self.similarity,
            "members": [one.to_dict() for one in self.members],
        }


@dataclass(frozen=True)
class Added:
    """What adding one image did.

    Attributes:
        sha256: of the image.
        path: as it was given; empty for an array.
        ids: of its regions, most anomalous first.
        new: how many of those were not there before.
        labelled: how many have been given another label.
        note: what the user should know; empty if nothing.
    """

    sha256: str
    path: str
    ids: tuple[str, ...]
    new: int
    labelled: int = 0
    note: str = ""
