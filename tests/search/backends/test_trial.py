"""Trial opening: an end of the process, a wait without end and too much memory are errors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from blemish import StoreError
from blemish.search.backends import trial
from blemish.search.backends.edge import EdgeBackend
from blemish.search.backends.seal import SEAL
from blemish.search.encoder import DIMS


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    backend = EdgeBackend(tmp_path / "s", DIMS)
    backend.write_meta({"a": 1})
    backend.close()
    (tmp_path / "s" / SEAL).unlink()
    return tmp_path / "s" / "vectors"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("import os; os.abort()", r"the end of the process that tried it \(SIGABRT\)"),
        ("raise ValueError('a page is missing')", "ValueError: a page is missing"),
        ("raise SystemExit(3)", "exit code 3"),
        ("bytearray(1 << 40)", "MemoryError"),
        ("import time; time.sleep(60)", "no answer in [23] s"),
    ],
)
@pytest.mark.skipif(sys.platform == "win32", reason="signals and limits of a process are POSIX")
def test_each_bad_end_is_an_error(shard: Path, program: str, said: str, monkeypatch: pytest.MonkeyPatch):
    limits = trial.PROGRAM.partition("import qdrant_edge")[0]
    monkeypatch.setattr(trial, "PROGRAM", limits + program)
    monkeypatch.setattr(trial, "LIMIT_S", 2.0)
    monkeypatch.setattr(trial, "BYTES_PER_S", 1 << 40)
    with pytest.raises(StoreError, match=rf"store: expected to open, got .*{said}.*Put back a snapshot"):
        EdgeBackend(shard.parent, {})


@pytest.mark.slow
def test_a_whole_store_opens(shard: Path):
    trial.try_opening(shard, shard.parent)
    EdgeBackend(shard.parent, {}).close()


def test_nothing_is_tried_where_no_process_can_be_started(shard: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object, **__: object) -> None:
        raise OSError("no processes")

    monkeypatch.setattr(subprocess, "run", fail)
    trial.try_opening(shard, shard.parent)
    monkeypatch.setattr(sys, "executable", "")
    trial.try_opening(shard, shard.parent)
    monkeypatch.undo()
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    trial.try_opening(shard / "none", shard.parent)
