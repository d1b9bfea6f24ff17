"""Operations on candidates that run beside models in service."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response
from fastapi.responses import JSONResponse

from blemish.station.web import schema
from blemish.station.web.api import document_of
from blemish.station.web.schema import answers
from blemish.station.web.state import Admin, StationState, Viewer

router = APIRouter(prefix="/v1/models")


@router.get("/{name}/shadow", responses=answers(None, 401, 404, 503) | {200: {"model": schema.ShadowSummary | None}})
def summary(name: str, state: StationState, _: Viewer) -> Response:
    """Return the results of the newest candidate beside a model; null if there was none."""
    found = state.service.shadows.summary(name)
    return JSONResponse(None if found is None else found.to_dict())


@router.get(
    "/{name}/shadow/different", responses=answers(None, 401, 404, 503) | {200: {"model": list[schema.Difference]}}
)
def different(
    name: str,
    state: StationState,
    _: Viewer,
    before: int | None = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> Response:
    """List images with another outcome of the candidate, the newest first."""
    found = state.service.shadows.different(name, before=before, limit=limit)
    return JSONResponse([{**one._asdict(), "inspection": document_of(one.inspection)} for one in found])


@router.post("/{name}/shadow:start", responses=answers(schema.Candidate, 401, 403, 404, 422, 507))
def start(name: str, state: StationState, visitor: Admin) -> Response:
    """Run the model that was fitted last under this name (`/v1/teach`) beside the one in service."""
    return JSONResponse(state.teaching.run_beside(name, who=visitor.user.name).to_dict())


@router.post("/{name}/shadow:stop", responses=answers(schema.Candidate, 401, 403, 404, 422, 503))
def stop(name: str, state: StationState, visitor: Admin) -> Response:
    """End the candidate beside a model; its results stay."""
    return JSONResponse(state.service.shadows.stop(name, who=visitor.user.name).to_dict())


@router.post("/{name}/shadow:putInService", responses=answers(schema.Model, 401, 403, 404, 422, 503))
def put_in_service(name: str, state: StationState, visitor: Admin) -> Response:
    """Put the candidate beside a model in service in its place."""
    return JSONResponse(state.service.put_candidate_in_service(name, who=visitor.user.name).to_dict())
