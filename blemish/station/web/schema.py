"""Bodies of the API as its OpenAPI document describes them, with examples."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

ID = "0193a1f0c4e25f0b9d3c7a6e5b4d3c2a"
DIGEST = "9f2c" * 16
TIME = "2026-11-29T16:20:01.250Z"


class Region(BaseModel):
    """One connected region above the pixel threshold, in pixels of the image."""

    box: tuple[int, int, int, int] = Field(description="x, y, width, height", examples=[[412, 96, 80, 31]])
    area_px: int = Field(examples=[1650])
    score: float = Field(description="highest value of the anomaly map inside", examples=[3.9])
    centroid_xy: tuple[float, float] = Field(examples=[[451.2, 110.9]])
    contour: list[tuple[int, int]] = Field(description="the outline, x and y", examples=[[[412, 96], [491, 126]]])


class ReviewBody(BaseModel):
    """What a person says of an inspection."""

    model_config = ConfigDict(extra="forbid")

    verdict: Literal["good", "defective"] = Field(examples=["defective"])
    defect_type: str = Field("", description="only of a defective part", examples=["scratch"])
    comment: str = Field("", examples=["left edge, from handling"])


class Review(ReviewBody):
    """A review, with who said it and when."""

    who: str = Field(examples=["eva"])
    time: str = Field(examples=[TIME])


class Inspection(BaseModel):
    """One inspected image."""

    number: int = Field(description="rises by one with each answer", examples=[1042])
    id: str = Field(examples=[ID])
    time: str = Field(examples=[TIME])
    model: str = Field(examples=["grid"])
    digest: str = Field(description="hash of the model", examples=[DIGEST])
    part_id: str = Field(examples=["A-17"])
    source: str = Field(description="name of the sent file, or where it came from", examples=["part.png"])
    score: float = Field(description="unbounded, higher is more anomalous", examples=[4.21])
    label: bool = Field(description="whether the score is above the threshold", examples=[True])
    outcome: Literal["good", "look again", "defective"] = Field(examples=["defective"])
    p_value: float = Field(description="share of good images expected to score as high", examples=[0.0004])
    threshold: float = Field(examples=[2.87])
    upper_threshold: float | None = Field(description="above it the outcome is defective", examples=[3.65])
    pixel_threshold: float = Field(examples=[3.1])
    drift: str = Field(description="why the image may not be comparable", examples=[""])
    height: int = Field(examples=[1024])
    width: int = Field(examples=[1024])
    format: str = Field(examples=["PNG"])
    sha256: str = Field(description="of the image's file", examples=["a1b2" * 16])
    peak_xy: tuple[int, int] = Field(examples=[[452, 110]])
    regions: list[Region]
    nearest_good: dict[str, Any] | None = Field(
        examples=[{"path": "good/017.png", "box": [400, 80, 64, 64], "distance": 1.9}]
    )
    score_components: dict[str, float] = Field(examples=[{"patch": 3.1, "image": 1.11}])
    review: Review | None
    links: dict[str, str] = Field(examples=[{"image": f"/v1/inspections/{ID}/image"}])


class Page(BaseModel):
    """Inspections, the newest first."""

    inspections: list[Inspection]
    next: str | None = Field(description="address of the next page", examples=["/v1/inspections?before=992"])


class Model(BaseModel):
    """A model in service."""

    name: str = Field(examples=["grid"])
    number: int = Field(description="of this state of it, over all models", examples=[3])
    digest: str = Field(examples=[DIGEST])
    detector: str = Field(examples=["patchcore"])
    false_positive_rate: float = Field(examples=[0.02])
    threshold: float = Field(examples=[2.87])
    upper_threshold: float | None = Field(examples=[3.65])
    pixel_threshold: float = Field(examples=[3.1])
    time: str = Field(description="when it was put in service", examples=[TIME])
    who: str = Field(examples=["eva"])
    reason: str = Field(examples=["threshold moved"])
    previous: int | None = Field(description="number of the state that a roll-back leads to", examples=[2])


class RateBody(BaseModel):
    """Another false positive rate of a model, and another upper threshold."""

    model_config = ConfigDict(extra="forbid")

    false_positive_rate: float = Field(gt=0, lt=1, examples=[0.01])
    upper_threshold: float | None = Field(
        None, description="above it parts are called defective; that of the calibration if none", examples=[3.65]
    )


class Preview(BaseModel):
    """What a threshold would have done to the stored inspections of a model."""

    false_positive_rate: float = Field(examples=[0.01])
    threshold: float = Field(examples=[3.12])
    upper_threshold: float | None = Field(examples=[3.65])
    n: int = Field(description="inspections", examples=[2000])
    n_above: int = Field(description="above this threshold", examples=[41])
    n_look_again: int = Field(description="of those, not above the upper threshold", examples=[9])
    n_now_good: int = Field(description="above the present threshold and not above this one", examples=[12])
    n_now_defective: int = Field(description="above this threshold alone", examples=[0])
    n_changed: int = Field(description="with another outcome than by the present thresholds", examples=[12])
    n_good: int = Field(description="called good by a person", examples=[60])
    n_false_positives: int = Field(description="of those, above this threshold", examples=[1])
    n_good_stopped: int = Field(description="of those, called defective outright", examples=[0])
    n_defective: int = Field(description="called defective by a person", examples=[22])
    n_missed: int = Field(description="of those, not above this threshold", examples=[1])
    n_defective_doubtful: int = Field(description="of the defective ones, to be looked at again", examples=[4])
    rate_interval: tuple[float, float] = Field(description="90 % interval of the rate", examples=[[0.004, 0.02]])


class SimilarDefect(BaseModel):
    """A past defect."""

    id: str = Field(description="of its inspection", examples=[ID])
    similarity: float = Field(description="cosine, at most 1", examples=[0.91])
    defect_type: str = Field(examples=["scratch"])
    box: tuple[int, int, int, int] = Field(examples=[[412, 96, 80, 31]])


class Similar(BaseModel):
    """Past defects like an inspection."""

    defects: list[SimilarDefect]
    suggested_type: str = Field(examples=["scratch"])
    confidence: float = Field(description="its share of the neighbors' votes", examples=[0.8])
    is_novel: bool = Field(description="whether even the nearest one is far", examples=[False])


class Group(BaseModel):
    """A group of similar confirmed defects."""

    number: int = Field(examples=[7])
    model: str = Field(examples=["grid"])
    name: str = Field(description="the type of its defects; empty while nobody named it", examples=["scratch"])
    title: str = Field(description="the name, or a stand-in", examples=["scratch"])
    n: int = Field(description="its members", examples=[12])
    ids: list[str] = Field(description="inspections of its newest members, at most 4", examples=[[ID]])


class Groups(BaseModel):
    """The groups of a model, the largest first."""

    groups: list[Group]
    n_unsorted: int = Field(description="confirmed defects without a type that are in no group yet", examples=[0])


class AlikeGroup(BaseModel):
    """A group that looks like another one."""

    group: Group
    similarity: float = Field(description="cosine of the mean vectors, at most 1", examples=[0.71])


class NameBody(BaseModel):
    """The name of a group."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(examples=["scratch"])


