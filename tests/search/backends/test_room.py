"""A full disk: an error before the engine writes, and no signal that ends the process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from blemish import DefectStore, SaveError, StoreError
from blemish.search.backends.edge import EdgeBackend
from blemish.search.backends.room import LEAST_FREE, check_room, size_on_disk
from tests.images import scratched

if TYPE_CHECKING:
    from blemish.search.encoder import RegionEncoder

ROOT = Path(__file__).parents[3]


def free_space(monkeypatch: pytest.MonkeyPatch, n_bytes: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=n_bytes))


def test_room_is_64_mib_and_that_of_the_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    free_space(monkeypatch, LEAST_FREE)
    check_room(tmp_path)
    with pytest.raises(StoreError, match=r"store: expected 65 MiB free on its disk, got 64 MiB, in .*read_only=True"):
        check_room(tmp_path, n_points=32)
    with pytest.raises(StoreError, match="expected 164 MiB free"):
        check_room(tmp_path, n_bytes=100 << 20)
    monkeypatch.undo()
    with pytest.raises(SaveError, match="store: expected to be written"):
        check_room(tmp_path / "none")


def test_the_size_on_disk_has_no_holes(tmp_path: Path):
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 30)
    (tmp_path / "full").write_bytes(np.random.default_rng(0).bytes(1 << 16))
    assert 1 << 16 <= size_on_disk(tmp_path) < 1 << 20


@pytest.mark.slow
def test_each_change_needs_room_and_answers_do_not(
    tmp_path: Path, encoder: RegionEncoder, monkeypatch: pytest.MonkeyPatch
):
    with DefectStore(tmp_path / "s", model=encoder) as store:
        added = store.add(scratched(99)[0], label="scratch")
        free_space(monkeypatch, 1 << 20)
        changes = [
            lambda: store.add(scratched(98)[0]), lambda: store.label(added.ids, "scuff"),
            lambda: store.remove(added.sha256), store.optimise,
        ]  # fmt: skip
        for change in changes:
            with pytest.raises(StoreError, match=r"MiB free on its disk, got 1 MiB"):
                change()
        assert [one.label for one in store.defects()] == ["scratch"] * len(added.ids)
        assert store.similar(scratched(98)[0])
    with pytest.raises(StoreError, match=r"MiB free on its disk"):
        DefectStore(tmp_path / "s", model=encoder)
    monkeypatch.undo()
    with DefectStore(tmp_path / "s", model=encoder) as store:
        assert store.label(added.ids, "scuff")


def test_a_temporary_store_without_room_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    free_space(monkeypatch, 1 << 20)
    with pytest.raises(StoreError, match=r"MiB free on its disk, got 1 MiB"):
        EdgeBackend(None, {"region": 4})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs a small disk (tmpfs)")
def test_a_real_disk_is_filled_while_the_store_is_loaded(tmp_path: Path):
    options = "-m" if os.geteuid() == 0 else "-Urm"
    mount = f"mount -t tmpfs -o size=200m tmpfs {tmp_path}"
    if subprocess.run(["unshare", options, "sh", "-c", mount], check=False).returncode:
        pytest.skip("no disk can be mounted here")
    command = f"{mount} && exec {sys.executable} -m tests.full_disk {tmp_path}"
    environment = {**os.environ, "TMPDIR": "/tmp"}  # the copy is on another disk
    done = subprocess.run(
        ["unshare", options, "sh", "-c", command],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    for act in ("insert", "label", "optimise", "reopened"):
        assert told[act].startswith("StoreError: store: expected"), act
        assert "MiB free on its disk" in told[act]
    n = told["acknowledged"]
    assert n > 0
    assert (told["counted"], told["left"], told["at the end"]) == (n, n, n + 100)
