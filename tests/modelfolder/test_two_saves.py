"""Saves of several processes or threads into one folder, and what a save may delete."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from blemish._io import lock
from blemish._io.lock import exclusive
from blemish.errors import SaveError
from blemish.modelfolder.folder import check_target, load_model
from tests.models import rewrite, save_small


@pytest.mark.slow
def test_two_processes_one_folder(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.double_saves", str(tmp_path), "25"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    result = json.loads(done.stdout)
    assert result["1.0"] + result["2.0"] == 25
    assert not result["broken"]
    assert not result["failed"]
    assert not result["unread"]


@pytest.mark.slow
def test_threads_wait_for_each_other(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda i: save_small(tmp_path / "m", float(i)), range(12)))
    load_model(tmp_path / "m")
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


@pytest.mark.parametrize("is_lockable", [True, False], ids=["folder", "file"])
def test_a_lock_is_held_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_lockable: bool) -> None:
    if not is_lockable:
        take = lock._try

        def only_files(handle: int, *, release: bool = False) -> bool:
            if release:
                raise OSError
            return take(handle)

        monkeypatch.setattr(lock, "_try", only_files)
        monkeypatch.setattr(lock.tempfile, "gettempdir", lambda: str(tmp_path))
    with exclusive(tmp_path):
        with pytest.raises(
            SaveError, match=r"lock: expected no other save, got one that does not end, in .*Wait for it"
        ):
            exclusive(tmp_path, patience_s=0.05).__enter__()
        with exclusive(tmp_path.parent, patience_s=0.05):
            pass
    with exclusive(tmp_path, patience_s=0.05):
        pass


def test_a_save_that_does_not_end_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blemish.modelfolder.folder.exclusive", lambda folder: exclusive(folder, patience_s=0.05))
    with exclusive(tmp_path), pytest.raises(SaveError, match="lock: expected no other save"):
        save_small(tmp_path / "m")
    save_small(tmp_path / "m")


@pytest.mark.parametrize("name", ["photos", "notes.txt", "other.safetensors", "../beside", "network.onnx"])
def test_what_a_header_names_is_not_deleted(tmp_path: Path, name: str) -> None:
    """model.json may name anything; only files of a model's names with the SHA-256 in it are of a save."""
    folder = save_small(tmp_path / "m")
    path = folder / name
    if name == "photos":
        path.mkdir()
        path = path / "holiday.png"
    path.write_bytes(b"mine")
    if name != "network.onnx":
        rewrite(folder, lambda header: header["files"].update({name: "0" * 64}))
    expected = SaveError if not name.startswith("..") else None
    for attempt in (lambda: save_small(folder, 2.0), lambda: check_target(folder)):
        if expected is None:
            attempt()
        else:
            with pytest.raises(SaveError, match=r"model: expected a model folder to replace, got other files: \w+"):
                attempt()
    assert path.read_bytes() == b"mine"


@pytest.mark.parametrize("text", ["{}", "[]", '{"files": {"photos": "0"}, "format": "layers-model"}', "no JSON"])
def test_a_header_of_another_program_is_not_deleted(tmp_path: Path, text: str) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "model.json").write_text(text)
    with pytest.raises(SaveError, match=r"got other files: model\.json"):
        save_small(tmp_path / "m")
    assert (tmp_path / "m" / "model.json").read_text() == text


def test_files_that_come_while_it_is_replaced_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, kept = save_small(tmp_path / "m"), Path.rename

    def rename(path: Path, target: Path) -> Path:
        if path == folder:
            (folder / "late.txt").write_text("mine")
        return kept(path, target)

    monkeypatch.setattr(Path, "rename", rename)
    save_small(folder, 2.0)
    monkeypatch.undo()
    save_small(folder, 3.0)
    assert float(load_model(folder).tensors["bank.safetensors"]["memory_bank"][0, 0]) == 3.0
    assert [path.read_text() for path in tmp_path.rglob("late.txt")] == ["mine"]
