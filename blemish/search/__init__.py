"""Search for similar defects: anomalous regions as vectors in Qdrant, their labels, suggestions and groups."""

from __future__ import annotations

from blemish.search.encoder import EncodedImage, EncodedRegion, RegionEncoder, most_anomalous_region
from blemish.search.records import AddResult, Group, Match, ReindexResult, StoreCheck, StoredDefect, Suggestion
from blemish.search.snapshot import restore, salvage
from blemish.search.store import DefectStore

__all__ = [
    "AddResult",
    "DefectStore",
    "EncodedImage",
    "EncodedRegion",
    "Group",
    "Match",
    "RegionEncoder",
    "ReindexResult",
    "StoreCheck",
    "StoredDefect",
    "Suggestion",
    "most_anomalous_region",
    "restore",
    "salvage",
]
