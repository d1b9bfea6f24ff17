"""A checkpoint is read as it was written, for the same training, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from blemish.detectors.efficientad.checkpoint import load_checkpoint, save_checkpoint
from blemish.errors import InputError, ModelFileError, SaveError

OF = {"settings": {"lr": 0.001, "image_size": (64, 64)}, "teacher": "abc"}


def write(path: Path) -> Path:
    save_checkpoint(path, {"weight.0": np.arange(6, dtype=np.float32).reshape(2, 3)}, {"of": OF, "n_steps": 7})
    return path


def test_what_was_saved_is_read(tmp_path: Path):
    found = load_checkpoint(write(tmp_path / "c"), OF)
    assert found is not None
    assert found.state["n_steps"] == 7
    np.testing.assert_array_equal(found.tensors["weight.0"], [[0, 1, 2], [3, 4, 5]])
    assert list(found.tensors) == ["weight.0"]


def test_none_is_none(tmp_path: Path):
    assert load_checkpoint(tmp_path / "absent", OF) is None


def test_another_training_is_refused(tmp_path: Path):
    path = write(tmp_path / "c")
    text = r"checkpoint: expected one made with teacher 'abd', got 'abc', in .*c\. Delete it to begin anew"
    with pytest.raises(InputError, match=text):
        load_checkpoint(path, {**OF, "teacher": "abd"})


def test_of_many_settings_the_one_that_differs_is_named(tmp_path: Path):
    many = {**OF, "settings": {"lr": 0.1, "solver": {"steps": 3, "name": "adam"}}}
    save_checkpoint(tmp_path / "c", {}, {"of": many})
    wanted = {**OF, "settings": {"lr": 0.1, "solver": {"steps": 4, "name": "adam"}}}
    with pytest.raises(InputError, match=r"checkpoint: expected one made with steps 4, got 3, in .*c\."):
        load_checkpoint(tmp_path / "c", wanted)
    with pytest.raises(InputError, match=r"expected one made with seed 1, got None, in "):
        load_checkpoint(tmp_path / "c", {**OF, "settings": {**many["settings"], "seed": 1}})
    assert load_checkpoint(tmp_path / "c", many) is not None


@pytest.mark.parametrize("cut", [0, 7, 40, -1])
def test_a_damaged_one_is_refused(tmp_path: Path, cut: int):
    path = write(tmp_path / "c")
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ModelFileError, match="checkpoint: expected"):
        load_checkpoint(path, OF)


def test_other_safetensors_are_refused(tmp_path: Path):
    save_checkpoint(tmp_path / "c", {}, {"n_steps": 1})
    with pytest.raises(ModelFileError, match="checkpoint: expected one of blemish, got KeyError"):
        load_checkpoint(tmp_path / "c", OF)


def test_a_place_that_cannot_be(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SaveError, match="checkpoint: expected to be written"):
        write(tmp_path / "file" / "c")
