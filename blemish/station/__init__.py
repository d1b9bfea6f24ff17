"""Inspection station: a service beside the line that inspects images, keeps records and takes reviews."""

from blemish.station.defect_groups import DefectGroup, DefectGroups
from blemish.station.errors import BusyError, StationError, UnknownError
from blemish.station.inspections import Inspection, InspectionFilter, Review
from blemish.station.review_queue import ReviewQueue, ToReview
from blemish.station.service import InspectionService
from blemish.station.settings import StationSettings
from blemish.station.shadow import Candidate, Shadows, ShadowSummary

__all__ = [
    "BusyError",
    "Candidate",
    "DefectGroup",
    "DefectGroups",
    "Inspection",
    "InspectionFilter",
    "InspectionService",
    "Review",
    "ReviewQueue",
    "ShadowSummary",
    "Shadows",
    "StationError",
    "StationSettings",
    "ToReview",
    "UnknownError",
]
