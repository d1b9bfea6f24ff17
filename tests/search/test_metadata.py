"""Metadata of a store, and stores that are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from blemish import DefectStore, StoreError
from blemish.search import RegionEncoder
from blemish.search.backends.ledger import LEDGER
from blemish.search.backends.seal import SEAL
from blemish.search.metadata import Metadata
from tests.images import scratched

if TYPE_CHECKING:
    from tests.stores import Opener


@pytest.fixture
def folder(tmp_path: Path, encoder: RegionEncoder) -> Path:
    """A folder with a store of one image; its files may be changed, as it has no seal."""
    with DefectStore(tmp_path / "s", model=encoder, category="stripes") as store:
        store.add(scratched(99)[0])
    (tmp_path / "s" / SEAL).unlink()
    return tmp_path / "s"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"format_version": 3}, r"format_version: expected 2, got 3, made with blemish .*Update blemish"),
        ({"format_version": "x"}, "format_version: expected 2, got 'x'.*into a new store"),
        ({"descriptor": "other"}, "descriptor: expected efficientnet_lite0.*got 'other'"),
        ({"dims": {"region": 3}}, "descriptor: expected"),
        ({"models": {"stripes": {}}}, "store: expected models"),
        ({"models": 3}, "store: expected models"),
    ],
)
def test_another_version_or_encoder_is_refused(
    folder: Path, encoder: RegionEncoder, changes: dict[str, Any], error: str
):
    path = folder / "store.json"
    changed = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps(changed))
    with pytest.raises(StoreError, match=r"store.json: expected the store's metadata, got other content than was"):
        DefectStore(folder, model=encoder)
    (folder / SEAL).unlink(missing_ok=True)
    changed.pop(LEDGER)
    path.write_text(json.dumps(changed))
    with pytest.raises(StoreError, match=error):
        DefectStore(folder, model=encoder)
    (folder / SEAL).unlink(missing_ok=True)
    path.write_text("{")
    with pytest.raises(StoreError, match=r"store.json: expected the store's metadata.*Put it back"):
        DefectStore(folder, model=encoder)


@pytest.mark.slow
def test_damaged_statistics_are_refused_when_they_are_needed(folder: Path, fitted: Any):
    path = folder / "store.json"
    meta = json.loads(path.read_text())
    meta["models"]["stripes"]["good"]["tensors"] = "AAAA"
    meta.pop(LEDGER)
    path.write_text(json.dumps(meta))
    store = DefectStore(folder, model=fitted, category="stripes")
    with store, pytest.raises(StoreError, match="statistics of good images"):
        store.add(scratched(1)[0])


@pytest.mark.slow
def test_a_category_that_another_station_bound_is_seen(opened: Opener, encoder: RegionEncoder):
    with opened() as store:
        early = Metadata.open(store._backend, encoder, "early")
        assert early.models == {}
        store.add(scratched(99)[0])
        other = RegionEncoder(encoder.model)
        other.normal = encoder.normal
        other.ids = ("another",)
        with pytest.raises(StoreError, match=r"model: expected the store's, \w+, got another, for stripes"):
            early.bind(store._backend, other, "stripes")


def test_the_category_is_that_of_the_model_or_the_only_one(encoder: RegionEncoder):
    meta = Metadata({"a": {"id": encoder.model_id}, "b": {"id": "x"}}, "s")
    assert (meta.category_of(encoder), meta.category_of(None)) == ("a", "part")
    assert Metadata({"b": {"id": "x"}}, "s").category_of(None) == "b"
    assert Metadata({}, "s").category_of(encoder) == "part"
    assert (meta.model_id("a"), meta.model_id("c")) == (encoder.model_id, "none")
