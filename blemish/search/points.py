"""Described images as points of a store: ids from content, payloads, and which points count in a question."""

from __future__ import annotations

import os
import uuid
from dataclasses import replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import numpy as np

from blemish._validation.checks import check_array
from blemish.search.records import IMAGE, REGION, Filter, Point
from blemish.search.text import check_word

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from blemish.search.encoder import Described
    from blemish.types import Float32

# Ids are UUIDs (version 5) of content in a namespace of our own.
NAMESPACE = uuid.UUID("5b1d6a0e-6d0c-5c53-9f0a-3a3f1c0b7d11")
# Points of an outline that are kept: enough to draw it on a contact sheet.
CONTOUR_POINTS = 200


def points_of(described: Described, *, category: str, model: str, words: Mapping[str, str | None]) -> list[Point]:
    """Return the point of the whole image and those of its regions, most anomalous first.

    Args:
        described: the image.
        category: what kind of part it shows.
        model: id of the detector.
        words: label and who labelled it, with None for what is not known.

    Raises:
        InputError: if a vector is not finite.
    """
    found = described.prediction
    height, width = found.anomaly_map.shape
    shared = {
        "category": category,
        "path": stored_path(described.path),
        "sha256": described.sha256,
        "image_hw": [height, width],
        "p_value": found.p_value,
        "model": model,
        "time": now(),
        **{name: value for name, value in words.items() if value is not None},
    }
    whole = {"kind": IMAGE, "box": [0, 0, width, height], "area_px": height * width, "contour": ""}
    points = [_point(IMAGE, described.vector, {**shared, **whole, "score": found.score})]
    for one in described.regions:
        region = one.region
        own = {
            "kind": REGION,
            "box": [int(side) for side in region.box],
            "area_px": region.area_px,
            "contour": contour_text(region.contour),
            "score": region.score,
            "forced": one.forced,
        }
        points.append(_point(REGION, one.vector, {**shared, **own}))
    return points


def stamped(label: str | None, by: str | None) -> dict[str, str | None]:
    """Return the fields of a label, with None for those that it takes away.

    Raises:
        InputError: if the label or the name can't be.
    """
    if label is None:
        return {"label": None, "labelled_by": None, "labelled_at": None}
    who = None if by is None else check_word("labelled_by", by)
    return {"label": check_word("label", label), "labelled_by": who, "labelled_at": now()}


def where_of(kind: str, *, category: str | None = None, label: str | None = None, model: str | None = None) -> Filter:
    """Return which points count; None stands for any."""
    named = {"kind": kind, "category": category, "label": label, "model": model}
    checked = {name: value if name == "kind" else check_word(name, value) for name, value in named.items() if value}
    return Filter(equals={name: [value] for name, value in checked.items()})


def also(where: Filter, **equals: str) -> Filter:
    """Return the same with further fields that must have one value."""
    return replace(where, equals={**where.equals, **{name: [value] for name, value in equals.items()}})


def now() -> str:
    """Return this moment, ISO 8601 in UTC."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def stored_path(path: str | os.PathLike[str] | None) -> str:
    r"""Return an absolute path as text that can be stored; bytes that are no UTF-8 are written as \xNN."""
    return "" if path is None else os.fsencode(os.path.abspath(path)).decode("utf-8", "backslashreplace")  # noqa: PTH100


def _point(kind: str, vector: Float32, payload: dict[str, Any]) -> Point:
    """Return a point whose id is made of what it is: model, category, image and place."""
    todo = "The model is damaged; nothing of this image was stored."
    check_array(f"{kind} vector", vector, dtype=np.float32, shape=("D",), todo=todo)
    parts = kind, payload["model"], payload["category"], payload["sha256"], *payload["box"]
    return Point(str(uuid.uuid5(NAMESPACE, "\n".join(map(str, parts)))), {kind: vector}, payload)


def contour_text(contour: NDArray[np.int32]) -> str:
    """Return an outline, (n, 2) int32 (x, y), as text with at most 200 points: "x,y x,y ...".

    As nested lists a server would keep and parse each number as a value of its own.
    """
    step = -(-len(contour) // CONTOUR_POINTS) or 1
    return " ".join(f"{x},{y}" for x, y in contour[::step].tolist())
