"""OpenVINO's format: it gives the predictions of the model folder; without the package the error says what to do."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import blemish
from blemish import InputError, ModelFileError
from tests.images import good, scratched


def test_without_the_package(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    message = r"openvino: expected an installed package, got none. Run `pip install 'blemish\[openvino\]'`."
    with pytest.raises(InputError, match=message):
        blemish.export(saved, tmp_path / "m.xml", to="openvino")
    with pytest.raises(InputError, match=message):
        blemish.verify(tmp_path / "m.xml", [good(1)])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_it_predicts_what_the_folder_does(saved: Path, tmp_path: Path):
    if find_spec("openvino") is None:
        pytest.skip("openvino is not installed")
    out = tmp_path / "m.xml"
    assert blemish.export(saved, out, to="openvino", threads=1).ok
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.bin", "m.xml"]
    result = blemish.verify(out, [good(30), scratched(31, 70, 130)[0]], threads=1)
    assert result.ok
    assert result.n_images == 2
    with pytest.raises(InputError, match="device: expected one that OpenVINO finds here: cpu"):
        blemish.verify(out, [good(30)], device="tpu")
    out.write_text("<net></net>")
    with pytest.raises(ModelFileError, match="exported model: expected a graph that OpenVINO runs"):
        blemish.verify(out, [good(30)])
