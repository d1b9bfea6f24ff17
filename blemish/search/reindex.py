"""Encoding the images of a category again with another model; labels are kept, and a kill loses nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from blemish.errors import ImageError
from blemish.imaging.decode import read_facts
from blemish.search.backends.interface import IMAGE, REGION, Point
from blemish.search.payload import LABEL_FIELDS, payload_filter, to_points
from blemish.search.records import ReindexResult
from blemish.types import Progress

if TYPE_CHECKING:
    from blemish.search.backends.interface import Backend, StoredPoint
    from blemish.search.encoder import RegionEncoder


def reindex(
    backend: Backend, encoder: RegionEncoder, category: str, model_id: str, progress: Progress
) -> ReindexResult:
    """Encode each image of a category that is of another model, then remove its old points.

    The new points of an image are on disk before its old ones go, and the old ones are recognised by their model:
    after a kill the next call continues.

    Args:
        model_id: the id of the new model in this store.
    """
    images = list(backend.scan(replace(payload_filter(IMAGE, category=category), differs={"model": model_id})))
    n_regions, left_out = 0, []
    for done, image in enumerate(images, start=1):
        path, sha256, old_model = (str(image.payload[name]) for name in ("path", "sha256", "model"))
        # The image last: the next call looks for it.
        old = [payload_filter(kind, category=category, model=old_model) for kind in (REGION, IMAGE)]
        old = [where.with_equals(sha256=sha256) for where in old]
        regions = list(backend.scan(old[0]))
        problem = _problem(path, sha256)
        if problem:
            left_out.append(problem)
            continue
        encoded = encoder.encode(path, force=any(region.payload.get("forced") for region in regions))
        points = to_points(encoded, category=category, model_id=model_id)
        backend.insert([_with_old_label(point, image, regions) for point in points])
        for where in old:
            backend.delete(where)
        n_regions += len(points) - 1
        progress("encoding again", done, len(images))
    return ReindexResult(len(images) - len(left_out), n_regions, tuple(left_out))


def _problem(path: str, sha256: str) -> str:
    """Return why an image can't be encoded again; empty if it can."""
    try:
        if not path or not Path(path).is_file():
            return f"{path or 'an image that was no file'}: no longer there"
        return "" if read_facts(Path(path))[1] == sha256 else f"{path}: changed since it was added"
    except ImageError as error:
        return str(error)


def _with_old_label(point: Point, image: StoredPoint, regions: Sequence[StoredPoint]) -> Point:
    """Return the new point with the time of the old image and the label of the old region that it overlaps most."""
    source = image
    if point.payload["kind"] == REGION:
        overlaps = [overlap(point.payload["box"], region.payload["box"]) for region in regions]
        if max(overlaps, default=0) > 0:
            source = regions[overlaps.index(max(overlaps))]
    label = {name: source.payload[name] for name in LABEL_FIELDS if name in source.payload}
    return point._replace(payload={**point.payload, "time": image.payload["time"], **label})


def overlap(first: Sequence[int], second: Sequence[int]) -> int:
    """Return the number of pixels that two boxes (x, y, width, height) share.

    >>> overlap((0, 0, 4, 4), (2, 3, 9, 9))
    2
    """
    sides = (min(first[i] + first[i + 2], second[i] + second[i + 2]) - max(first[i], second[i]) for i in range(2))
    width, height = (max(0, side) for side in sides)
    return width * height
