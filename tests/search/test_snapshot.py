"""Snapshots of a store, stores of snapshots, and what can still be read of a damaged one."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import safetensors.numpy

from blemish import DefectStore, InputError, SaveError, StoreError
from blemish.search import restore, salvage
from blemish.search.backends.edge import EdgeBackend
from blemish.search.backends.ledger import LEDGER, Ledger
from blemish.search.backends.seal import SEAL
from blemish.search.snapshot import SHA256, digest_of_tensors, read_snapshot
from tests.images import scratched
from tests.stores import Opener, filled

if TYPE_CHECKING:
    from blemish.search import RegionEncoder


@pytest.fixture
def folder(tmp_path: Path, encoder: RegionEncoder) -> Path:
    with DefectStore(tmp_path / "s", model=encoder, category="stripes") as store:
        filled(store, 2)
    return tmp_path / "s"


@pytest.fixture
def snapshot(folder: Path, tmp_path: Path) -> Path:
    with DefectStore(folder) as store:
        assert store.snapshot(tmp_path / "x.snapshot") == len(store) + store.count(kind="image")
    return tmp_path / "x.snapshot"


def content(store: DefectStore) -> list[dict[str, Any]]:
    return [one.to_dict() for kind in ("region", "image") for one in store.defects(kind=kind)]


@pytest.mark.slow
@pytest.mark.parametrize("to", ["folder", "server"])
def test_a_store_comes_back_from_its_snapshot(
    opened: Opener, encoder: RegionEncoder, tmp_path: Path, to: str, request: pytest.FixtureRequest
):
    with opened() as store:
        filled(store, 2)
        store.snapshot(tmp_path / "x")
        before, answer = content(store), [one.defect.id for one in store.similar(scratched(300)[0])]
    if to == "folder":
        place: dict[str, Any] = {"folder": tmp_path / "again"}
    else:
        place = {"url": request.getfixturevalue("qdrant_url"), "collection": f"t{uuid.uuid4().hex}"}
    assert restore(tmp_path / "x", **place) == len(before)
    with DefectStore(**place, model=encoder) as again:
        assert again.category == "stripes"
        assert content(again) == before
        assert [one.defect.id for one in again.similar(scratched(300)[0])] == answer
        assert again.check().is_whole
    with pytest.raises(InputError, match="store: expected a new one, got one that is there"):
        restore(tmp_path / "x", **place)


@pytest.mark.slow
def test_a_snapshot_that_cannot_be_written_or_read_is_an_error(folder: Path, snapshot: Path, tmp_path: Path):
    with DefectStore(folder) as store, pytest.raises(SaveError, match="snapshot: expected to be written"):
        store.snapshot(tmp_path)
    with pytest.raises(StoreError, match="snapshot: expected a readable file"):
        restore(tmp_path / "none", tmp_path / "t")
    with pytest.raises(InputError, match="store: expected a folder, or url=, got neither"):
        restore(snapshot)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="store: expected a new one"):
        restore(snapshot, tmp_path / "file")
    with pytest.raises(SaveError, match="store: expected to be written"):
        restore(snapshot, tmp_path / "file" / "t")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "s", "x.snapshot"]


@pytest.mark.slow
def test_each_damaged_byte_of_a_snapshot_is_seen(snapshot: Path, tmp_path: Path):
    data = snapshot.read_bytes()
    for at in (*range(12), *range(12, len(data), 997), len(data) - 1):
        snapshot.write_bytes(data[:at] + bytes([data[at] ^ 16]) + data[at + 1 :])
        with pytest.raises(StoreError, match="snapshot: expected"):
            read_snapshot(snapshot)
    snapshot.write_bytes(data[:-1])
    with pytest.raises(StoreError, match="snapshot: expected"):
        restore(snapshot, tmp_path / "t")
    assert not (tmp_path / "t").exists()


def rewritten(snapshot: Path, **changes: bytes | np.ndarray) -> None:
    """Write a snapshot with other tensors and the digest of them."""
    tensors = dict(safetensors.numpy.load(snapshot.read_bytes()))
    for name, value in changes.items():
        tensors[name] = np.frombuffer(value, np.uint8) if isinstance(value, bytes) else value
    tensors[SHA256] = np.frombuffer(digest_of_tensors(tensors), np.uint8)
    snapshot.write_bytes(safetensors.numpy.save(tensors))


def test_a_strangers_snapshot_is_checked(snapshot: Path):
    tensors = safetensors.numpy.load(snapshot.read_bytes())
    meta, lines = json.loads(tensors["meta"].tobytes()), tensors["payloads"].tobytes()
    original = snapshot.read_bytes()
    first, _, rest = lines.partition(b"\n")
    entry = json.loads(first)

    def line(**changes: Any) -> bytes:
        return json.dumps({**entry, **changes}).encode() + b"\n" + rest

    payload = entry["payload"]
    cases: list[tuple[dict[str, Any], str]] = [
        ({"meta": json.dumps({**meta, "format_version": 2}).encode()}, "format 1, got 2.*Update"),
        ({"meta": b"[]"}, "a JSON object"),
        ({"meta": b'{"format_version": 1}'}, "a store, got KeyError"),
        ({"meta": json.dumps({**meta, "store": {**meta["store"], "dims": {}}}).encode()}, "descriptor: expected"),
        ({"meta": json.dumps({**meta, "store": {**meta["store"], "models": 3}}).encode()}, "store: expected models"),
        ({"payloads": rest}, "payloads and"),
        ({"payloads": line(id="x")}, "id: expected a UUID"),
        ({"payloads": line(payload={})}, "KeyError"),
        ({"payloads": line(payload={**payload, "kind": "image"})}, "another kind"),
        ({"payloads": line(payload={**payload, "box": [1]})}, "snapshot: expected a store"),
        ({"payloads": line(payload=3)}, "snapshot: expected a store"),
        ({"payloads": b"{" + lines}, "a JSON object"),
        ({"region": np.full_like(tensors["region"], np.nan)}, "not finite"),
        ({"region": np.zeros((len(tensors["region"]), 3), np.float32)}, "payloads and"),
    ]
    for changes, said in cases:
        snapshot.write_bytes(original)
        rewritten(snapshot, **changes)
        with pytest.raises(StoreError, match=said):
            read_snapshot(snapshot)
    snapshot.write_bytes(original)
    rewritten(snapshot)
    assert len(read_snapshot(snapshot).points) == lines.count(b"\n")


@pytest.mark.slow
def test_what_is_left_of_a_damaged_store_is_saved(folder: Path, tmp_path: Path, encoder: RegionEncoder):
    ledger, lost = Ledger(folder / LEDGER), str(uuid.uuid4())
    digests = ledger.read()
    changed = next(id_ for id_ in digests)
    ledger.rewrite({**digests, lost: "0" * 32, changed: "1" * 32})
    with pytest.raises(StoreError, match="acknowledged lost, new or changed"):
        DefectStore(folder)
    (folder / SEAL).unlink()
    with pytest.raises(StoreError, match="got 1 lost and 1 changed"):
        DefectStore(folder)
    found = salvage(folder, tmp_path / "left")
    assert (found.lost, found.changed) == ((lost,), (changed,))
    assert restore(tmp_path / "left", tmp_path / "t") == len(digests) - 1
    with DefectStore(tmp_path / "t", model=encoder) as store:
        assert {one["id"] for one in content(store)} == digests.keys() - {changed}


@pytest.mark.slow
def test_points_are_read_one_by_one_where_some_cannot_be(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    digests = Ledger(folder / LEDGER).read()
    broken = sorted(digests)[1]
    (folder / LEDGER).write_text("damaged\n")
    (folder / SEAL).unlink()
    real = EdgeBackend._readable

    def panics(self: EdgeBackend, ids: Any) -> dict[str, str]:
        if broken in ids and len(ids) > 1:
            return {id_: digest for one in ids for id_, digest in panics(self, [one]).items()}
        return {} if broken in ids else real(self, ids)

    monkeypatch.setattr(EdgeBackend, "_readable", panics)
    salvage(folder, tmp_path / "left")
    assert {point.id for point in read_snapshot(tmp_path / "left").points} == digests.keys() - {broken}
