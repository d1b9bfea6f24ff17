"""A PatchCore model folder that someone changed, and signed again: a clear error, or a model that works."""

from __future__ import annotations

import copy
import functools
import json
import random
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import safetensors.numpy
from onnx import TensorProto, helper

from blemish import ModelFileError, Patchcore
from blemish.backbones.embedding import Extractor
from blemish.detectors.patchcore import state as patchcore_file
from tests.images import good
from tests.models import network, replace_file, rewrite

Change = Callable[[dict[str, Any]], object]
BANK = "bank.safetensors"
FILES = (BANK, "model.json", "network.onnx")


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "model"))


def replace_tensors(folder: Path, **changes: np.ndarray | None) -> None:
    tensors = {**safetensors.numpy.load_file(folder / BANK), **changes}
    kept = {name: np.ascontiguousarray(array) for name, array in tensors.items() if array is not None}
    replace_file(folder, BANK, safetensors.numpy.save(kept))


def stored(folder: Path, name: str) -> np.ndarray:
    return safetensors.numpy.load_file(folder / BANK)[name]


def refused(folder: Path, text: str) -> None:
    with pytest.raises(ModelFileError, match=text) as caught:
        Patchcore.load(folder, threads=1)
    assert str(folder) in str(caught.value)


# Bytes and versions


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("place", [0.0, 0.5, 0.999])
def test_a_changed_byte_is_found(folder: Path, name: str, place: float):
    data = bytearray((folder / name).read_bytes())
    at = int(place * len(data))
    if name == "model.json":  # only some bytes of the header say anything: change one that does
        at = data.index(b'"patchcore"') + int(place * 10)
    data[at] ^= 0x40
    (folder / name).write_bytes(bytes(data))
    with pytest.raises(ModelFileError) as caught:
        Patchcore.load(folder)
    assert str(folder) in str(caught.value)
    assert name in str(caught.value) or "detector" in str(caught.value)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_or_shortened_file_is_named(folder: Path, name: str):
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: len(data) // 2])
    refused(folder, re.escape(name))
    (folder / name).unlink()
    refused(folder, re.escape(name))


def test_a_newer_format_says_what_to_do(folder: Path):
    rewrite(folder, lambda header: header.update(format_version=99))
    refused(folder, r"format_version: expected at most 3, got 99.*model\.json.*newer version: install blemish>=")


def test_another_detector(folder: Path):
    rewrite(folder, lambda header: header.update(detector="dinomaly"))
    refused(folder, r"detector: expected patchcore, got 'dinomaly', in .*model")


# Parts that do not fit each other


def test_a_bank_of_another_width(folder: Path):
    replace_tensors(folder, memory_bank=stored(folder, "memory_bank")[:, :-1])
    refused(folder, r"memory_bank: expected \(n, 152\) as the network gives, got \(172, 151\), in .*bank\.safetensors")


def test_another_network(folder: Path):
    replace_file(folder, "network.onnx", network().SerializeToString())
    refused(folder, r"memory_bank: expected \(n, 3\) as the network gives")


def test_an_empty_bank(folder: Path):
    empty = {"memory_bank": np.zeros((0, 152), np.float32), "source": np.zeros((0, 3), np.int32)}
    replace_tensors(folder, **empty)
    refused(folder, r"memory_bank: expected \(n, 152\)")


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_a_bank_of_numbers_that_cannot_be(folder: Path, value: float):
    bank = stored(folder, "memory_bank").copy()
    bank[3, 4] = value
    replace_tensors(folder, memory_bank=bank)
    refused(folder, "memory_bank: expected")


@pytest.mark.parametrize(
    ("column", "value"), [(0, 12), (1, 12), (2, 12), (0, -1), (1, -1), (2, -(2**31)), (0, 2**31 - 1)]
)
def test_sources_out_of_range(folder: Path, column: int, value: int):
    source = stored(folder, "source").copy()
    source[7, column] = value
    replace_tensors(folder, source=source)
    refused(folder, r"source: expected rows from .* below \(12, 12, 12\).*bank\.safetensors")


@pytest.mark.parametrize("change", [lambda s: s[:-1], lambda s: s[:, :2], lambda s: np.vstack([s, s])])
def test_sources_of_another_shape(folder: Path, change: Callable[[np.ndarray], np.ndarray]):
    replace_tensors(folder, source=change(stored(folder, "source")))
    refused(folder, r"source: expected \(172, 3\), got")


