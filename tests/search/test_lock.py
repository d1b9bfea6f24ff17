"""One process at a time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from blemish import SaveError, StoreError
from blemish.search.lock import FolderLock

HOLD = "import sys; from pathlib import Path; from blemish.search.lock import FolderLock; "
HOLD += "held = FolderLock(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"


def test_a_second_one_is_told_who_has_it(tmp_path: Path):
    first = FolderLock(tmp_path)
    with pytest.raises(StoreError, match=r"store: expected to be the only one in it, got it open in process \d+ on "):
        FolderLock(tmp_path)
    first.release()
    first.release()
    assert not first.held
    FolderLock(tmp_path).release()


def test_a_lock_dies_with_its_process(tmp_path: Path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdin is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(StoreError, match=f"process {holder.pid} on .* need a server"):
        FolderLock(tmp_path)
    holder.kill()
    holder.wait()
    holder.stdin.close()
    holder.stdout.close()
    FolderLock(tmp_path).release()


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path):
    (tmp_path / "lock").mkdir()
    with pytest.raises(SaveError, match="store: expected to be written"):
        FolderLock(tmp_path)
