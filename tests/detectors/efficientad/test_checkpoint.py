"""Checkpoints: read as written, for the same training alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from blemish.detectors.efficientad.checkpoint import load_checkpoint, save_checkpoint
from blemish.errors import InputError, ModelFileError, SaveError

IDENTITY = {"settings": {"lr": 0.001, "image_size": (64, 64)}, "teacher": "abc"}


def write(path: Path) -> Path:
    save_checkpoint(path, {"weight.0": np.arange(6, dtype=np.float32).reshape(2, 3)}, {"n_steps": 7}, IDENTITY)
    return path


def test_load_returns_the_saved_values(tmp_path: Path):
    found = load_checkpoint(write(tmp_path / "c"), IDENTITY)
    assert found is not None
    assert found.state["n_steps"] == 7
    np.testing.assert_array_equal(found.tensors["weight.0"], [[0, 1, 2], [3, 4, 5]])
    assert list(found.tensors) == ["weight.0"]


def test_none_is_none(tmp_path: Path):
    assert load_checkpoint(tmp_path / "absent", IDENTITY) is None


def test_another_training_is_refused(tmp_path: Path):
    path = write(tmp_path / "c")
    text = r"made with teacher 'abd', got 'abc', in .*c\. Give the settings of before, or delete it to begin anew"
    with pytest.raises(InputError, match=text):
        load_checkpoint(path, {**IDENTITY, "teacher": "abd"})


def test_the_first_setting_that_differs_is_named(tmp_path: Path):
    many = {**IDENTITY, "settings": {"lr": 0.1, "solver": {"steps": 3, "name": "adam"}}}
    save_checkpoint(tmp_path / "c", {}, {}, many)
    wanted = {**IDENTITY, "settings": {"lr": 0.1, "solver": {"steps": 4, "name": "adam"}}}
    with pytest.raises(InputError, match=r"checkpoint: expected one made with steps 4, got 3, in .*c\."):
        load_checkpoint(tmp_path / "c", wanted)
    with pytest.raises(InputError, match=r"expected one made with seed 1, got None, in "):
        load_checkpoint(tmp_path / "c", {**IDENTITY, "settings": {**many["settings"], "seed": 1}})
    assert load_checkpoint(tmp_path / "c", many) is not None


def test_every_cut_is_refused(tmp_path: Path):
    path = write(tmp_path / "c")
    data = path.read_bytes()
    for size in [*range(0, len(data), 7), len(data) - 1]:
        path.write_bytes(data[:size])
        with pytest.raises(
            ModelFileError, match=r"checkpoint: expected one of blemish, got .*delete it to begin anew\."
        ):
            load_checkpoint(path, IDENTITY)


@pytest.mark.parametrize("metadata", [None, {"blemish": '{"identity": {}, "progress": {}}'}])
def test_checkpoints_of_a_distillation_by_0_1_0_and_strangers_are_refused(tmp_path: Path, metadata):
    (tmp_path / "c").write_bytes(safetensors.numpy.save({"network.conv1.weight": np.ones(2)}, metadata=metadata))
    with pytest.raises(ModelFileError, match=r"checkpoint: expected one of blemish, got .*another program or version"):
        load_checkpoint(tmp_path / "c", IDENTITY)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (
            b'{"n_steps": 7, "of": {"teacher": "abc"}}',
            r"format 2, got 1, in .*c\. Delete it .*the version that wrote it",
        ),
        (b'{"format": 3, "identity": {}, "state": {}}', r"format 2, got 3"),
        (b'{"format": 2, "identity": {}}', r"one of blemish, got KeyError: 'state'"),
        (b'{"format": 2, "identity": [1], "state": {}}', r"one of blemish, got TypeError"),
        (b"[2]", r"one of blemish, got AttributeError"),
        (b"{", r"one of blemish, got JSONDecodeError"),
    ],
)
def test_other_values_are_refused(tmp_path: Path, text: bytes, error: str):
    (tmp_path / "c").write_bytes(safetensors.numpy.save({"state.json": np.frombuffer(text, np.uint8)}))
    with pytest.raises(ModelFileError, match="checkpoint: expected " + error):
        load_checkpoint(tmp_path / "c", IDENTITY)


def test_a_path_that_cannot_be_written(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SaveError, match="checkpoint: expected to be written"):
        write(tmp_path / "file" / "c")
