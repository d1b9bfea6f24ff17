"""The seal of a closed store: any change of a file is seen before the engine opens it."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from blemish import StoreError
from blemish.search.backends.seal import SEAL, break_seal, check_seal, write_seal

NAMES = ["vectors", "store.json"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sealed folder with a sparse file of 8 MB in a sub-folder."""
    (tmp_path / "vectors" / "wal").mkdir(parents=True)
    with (tmp_path / "vectors" / "wal" / "page").open("wb") as file:
        file.truncate(8_000_000)
        file.seek(3_000_000)
        file.write(np.random.default_rng(0).bytes(100_000))
    (tmp_path / "store.json").write_text("{}")
    (tmp_path / "lock").write_text("")
    write_seal(tmp_path, NAMES)
    return tmp_path


def flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 1]))


CHANGES: dict[str, Callable[[Path], object]] = {
    "a bit of data": lambda folder: flip(folder / "vectors/wal/page", 3_050_000),
    "a bit in a hole": lambda folder: flip(folder / "vectors/wal/page", 7_999_999),
    "shorter": lambda folder: os.truncate(folder / "vectors/wal/page", 7_999_999),
    "longer": lambda folder: os.truncate(folder / "vectors/wal/page", 8_000_001),
    "lost": lambda folder: (folder / "vectors/wal/page").unlink(),
    "new": lambda folder: (folder / "vectors/wal/more").write_text(""),
    "metadata": lambda folder: (folder / "store.json").write_text("{ }"),
    "a folder in its place": lambda folder: ((folder / "store.json").unlink(), (folder / "store.json").mkdir()),
}


@pytest.mark.parametrize("change", CHANGES)
def test_each_change_is_seen(folder: Path, change: str):
    assert check_seal(folder)
    CHANGES[change](folder)
    with pytest.raises(StoreError, match=r"store: expected its files as they were when it was closed, got .*restore"):
        check_seal(folder)


def test_blocks_that_change_places_are_seen(folder: Path):
    page = folder / "vectors" / "wal" / "page"
    data = page.read_bytes()
    page.write_bytes(data[4_000_000:] + data[:4_000_000])
    with pytest.raises(StoreError, match="vectors/wal/page lost, new or changed"):
        check_seal(folder)


def test_a_copy_with_zeros_for_holes_and_other_files_beside_it_are_the_same(folder: Path, tmp_path: Path):
    copy = tmp_path / "copy"
    copy.mkdir()
    shutil.copytree(folder / "vectors", copy / "vectors")
    for name in ("store.json", SEAL):
        shutil.copy(folder / name, copy / name)
    page = copy / "vectors" / "wal" / "page"
    page.write_bytes(page.read_bytes())
    (copy / "notes.txt").write_text("mine")
    assert check_seal(copy)


def test_a_broken_seal_is_none(folder: Path):
    break_seal(folder)
    break_seal(folder)
    (folder / "store.json").write_text("other")
    assert not check_seal(folder)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format_version": 1}', '{"names": 3, "files": {}}',
                                     '{"format_version": 1, "names": ["../x"], "files": {}}',
                                     '{"format_version": 1, "names": ["a"], "files": []}'])  # fmt: skip
def test_a_damaged_seal_is_an_error(folder: Path, content: str):
    (folder / SEAL).write_text(content)
    with pytest.raises(StoreError, match=r"seal.json: expected the digests of the store's files, got "):
        check_seal(folder)


def test_a_seal_of_a_newer_version_is_an_error(folder: Path):
    seal = json.loads((folder / SEAL).read_text())
    (folder / SEAL).write_text(json.dumps({**seal, "format_version": 2}))
    with pytest.raises(StoreError, match=r"seal.json: expected format 1, got 2.*Update blemish"):
        check_seal(folder)


def test_random_bits_are_seen(folder: Path):
    rng = random.Random(0)
    for _ in range(20):
        at = rng.randrange(8_000_000)
        flip(folder / "vectors/wal/page", at)
        with pytest.raises(StoreError):
            check_seal(folder)
        flip(folder / "vectors/wal/page", at)
    assert check_seal(folder)
