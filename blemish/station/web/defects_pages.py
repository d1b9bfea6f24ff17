"""The pages of groups of similar defects."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse

from blemish.station.inspections import InspectionFilter
from blemish.station.web.pages import PageRoute, PageViewer, rendered
from blemish.station.web.state import StationState

router = APIRouter(route_class=PageRoute, include_in_schema=False, default_response_class=HTMLResponse)
N_MEMBERS = 96


@router.get("/defects")
def groups(request: Request, state: StationState, visitor: PageViewer, model: str = "") -> Response:
    """Show the groups of a model's confirmed defects."""
    service = state.service
    models = [one.deployment.model for one in service.deployments]
    name = service.model(model).deployment.model if model else (models or [""])[0]
    context: dict[str, Any] = {
        "title": "Defects",
        "models": models,
        "model": name,
        "groups": service.groups.all(name),
        "n_unsorted": service.groups.n_unsorted(name),
    }
    return rendered(request, "defects.html.j2", visitor, **context)


@router.get("/defects/{number}")
def group(
    request: Request, number: int, state: StationState, visitor: PageViewer, before: int | None = None
) -> Response:
    """Show one group."""
    service, chosen = state.service, state.service.groups.get(number)
    members = service.records.page(InspectionFilter(group=number), before=before, limit=N_MEMBERS)
    is_full = len(members) == N_MEMBERS
    context: dict[str, Any] = {
        "title": f"Defects: {chosen.title}",
        "group": chosen,
        "others": [one for one in service.groups.all(chosen.model) if one.number != number],
        "types": service.records.defect_types(chosen.model),
        "members": members,
        "following": f"/defects/{number}?before={members[-1].number}" if is_full else None,
    }
    return rendered(request, "defect_group.html.j2", visitor, **context)
