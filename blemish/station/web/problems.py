"""Errors as `application/problem+json` (RFC 9457): each says what was expected, in words of the package's errors."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from blemish.errors import BlemishError, ImageError, InputError, ModelFileError, SaveError
from blemish.station.errors import BusyError, StationError, UnknownError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fastapi import FastAPI, Request, Response

LOG = logging.getLogger("blemish.station")
MEDIA_TYPE = "application/problem+json"
# The first kind that an error is of.
STATUS: tuple[tuple[type[BlemishError], int], ...] = (
    (BusyError, 429),
    (UnknownError, 404),
    (StationError, 503),
    (SaveError, 507),
    (ImageError, 422),
    (ModelFileError, 422),
    (InputError, 422),
)
TITLES = {
    400: "The request is not understood",
    401: "Log in, or send a token",
    403: "Not allowed",
    404: "Not found",
    405: "Not possible here",
    408: "The request took too long to arrive",
    409: "Not possible now",
    413: "Too large",
    421: "Wrong host name",
    422: "The input can't be used",
    429: "Busy: come again later",
    500: "A fault of the station",
    503: "The records can't be used",
    504: "No answer in time",
    507: "The disk is full or can't be written",
}


def problem(status: int, detail: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """Return a response that describes an error."""
    title = TITLES.get(status) or HTTPStatus(status).phrase
    content = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    return JSONResponse(content, status, dict(headers or {}), MEDIA_TYPE)


def status_of(error: BlemishError) -> int:
    """Return the HTTP status of an error."""
    return next((status for kind, status in STATUS if isinstance(error, kind)), 500)


def of_error(error: BlemishError) -> JSONResponse:
    """Return the response to an error of the package."""
    headers = {"Retry-After": f"{error.retry_after_s:.0f}"} if isinstance(error, BusyError) else {}
    return problem(status_of(error), str(error), headers)


def of_http(error: HTTPException) -> JSONResponse:
    """Return the response to an error of the protocol."""
    return problem(error.status_code, str(error.detail), error.headers)


def of_validation(error: RequestValidationError) -> JSONResponse:
    """Return the response to values of the wrong type: the first of them."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"] if part not in ("body", "query", "path"))
    return problem(422, f"{place or 'body'}: {first['msg']}.")


def add_handlers(app: FastAPI) -> None:
    """Let an app answer all errors as problems."""

    async def package_error(_: Request, error: Exception) -> Response:
        assert isinstance(error, BlemishError)
        if status_of(error) >= 500:
            LOG.error("%s", error)
        return of_error(error)

    async def http_error(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return of_http(error)

    async def validation_error(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return of_validation(error)

    async def unforeseen(request: Request, error: Exception) -> Response:
        LOG.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return problem(500, "The station's log says more. Please report it.")

    handlers: dict[Any, Any] = {
        BlemishError: package_error,
        HTTPException: http_error,
        RequestValidationError: validation_error,
        Exception: unforeseen,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)
