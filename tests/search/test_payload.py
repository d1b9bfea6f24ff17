"""Points and payloads of encoded images, and checks of text."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from blemish.errors import InputError
from blemish.search import StoredDefect
from blemish.search.backends.interface import StoredPoint
from blemish.search.payload import (
    CONTOUR_POINTS,
    check_id,
    check_text,
    check_time,
    contour_text,
    label_payload,
    payload_filter,
    stored_path,
    to_points,
)
from tests.images import scratched

if TYPE_CHECKING:
    from blemish.search import RegionEncoder


@pytest.mark.slow
def test_ids_are_made_of_content(encoder: RegionEncoder):
    encoded = encoder.encode(scratched(99)[0])

    def ids(category: str = "c", model: str = "m", sha256: str = encoded.sha256) -> list[str]:
        changed = encoded._replace(sha256=sha256)
        return [point.id for point in to_points(changed, category=category, model_id=model)]

    assert ids() == ids()
    different = [*ids(), *ids(category="d"), *ids(model="n"), *ids(sha256="0")]
    assert len(set(different)) == len(different)


def test_a_payload_is_read_as_it_was_written(encoder: RegionEncoder):
    encoded = encoder.encode(scratched(99)[0])
    image, *regions = to_points(encoded, category="c", model_id="m", label=label_payload("Öl", "Ann"))
    read = StoredDefect.from_point(StoredPoint(regions[0].id, regions[0].payload))
    region = encoded.regions[0].region
    assert (read.box, read.area_px, read.label, read.labelled_by, read.kind) == (
        region.box,
        region.area_px,
        "Öl",
        "Ann",
        "region",
    )
    assert read.p_value == encoded.prediction.p_value
    assert StoredDefect.from_point(StoredPoint(image.id, image.payload)).contour.shape == (0, 2)
    assert "contour" not in read.to_dict()


def test_contours_are_thinned():
    contour = np.arange(2 * 1001, dtype=np.int32).reshape(-1, 2)
    text = contour_text(contour)
    assert text.startswith("0,1 12,13 ")
    assert len(text.split()) <= CONTOUR_POINTS
    assert contour_text(contour[:3]) == "0,1 2,3 4,5"
    assert contour_text(contour[:0]) == ""


def test_paths_are_absolute_text():
    assert stored_path(None) == ""
    assert stored_path("a.png") == str(Path.cwd() / "a.png")
    assert stored_path("/x/\udce9.png") == "/x/\\xe9.png"


def test_conditions_are_joined():
    where = payload_filter("region", category="c").with_equals(sha256="0")
    assert where.equals == {"kind": ["region"], "category": ["c"], "sha256": ["0"]}
    assert label_payload(None, "Ann") == {"label": None, "labelled_by": None, "labelled_at": None}


def test_text_is_normalised():
    assert check_text("label", "  Kratzer (tief) ✓ ") == "Kratzer (tief) ✓"
    assert check_text("label", "o\u0308") == "ö"


@pytest.mark.parametrize("text", ["", " ", "a\tb", "a\u200bb", "a\u2028b", "\ud800", "x" * 201, None, 3])
def test_unreadable_text_is_refused(text: str):
    with pytest.raises(InputError, match="label: expected"):
        check_text("label", text)


def test_times_become_utc():
    assert check_time("2026-11-25T10:00:00Z") == "2026-11-25T10:00:00+00:00"
    assert check_time(datetime(2026, 1, 2, tzinfo=timezone.utc)) == "2026-01-02T00:00:00+00:00"
    assert check_time(None) is None
    assert str(check_time("2026-11-25")).startswith("2026-11-2")
    for wrong in ("soon", 3, "9999-99-99"):
        with pytest.raises(InputError, match="since: expected a time"):
            check_time(wrong)  # type: ignore[arg-type]


def test_ids_have_a_canonical_form():
    assert check_id("5B1D6A0E6D0C5C539F0A3A3F1C0B7D11") == "5b1d6a0e-6d0c-5c53-9f0a-3a3f1c0b7d11"
    with pytest.raises(InputError, match="id: expected a UUID"):
        check_id("7")
