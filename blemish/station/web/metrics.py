"""Counters of a station for Prometheus."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

if TYPE_CHECKING:
    from blemish.station.inspections import Inspection
    from blemish.station.service import InspectionService

BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 60.0)


class Metrics:
    """Counters of one station."""

    def __init__(self, service: InspectionService) -> None:
        self._registry = registry = CollectorRegistry()
        labels = ("model", "outcome")
        self._inspections = Counter("blemish_inspections", "Inspections.", labels, registry=registry)
        self._refused = Counter("blemish_refused", "Requests that were refused.", ("status",), registry=registry)
        self._seconds = Histogram(
            "blemish_answer_seconds", "Time from a received image to its answer.", buckets=BUCKETS, registry=registry
        )
        pending = Gauge("blemish_pending", "Images that were accepted and not answered.", registry=registry)
        pending.set_function(lambda: service.n_pending)
        free = Gauge("blemish_disk_free_bytes", "Free disk space for records.", registry=registry)
        free.set_function(lambda: shutil.disk_usage(service.folder).free)

    def answered(self, inspection: Inspection, seconds: float) -> None:
        """Count an answer."""
        self._inspections.labels(inspection.model, inspection.outcome).inc()
        self._seconds.observe(seconds)

    def refused(self, status: int) -> None:
        """Count a request that was refused."""
        self._refused.labels(str(status)).inc()

    def text(self) -> bytes:
        """Return all counters in Prometheus' format."""
        return generate_latest(self._registry)
