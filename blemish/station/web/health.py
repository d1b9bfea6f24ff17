"""Addresses for machines that watch the station: alive, ready, metrics."""

from __future__ import annotations

import shutil

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from blemish.errors import BlemishError
from blemish.station.web.schema import answers
from blemish.station.web.state import State, StationState, Viewer

router = APIRouter()
LEAST_FREE_BYTES = 200 * 2**20


@router.get("/healthz")
def alive() -> Response:
    """Return that the process runs."""
    return JSONResponse({"status": "alive"})


@router.get("/readyz", responses=answers(None, 503))
def ready(state: StationState) -> Response:
    """Return whether images can be inspected and stored, and what is in the way."""
    problems = _problems(state)
    return JSONResponse({"ready": not problems, "problems": problems}, 503 if problems else 200)


def _problems(state: State) -> list[str]:
    if state.stop.is_set:
        return ["The station is stopping."]
    problems = []
    if not len(state.service.deployments):
        problems.append("No model is in service.")
    try:
        state.service.database.rows("SELECT 1 FROM inspections LIMIT 1")
        free = shutil.disk_usage(state.service.folder).free
        if free < LEAST_FREE_BYTES:
            problems.append(f"The disk has {free / 1e6:.0f} MB left: free some space.")
    except BlemishError as error:
        problems.append(str(error))
    except OSError as error:
        problems.append(f"The folder of records can't be read: {error.strerror}.")
    return problems


@router.get("/metrics", responses=answers(None, 401))
def metrics(state: StationState, _: Viewer) -> Response:
    """Return counters in Prometheus' format."""
    return Response(state.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")
