"""Operations on groups of similar defects: sort, name, merge, split, move."""

from __future__ import annotations

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from blemish.errors import BlemishError, InputError
from blemish.station.web import schema
from blemish.station.web.schema import answers
from blemish.station.web.state import Operator, StationState, Viewer

router = APIRouter(prefix="/v1")
GROUP = answers(schema.Group, 401, 403, 404, 422, 503)


@router.get("/models/{name}/defects", responses=answers(schema.Groups, 401, 404, 503))
def groups(name: str, state: StationState, _: Viewer) -> Response:
    """List the groups of similar confirmed defects of a model, the largest first."""
    state.service.model(name)
    found = [group.to_dict() for group in state.service.groups.all(name)]
    return JSONResponse({"groups": found, "n_unsorted": state.service.groups.n_unsorted(name)})


@router.post("/models/{name}/defects:sort", responses=answers(None, 401, 403, 404, 409, 503))
def sort(name: str, state: StationState, visitor: Operator) -> Response:
    """Sort confirmed defects without a type that are in no group by their looks; `n` is their number."""
    state.service.model(name)
    try:
        return JSONResponse({"n": state.service.groups.sort(name, who=visitor.user.name)})
    except BlemishError as error:
        raise HTTPException(409, str(error)) from None


@router.get("/defects/{number}", responses=answers(schema.Group, 401, 404, 503))
def group(number: int, state: StationState, _: Viewer) -> Response:
    """Return a group; `/v1/inspections?group=NUMBER` lists its members."""
    return JSONResponse(state.service.groups.get(number).to_dict())


@router.get(
    "/defects/{number}/alike", responses=answers(None, 401, 404, 409) | {200: {"model": list[schema.AlikeGroup]}}
)
def alike(number: int, state: StationState, _: Viewer) -> Response:
    """Return the groups that look most like one, at most 3: perhaps they are the same."""
    try:
        found = state.service.groups.alike(number)
    except InputError:
        raise
    except BlemishError as error:
        raise HTTPException(409, str(error)) from None
    return JSONResponse([{"group": one.group.to_dict(), "similarity": one.similarity} for one in found])


@router.get("/defects/{number}/proposed-split", responses=answers(None, 401, 404, 409))
def proposed_split(number: int, state: StationState, _: Viewer) -> Response:
    """Return the inspections of the smaller part of a group, divided in two by looks; nothing is changed."""
    try:
        return JSONResponse({"ids": state.service.groups.proposed_split(number)})
    except InputError:
        raise
    except BlemishError as error:
        raise HTTPException(409, str(error)) from None


@router.post("/defects/{number}:rename", responses=GROUP)
def rename(number: int, body: schema.NameBody, state: StationState, visitor: Operator) -> Response:
    """Name a group: its members are of that type from now on."""
    return JSONResponse(state.service.groups.rename(number, body.name, who=visitor.user.name).to_dict())


@router.post("/defects/{number}:merge", responses=GROUP)
def merge(number: int, body: schema.IntoBody, state: StationState, visitor: Operator) -> Response:
    """Put all members of a group into another one, which is returned."""
    return JSONResponse(state.service.groups.merge(number, body.into, who=visitor.user.name).to_dict())


@router.post("/defects/{number}:split", responses=GROUP)
def split(number: int, body: schema.SplitBody, state: StationState, visitor: Operator) -> Response:
    """Put some members of a group into a new one, which is returned."""
    made = state.service.groups.split(number, body.ids, name=body.name, who=visitor.user.name)
    return JSONResponse(made.to_dict())


@router.post("/defects/{number}:take", responses=GROUP)
def take(number: int, body: schema.IdsBody, state: StationState, visitor: Operator) -> Response:
    """Move defects of other groups of the model into this one."""
    return JSONResponse(state.service.groups.move(body.ids, number, who=visitor.user.name).to_dict())
