"""Points and payloads of encoded images, and checks of the labels, ids and times that users enter."""

from __future__ import annotations

import os
import unicodedata
import uuid
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from blemish._validation.checks import check_array
from blemish.errors import InputError, message
from blemish.search.backends.interface import IMAGE, REGION, Filter, Point
from blemish.types import Float32

if TYPE_CHECKING:
    from blemish.search.encoder import EncodedImage

# Namespace of the ids, which are UUIDs (version 5) of content.
NAMESPACE = uuid.UUID("5b1d6a0e-6d0c-5c53-9f0a-3a3f1c0b7d11")
# Contour points that are kept: enough to draw it on a contact sheet.
CONTOUR_POINTS = 200
MAX_TEXT = 200
LABEL_FIELDS = ("label", "labelled_by", "labelled_at")


def to_points(
    encoded: EncodedImage, *, category: str, model_id: str, label: Mapping[str, str | None] | None = None
) -> list[Point]:
    """Return the point of the whole image and those of its regions, most anomalous first.

    Args:
        label: fields of `label_payload`.

    Raises:
        InputError: if a vector is not finite.
    """
    prediction = encoded.prediction
    height, width = prediction.anomaly_map.shape
    shared = {
        "category": category,
        "path": stored_path(encoded.path),
        "sha256": encoded.sha256,
        "image_hw": [height, width],
        "p_value": prediction.p_value,
        "model": model_id,
        "time": utc_now(),
        **(label or {}),
    }
    image = {"kind": IMAGE, "box": [0, 0, width, height], "area_px": height * width, "contour": ""}
    points = [_point(IMAGE, encoded.vector, {**shared, **image, "score": prediction.score})]
    for encoded_region in encoded.regions:
        region = encoded_region.region
        payload = {
            "kind": REGION,
            "box": [int(side) for side in region.box],
            "area_px": region.area_px,
            "contour": contour_text(region.contour),
            "score": region.score,
            "forced": encoded_region.forced,
        }
        points.append(_point(REGION, encoded_region.vector, {**shared, **payload}))
    return points


def label_payload(label: str | None, by: str | None) -> dict[str, str | None]:
    """Return the payload fields of a label, all None without one. InputError if `check_text` refuses the label or the
    name.
    """
    if label is None:
        return dict.fromkeys(LABEL_FIELDS)
    labelled_by = None if by is None else check_text("labelled_by", by)
    return {"label": check_text("label", label), "labelled_by": labelled_by, "labelled_at": utc_now()}


def payload_filter(
    kind: str, *, category: str | None = None, label: str | None = None, model: str | None = None
) -> Filter:
    """Return the filter of points with these values; None stands for any."""
    values = {"category": category, "label": label, "model": model}
    checked = {name: check_text(name, value) for name, value in values.items() if value}
    return Filter(equals={"kind": [kind]}).with_equals(**checked)


def check_text(name: str, text: str) -> str:
    r"""Return a label or name stripped and in Unicode form NFC, so that equal ones compare equal.

    Raises:
        InputError: if it is no text, empty, too long, or has control characters or invisible marks.

    >>> check_text("label", " Öl-Fleck 検査 ")
    'Öl-Fleck 検査'
    """
    if not isinstance(text, str):
        raise InputError(message(name, "text", repr(text)))
    clean = unicodedata.normalize("NFC", text).strip()
    if not 1 <= len(clean) <= MAX_TEXT:
        raise InputError(message(name, f"1 to {MAX_TEXT} characters", f"{len(clean)} characters" if clean else "none"))
    odd = [character for character in clean if unicodedata.category(character) in {"Cc", "Cf", "Cs", "Zl", "Zp"}]
    if odd:
        todo = "Leave out line ends, control characters and invisible marks."
        raise InputError(message(name, "letters, digits, signs and spaces", ascii(odd[0]), todo=todo))
    return clean


def check_id(text: str) -> str:
    """Return the id of a stored defect in canonical form, or raise InputError if it is no UUID."""
    try:
        return str(uuid.UUID(str(text)))
    except ValueError as error:
        todo = "Ids are what `similar` and `groups` print."
        raise InputError(message("id", "a UUID", repr(text)[:80], todo=todo)) from error


def check_time(time: str | datetime | None) -> str | None:
    """Return a time as ISO 8601 in UTC; without a time zone it is local time.

    Raises:
        InputError: if it is no time.

    >>> check_time("2026-11-25T10:00:00+01:00")
    '2026-11-25T09:00:00+00:00'
    """
    if time is None:
        return None
    try:
        # `fromisoformat` reads "Z" from Python 3.11 on.
        parsed = datetime.fromisoformat(time.strip().replace("Z", "+00:00")) if isinstance(time, str) else time
        return parsed.astimezone(timezone.utc).isoformat()
    except (ValueError, AttributeError, OverflowError, OSError) as error:
        raise InputError(message("since", "a time such as 2026-11-25 or 2026-11-25T10:00", repr(time))) from error


def utc_now() -> str:
    """Return the current time, ISO 8601 in UTC."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def stored_path(path: str | os.PathLike[str] | None) -> str:
    r"""Return an absolute path as UTF-8 text, other bytes as \xNN; empty for None."""
    return "" if path is None else os.fsencode(os.path.abspath(path)).decode("utf-8", "backslashreplace")  # noqa: PTH100


def contour_text(contour: NDArray[np.int32]) -> str:
    """Return a contour, (n, 2) int32 (x, y), as text with at most 200 points: "x,y x,y ...".

    A server would store and parse each number of nested lists as a value of its own.
    """
    step = -(-len(contour) // CONTOUR_POINTS) or 1
    return " ".join(f"{x},{y}" for x, y in contour[::step].tolist())


def _point(kind: str, vector: Float32, payload: dict[str, Any]) -> Point:
    """Return a point with the id of its model, category, image and box."""
    todo = "The model is damaged; nothing of this image was stored."
    check_array(f"{kind} vector", vector, dtype=np.float32, shape=("D",), todo=todo)
    # "picture" as in 0.1.0, so that an image in a store of that version has the same id.
    name = "picture" if kind == IMAGE else kind
    parts = name, payload["model"], payload["category"], payload["sha256"], *payload["box"]
    return Point(str(uuid.uuid5(NAMESPACE, "\n".join(map(str, parts)))), {kind: vector}, payload)
