"""Model folders that are damaged, or that someone made to do harm: a clear error and nothing else."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from blemish.errors import ModelFileError
from blemish.modelfolder import folder as modelfile
from blemish.modelfolder.folder import load_model, save_model
from blemish.modelfolder.upgrade import FORMAT_VERSION
from tests.models import header, network, replace_file, rewrite, save_small

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="POSIX links, pipes and fork")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_small(tmp_path / "home" / "model")


def first_value(folder: Path) -> float:
    return float(load_model(folder).tensors["bank.safetensors"]["memory_bank"][0, 0])


def siblings(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.parent.iterdir() if p != folder)


def test_nothing_or_a_file_there(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    for name, text in (
        ("absent", r"model: expected a model folder, got nothing there, in .*absent\. Check the path, or fit first\."),
        ("file", "got a file"),
        ("empty", r"model\.json: expected a file of the model, got nothing"),
    ):
        with pytest.raises(ModelFileError, match=text):
            load_model(tmp_path / name)


@pytest.mark.parametrize("name", ["network.onnx", "bank.safetensors"])
@pytest.mark.parametrize("damage", ["byte", "cut", "longer", "gone"])
def test_damaged_file_is_named(folder: Path, name: str, damage: str) -> None:
    path = folder / name
    data = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    else:
        data[len(data) // 2] ^= damage == "byte"
        path.write_bytes(data[:-1] if damage == "cut" else data + b"x" * (damage == "longer"))
    text = "got nothing" if damage == "gone" else r"SHA-256 [0-9a-f]{16}\.\.\., got [0-9a-f]{16}\.\.\."
    with pytest.raises(ModelFileError, match=rf"^{name}: expected .*{text}, in .*model\. The file was changed or dam"):
        load_model(folder)


def test_newer_version(folder: Path) -> None:
    rewrite(folder, lambda c: c.update(format_version=FORMAT_VERSION + 1, provenance={"library_version": "9.1.0"}))
    with pytest.raises(ModelFileError, match=r"format_version: .*newer version: install blemish>=9\.1\.0 to read it\."):
        load_model(folder)
    rewrite(folder, lambda c: c.update(provenance={"library_version": "9 && rm -rf /"}))
    with pytest.raises(ModelFileError, match=r"newer version: install blemish to read it\."):
        load_model(folder)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "expected a JSON object"),
        ("[1]", "expected a JSON object, got list"),
        ('{"a": NaN}', "NaN is no JSON number"),
        ('{"a": -Infinity}', "-Infinity is no JSON number"),
        ('{"a": 1e999}', "1e999 is no JSON number"),
        ('{"a": 1, "a": 2}', "a key comes twice"),
        ("[" * 200_000, "nesting without end"),
        ('{"a": ' + "1" * 5000 + "}", "expected a JSON object"),
        ("\ud800", "codec can't decode"),
        ("{}", r"format_version: expected 1 or more, got None"),
        ('{"format_version": true}', "format_version: expected 1 or more, got True"),
        ('{"format_version": 1}', r"detector: expected str, got nothing, in .*model\.json"),
    ],
)
def test_header_that_is_none(folder: Path, text: str, error: str) -> None:
    (folder / "model.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(ModelFileError, match=error):
        load_model(folder)


def test_header_without_end(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modelfile, "MAX_HEADER_BYTES", 100)
    with pytest.raises(ModelFileError, match=r"model\.json: expected at most 100 bytes, got \d+"):
        load_model(folder)


def test_sparse_giant_is_not_read(folder: Path) -> None:
    with (folder / "bank.safetensors").open("wb") as file:
        file.truncate(5 << 30)
    with pytest.raises(ModelFileError, match=r"bank\.safetensors: expected at most 4294967296 bytes, got 5368709120"):
        load_model(folder)


@pytest.mark.parametrize(
    "name",
    ["../bank.safetensors", "/etc/passwd", "a/b.safetensors", "..", "a\\b.safetensors", "x.pkl", ".h.safetensors", ""],
)
def test_paths_that_leave_the_folder(folder: Path, name: str) -> None:
    rewrite(folder, lambda c: c["files"].update({name: "0" * 64}))
    with pytest.raises(ModelFileError, match=r"files: expected network\.onnx or plain names ending in \.safetensors"):
        load_model(folder)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda c: c.update(files=[]), "files: expected dict, got list"),
        (lambda c: c["files"].update({"bank.safetensors": 3}), r"files\.bank\.safetensors: expected a SHA-256 in hex"),
        (lambda c: c["files"].update({f"{i}.safetensors": "0" * 64 for i in range(20)}), "files: expected at most 16"),
        (lambda c: c["files"].pop("bank.safetensors"), r"bank\.safetensors: expected a file of the model, got nothing"),
        (lambda c: c["files"].pop("network.onnx"), r"network\.onnx: expected a file of the model, got nothing"),
        (lambda c: c.update(settings=None), "settings: expected dict, got NoneType"),
        (
            lambda c: c["provenance"].update(n_training_files=True),
            r"provenance\.n_training_files: expected int, got bo",
        ),
    ],
)
def test_header_of_wrong_types(folder: Path, change: Callable[[dict[str, Any]], None], text: str) -> None:
    rewrite(folder, change)
    with pytest.raises(ModelFileError, match=text):
        load_model(folder)


@POSIX
def test_links_and_pipes(folder: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.safetensors"
    path = folder / "bank.safetensors"
    secret.write_bytes(path.read_bytes())
    path.unlink()
    path.symlink_to(secret)
    with pytest.raises(ModelFileError, match=r"got a link that leaves it, in .*Copy the file that it points to"):
        load_model(folder)
    path.unlink()
    (folder / "real").write_bytes(secret.read_bytes())
    path.symlink_to("real")
    assert first_value(folder) == 1.0
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ModelFileError, match="expected an ordinary file"):
        load_model(folder)


def test_unreadable_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "open", fail)
    with pytest.raises(ModelFileError, match=r"model\.json: expected a readable file, got 'Permission denied'"):
        load_model(folder)


def test_any_byte_of_the_header_may_change(folder: Path) -> None:
    """Whatever is done to model.json, loading gives a model or a ModelFileError."""
    path = folder / "model.json"
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(300):
        changed = bytearray(data)
        for at in rng.integers(0, len(data), size=rng.integers(1, 4)):
            changed[at] = rng.integers(0, 256)
        path.write_bytes(changed)
        with contextlib.suppress(ModelFileError):
            load_model(folder)
    path.write_bytes(data)
    assert first_value(folder) == 1.0


@pytest.mark.slow
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=8,
    )
)
def test_any_json_comes_back(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    path = tmp_path_factory.mktemp("any") / "m"
    graph = network(output="other").SerializeToString()
    save_model(path, header=header(detector="mine", settings={"x": value}), network=graph)
    assert load_model(path).header["settings"] == {"x": value}


def test_parts_are_checked_on_loading(folder: Path) -> None:
    hostile = network()
    hostile.graph.initializer[0].data_location = TensorProto.EXTERNAL
    replace_file(folder, "network.onnx", hostile.SerializeToString())
    with pytest.raises(ModelFileError, match=r"network\.onnx: expected all weights inside it.*in .*model"):
        load_model(folder)
    replace_file(folder, "network.onnx", network().SerializeToString())
    replace_file(folder, "bank.safetensors", b"\xff" * 16)
    with pytest.raises(ModelFileError, match=r"bank\.safetensors: expected a safetensors file, got a header of \d+ by"):
        load_model(folder)


def test_the_onnx_file_is_one(folder: Path) -> None:
    assert onnx.load(folder / "network.onnx") == network()
