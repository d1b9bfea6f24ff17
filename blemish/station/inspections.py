"""Records of a station: inspections, reviews, and the filter of a list."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, Literal, NamedTuple, get_args

from blemish.errors import InputError, message
from blemish.types import Outcome, outcome_of

Verdict = Literal["good", "defective"]
MAX_TEXT = 200
MAX_COMMENT = 2000
SEEN = ("all", "yes", "no", *get_args(Verdict))


def iso_time(seconds: float) -> str:
    """Return a time as ISO 8601 in UTC.

    >>> iso_time(0.25)
    '1970-01-01T00:00:00.250Z'
    """
    moment = datetime.fromtimestamp(seconds, tz=timezone.utc)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03}Z"


def checked_text(name: str, text: str, *, longest: int = MAX_TEXT) -> str:
    """Return a text of one line, or raise InputError if it is too long or has characters that can't be seen."""
    if len(text) > longest:
        raise InputError(message(name, f"at most {longest} characters", f"{len(text)}"))
    if not all(character.isprintable() for character in text):
        raise InputError(message(name, "letters, digits and signs of one line", repr(text)[:80]))
    return text.strip()


class Review(NamedTuple):
    """What a person said of an inspection.

    Attributes:
        verdict: "good" or "defective".
        defect_type: name of the kind of defect; "" if it is good, or not known.
        comment: "" for none.
        who: the person.
        time: seconds since 1970, UTC.
    """

    verdict: Verdict
    defect_type: str
    comment: str
    who: str
    time: float

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON values."""
        return {**self._asdict(), "time": iso_time(self.time)}


@dataclass(frozen=True)
class Inspection:
    """One inspected image.

    Attributes:
        number: 1, 2, 3, ... in the order of answers, whatever the clock does.
        id: 32 hex digits.
        time: seconds since 1970, UTC.
        model: name of the model.
        digest: hash of the model in service then.
        part_id: of the part that the image shows; "" if it was not stated.
        source: where the image came from, such as "api" or the name of a watched file.
        score: of the image; unbounded, higher is more anomalous.
        p_value: share of good images expected to score as high.
        threshold: of the score, in service then.
        upper_threshold: above it the outcome is "defective"; None if there is none.
        pixel_threshold: of the map.
        drift: why the image may not be comparable; "" if it is.
        margin: distance of the score from the threshold, as a multiple of that between threshold and median of the
            calibration scores; the nearest are the most informative to review.
        height: of the image, in pixels.
        width: of the image, in pixels.
        format: of the image's file, such as "PNG".
        sha256: of the image's file.
        n_bytes: of the image and the map on disk.
        details: peak, regions with contours, nearest good patch and terms of the score, as JSON values.
        review: what a person said, if anyone did.
    """

    number: int
    id: str
    time: float
    model: str
    digest: str
    part_id: str
    source: str
    score: float
    p_value: float
    threshold: float
    upper_threshold: float | None
    pixel_threshold: float
    drift: str
    margin: float
    height: int
    width: int
    format: str
    sha256: str
    n_bytes: int
    details: Mapping[str, Any] = field(repr=False)
    review: Review | None = None

    @property
    def label(self) -> bool:
        """Whether the score is above the threshold."""
        return self.score > self.threshold

    @property
    def outcome(self) -> Outcome:
        """The outcome, as of `Prediction`."""
        return outcome_of(self.label, self.score, self.upper_threshold)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON values."""
        plain = ("number", "id", "model", "digest", "part_id", "source", "score", "label", "outcome", "p_value")
        limits = ("threshold", "upper_threshold", "pixel_threshold", "drift", "height", "width", "format", "sha256")
        return {
            **{name: getattr(self, name) for name in (*plain, *limits)},
            "time": iso_time(self.time),
            **self.details,
            "review": None if self.review is None else self.review.to_dict(),
        }

    @classmethod
    def from_row(cls, row: sqlite3.Row) -> Inspection:
        """Return the inspection in a row of `records.SELECT`."""
        names = ("number", "id", "time", "model", "digest", "part_id", "source", "score", "p_value", "threshold")
        more = ("upper_threshold", "pixel_threshold", "drift", "margin", "height", "width", "format", "sha256")
        said = ("verdict", "defect_type", "comment", "who", "review_time")
        review = None if row["verdict"] is None else Review(*(row[name] for name in said))
        values = {name: row[name] for name in (*names, *more, "n_bytes")}
        return cls(**values, details=json.loads(row["details"]), review=review)


# What the record beside an image holds; thresholds are those of its deployment.
STORED = (
    "id", "time", "model", "part_id", "source", "score", "outcome", "p_value", "margin", "drift", "height", "width",
    "format", "sha256", "details",
)  # fmt: skip


def stored_fields(inspection: Inspection) -> dict[str, Any]:
    """Return the fields of an inspection that are stored for it alone, as JSON values."""
    return {name: getattr(inspection, name) for name in STORED}


@dataclass(frozen=True)
class InspectionFilter:
    """Which inspections a list has; an empty field stands for all.

    Attributes:
        model: name of the model.
        outcome: "good", "look again" or "defective".
        reviewed: "all", "yes", "no", or the verdict "good" or "defective".
        defect_type: said in a review.
        part_id: the start of it.
        since: seconds since 1970; none before.
        until: seconds since 1970; none from then on.
        group: number of a group of similar defects.

    Raises:
        InputError: if `outcome` or `reviewed` is none of these.
    """

    model: str = ""
    outcome: str = ""
    reviewed: str = "all"
    defect_type: str = ""
    part_id: str = ""
    since: float | None = None
    until: float | None = None
    group: int | None = None

    def __post_init__(self) -> None:
        """Check the words."""
        for name, words in (("outcome", ("", *get_args(Outcome))), ("reviewed", SEEN)):
            if getattr(self, name) not in words:
                expected = ", ".join(word for word in words if word)
                raise InputError(message(name, f"one of {expected}", repr(getattr(self, name))))

    def where(self) -> tuple[str, list[Any]]:
        """Return the condition in SQL, and its arguments."""
        conditions, arguments = ["1"], list[Any]()
        for column in ("model", "outcome", "defect_type"):
            if value := getattr(self, column):
                conditions.append(f"i.{column} = ?")
                arguments.append(value)
        if self.part_id:
            conditions.append("i.part_id >= ? AND i.part_id < ?")
            arguments += [self.part_id, self.part_id + "\U0010ffff"]
        for sign, moment in ((">=", self.since), ("<", self.until)):
            if moment is not None:
                conditions.append(f"i.time {sign} ?")
                arguments.append(moment)
        if self.group is not None:
            members = "SELECT inspection FROM defect_members WHERE defect_group = ?"
            conditions.append(f"i.verdict = 'defective' AND i.id IN ({members})")
            arguments.append(self.group)
        if self.reviewed in get_args(Verdict):
            conditions.append("i.verdict = ?")
            arguments.append(self.reviewed)
        elif self.reviewed != "all":
            conditions.append(f"i.verdict IS {'NOT ' if self.reviewed == 'yes' else ''}NULL")
        return " AND ".join(conditions), arguments
