"""A model folder is whole or not there, comes back bit for bit, and a damaged or hostile one is refused in words."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from blemish._version import __version__
from blemish.errors import InputError, ModelFileError, SaveError
from blemish.modelfolder import folder as modelfile
from blemish.modelfolder.folder import check_target, load_model, save_model
from blemish.modelfolder.upgrade import FORMAT_VERSION
from tests.models import bank, header, network, save_small

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="POSIX links, pipes and fork")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_small(tmp_path / "home" / "model")


def first_value(folder: Path) -> float:
    return float(load_model(folder).tensors["bank.safetensors"]["memory_bank"][0, 0])


def siblings(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.parent.iterdir() if p != folder)


# Saving and loading


def test_comes_back_bit_for_bit(folder: Path, rng: np.random.Generator) -> None:
    tensors = bank()
    tensors["bank.safetensors"]["memory_bank"] = rng.normal(size=(7, 5)).astype(np.float32).T  # not contiguous
    tensors["more.safetensors"] = {"empty": np.zeros((0, 4), np.float64), "one": np.array(3, np.int64)}
    graph = network().SerializeToString()
    assert save_model(folder, header=header(note="späť"), network=graph, tensors=tensors) == folder
    model = load_model(str(folder))
    assert model.path == folder
    assert model.network == graph
    assert model.header["note"] == "späť"
    assert model.header["format_version"] == FORMAT_VERSION
    assert model.header["provenance"]["library_version"] == __version__
    assert model.header["thresholds"] == header()["thresholds"]
    for name, arrays in tensors.items():
        assert set(model.tensors[name]) == set(arrays)
        for key, array in arrays.items():
            got = model.tensors[name][key]
            assert got.dtype == array.dtype
            np.testing.assert_array_equal(got, array)
    with pytest.raises(dataclasses.FrozenInstanceError):
        model.network = b""  # type: ignore[misc]


def test_same_content_same_bytes(tmp_path: Path) -> None:
    one = save_small(tmp_path / "one")
    fields = dict(reversed(list(header().items())))
    fields["thresholds"] = {"scores": (np.float64(0.1), np.float64(1 / 3), 1e-7), "image": np.float64(1.25)}
    two = save_model(tmp_path / "two", header=fields, network=network().SerializeToString(), tensors=bank())
    for path in one.iterdir():
        assert path.read_bytes() == (two / path.name).read_bytes()


def test_network_alone(tmp_path: Path) -> None:
    graph = network(output="student_map")
    graph.graph.output.append(helper.make_tensor_value_info("autoencoder_map", TensorProto.FLOAT, ("B", 3, "h", "w")))
    graph.graph.node.append(helper.make_node("Identity", ["student_map"], ["autoencoder_map"]))
    save_model(tmp_path / "m", header=header(detector="efficientad"), network=graph.SerializeToString())
    assert load_model(tmp_path / "m").tensors == {}


def test_unknown_detector_and_extra_files_are_let_through(tmp_path: Path) -> None:
    graph = network(output="other").SerializeToString()
    save_model(tmp_path / "m", header=header(detector="mine"), network=graph)
    (tmp_path / "m" / "notes.txt").write_text("line 4")
    assert load_model(tmp_path / "m").header["detector"] == "mine"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"thresholds": {"a": [1.0, float("nan")]}}, r"header\.thresholds\.a\[1\]: expected finite numbers.*got nan"),
        ({"settings": {1: 2}}, r"header\.settings: expected .*text keys, got dict"),
        ({"settings": {"x": object()}}, r"header\.settings\.x: .*got object"),
        ({"detector": 3}, r"detector: expected str, got int, in header"),
        ({"files": {}}, r"header: expected no reserved field, got files"),
        ({"provenance": {"seed": "0"}}, r"provenance\.seed: expected int, got str"),
        ({"provenance": None}, r"provenance: expected dict, got NoneType"),
    ],
)
def test_header_that_json_cannot_hold(tmp_path: Path, change: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError, match=text):
        save_model(tmp_path / "m", header=header(**change), network=network().SerializeToString(), tensors=bank())
    assert not (tmp_path / "m").exists()


def test_header_field_missing(tmp_path: Path) -> None:
    fields = header()
    del fields["input"]
    with pytest.raises(InputError, match=r"input: expected dict, got nothing, in header"):
        save_model(tmp_path / "m", header=fields, network=network().SerializeToString(), tensors=bank())


def test_what_could_not_be_loaded_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"bank\.safetensors: expected a file of the model, got nothing"):
        save_model(tmp_path / "m", header=header(), network=network().SerializeToString())
    with pytest.raises(InputError, match=r"tensors: expected file names such as 'bank\.safetensors', got '\.\./x'"):
        save_model(tmp_path / "m", header=header(), network=b"", tensors={"../x": {}})
    with pytest.raises(ModelFileError, match=r"network\.onnx: expected .*, in the model to save"):
        save_model(tmp_path / "m", header=header(), network=b"junk", tensors=bank())
    assert not (tmp_path / "m").exists()


# Kills, full disks, and things in the way


@pytest.mark.slow
@POSIX
def test_kill_at_every_step(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.kill_saves", str(tmp_path)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    outcomes = json.loads(done.stdout)
    allowed = {"absent": {"none", "2.0"}, "model": {"1.0", "2.0"}, "killed between the renames": {"1.0", "2.0"}}
    for outcome in outcomes:
        assert outcome["left"] in allowed[outcome["start"]], outcome
        assert outcome["next"] == "3.0", outcome
        assert outcome["litter"] == [], outcome
    for start, results in allowed.items():
        mine = [outcome for outcome in outcomes if outcome["start"] == start]
        assert len(mine) > 10
        assert [outcome["code"] for outcome in mine] == [9] * (len(mine) - 1) + [0]
        assert {outcome["left"] for outcome in mine} == results
    # The moment without a folder was hit, and the old model was read all the same.
    assert any(o["start"] == "model" and not o["target"] and o["left"] == "1.0" for o in outcomes)


@pytest.mark.parametrize(
    ("code", "text"),
    [(errno.ENOSPC, "The disk is full"), (errno.EROFS, "read-only"), (errno.EBUSY, "mount point")],
)
def test_error_at_every_step(folder: Path, monkeypatch: pytest.MonkeyPatch, code: int, text: str) -> None:
    """The n-th call that changes the disk fails: the old model stays, or the new one is there and nothing is said."""
    count, limit = 0, 0

    def tick() -> None:
        nonlocal count
        count += 1
        if count == limit:
            raise OSError(code, os.strerror(code))

    real = {"mkdir": Path.mkdir, "rename": Path.rename, "write": modelfile.write_synced}
    monkeypatch.setattr(Path, "mkdir", lambda *a, **k: (tick(), real["mkdir"](*a, **k))[1])
    monkeypatch.setattr(Path, "rename", lambda *a: (tick(), real["rename"](*a))[1])
    monkeypatch.setattr(modelfile, "write_synced", lambda *a: (tick(), real["write"](*a))[1])
    failures = 0
    for limit in range(1, 30):  # read by tick
        count = 0
        try:
            save_small(folder, 100.0 + limit)
        except SaveError as error:
            failures += 1
            assert text in str(error)  # noqa: PT017  # a save may also succeed here
            assert str(folder) in str(error)  # noqa: PT017
            count = 100
            assert first_value(folder) == 1.0
            assert folder.exists()
            assert siblings(folder) == []
        else:
            break
    assert failures == 7  # parent, folder, three files, two renames
    assert first_value(folder) == 100.0 + limit


def test_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "m").write_text("mine")
    with pytest.raises(SaveError, match=r"model: expected to be written.*A file of that name is in the way"):
        save_small(tmp_path / "m")
    with pytest.raises(SaveError, match=r"in the way|A part of its path is a file"):
        save_small(tmp_path / "m" / "deeper")
    assert (tmp_path / "m").read_text() == "mine"
    assert siblings(tmp_path / "m") == []


def test_other_folders_are_not_overwritten(tmp_path: Path, folder: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(5):
        (photos / f"{i}.png").write_bytes(b"x")
    with pytest.raises(SaveError, match=r"got other files: 0\.png, 1\.png, 2\.png and 2 more, in .*photos\. It would"):
        save_small(photos)
    (folder / "notes.txt").write_text("line 4")
    with pytest.raises(SaveError, match=r"got other files: notes\.txt"):
        save_small(folder, 2.0)
    assert (folder / "notes.txt").read_text() == "line 4"
    assert first_value(folder) == 1.0


def test_empty_folder_and_desktop_litter_are_replaced(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert first_value(save_small(tmp_path / "empty", 2.0)) == 2.0
    (folder / ".DS_Store").write_bytes(b"x")
    assert first_value(save_small(folder, 3.0)) == 3.0


def test_read_only_model_is_not_replaced(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    with pytest.raises(SaveError, match="You may not write there"):
        save_small(folder, 2.0)
    assert first_value(folder) == 1.0


def test_a_target_can_be_checked_without_leaving_a_trace(folder: Path, tmp_path: Path) -> None:
    check_target(folder)
    check_target(tmp_path / "new" / "deep" / "model")
    assert not (tmp_path / "new").exists()
    assert first_value(folder) == 1.0
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(
        SaveError, match=r"^model: expected a model folder to replace, got other files: thesis\.tex, in "
    ):
        check_target(tmp_path / "other")
    with pytest.raises(SaveError, match="thesis"):
        check_target(tmp_path / "other" / "thesis.tex" / "model")


def test_a_target_on_a_full_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "mkdir", full)
    with pytest.raises(SaveError, match="space"):
        check_target(tmp_path / "model")


@POSIX
def test_link_to_a_model_stays_a_link(folder: Path, tmp_path: Path) -> None:
    link = tmp_path / "current"
    link.symlink_to(folder)
    save_small(link, 2.0)
    assert link.is_symlink()
    assert first_value(folder) == 2.0
    assert first_value(link) == 2.0


def test_save_while_loading(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that meets a save half-way reads the new model, not an error about a changed byte."""
    real, done = modelfile._read, []

    def read(place: Path, name: str, limit: int) -> bytes:
        data = real(place, name, limit)
        if name == "model.json" and not done:
            done.append(True)
            save_small(folder, 2.0)
        return data

    monkeypatch.setattr(modelfile, "_read", read)
    assert first_value(folder) == 2.0