class IntoBody(BaseModel):
    """The group that another one is merged into."""

    model_config = ConfigDict(extra="forbid")

    into: int = Field(examples=[3])


class IdsBody(BaseModel):
    """Inspections of defects."""

    model_config = ConfigDict(extra="forbid")

    ids: list[str] = Field(min_length=1, max_length=5000, examples=[[ID]])


class SplitBody(IdsBody):
    """Inspections that are put into a new group."""

    name: str = Field("", description="of the new group", examples=["deep scratch"])


class Candidate(BaseModel):
    """A model that runs, or ran, beside the one in service."""

    number: int = Field(description="over all models", examples=[2])
    model: str = Field(examples=["grid"])
    digest: str = Field(examples=[DIGEST])
    detector: str = Field(examples=["patchcore"])
    false_positive_rate: float = Field(examples=[0.02])
    threshold: float = Field(description="its own", examples=[2.91])
    time: str = Field(description="when it was started", examples=[TIME])
    who: str = Field(examples=["eva"])
    n_dropped: int = Field(description="images that it did not see because the station was busy", examples=[12])
    n_failed: int = Field(description="images for which it gave no result", examples=[0])
    is_running: bool = Field(examples=[True])
    end: str = Field(description="why it ended", examples=[""])


class OutcomePair(BaseModel):
    """Number of images by the outcomes of both versions."""

    now: str = Field(description="of the model in service", examples=["defective"])
    new: str = Field(description="of the candidate", examples=["good"])
    n: int = Field(examples=[7])


class Wrong(BaseModel):
    """Wrong results on reviewed parts."""

    false_positives: int = Field(description="good parts that are not called good", examples=[3])
    missed: int = Field(description="defective parts that are called good", examples=[0])


class ShadowSummary(BaseModel):
    """Results of a candidate beside those of the model in service."""

    candidate: Candidate
    n: int = Field(description="images that both saw", examples=[1200])
    n_different: int = Field(description="of those, with another outcome", examples=[9])
    outcomes: list[OutcomePair]
    n_good: int = Field(description="of those, called good by a person", examples=[40])
    n_defective: int = Field(description="of those, called defective by a person", examples=[12])
    now: Wrong
    new: Wrong


class Difference(BaseModel):
    """An image with another outcome of the candidate."""

    inspection: Inspection
    score: float = Field(description="of the candidate", examples=[2.5])
    outcome: str = Field(description="of the candidate", examples=["good"])


class Problem(BaseModel):
    """An error (RFC 9457)."""

    type: str = Field(examples=["about:blank"])
    title: str = Field(examples=["The input can't be used"])
    status: int = Field(examples=[422])
    detail: str = Field(examples=["image: expected PNG, JPEG, BMP, TIFF or WebP, got a PDF."])


def answers(body: type[BaseModel] | None, *statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the responses of an operation for its documentation: 200, and problems by status."""
    problems: dict[int | str, dict[str, Any]] = {
        status: {
            "description": "Problem",
            "content": {"application/problem+json": {"schema": Problem.model_json_schema()}},
        }
        for status in statuses
    }
    return {**({} if body is None else {200: {"model": body}}), **problems}
