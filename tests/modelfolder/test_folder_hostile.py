"""Model folders that are damaged, or that someone made to do harm: a clear error and nothing else."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from blemish.errors import ModelFileError
from blemish.modelfolder import folder as modelfile
from blemish.modelfolder.folder import load_model, save_model
from blemish.modelfolder.upgrade import FORMAT_VERSION
from tests import bombs
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


@pytest.mark.slow
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


def test_a_bomb_in_a_folder_is_refused(folder: Path) -> None:
    bomb = bombs.network([bombs.node("ConstantOfShape", ["n"])], {"n": np.array([40_000, 50_000])})
    replace_file(folder, "network.onnx", bomb.SerializeToString())
    with pytest.raises(ModelFileError, match=r"network\.onnx: expected tensors of at most \d+ elements.*in .*model"):
        load_model(folder)


@pytest.mark.parametrize("size", [[4096, 4096], [4096, 64]])
def test_the_work_is_that_of_the_size_in_the_header(folder: Path, size: list[int]) -> None:
    """A network that takes any size is checked at the size that the detector gives it."""
    model = network()
    spread = [
        onnx.helper.make_node("Concat", ["cast"] * 40, ["wide"], axis=0),
        onnx.helper.make_node("ReduceMean", ["wide"], ["mean"], axes=[0], keepdims=1),
        onnx.helper.make_node("Transpose", ["mean"], ["nchw"], perm=[0, 3, 1, 2]),
    ]
    nodes = [model.graph.node[0], *spread, model.graph.node[2]]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    replace_file(folder, "network.onnx", model.SerializeToString())
    load_model(folder)
    for key in ("resize_hw", "crop_hw"):
        rewrite(folder, lambda c, key=key: c.update(input={"resize_hw": [64, 64], key: size}))
        if size[1] == 64:
            load_model(folder)
        else:
            with pytest.raises(ModelFileError, match="expected tensors of at most"):
                load_model(folder)
    rewrite(folder, lambda c: c.update(input={"resize_hw": [64, 64], "resize_in_graph": True}))
    with pytest.raises(ModelFileError, match="expected tensors of at most"):
        load_model(folder)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none_are_refused(folder: Path, value: float) -> None:
    rows = np.ones((2, 3), np.float32)
    rows[1, 2] = value
    arrays = {"memory_bank": rows, "source": np.zeros((2, 3), np.int32)}
    replace_file(folder, "bank.safetensors", safetensors.numpy.save(arrays))
    with pytest.raises(ModelFileError, match=r"memory_bank: expected finite float32 \(2, 3\), got .*bank\.safetensors"):
        load_model(folder)
    with pytest.raises(ModelFileError, match="memory_bank: expected finite"):
        save_model(folder, header=header(), network=network().SerializeToString(), tensors={"bank.safetensors": arrays})


def test_a_flipped_setting_is_told(folder: Path) -> None:
    path = folder / "model.json"
    path.write_text(path.read_text().replace('"coreset_sampling_ratio": 0.1', '"coreset_sampling_ratio": 0.2'))
    text = r"digest: expected that of model\.json, got other fields than were written, in .*model\.json.*copy the whole"
    with pytest.raises(ModelFileError, match=text):
        load_model(folder)
    rewrite(folder, lambda c: c.pop("digest"))  # as folders of 0.1, which have none
    assert load_model(folder).header["settings"]["coreset_sampling_ratio"] == 0.2


def test_a_digest_that_is_none_is_refused(folder: Path) -> None:
    path = folder / "model.json"
    for value in (None, 3, "0" * 64, []):
        path.write_text(json.dumps({**json.loads(path.read_text()), "digest": value}))
        with pytest.raises(ModelFileError, match="digest: expected that of"):
            load_model(folder)


@POSIX
@pytest.mark.slow
def test_small_files_are_read_by_their_size(folder: Path) -> None:
    """A folder of kilobytes is loaded where an allocation of a gigabyte fails."""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30)); "
    code = f"from blemish.modelfolder.folder import load_model; {limit}load_model({str(folder)!r})"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, env={**os.environ, "OMP_NUM_THREADS": "1"})


@pytest.mark.slow
@pytest.mark.parametrize("piece", ["[],", '{"":0},', "0,", '[[{"":0}]],'])
def test_json_of_millions_of_values_is_not_parsed(folder: Path, piece: str) -> None:
    (folder / "model.json").write_text('{"a": [' + piece * 3_000_001 + "0]}")
    with pytest.raises(ModelFileError, match=r"model\.json: expected a JSON object, got one of \d+ values, more than"):
        load_model(folder)


def test_a_folder_that_does_not_fit_into_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(modelfile, "read_tensors", fail)
    with pytest.raises(ModelFileError, match="model: expected one that fits into memory, got more"):
        load_model(folder)
