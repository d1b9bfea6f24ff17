"""Stores of format version 1, written and read under its names; one that 0.1.0 wrote is in tests/contract."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from blemish import DefectStore
from blemish.search.backends.edge import EdgeBackend
from blemish.search.backends.interface import Filter
from blemish.search.backends.server import ServerBackend
from blemish.search.encoder import NAME
from tests.images import scratched

if TYPE_CHECKING:
    from blemish.search import RegionEncoder

DIMS = {"region": 256, "picture": 256}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["folder", "server"])
def test_a_store_keeps_the_names_of_its_version(
    request: pytest.FixtureRequest, tmp_path: Path, encoder: RegionEncoder, kind: str
):
    place: dict[str, Any] = {"folder": tmp_path / "store"}
    if kind == "server":
        place = {"url": request.getfixturevalue("qdrant_url"), "collection": f"t{uuid.uuid4().hex}"}

    def backend() -> EdgeBackend | ServerBackend:
        return (
            EdgeBackend(place["folder"], DIMS) if kind == "folder" else ServerBackend(**place, api_key=None, dims=DIMS)
        )

    raw = backend()
    raw.write_meta({"format_version": 1, "descriptor": NAME, "dims": DIMS, "made_with": "0.1.0", "models": {}})
    raw.close()
    image = scratched(99)[0]
    with DefectStore(**place, model=encoder, category="stripes") as store:
        store.add(image, label="scratch")
        assert (store.count(kind="image"), store.add(image).new) == (1, 0)
        assert [one.kind for one in store.defects(kind="image")] == ["image"]
        brighter = np.clip(image.astype(int) + 1, 0, 255).astype(np.uint8)
        assert [match.defect.kind for match in store.duplicates(brighter)] == ["image"]
    raw = backend()
    meta = raw.read_meta()
    assert meta is not None
    assert (meta["format_version"], meta["dims"], list(meta["models"])) == (1, DIMS, ["stripes"])
    (point,) = raw.scan(Filter(equals={"kind": ["picture"]}), using="picture")
    assert point.vector is not None
    raw.close()
    with DefectStore(**place, model=encoder) as store:
        assert store.remove(point.payload["sha256"]) >= 1
        assert store.count(kind="image") == 0
