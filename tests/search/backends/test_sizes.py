"""Sizes in the engine's metadata that its files can't have: refused before the engine reads them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from blemish import StoreError
from blemish.search.backends.edge import EdgeBackend
from blemish.search.backends.seal import SEAL
from blemish.search.backends.sizes import MAX_JSON_BYTES, check_sizes
from blemish.search.encoder import DIMS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that was not closed; each test puts back what it changes."""
    folder = tmp_path_factory.mktemp("sizes") / "s"
    backend = EdgeBackend(folder, DIMS)
    backend.write_meta({"a": 1})
    backend.close()
    (folder / SEAL).unlink()
    return folder


def refused(folder: Path, path: Path, content: bytes, said: str) -> None:
    before = path.read_bytes()
    path.write_bytes(content)
    try:
        for read_only in (False, True):
            with pytest.raises(StoreError, match=said):
                EdgeBackend(folder, {}, read_only=read_only)
    finally:
        path.write_bytes(before)
    check_sizes(folder / "vectors", folder)


@pytest.mark.slow
@pytest.mark.parametrize("number", [1 << 40, -1, 1e300])
def test_a_page_of_a_terabyte_is_refused(folder: Path, number: float):
    path = next(folder.rglob("payload_storage/config.json"))
    content = {**json.loads(path.read_text()), "page_size_bytes": number}
    said = r"store, vectors/segments/.*/payload_storage/config.json: expected numbers of at most 2147483648, got "
    refused(folder, path, json.dumps(content).encode(), said)


@pytest.mark.slow
@pytest.mark.parametrize("content", [b"{", b"[]", b"[" * (MAX_JSON_BYTES + 9), b'{"a": [{"b": NaN}]}', b"\xff"])
def test_metadata_that_are_none_are_refused(folder: Path, content: bytes):
    path = folder / "vectors" / "edge_config.json"
    refused(folder, path, content, "edge_config.json: expected the engine's metadata, got ")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["has_values", "deleted", "vectors"])
def test_more_flags_or_vectors_than_the_files_hold_are_refused(folder: Path, name: str):
    path = next(path for path in folder.rglob("status.dat") if path.parent.name == name)
    content = (1 << 32).to_bytes(8, "little") + path.read_bytes()[8:]
    refused(folder, path, content, "status.dat: expected at most \\d+ flags or vectors, got 4294967296")
