"""Inspection station: a service beside the line that inspects images, keeps records and takes reviews."""

from blemish.station.defect_groups import DefectGroup, DefectGroups
from blemish.station.errors import BusyError, StationError, UnknownError
from blemish.station.inspections import Inspection, InspectionFilter, Review
from blemish.station.service import InspectionService
from blemish.station.settings import StationSettings

__all__ = [
    "BusyError",
    "DefectGroup",
    "DefectGroups",
    "Inspection",
    "InspectionFilter",
    "InspectionService",
    "Review",
    "StationError",
    "StationSettings",
    "UnknownError",
]
