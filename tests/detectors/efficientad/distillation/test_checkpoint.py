"""Checkpoints: they come back whole, or say what is wrong with them."""

from __future__ import annotations

import numpy as np
import pytest
import safetensors.numpy

from blemish.detectors.efficientad.distillation.checkpoint import load_checkpoint, save_checkpoint
from blemish.errors import ModelFileError


def test_a_checkpoint_comes_back(tmp_path):
    tensors = {"a": np.arange(6.0).reshape(2, 3).T, "n": np.array(7), "half": np.ones(2, np.float16)}
    path = tmp_path / "new" / "c.safetensors"
    assert load_checkpoint(path) is None
    save_checkpoint(path, tensors, {"step": 3, "losses": [[1, 0.5, 0.25]]})
    found = load_checkpoint(path)
    assert found is not None
    assert found[1] == {"step": 3, "losses": [[1, 0.5, 0.25]]}
    for name, array in tensors.items():
        np.testing.assert_array_equal(found[0][name], array)


def test_every_cut_is_told(tmp_path):
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, {"a": np.arange(20)}, {"step": 3})
    data = path.read_bytes()
    for size in range(0, len(data), 7):
        path.write_bytes(data[:size])
        with pytest.raises(ModelFileError, match=r"in .*c\.safetensors\..* Delete .*c\.safetensors to begin anew\."):
            load_checkpoint(path)


@pytest.mark.parametrize("facts", [None, "{", "[1]", "3"])
def test_another_safetensors_file_is_told(tmp_path, facts):
    path = tmp_path / "c.safetensors"
    metadata = None if facts is None else {"blemish": facts}
    path.write_bytes(safetensors.numpy.save({"a": np.ones(2)}, metadata=metadata))
    with pytest.raises(ModelFileError, match=r"checkpoint: expected one of blemish, got .*to begin anew"):
        load_checkpoint(path)
