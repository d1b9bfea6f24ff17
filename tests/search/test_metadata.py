"""What a store says of itself, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from blemish import DefectStore, StoreError
from blemish.search.encoder import RegionEncoder
from blemish.search.metadata import Meta
from tests.images import scratched

if TYPE_CHECKING:
    from tests.stores import Opener


@pytest.fixture
def left(tmp_path: Path, describer: RegionEncoder) -> Path:
    """A folder with a store of one image."""
    with DefectStore(tmp_path / "s", model=describer, category="stripes") as store:
        store.add(scratched(99)[0])
    return tmp_path / "s"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"format_version": 2}, r"format_version: expected 1, got 2, made with blemish .*Update blemish"),
        ({"format_version": "x"}, "format_version: expected 1, got 'x'.*into a new store"),
        ({"descriptor": "other"}, "descriptor: expected efficientnet_lite0.*got 'other'"),
        ({"dims": {"region": 3}}, "descriptor: expected"),
        ({"models": {"stripes": {}}}, "store: expected models"),
        ({"models": 3}, "store: expected models"),
    ],
)
def test_another_version_or_way_of_describing_is_refused(
    left: Path, describer: RegionEncoder, changes: dict[str, Any], said: str
):
    path = left / "store.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(StoreError, match=said):
        DefectStore(left, model=describer)
    path.write_text("{")
    with pytest.raises(StoreError, match=r"store.json: expected what the store says of itself.*Put it back"):
        DefectStore(left, model=describer)


def test_damaged_good_looks_are_refused_when_they_are_needed(left: Path, fitted: Any):
    path = left / "store.json"
    said = json.loads(path.read_text())
    said["models"]["stripes"]["good"]["tensors"] = "AAAA"
    path.write_text(json.dumps(said))
    store = DefectStore(left, model=fitted, category="stripes")
    with store, pytest.raises(StoreError, match="what good images look like"):
        store.add(scratched(1)[0])


def test_a_kind_that_another_station_bound_is_seen(opened: Opener, describer: RegionEncoder):
    with opened() as store:
        early = Meta.of(store._backend, describer, "early")
        assert early.models == {}
        store.add(scratched(99)[0])
        other = RegionEncoder(describer.model)
        other.good = describer.good
        other.model_id = "another"
        with pytest.raises(StoreError, match=r"model: expected the store's, \w+, got another, for stripes"):
            early.bind(store._backend, other, "stripes")


def test_the_kind_is_that_of_the_model_or_the_only_one(describer: RegionEncoder):
    meta = Meta({"a": {"id": describer.model_id}, "b": {"id": "x"}}, "s")
    assert (meta.category_of(describer), meta.category_of(None)) == ("a", "part")
    assert Meta({"b": {"id": "x"}}, "s").category_of(None) == "b"
    assert Meta({}, "s").category_of(describer) == "part"
    assert (meta.model_of("a"), meta.model_of("c")) == (describer.model_id, "none")
