"""Questions to a store that can't be written to."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

import filelock
import pytest

from blemish import DefectStore, SaveError, StoreError
from blemish.search.backends.edge import EdgeBackend
from blemish.search.encoder import DIMS, RegionEncoder
from tests.images import scratched
from tests.stores import filled


@pytest.fixture
def folder(tmp_path: Path, encoder: RegionEncoder) -> Path:
    with DefectStore(tmp_path / "s", model=encoder, category="stripes") as store:
        filled(store, 2)
    return tmp_path / "s"


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def copies() -> list[Path]:
    return list(Path(tempfile.gettempdir()).glob("blemish-copy-*"))


@pytest.mark.slow
def test_all_questions_are_answered_and_nothing_is_written(folder: Path, encoder: RegionEncoder):
    before, there = content(folder), copies()
    with DefectStore(folder, model=encoder) as store:
        wanted = [match.defect.id for match in store.similar(scratched(201)[0])]
        groups = [group.to_dict() for group in store.groups()]
    (folder / "holder").write_bytes(before["holder"])
    before = content(folder)
    with DefectStore(folder, model=encoder, read_only=True) as store:
        assert len(copies()) == len(there) + 1
        assert [match.defect.id for match in store.similar(scratched(201)[0])] == wanted
        assert [group.to_dict() for group in store.groups()] == groups
        assert (store.count(), store.suggest(scratched(300)[0]).label) == (4, "scratch")
        stored = next(iter(store.defects()))
        for change in (
            lambda: store.add(scratched(400)[0]), lambda: store.label([stored.id], "x"), lambda: store.remove("0"),
            store.reindex, store.optimise,
        ):  # fmt: skip
            with pytest.raises(StoreError, match="store: expected one that may be changed, got a read-only one, in "):
                change()
    assert (content(folder), copies()) == (before, there)


@pytest.mark.slow
def test_two_may_ask_at_a_time_but_not_while_one_writes(folder: Path, encoder: RegionEncoder):
    with DefectStore(folder, read_only=True) as one, DefectStore(folder, read_only=True) as other:
        assert one.count() == other.count() == 4
        with DefectStore(folder, model=encoder) as store:  # a copy holds no lock
            store.add(scratched(400)[0])
            if sys.platform != "win32":
                with pytest.raises(StoreError, match="expected none that writes to it, got it open in another process"):
                    DefectStore(folder, read_only=True)
        assert one.count() == 4


def test_a_store_that_is_not_there_is_not_made(tmp_path: Path, encoder: RegionEncoder):
    with pytest.raises(StoreError, match="expected one that was made, got nothing there"):
        DefectStore(tmp_path / "none", model=encoder, read_only=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("reason", [errno.EROFS, errno.EACCES, errno.EPERM])
def test_a_folder_that_cannot_be_written_names_the_way_to_ask(
    folder: Path, reason: int, monkeypatch: pytest.MonkeyPatch
):
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    with pytest.raises(StoreError, match=r"expected a folder that may be written, .* read_only=True\), or --read-only"):
        DefectStore(folder)
    with pytest.raises(SaveError):
        EdgeBackend(folder.parent / "new", DIMS)


def test_files_of_the_engine_that_cannot_be_written_name_it_too(folder: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*args: object, **kwargs: object) -> None:
        raise Exception("Service runtime error: Failed to open: Permission denied (os error 13)")

    monkeypatch.setattr(EdgeBackend, "_open", refuse)
    with pytest.raises(StoreError, match="expected a folder that may be written, got 'Service runtime error"):
        DefectStore(folder)


def test_a_full_disk_leaves_no_copy(folder: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    there = copies()
    monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(SaveError, match="copy of the store: expected to be written, got 'No space left on device'"):
        DefectStore(folder, read_only=True)
    assert copies() == there


MOUNT = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && exec "$2" -W ignore -m blemish $3 --store "$1"'


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command_line", "code"), [("groups", 0), ("groups --read-only", 0), (f"label --as scratch {uuid.UUID(int=1)}", 2)]
)
def test_on_a_read_only_disk(folder: Path, command_line: str, code: int):
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-m", "true"], check=False).returncode:
        pytest.skip("needs the right to mount")
    command = ["unshare", "-m", "sh", "-c", MOUNT, "sh", str(folder), sys.executable, command_line]
    ran = subprocess.run(command, check=False, capture_output=True, text=True)
    assert ran.returncode == code, ran.stderr
    assert ("--read-only" in ran.stderr) == bool(code)
