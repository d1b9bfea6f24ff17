"""Described images as points."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from blemish.search.points import CONTOUR_POINTS, also, contour_text, points_of, stamped, stored_path, where_of
from blemish.search.records import Found, StoredDefect
from tests.images import scratched

if TYPE_CHECKING:
    from blemish.search.encoder import RegionEncoder


def test_ids_are_made_of_content(describer: RegionEncoder):
    described = describer.describe(scratched(99)[0])
    words = {"label": None, "labelled_by": None}

    def ids(category: str = "c", model: str = "m", sha256: str = described.sha256) -> list[str]:
        changed = described._replace(sha256=sha256)
        return [one.id for one in points_of(changed, category=category, model=model, words=words)]

    assert ids() == ids()
    different = [*ids(), *ids(category="d"), *ids(model="n"), *ids(sha256="0")]
    assert len(set(different)) == len(different)


def test_a_payload_is_read_as_it_was_written(describer: RegionEncoder):
    described = describer.describe(scratched(99)[0])
    whole, *parts = points_of(described, category="c", model="m", words=stamped("Öl", "Ann"))
    read = StoredDefect.from_payload(Found(parts[0].id, parts[0].payload))
    region = described.regions[0].region
    assert (read.box, read.area_px, read.label, read.labelled_by, read.kind) == (
        region.box,
        region.area_px,
        "Öl",
        "Ann",
        "region",
    )
    assert read.p_value == described.prediction.p_value
    assert StoredDefect.from_payload(Found(whole.id, whole.payload)).contour.shape == (0, 2)
    assert "contour" not in read.to_dict()


def test_outlines_are_thinned_and_read_back():
    outline = np.arange(2 * 1001, dtype=np.int32).reshape(-1, 2)
    text = contour_text(outline)
    assert text.startswith("0,1 12,13 ")
    assert len(text.split()) <= CONTOUR_POINTS
    assert contour_text(outline[:3]) == "0,1 2,3 4,5"
    assert contour_text(outline[:0]) == ""


def test_paths_are_absolute_text():
    assert stored_path(None) == ""
    assert stored_path("a.png") == str(Path.cwd() / "a.png")
    assert stored_path("/x/\udce9.png") == "/x/\\xe9.png"


def test_conditions_add_up():
    where = also(where_of("region", category="c"), sha256="0")
    assert where.equals == {"kind": ["region"], "category": ["c"], "sha256": ["0"]}
    assert stamped(None, "Ann") == {"label": None, "labelled_by": None, "labelled_at": None}
