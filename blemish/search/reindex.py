"""Describing a store's images again with another model, labels kept; a kill in the middle loses nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from blemish.errors import ImageError
from blemish.imaging.decode import read_facts
from blemish.search.points import also, points_of, where_of
from blemish.search.records import IMAGE, REGION, Point

if TYPE_CHECKING:
    from collections.abc import Sequence

    from blemish.search.encoder import RegionEncoder
    from blemish.search.records import Backend, Found
    from blemish.types import Progress

LABEL = ("label", "labelled_by", "labelled_at")


class Reindexed(NamedTuple):
    """What describing again did.

    Attributes:
        images: how many were described again.
        regions: how many they have now.
        left_out: images that are gone or were changed, and why; they stay in the store, but nothing finds them.
    """

    images: int
    regions: int
    left_out: tuple[str, ...]


def reindex(backend: Backend, describer: RegionEncoder, category: str, progress: Progress) -> Reindexed:
    """Describe each image of a kind that another model described, and then remove what that one said of it.

    Each image's new points are on the disk before its old ones go, and the old ones say by their model what is still
    to be done: after a kill the next call goes on.

    Raises:
        StoreError: if the store can't be read or written.
    """
    old = replace(where_of(IMAGE, category=category), differs={"model": describer.model_id})
    waiting = list(backend.scan(old))
    n_regions, left_out = 0, []
    for done, image in enumerate(waiting, start=1):
        said = image.payload
        own = {"sha256": said["sha256"], "model": said["model"]}
        regions = list(backend.scan(also(where_of(REGION, category=category), **own)))
        problem = _problem(str(said["path"]), str(said["sha256"]))
        if problem:
            left_out.append(problem)
            continue
        forced = any(one.payload.get("forced") for one in regions)
        described = describer.describe(said["path"], force=forced)
        points = points_of(described, category=category, model=describer.model_id, words={})
        backend.insert([_with_labels(point, image, regions) for point in points])
        for kind in (REGION, IMAGE):  # the image last: it is what a further call looks for
            backend.delete(also(where_of(kind, category=category), **own))
        n_regions += len(points) - 1
        progress("describing again", done, len(waiting))
    return Reindexed(len(waiting) - len(left_out), n_regions, tuple(left_out))


def _problem(path: str, sha256: str) -> str:
    """Return why an image can't be described again; empty if it can."""
    try:
        if not path or not Path(path).is_file():
            return f"{path or 'an image that was no file'}: no longer there"
        return "" if read_facts(Path(path))[1] == sha256 else f"{path}: changed since it was added"
    except ImageError as error:
        return str(error)


def _with_labels(point: Point, image: Found, regions: Sequence[Found]) -> Point:
    """Return the new point with the time of the old image, and the label of the old region that it overlaps most."""
    payload = {**point.payload, "time": image.payload["time"]}
    source = image if payload["kind"] == IMAGE else _nearest(payload["box"], regions) or image
    return point._replace(payload=payload | {name: source.payload[name] for name in LABEL if name in source.payload})


def _nearest(box: Sequence[int], regions: Sequence[Found]) -> Found | None:
    overlaps = [(_overlap(box, one.payload["box"]), one) for one in regions]
    best = max(overlaps, key=lambda pair: pair[0], default=(0, None))
    return best[1] if best[0] > 0 else None


def _overlap(one: Sequence[Any], other: Sequence[Any]) -> int:
    """Return how many pixels two boxes (x, y, width, height) share."""
    sides = (min(one[i] + one[i + 2], other[i] + other[i + 2]) - max(one[i], other[i]) for i in range(2))
    width, height = (max(0, int(side)) for side in sides)
    return width * height