def level(usual: float = 1, spread: float = 1, calm: float = 1) -> np.ndarray:
    return np.stack([np.full((12, 12), one) for one in (usual, spread, calm)]).astype(np.float32)


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (
            np.ones((3, 11, 12), np.float32),
            r"level: expected float32 \(3, 12, 12\) as position_sigma is set, got float32 \(3, 11, 12\)",
        ),
        (np.ones((12, 12), np.float32), r"level: expected float32 \(3, 12, 12\) as .*, got float32 \(12, 12\)"),
        (np.ones((3, 12, 12)), r"level: expected float32 \(3, 12, 12\) as .*, got float64 \(3, 12, 12\)"),
        (level(spread=0), r"level: expected distances of 0 or more, .*, got 1\.0 to 1\.0, and 0\.0 to 0\.0"),
        (level(spread=np.nan), r"level: expected finite float32 \(3, 12, 12\), got"),
        (level(usual=np.nan), r"level: expected finite float32 \(3, 12, 12\), got"),
        (level(usual=-1), r"level: expected distances of 0 or more, .* got -1\.0 to -1\.0"),
        (level(calm=-1), r"level: expected distances of 0 or more"),
        (level(calm=np.nan), r"level: expected finite float32 \(3, 12, 12\), got"),
        (level(spread=-1), r"level: expected distances of 0 or more, .* -1\.0 to -1\.0"),
        (level(spread=1e-40), r"level: expected distances of 0 or more"),
        (level(usual=np.inf), r"level: expected finite float32 \(3, 12, 12\), got"),
        (level(spread=np.inf), r"level: expected finite float32 \(3, 12, 12\), got"),
        (None, r"level: expected float32 \(3, 12, 12\) as position_sigma is set, got nothing"),
    ],
)
def test_levels_that_cannot_be(folder: Path, wrong: np.ndarray | None, text: str):
    replace_tensors(folder, level=wrong)
    refused(folder, text + r".*bank\.safetensors")


def test_a_level_that_no_setting_asks_for(folder: Path):
    rewrite(folder, lambda header: header["settings"].update(position_sigma=None))
    refused(folder, r"level: expected nothing as position_sigma is not set, got float32 \(5, 12, 12\)")


def with_float16(saved: Path) -> onnx.ModelProto:
    model = onnx.load(saved / "network.onnx")
    next(node for node in model.graph.node if "features" in node.output).output[0] = "whole"
    model.graph.node.append(helper.make_node("Cast", ["whole"], ["features"], to=TensorProto.FLOAT16))
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    return model


def test_a_network_of_another_precision(folder: Path, saved: Path):
    replace_file(folder, "network.onnx", with_float16(saved).SerializeToString())
    refused(folder, r"features: expected finite float32 \(h, w, D\), got float16 \(12, 12, 152\), in .*network\.onnx")


def test_a_network_whose_features_are_no_map(folder: Path):
    graph = network()
    graph.graph.node.append(helper.make_node("Flatten", ["map"], ["features"]))
    graph.graph.node[2].output[0] = "map"
    graph.graph.output[0].CopyFrom(helper.make_tensor_value_info("features", TensorProto.FLOAT, ["B", "n"]))
    replace_file(folder, "network.onnx", graph.SerializeToString())
    refused(folder, "network|features")


def test_a_network_of_one_size_and_a_header_of_another(folder: Path, saved: Path):
    model = onnx.load(saved / "network.onnx")
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("image", TensorProto.UINT8, ["B", 96, 96, 3]))
    replace_file(folder, "network.onnx", model.SerializeToString())
    Patchcore.load(folder)
    rewrite(folder, lambda header: header["input"].update(resize_hw=[64, 64]))
    refused(folder, r"image: expected .* that the network takes, got uint8 \(1, 64, 64, 3\)")


def test_more_neighbours_than_the_bank_has(folder: Path):
    few = {name: stored(folder, name)[:5] for name in ("memory_bank", "source")}
    replace_tensors(folder, **few)
    Patchcore.load(folder)
    rewrite(folder, lambda header: header["settings"].update(num_neighbors=6))
    refused(folder, "memory_bank: expected at least 6 rows, as num_neighbors says, got 5")


