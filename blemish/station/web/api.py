"""Operations of the API: predict, inspections, reviews, models, similar defects."""

from __future__ import annotations

import asyncio
import io
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import urlencode

import numpy as np
from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from blemish.errors import BlemishError, InputError, message
from blemish.imaging.decode import load
from blemish.station.inspections import Inspection, InspectionFilter
from blemish.station.web import schema
from blemish.station.web.bodies import Part, read_parts, source_of, texts
from blemish.station.web.drawing import defect_jpeg, map_png, overlay_jpeg, patch_jpeg
from blemish.station.web.live import event_stream
from blemish.station.web.problems import status_of
from blemish.station.web.schema import answers
from blemish.station.web.state import MAX_EXPORTS, Admin, Operator, State, StationState, Viewer

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

router = APIRouter(prefix="/v1")
# A client that reads its export more slowly is cut off.
EXPORT_S = 3600.0
# An image, its map and its overlay never change under one id.
FOREVER = {"Cache-Control": "private, max-age=31536000, immutable"}
TYPES = {"PNG": "image/png", "JPEG": "image/jpeg", "BMP": "image/bmp", "TIFF": "image/tiff", "WebP": "image/webp"}
FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "properties": {"image": {"type": "string", "format": "binary"}, "part_id": {"type": "string"}},
                },
                "example": {"image": "(bytes of part.png)", "part_id": "A-17"},
            },
            "image/png": {"schema": {"type": "string", "format": "binary"}},
            "image/jpeg": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}


def document_of(inspection: Inspection) -> dict[str, Any]:
    """Return an inspection as the API shows it: with the addresses of its images."""
    place = f"/v1/inspections/{inspection.id}"
    links = {
        name: f"{place}/{name}" for name in ("image", "map", "overlay", "defect", "thumbnail", "review", "similar")
    }
    return {**inspection.to_dict(), "links": {"self": place, **links, "page": f"/inspections/{inspection.id}"}}


