"""After a failure a file is the old one, and the error has its name and advice."""

from __future__ import annotations

import errno
import os
import sys
import threading
from pathlib import Path

import pytest

from blemish._io.files import atomic_write, save_error, write_synced
from blemish.errors import SaveError

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="POSIX rights, links and pipes")


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_writes_new_and_replaces_old(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "Ergebnis-é.json"
    assert atomic_write(path, b"one") == path
    assert atomic_write(str(path), b"two") == path
    assert path.read_bytes() == b"two"
    assert names(path.parent) == [path.name]


def test_longest_name_still_works(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 250 + ".json")
    atomic_write(path, b"1")
    assert names(tmp_path) == [path.name]


@pytest.mark.parametrize("step", ["write_synced", "replace"])
@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (errno.ENOSPC, "The disk is full: free some space"),
        (errno.EROFS, "mounted read-only"),
        (errno.EACCES, "You may not write there"),
        (errno.EIO, "Choose another place"),
    ],
)
def test_failure_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, code: int, advice: str
) -> None:
    path = tmp_path / "results.json"
    atomic_write(path, b"old")

    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    if step == "replace":
        monkeypatch.setattr(Path, "replace", fail)
    else:
        monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(SaveError, match=rf"^results: expected to be written, .*results\.json\. .*{advice}"):
        atomic_write(path, b"new", name="results")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["results.json"]


def test_interrupt_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        atomic_write(tmp_path / "a", b"1")
    assert names(tmp_path) == []


def test_folder_or_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(SaveError, match="A folder of that name is in the way"):
        atomic_write(tmp_path / "folder", b"1")
    with pytest.raises(SaveError, match=r"in the way|A part of its path is a file"):
        atomic_write(tmp_path / "file" / "x.json", b"1")
    assert (tmp_path / "file").read_bytes() == b"mine"


@POSIX
def test_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real.json").write_bytes(b"old")
    link = tmp_path / "link.json"
    link.symlink_to("real.json")
    atomic_write(link, b"new")
    assert link.is_symlink()
    assert (tmp_path / "real.json").read_bytes() == b"new"


@POSIX
def test_pipe_is_written_directly(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    atomic_write(pipe, b"hello")
    reader.join(10)
    assert got == [b"hello"]


def test_write_synced_never_overwrites(tmp_path: Path) -> None:
    write_synced(tmp_path / "a", b"1")
    with pytest.raises(FileExistsError):
        write_synced(tmp_path / "a", b"2")
    assert (tmp_path / "a").read_bytes() == b"1"


def test_error_without_number_is_still_told() -> None:
    assert "'odd'" in str(save_error("model", Path("m"), OSError("odd")))


@POSIX
def test_loop_of_links(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    atomic_write(tmp_path / "a", b"1")
    assert (tmp_path / "a").read_bytes() == b"1"