# Values that cannot be


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda h: h["settings"].pop("seed"), "settings: expected .*seed.*, got"),
        (lambda h: h["settings"].update(extra=1), "settings: expected .*, got .*extra"),
        (lambda h: h["settings"].update(num_neighbors=10**30), "num_neighbors: expected a whole number from 1 to 100"),
        (lambda h: h["settings"].update(image_size=[4096, 10**9]), "image_size: expected a number from 32 to 4096"),
        (lambda h: h["settings"].update(layers="blocks.4"), "layers: expected names, got 'blocks.4'"),
        (lambda h: h["settings"].update(layers=[1]), "layers: expected names"),
        (lambda h: h["settings"].update(backbone=3), "backbone: expected a name or an ONNX file, got 3"),
        (lambda h: h["settings"].update(false_positive_rate=0.5), "false_positive_rate: expected 0.1 as .*, got 0.5"),
        (lambda h: h["input"].update(resize_hw=[10**6, 10**6]), "image_size: expected a number from 32 to 4096"),
        (lambda h: h["input"].update(resize_hw=96), "must be an iterable, not int"),
        (
            lambda h: h["input"].update(crop_hw=[152, 152]),
            r"center_crop: expected at most \(96, 96\), got \(152, 152\)",
        ),
        (lambda h: h["input"].pop("crop_hw"), "crop_hw"),
        (lambda h: h["thresholds"].update(image_scores=[]), r"scores: expected float64 \(n,\), got float64 \(0,\)"),
        (lambda h: h["thresholds"].update(pixel_scores=["a"]), r"scores: expected numbers"),
        (
            lambda h: h["thresholds"].update(false_positive_rate=0),
            "false_positive_rate: expected a number between 0 and 1",
        ),
        (lambda h: h["thresholds"].update(image=3.5), r"thresholds\.image: expected \d+\.\d+, .*, got 3\.5"),
        (lambda h: h["thresholds"].update(pixel=None), r"thresholds\.pixel: expected \d+\.\d+, .*, got None"),
        (lambda h: h.pop("training"), "KeyError: 'training'"),
        (lambda h: h.update(training={"path": "a"}), "training: expected a list of images, got dict"),
        (lambda h: h["training"][3].update(height_width=[0, 96]), "height_width: expected a whole number from 1 to"),
        (lambda h: h["training"][3].update(height_width=[10**400, 96]), "height_width|JSON"),
        (lambda h: h["training"][3].update(height_width=[96.5, 96]), "height_width: expected a whole number"),
        (lambda h: h["training"][3].update(height_width=[96]), "not enough values to unpack"),
        (lambda h: h["training"][3].update(path=5), "path: expected text, got 5"),
    ],
)
def test_headers_that_cannot_be(folder: Path, change: Change, text: str):
    rewrite(folder, change)
    refused(folder, text)


# Fuzz: whatever one value becomes, loading is refused in words, or what was loaded works


NONSENSE: list[Any] = [None, True, -1, 0, 0.5, 3, 33, 1e-320, 1e300, -1e300, 2**31, 10**30, "", "x", "\x00"]
NONSENSE += [[], [[]], [3, 4, 5], [64, 64], {}, {"a": 1}]
Place = tuple[str | int, ...]


def places(value: Any, at: Place = ()) -> Iterator[Place]:
    """Every place in a JSON value; of a list only its first two entries."""
    if at:
        yield at
    entries = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    for key, inner in entries:
        yield from places(inner, (*at, key))


def changed(header: dict[str, Any], at: Place, value: Any) -> dict[str, Any]:
    result = copy.deepcopy(header)
    inner: Any = result
    for key in at[:-1]:
        inner = inner[key]
    inner[at[-1]] = value
    return result


def removed(header: dict[str, Any], at: Place) -> dict[str, Any]:
    result = changed(header, at, None)
    inner: Any = result
    for key in at[:-1]:
        inner = inner[key]
    del inner[at[-1]]
    return result


@pytest.fixture
def one_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of loads of one network share its session: it is the header that changes."""
    monkeypatch.setattr(patchcore_file, "Extractor", functools.cache(Extractor))
    monkeypatch.setattr("blemish.modelfolder.folder.check_network", lambda data, **_: data)


@pytest.mark.slow
@pytest.mark.usefixtures("one_session")
def test_fuzzed_headers(folder: Path):
    header = json.loads((folder / "model.json").read_text())
    image = good(99, 40, 50)
    mutants = [(at, "removed", removed(header, at)) for at in places(header)]
    every = [(at, value) for at in places(header) for value in NONSENSE]
    mutants += [(at, value, changed(header, at, value)) for at, value in random.Random(0).sample(every, 600)]
    n_refused = 0
    for at, value, mutant in mutants:
        (folder / "model.json").write_text(json.dumps(mutant))
        what = f"{at} = {value!r}"
        error = works_or_is_refused(folder, image, what)
        assert error is None or str(folder) in error, what
        n_refused += error is not None
    assert n_refused > 300


def works_or_is_refused(folder: Path, image: np.ndarray, what: str) -> str | None:
    """Return the text of the ModelFileError, or None if the model was loaded and predicts."""
    try:
        model = Patchcore.load(folder, threads=1)
    except ModelFileError as error:
        return str(error)
    except Exception as error:  # any other is what this test looks for
        pytest.fail(f"{what}: {type(error).__name__}: {error}")
    try:
        found = model.predict(image)
    except Exception as error:
        pytest.fail(f"{what} was loaded, then: {type(error).__name__}: {error}")
    assert np.isfinite(found.score), what
    assert found.nearest_good is not None
    assert min(found.nearest_good.box[2:]) >= 1, what
    return None