class ReleasingResponse(StreamingResponse):
    """A stream that gives its place free at its end, also where the client has gone."""

    def __init__(self, pieces: Iterator[bytes], places: threading.Semaphore, **given: Any) -> None:
        super().__init__(pieces, **given)
        self._places = places

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream."""
        try:
            await asyncio.wait_for(super().__call__(scope, receive, send), EXPORT_S)
        finally:
            self._places.release()


@dataclass(frozen=True)
class Asked:
    """The parameters of an address that choose inspections; times are ISO 8601, a group is one of similar defects."""

    model: str = ""
    outcome: str = ""
    reviewed: str = "all"
    defect_type: str = ""
    part_id: str = ""
    since: str = ""
    until: str = ""
    group: int | None = None

    @property
    def chosen(self) -> InspectionFilter:
        """The filter that they state.

        Raises:
            InputError: if one is none.
        """
        since, until = _time("since", self.since), _time("until", self.until)
        texts = (self.model, self.outcome, self.reviewed, self.defect_type, self.part_id)
        return InspectionFilter(*texts, since, until, self.group)

    def query(self, **more: object) -> str:
        """Return them, and more, as the query of an address."""
        return urlencode({name: value for name, value in {**vars(self), **more}.items() if value})


Chosen = Annotated[Asked, Depends()]


def _time(name: str, text: str) -> float | None:
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        raise InputError(message(name, "a time such as 2026-11-29T16:00:00Z", repr(text)[:60])) from None
    return moment.astimezone().timestamp()


# --- predict ----------------------------------------------------------------------------------------------------------


@router.post(
    "/models/{name}:predict",
    openapi_extra=FORM,
    responses=answers(schema.Inspection, 401, 404, 408, 413, 422, 429, 503, 504, 507),
)
async def predict(
    name: str, request: Request, state: StationState, visitor: Operator, part_id: Annotated[str, Query()] = ""
) -> Response:
    """Inspect one image: multipart field `image`, or the bytes of the file as the body. Answered once it is stored."""
    start = time.perf_counter()
    limit = state.service.settings.max_bytes
    with state.budget.taken(stated_bytes(request, limit)):
        parts = await read_parts(request, limit, state.options.body_s)
        images = [part for part in parts if part.name == "image"]
        if len(images) != 1:
            raise HTTPException(422, message("image", "one multipart field of that name", str(len(images))))
        part = texts(parts, "part_id", part_id)
        inspection = await _inspected(state, name, images[0], part, visitor.user.name, wait_s=0.0)
    state.metrics.answered(inspection, time.perf_counter() - start)
    return JSONResponse(document_of(inspection))


@router.post(
    "/models/{name}:predictBatch",
    openapi_extra=FORM,
    responses=answers(None, 401, 404, 408, 413, 422, 429, 503, 507),
)
async def predict_batch(name: str, request: Request, state: StationState, visitor: Operator) -> Response:
    """Inspect several images, each a multipart field `image`: a list in their order, of an inspection or a problem."""
    limit = 4 * state.service.settings.max_bytes
    state.service.model(name)
    with state.budget.taken(stated_bytes(request, limit)):
        parts = await read_parts(request, limit, state.options.body_s)
        images = [part for part in parts if part.name == "image"]
        if not 1 <= len(images) <= state.options.max_batch:
            expected = f"1 to {state.options.max_batch} multipart fields of that name"
            raise HTTPException(422, message("image", expected, str(len(images))))
        part_id, who = texts(parts, "part_id"), visitor.user.name
        # One after the other: a batch takes no more of the queue than one client.
        results = [await _result(state, name, image, part_id, who) for image in images]
    return JSONResponse({"results": results})


async def _result(state: State, name: str, part: Part, part_id: str, who: str) -> dict[str, Any]:
    try:
        return document_of(await _inspected(state, name, part, part_id, who, wait_s=state.options.answer_s))
    except BlemishError as error:
        return {"source": source_of(part), "status": status_of(error), "detail": str(error)}


async def _inspected(state: State, name: str, part: Part, part_id: str, who: str, *, wait_s: float) -> Inspection:
    given: dict[str, Any] = {"model": name, "part_id": part_id, "source": source_of(part), "who": who}
    if wait_s:
        future = await run_in_threadpool(state.service.submit, part.content, wait_s=wait_s, **given)
    else:
        future = state.service.submit(part.content, **given)
    try:
        return await asyncio.wait_for(asyncio.wrap_future(future), state.options.answer_s)
    except asyncio.TimeoutError:
        text = message(
            "answer", f"one within {state.options.answer_s:g} s", "none", todo="It is stored when it is there."
        )
        raise HTTPException(504, text) from None


def stated_bytes(request: Request, limit: int) -> int:
    """Return the bytes that a request says it has, at most the limit; the limit if it does not say."""
    stated = request.headers.get("content-length", "")
    return min(int(stated), limit) if stated.isdecimal() else limit


# --- inspections ------------------------------------------------------------------------------------------------------


@router.get("/inspections", responses=answers(schema.Page, 401, 422, 503))
def inspections(
    state: StationState,
    _: Viewer,
    asked: Chosen,
    before: int | None = None,
    after: int | None = None,
    limit: int = 50,
) -> Response:
    """List inspections, the newest first; `next` is the address of the next page."""
    page = state.service.records.page(asked.chosen, before=before, after=after, limit=limit)
    following = None
    if len(page) == limit:
        following = "/v1/inspections?" + asked.query(after=after, limit=limit, before=page[-1].number)
    return JSONResponse({"inspections": [document_of(one) for one in page], "next": following})


@router.get("/inspections/{id}", responses=answers(schema.Inspection, 401, 404, 503))
def inspection(id: str, state: StationState, _: Viewer) -> Response:  # noqa: A002  # the API's name
    """Return one inspection."""
    return JSONResponse(document_of(state.service.records.get(id)))


@router.get("/inspections/{id}/image", responses=answers(None, 401, 404, 503))
def image(id: str, state: StationState, _: Viewer) -> Response:  # noqa: A002
    """Return the image, as it was received."""
    found = state.service.records.get(id)
    return Response(state.service.image(found), media_type=TYPES[found.format], headers=FOREVER)


@router.get("/inspections/{id}/thumbnail", responses=answers(None, 401, 404, 503))
def thumbnail(id: str, state: StationState, _: Viewer) -> Response:  # noqa: A002
    """Return the image as a JPEG file of at most 256 px a side."""
    found = state.service.records.get(id)
    return Response(state.service.thumbnail(found), media_type="image/jpeg", headers=FOREVER)


@router.get("/inspections/{id}/map", responses=answers(None, 401, 404, 422, 503))
def anomaly_map(
    id: str,  # noqa: A002
    state: StationState,
    _: Viewer,
    format: Literal["png", "npy"] = "png",  # noqa: A002
) -> Response:
    """Return the anomaly map: its colours as a transparent PNG, or its values, float16, as `npy`."""
    found = state.service.records.get(id)
    values = state.service.anomaly_map(found)
    if format == "npy":
        buffer = io.BytesIO()
        np.save(buffer, values.astype(np.float16), allow_pickle=False)
        return Response(buffer.getvalue(), media_type="application/octet-stream", headers=FOREVER)
    return Response(map_png(found, values), media_type="image/png", headers=FOREVER)


@router.get("/inspections/{id}/overlay", responses=answers(None, 401, 404, 503))
def overlay(id: str, state: StationState, _: Viewer) -> Response:  # noqa: A002
    """Return the image with the colours of the map and the outlines of the regions, as a JPEG file."""
    found = state.service.records.get(id)
    drawn = overlay_jpeg(found, state.service.pixels(found), state.service.anomaly_map(found))
    return Response(drawn, media_type="image/jpeg", headers=FOREVER)


@router.get("/inspections/{id}/defect", responses=answers(None, 401, 404, 503))
def defect(id: str, state: StationState, _: Viewer) -> Response:  # noqa: A002
    """Return the surroundings of the most anomalous region, as a JPEG file of 192 px a side."""
    found = state.service.records.get(id)
    return Response(defect_jpeg(found, state.service.pixels(found)), media_type="image/jpeg", headers=FOREVER)


@router.get("/inspections/{id}/nearest-good", responses=answers(None, 401, 404, 503))
def nearest_good(id: str, state: StationState, _: Viewer) -> Response:  # noqa: A002
    """Return the good training image with the patch that the most anomalous patch was compared with, as a JPEG file."""
    found = state.service.nearest_good(state.service.records.get(id))
    if found is None:
        raise HTTPException(404, "nearest good patch: expected a training image that is still there, got none.")
    path, box = found
    return Response(patch_jpeg(load(path), box), media_type="image/jpeg", headers=FOREVER)


@router.get("/export.csv", responses=answers(None, 401, 422, 503))
def export_csv(state: StationState, _: Viewer, asked: Chosen) -> Response:
    """Return the inspections of a list as a CSV file."""
    headers = {"Content-Disposition": 'attachment; filename="inspections.csv"'}
    return Response(
        state.service.export_csv(asked.chosen).encode(), media_type="text/csv; charset=utf-8", headers=headers
    )


@router.get("/export.zip", responses=answers(None, 401, 422, 429, 503))
def export_zip(
    state: StationState, _: Viewer, asked: Chosen, layout: Literal["folders", "coco"] = "folders"
) -> Response:
    """Return inspections of a list with their images as a zip file: reviewed ones in the layout of MVTec AD, or all in
    COCO's format. At most 20,000, for two clients at once.
    """
    pieces = state.service.export_zip(layout, asked.chosen)
    if not state.exports.acquire(blocking=False):
        text = message("export", f"at most {MAX_EXPORTS} at once", "one more", todo="Wait until another has ended.")
        raise HTTPException(429, text, {"Retry-After": "30"})
    headers = {"Content-Disposition": f'attachment; filename="inspections-{layout}.zip"'}
    return ReleasingResponse(pieces, state.exports, media_type="application/zip", headers=headers)


# --- reviews ----------------------------------------------------------------------------------------------------------


@router.post("/inspections/{id}/review", responses=answers(schema.Review, 401, 403, 404, 422, 503))
def review(id: str, body: schema.ReviewBody, state: StationState, visitor: Operator) -> Response:  # noqa: A002
    """Say whether a part is good or defective; the newest review counts."""
    said = state.service.review(
        id, body.verdict, who=visitor.user.name, defect_type=body.defect_type, comment=body.comment
    )
    return JSONResponse(said.to_dict())


@router.delete("/inspections/{id}/review", responses=answers(None, 401, 403, 404, 422, 503))
def undo_review(id: str, state: StationState, visitor: Operator) -> Response:  # noqa: A002
    """Take the newest review back; the one before counts again."""
    said = state.service.undo_review(id, who=visitor.user.name)
    return JSONResponse({"review": None if said is None else said.to_dict()})


@router.post("/review:next", responses=answers(None, 401, 403, 503))
def next_to_review(state: StationState, visitor: Operator, model: str = "") -> Response:
    """Return the most informative inspection without a review, and why; nobody else gets it for two minutes."""
    found = state.service.queue.next(visitor.user.name, model=model)
    if found is None:
        return JSONResponse({"inspection": None})
    return JSONResponse({**found.to_dict(), "inspection": document_of(found.inspection)})


@router.get("/inspections/{id}/similar", responses=answers(schema.Similar, 401, 404, 409, 503))
def similar_to(id: str, state: StationState, _: Viewer, k: Annotated[int, Query(ge=1, le=50)] = 5) -> Response:  # noqa: A002
    """Return past defects like an inspection, and the type that they suggest."""
    found = state.service.records.get(id)
    try:
        shown = state.service.similar(found, k)
    except BlemishError as error:
        raise HTTPException(409, str(error)) from None
    return JSONResponse(shown.to_dict())


@router.get("/similar", responses=answers(schema.Similar, 401, 404, 409, 503))
def similar(
    inspection: str, state: StationState, visitor: Viewer, k: Annotated[int, Query(ge=1, le=50)] = 5
) -> Response:
    """Return past defects like an inspection, as `/v1/inspections/{id}/similar` does."""
    return similar_to(inspection, state, visitor, k)


# --- models -----------------------------------------------------------------------------------------------------------


@router.get("/models", responses=answers(None, 401, 503) | {200: {"model": list[schema.Model]}})
def models(state: StationState, _: Viewer) -> Response:
    """List the models in service."""
    return JSONResponse([model.deployment.to_dict() for model in state.service.deployments])


@router.get("/models/{name}/history", responses=answers(None, 401, 404, 503) | {200: {"model": list[schema.Model]}})
def history(name: str, state: StationState, _: Viewer) -> Response:
    """List all states of a model, the newest first."""
    state.service.model(name)
    return JSONResponse([one.to_dict() for one in state.service.deployments.history(name)])


@router.get("/models/{name}/threshold", responses=answers(schema.Preview, 401, 404, 422, 503))
def preview(
    name: str,
    state: StationState,
    _: Viewer,
    false_positive_rate: float | None = None,
    threshold: float | None = None,
    upper_threshold: float | None = None,
) -> Response:
    """Return what another threshold, or the one of a false positive rate, would have done to the records."""
    shown = state.service.preview_threshold(
        name, false_positive_rate=false_positive_rate, threshold=threshold, upper_threshold=upper_threshold
    )
    return JSONResponse(shown._asdict())


@router.get("/models/{name}/histogram", responses=answers(None, 401, 404, 503))
def histogram(name: str, state: StationState, _: Viewer) -> Response:
    """Return the scores of the calibration set and of the inspections by verdict, in bins."""
    return JSONResponse(state.service.histogram(name))


@router.post("/models/{name}/threshold", responses=answers(schema.Model, 401, 403, 404, 422, 503))
def move(name: str, body: schema.RateBody, state: StationState, visitor: Admin) -> Response:
    """Move the thresholds of a model to another false positive rate, and the upper one to another score."""
    moved = state.service.move_threshold(
        name, body.false_positive_rate, who=visitor.user.name, upper_threshold=body.upper_threshold
    )
    return JSONResponse(moved.to_dict())


@router.post("/models/{name}:rollBack", responses=answers(schema.Model, 401, 403, 404, 422, 503))
def roll_back(name: str, state: StationState, visitor: Admin) -> Response:
    """Put what was in service before the newest change in service again."""
    return JSONResponse(state.service.roll_back(name, who=visitor.user.name).to_dict())


# --- the rest ---------------------------------------------------------------------------------------------------------


@router.get("/audit", responses=answers(None, 401, 403, 503))
def audit(state: StationState, _: Admin, after: int = 0, limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> Response:
    """Return entries of the audit after a number, the oldest first."""
    return JSONResponse([entry._asdict() for entry in state.service.database.audit(after=after, limit=limit)])


@router.get("/events", responses=answers(None, 401, 503))
def events(state: StationState, _: Viewer) -> Response:
    """Follow inspections, reviews and models live, as server-sent events."""
    if state.service.events.n_listeners >= state.options.max_listeners:
        raise HTTPException(503, message("listeners", f"at most {state.options.max_listeners}", "one more"))
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(
        event_stream(state.service.events, state.stop), media_type="text/event-stream", headers=headers
    )
