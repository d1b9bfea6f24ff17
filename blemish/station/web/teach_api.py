"""Operations to teach a model: images of good parts, their check, the fit, the way into service."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from blemish.errors import BlemishError
from blemish.station.web.api import FORM, stated_bytes
from blemish.station.web.bodies import Part, read_parts, source_of
from blemish.station.web.schema import Model, answers
from blemish.station.web.state import Admin, State, StationState

router = APIRouter(prefix="/v1/teach")


class FromLineBody(BaseModel):
    """Images of the line that people called good."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field(description="whose inspections are taken", examples=["grid"])
    n: Annotated[int, Field(ge=1, le=1000, description="how many at most, the newest", examples=[100])] = 100


@router.get("", responses=answers(None, 401, 403))
def names(state: StationState, _: Admin) -> Response:
    """List the names for which there are images."""
    return JSONResponse(state.teaching.names())


@router.get("/{name}", responses=answers(None, 401, 403, 422))
def one(name: str, state: StationState, _: Admin) -> Response:
    """Return the images of a name, and how far its fit is."""
    return JSONResponse(state.teaching.state(name))


@router.post("/{name}/images", openapi_extra=FORM, responses=answers(None, 401, 403, 408, 413, 422, 429, 507))
async def add(name: str, request: Request, state: StationState, _: Admin) -> Response:
    """Add images of good parts: multipart fields `image`, or the bytes of one; each that can't be read is named."""
    limit = 4 * state.service.settings.max_bytes
    with state.budget.taken(stated_bytes(request, limit)):
        parts = [part for part in await read_parts(request, limit, state.options.body_s) if part.name == "image"]
        results = [await run_in_threadpool(_add, state, name, part) for part in parts]
    problems = [result for result in results if not isinstance(result, str)]
    return JSONResponse({"added": [one for one in results if isinstance(one, str)], "problems": problems})


def _add(state: State, name: str, part: Part) -> str | dict[str, str]:
    """Return the id of an image that was added, or why it was not."""
    try:
        return state.teaching.add(name, part.content)
    except BlemishError as error:
        return {"source": source_of(part), "detail": str(error)}


@router.get("/{name}/images/{image}", responses=answers(None, 401, 403, 404))
def image(name: str, image: str, state: StationState, _: Admin) -> Response:
    """Return an image as a JPEG file of at most 256 px a side."""
    return Response(state.teaching.thumbnail(name, image), media_type="image/jpeg")


@router.delete("/{name}/images/{image}", responses=answers(None, 401, 403, 404))
def remove(name: str, image: str, state: StationState, _: Admin) -> Response:
    """Remove an image."""
    state.teaching.remove(name, image)
    return JSONResponse(state.teaching.state(name))


@router.post("/{name}:takeFromLine", responses=answers(None, 401, 403, 404, 422, 507))
def take_from_line(name: str, body: FromLineBody, state: StationState, _: Admin) -> Response:
    """Add the newest images of a model that people called good."""
    state.service.model(body.model)
    n = state.teaching.take_from_line(name, model=body.model, n=body.n)
    return JSONResponse({"taken": n, **state.teaching.state(name)})


@router.post("/{name}:check", responses=answers(None, 401, 403, 422))
def check(name: str, state: StationState, _: Admin) -> Response:
    """Return what is wrong with the images."""
    return JSONResponse(state.teaching.check(name))


@router.post("/{name}:fit", responses=answers(None, 401, 403, 422, 503))
def fit(name: str, state: StationState, visitor: Admin) -> Response:
    """Begin to fit a model; `GET /v1/teach/{name}` and the event `teach` follow it."""
    return JSONResponse(state.teaching.fit(name, who=visitor.user.name).to_dict(), 202)


@router.post("/{name}:learn", responses=answers(None, 401, 403, 404, 422, 503))
def learn(name: str, state: StationState, visitor: Admin) -> Response:
    """Begin to fit the model in service on its images and on all that people called good, followed as `:fit`."""
    return JSONResponse(state.teaching.learn(name, who=visitor.user.name).to_dict(), 202)


@router.post("/{name}:putInService", responses=answers(Model, 401, 403, 422, 507))
def put_in_service(name: str, state: StationState, visitor: Admin) -> Response:
    """Put the model that was fitted last in service under its name."""
    return JSONResponse(state.teaching.put_in_service(name, who=visitor.user.name).to_dict())
