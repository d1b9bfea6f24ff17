"""The pages: line, history, one inspection, review, models and their thresholds, log in."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, get_args
from urllib.parse import quote

import jinja2
from fastapi import APIRouter, Depends, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from blemish._version import __version__
from blemish.errors import BlemishError, visible
from blemish.evaluation.report.charts import CLASSES, gauge
from blemish.ops.conformal import percent
from blemish.station.inspections import Inspection, InspectionFilter, iso_time
from blemish.station.kept import is_kept
from blemish.station.web.access import Visitor
from blemish.station.web.api import Chosen
from blemish.station.web.problems import TITLES, of_validation, status_of
from blemish.station.web.state import State, StationState, state_of
from blemish.station.web.words import among, why
from blemish.types import Outcome
from blemish.visualization.primitives import short_number

N_SHOTS, N_POINTS, DAY_S = 24, 200, 86_400.0
MAX_NEAREST_PX = 512


class _LoginNeededError(Exception):
    """Nobody is logged in: the page to log in is shown first."""


class PageRoute(APIRoute):
    """A route whose errors are pages."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler of a request."""
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                return await handler(request)
            except _LoginNeededError:
                place = request.url.path + (f"?{request.url.query}" if request.url.query else "")
                return RedirectResponse(f"/login?next={quote(place)}", 303)
            except HTTPException as error:
                return _problem_page(request, error.status_code, str(error.detail))
            except RequestValidationError as error:
                detail = bytes(of_validation(error).body).decode()
                return _problem_page(request, 422, detail)
            except BlemishError as error:
                return _problem_page(request, status_of(error), str(error))

        return handle


router = APIRouter(route_class=PageRoute, include_in_schema=False, default_response_class=HTMLResponse)


async def page_viewer(request: Request) -> Visitor:
    """Return who sends a request; who has to log in is led there."""
    visitor = state_of(request).access.visitor(request)
    if visitor is None:
        raise _LoginNeededError
    return visitor


PageViewer = Annotated[Visitor, Depends(page_viewer)]


async def page_operator(request: Request, _: PageViewer) -> Visitor:
    """Return who sends a request, if it may review."""
    return state_of(request).access.require(request, "operator")


async def page_admin(request: Request, _: PageViewer) -> Visitor:
    """Return who sends a request, if it may change models."""
    return state_of(request).access.require(request, "admin")


PageOperator = Annotated[Visitor, Depends(page_operator)]
PageAdmin = Annotated[Visitor, Depends(page_admin)]


@lru_cache(maxsize=1)
def environment() -> jinja2.Environment:
    """Return the environment of the templates, with autoescape."""
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("blemish.station.web"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: visible(value) if type(value) is str else value,
    )
    made.filters.update({"iso_time": iso_time, "percent": percent, "short_number": short_number})
    # Files of the page are kept by the browser until another version of the package has others.
    made.globals.update(classes=CLASSES, version=__version__)
    return made


def rendered(
    request: Request, template: str, visitor: Visitor | None, /, status: int = 200, **context: Any
) -> Response:
    """Return a page."""
    who = {"user": None, "csrf": "", "key": ""} if visitor is None else visitor._asdict()
    text = environment().get_template(template).render(here=request.url.path, **who, **context)
    return HTMLResponse(text, status)


def _problem_page(request: Request, status: int, detail: str) -> Response:
    visitor = state_of(request).access.visitor(request)
    return rendered(request, "problem.html.j2", visitor, status, title=TITLES.get(status, "Problem"), detail=detail)


@router.get("/login")
def login(request: Request, state: StationState, next: str = "/") -> Response:  # noqa: A002  # of the address
    """Show the form to log in."""
    place = next if next.startswith("/") and not next.startswith(("//", "/\\")) else "/"
    if state.access.visitor(request) is not None:
        return RedirectResponse(place, 303)
    return rendered(request, "login.html.j2", None, title="Log in", next=place)


@router.get("/")
def line(request: Request, state: StationState, visitor: PageViewer, model: str = "") -> Response:
    """Show the newest parts of a model, live."""
    service = state.service
    models = list(service.deployments)
    if not models:
        return rendered(request, "line.html.j2", visitor, title="Line", models=[])
    chosen = service.model(model) if model else models[0]
    name = chosen.deployment.model
    shown = service.records.page(InspectionFilter(model=name), limit=N_SHOTS)
    context: dict[str, Any] = {
        "title": "Line",
        "models": models,
        "model": name,
        "inspections": shown,
        "last": shown[0].number if shown else 0,
        "counts": service.records.counts(InspectionFilter(model=name, since=time.time() - DAY_S)),
        "points": service.records.recent_scores(name, N_POINTS),
        "threshold": chosen.deployment.threshold,
        "upper": chosen.deployment.upper_threshold,
    }
    return rendered(request, "line.html.j2", visitor, **context)


