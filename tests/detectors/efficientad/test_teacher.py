"""Teachers: saved, shipped, loaded, and refused with a reason."""

from __future__ import annotations

import numpy as np
import pytest

from blemish.detectors.efficientad import pdn, teacher
from blemish.detectors.efficientad.teacher import load_teacher, save_teacher
from blemish.errors import InputError, ModelFileError, SaveError

FULL_WIDTH = True


@pytest.fixture
def state():
    rng = np.random.default_rng(0)
    return {name: 0.1 * rng.normal(size=shape).astype(np.float32) for name, shape in pdn.pdn_shapes().items()}


def test_weights_are_saved_in_half_precision(state, tmp_path):
    path = save_teacher(tmp_path / "made" / "t.safetensors", state, {"network": "PDN-S", "steps": 3})
    found = load_teacher("small", path)
    assert (found.size, found.file, found.card["steps"]) == ("small", path, 3)
    assert found.weights_sha256 == found.card["weights_sha256"]
    assert path.stat().st_size < 8e6
    for name, array in state.items():
        assert found.state[name].dtype == np.float32
        np.testing.assert_array_equal(found.state[name], array.astype(np.float16), err_msg=name)


def test_the_number_of_outputs_is_the_files(state, tmp_path):
    narrow = {**state, "conv4.weight": state["conv4.weight"][:20], "conv4.bias": state["conv4.bias"][:20]}
    assert load_teacher("small", save_teacher(tmp_path / "t.safetensors", narrow, {})).n_outputs == 20
    assert load_teacher().n_outputs == 384


def test_a_changed_byte_is_refused(state, tmp_path):
    path = save_teacher(tmp_path / "t.safetensors", state, {})
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(
        ModelFileError, match=r"teacher: expected SHA-256 .*in .*t\.safetensors\. Copy both files again"
    ):
        load_teacher("small", path)


@pytest.mark.parametrize("text", ["{", "[1]", '{"name": "someone else\'s"}', "[" * 100_000])
def test_a_strangers_json_beside_a_file_is_no_card(state, tmp_path, text):
    path = save_teacher(tmp_path / "t.safetensors", state, {})
    path.with_suffix(".json").write_text(text)
    assert load_teacher("small", path).card == {}


def test_a_file_of_the_other_size_is_refused(state, tmp_path):
    path = save_teacher(tmp_path / "t.safetensors", state, {})
    with pytest.raises(ModelFileError, match=r"PDN medium teacher: expected tensors conv1\.weight.*no conv5\.weight"):
        load_teacher("medium", path)


def test_a_size_that_is_not_shipped_says_how_to_make_one(monkeypatch, tmp_path):
    monkeypatch.setattr(teacher, "SHIPPED", tmp_path)
    with pytest.raises(
        ModelFileError, match=r"teacher: expected a medium one with the package, got none\. Make one with"
    ):
        load_teacher("medium")
    with pytest.raises(InputError, match="size: expected small or medium, got 'big'"):
        load_teacher("big")
    with pytest.raises(ModelFileError, match=r"expected a readable file, got 'No such file or directory'"):
        load_teacher("small", tmp_path / "none.pth")


def test_weights_that_do_not_fit_into_half_precision_are_refused(state, tmp_path):
    state["conv1.bias"][3] = 1e5
    with pytest.raises(ModelFileError, match=r"conv1\.bias: expected weights below 65,504, got larger ones"):
        save_teacher(tmp_path / "t.safetensors", state, {})
    assert not list(tmp_path.iterdir())


def test_a_path_that_cannot_be_written_is_refused(state, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SaveError, match="teacher"):
        save_teacher(tmp_path / "file" / "t.safetensors", state, {})


def test_the_shipped_teacher_is_whole_and_has_its_card():
    found = load_teacher()
    assert found.file.stat().st_size < 8e6
    assert (found.card["network"], found.card["licence"]) == ("PDN-S", "Apache-2.0")
    assert found.card["weights_sha256"] == found.weights_sha256
    assert np.abs(found.state["conv4.weight"]).max() < 100
