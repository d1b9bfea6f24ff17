"""Sessions of browsers: log in, log out."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from blemish.station.users import SESSION_S
from blemish.station.web.access import COOKIE
from blemish.station.web.schema import answers
from blemish.station.web.state import StationState, Viewer

router = APIRouter(prefix="/v1")


class LoginBody(BaseModel):
    """Name and password of a user."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(max_length=64, examples=["eva"])
    password: str = Field(max_length=1000, examples=["correct horse battery"])


@router.post("/login", responses=answers(None, 401, 403, 422, 429, 503))
def log_in(body: LoginBody, request: Request, state: StationState) -> Response:
    """Start a session: its key is a cookie, and changes have to send its `csrf` as the header `X-CSRF-Token`."""
    state.access.check_origin(request)
    address = request.client.host if request.client is not None else ""
    user = state.access.log_in(body.name, body.password, address)
    key = state.access.users.start_session(user)
    session = state.access.users.session(key)
    answer = JSONResponse({**user._asdict(), "csrf": session.csrf if session is not None else ""})
    is_secure = request.url.scheme == "https"
    answer.set_cookie(COOKIE, key, max_age=int(SESSION_S), httponly=True, samesite="strict", secure=is_secure)
    return answer


@router.post("/logout", responses=answers(None, 401, 403, 503))
def log_out(state: StationState, visitor: Viewer) -> Response:
    """End the session."""
    if visitor.key:
        state.access.users.end_session(visitor.key)
    answer = JSONResponse({"name": visitor.user.name})
    answer.delete_cookie(COOKIE)
    return answer