@router.get("/inspections")
def history(
    request: Request,
    state: StationState,
    visitor: PageViewer,
    asked: Chosen,
    before: int | None = None,
) -> Response:
    """Show inspections by a filter, the newest first."""
    chosen, records, query = asked.chosen, state.service.records, asked.query()
    page = records.page(chosen, before=before, limit=2 * N_SHOTS)
    is_full = len(page) == 2 * N_SHOTS
    context: dict[str, Any] = {
        "title": "History",
        "asked": asked,
        "names": [(one.deployment.model, one.deployment.model) for one in state.service.deployments],
        "types": [(name, name) for name in records.defect_types()],
        "counts": records.counts(chosen),
        "query": query,
        "inspections": page,
        "following": f"/inspections?{query}&before={page[-1].number}" if is_full else None,
    }
    return rendered(request, "history.html.j2", visitor, **context)


@router.get("/inspections/{id}")
def inspection(request: Request, id: str, state: StationState, visitor: PageViewer) -> Response:  # noqa: A002
    """Show one inspection."""
    found = state.service.records.get(id)
    newer, older = state.service.records.neighbors_of(found)
    return _shown(request, state, visitor, found, newer=newer, older=older, queue=False)


@router.get("/review")
def review(request: Request, state: StationState, visitor: PageOperator, last: str = "", model: str = "") -> Response:
    """Show the most informative inspection without a review."""
    records = state.service.records
    found = state.service.queue.next(visitor.user.name, model=model)
    counts = records.counts(InspectionFilter(model=model))
    context: dict[str, Any] = {
        "waiting": counts["total"] - counts["reviewed"],
        "done": counts["reviewed"],
        "last": records.get(last) if last else None,
        "sentence": "" if found is None else found.sentence,
    }
    if found is None:
        return rendered(request, "inspection.html.j2", visitor, title="Review", inspection=None, queue=True, **context)
    return _shown(request, state, visitor, found.inspection, newer=None, older=None, queue=True, **context)


def _shown(
    request: Request, state: State, visitor: Visitor, found: Inspection, *, queue: bool, **context: Any
) -> Response:
    facts: dict[str, Any] = {
        "title": "Review" if queue else f"Part {found.part_id or found.number}",
        "inspection": found,
        "queue": queue,
        "types": state.service.records.defect_types(found.model),
        "why": why(found),
        "meter": gauge(found.score, found.threshold, found.upper_threshold),
        "among": _among(state, found),
        "is_kept": found.review is not None
        and found.review.verdict == "good"
        and is_kept(found.part_id, found.sha256, state.service.settings.keep_every),
        "has_nearest": state.service.nearest_good(found) is not None,
    }
    return rendered(request, "inspection.html.j2", visitor, **facts, **context)


def _among(state: State, found: Inspection) -> str:
    model = state.service.model_of(found)
    if model is None:
        return "unknown: another model is in service by now"
    return among(found.score, model.detector.calibration.scores)


@router.get("/models")
def models(request: Request, state: StationState, visitor: PageViewer) -> Response:
    """Show the models in service."""
    return rendered(
        request,
        "models.html.j2",
        visitor,
        title="Models",
        models=list(state.service.deployments),
        shadowed=state.service.shadows.names,
    )


@router.get("/models/{name}")
def threshold(request: Request, name: str, state: StationState, visitor: PageViewer) -> Response:
    """Show the threshold of a model, and what another one would have done."""
    chosen = state.service.model(name)
    context: dict[str, Any] = {
        "title": f"Threshold of {name}",
        "chosen": chosen,
        "history": state.service.deployments.history(name),
        "bins": state.service.histogram(name),
    }
    return rendered(request, "threshold.html.j2", visitor, **context)


@router.get("/models/{name}/shadow")
def shadow(request: Request, name: str, state: StationState, visitor: PageViewer) -> Response:
    """Show the candidate beside a model, and where it differs."""
    service = state.service
    summary = service.shadows.summary(name)
    context: dict[str, Any] = {
        "title": f"Shadow mode of {name}",
        "deployment": service.model(name).deployment,
        "summary": summary,
        "different": service.shadows.different(name, limit=N_SHOTS),
        "outcomes": get_args(Outcome),
    }
    return rendered(request, "shadow.html.j2", visitor, **context)


@router.get("/teach")
def teach(request: Request, state: StationState, visitor: PageAdmin, name: str = "") -> Response:
    """Show how a model is taught."""
    in_service = [one.deployment.model for one in state.service.deployments]
    known = sorted({*state.teaching.names(), *in_service})
    context: dict[str, Any] = {
        "title": "Teach",
        "names": known,
        "in_service": in_service,
        "name": name,
        "state": state.teaching.state(name) if name else None,
        "n_good": {one: state.teaching.n_good(one) for one in in_service},
        "keep_every": state.service.settings.keep_every,
    }
    return rendered(request, "teach.html.j2", visitor, **context)


@router.get("/static/{name}")
def static(name: str) -> Response:
    """Return a file of the pages: one of a fixed list, by which alone a path is made."""
    try:
        data, kind = _static_files()[name]
    except KeyError:
        raise HTTPException(404, "file: expected one of the pages, got another.") from None
    return Response(data, media_type=kind, headers={"Cache-Control": "public, max-age=3600"})


@lru_cache(maxsize=1)
def _static_files() -> dict[str, tuple[bytes, str]]:
    kinds = {".css": "text/css", ".js": "text/javascript"}
    folder = Path(__file__).parent / "static"
    return {path.name: (path.read_bytes(), kinds[path.suffix]) for path in folder.iterdir() if path.suffix in kinds}
