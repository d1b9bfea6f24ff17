"""Parameters beside the graph: portable by path, read by name, and refused wherever else a graph points."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import safetensors.numpy
from onnx import TensorProto, helper, numpy_helper

from blemish import runtime
from blemish.errors import InputError, ModelFileError
from blemish.modelfolder.folder import load_model, save_model
from blemish.modelfolder.weights import WEIGHTS, complete, externalise
from tests.models import header, replace_file, rewrite

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), np.uint8)


def network() -> onnx.ModelProto:
    """Two maps: a 1 x 1 convolution of the image, and the same times a number that is no parameter."""
    rng = np.random.default_rng(1)
    arrays = {
        "student.conv1.weight": rng.normal(size=(2, 3, 1, 1)).astype(np.float32),
        "student.conv1.bias": rng.normal(size=2).astype(np.float32),
        "two": np.array(2, np.float32),
    }
    nodes = [
        helper.make_node("Transpose", ["image"], ["turned"], perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["turned"], ["planes"], to=TensorProto.FLOAT),
        helper.make_node("Conv", ["planes", "student.conv1.weight", "student.conv1.bias"], ["student_map"]),
        helper.make_node("Mul", ["student_map", "two"], ["autoencoder_map"]),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["B", "H", "W", 3])
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", 2, "H", "W"])
        for name in ("student_map", "autoencoder_map")
    ]
    tensors = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "network", [image], outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    fields = header(detector="efficientad")
    return save_model(tmp_path / "model", header=fields, network=network().SerializeToString())


@pytest.mark.slow
def test_the_graph_comes_back_bit_for_bit(folder: Path) -> None:
    model = load_model(folder)
    assert model.network == network().SerializeToString()
    assert set(model.tensors) == {WEIGHTS}
    again = save_model(folder.parent / "again", header=header(detector="efficientad"), network=model.network)
    for path in folder.iterdir():
        assert path.read_bytes() == (again / path.name).read_bytes()


def test_parameters_are_stored_once_and_found_by_name(folder: Path) -> None:
    expected = {tensor.name: numpy_helper.to_array(tensor) for tensor in network().graph.initializer[:2]}
    found = safetensors.numpy.load_file(folder / WEIGHTS)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)
        assert array.tobytes() not in (folder / "network.onnx").read_bytes()


def test_any_runtime_opens_the_network_by_its_path(folder: Path) -> None:
    expected = runtime.load(network(), threads=1).run(IMAGES)
    theirs = onnxruntime.InferenceSession(folder / "network.onnx").run(None, {"image": IMAGES})
    loaded = runtime.load(onnx.load(folder / "network.onnx"), threads=1).run(IMAGES)
    onnx.checker.check_model(folder / "network.onnx")
    for array, (name, value) in zip(theirs, expected.items(), strict=True):
        np.testing.assert_array_equal(array, value)
        np.testing.assert_array_equal(loaded[name], value)


def test_other_detectors_keep_their_network_whole(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "m", header=header(detector="mine"), network=network().SerializeToString())
    assert (folder / "network.onnx").read_bytes() == network().SerializeToString()
    assert load_model(folder).tensors == {}


def test_no_detector_takes_the_name_of_the_weights(tmp_path: Path) -> None:
    fields, tensors = header(detector="efficientad"), {WEIGHTS: {"x": np.zeros(1, np.float32)}}
    with pytest.raises(
        InputError, match=r"tensors: expected no weights\.safetensors, which holds the network's weights"
    ):
        save_model(tmp_path / "m", header=fields, network=network().SerializeToString(), tensors=tensors)


def state(tensor: onnx.TensorProto, key: str, value: str) -> None:
    """Let external data say something else."""
    for entry in tensor.external_data:
        if entry.key == key:
            entry.value = value
            return
    tensor.external_data.add(key=key, value=value)


def twice(tensor: onnx.TensorProto, graph: onnx.GraphProto) -> None:
    graph.initializer.add().CopyFrom(tensor)


HOSTILE: dict[str, Callable[[onnx.TensorProto, onnx.GraphProto], object]] = {
    "another folder": lambda t, g: state(t, "location", "../weights.safetensors"),
    "the whole disk": lambda t, g: state(t, "location", "/etc/passwd"),
    "another file": lambda t, g: state(t, "location", "network.onnx"),
    "the header": lambda t, g: state(t, "offset", "0"),
    "one byte further": lambda t, g: state(t, "offset", str(int(t.external_data[1].value) + 1)),
    "before the file": lambda t, g: state(t, "offset", "-8"),
    "beyond the file": lambda t, g: state(t, "offset", str(1 << 62)),
    "fewer bytes": lambda t, g: state(t, "length", "4"),
    "more bytes": lambda t, g: state(t, "length", str(1 << 40)),
    "text for a number": lambda t, g: state(t, "length", "all"),
    "a checksum": lambda t, g: state(t, "checksum", "0"),
    "no length": lambda t, g: t.external_data.pop(),
    "a key twice": lambda t, g: t.external_data.add(key="offset", value=t.external_data[1].value),
    "another type": lambda t, g: setattr(t, "data_type", TensorProto.INT32),
    "another shape": lambda t, g: t.dims.__setitem__(0, 1),
    "more axes": lambda t, g: t.dims.append(1),
    "another name": lambda t, g: setattr(t, "name", "student.conv1.bias2"),
    "bytes of its own": lambda t, g: setattr(t, "raw_data", b"12345678"),
    "a segment": lambda t, g: t.segment.MergeFrom(TensorProto.Segment(begin=0, end=1)),
    "the same tensor twice": twice,
}


def rewritten(folder: Path, change: Callable[[onnx.TensorProto, onnx.GraphProto], object]) -> Path:
    """Change the bias in the graph of a folder, whose hashes then fit again."""
    path = folder / "network.onnx"
    model = onnx.load(path, load_external_data=False)
    (bias,) = (tensor for tensor in model.graph.initializer if tensor.name == "student.conv1.bias")
    change(bias, model.graph)
    replace_file(folder, path.name, model.SerializeToString())
    return folder


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
def test_a_graph_that_points_anywhere_else_is_refused(
    folder: Path, change: Callable[[onnx.TensorProto, onnx.GraphProto], object]
) -> None:
    text = (
        r"network\.onnx: expected weights out of weights\.safetensors, got tensor 'student.* kept somewhere else, in "
    )
    with pytest.raises(ModelFileError, match=text):
        load_model(rewritten(folder, change))


def test_weights_of_a_constant_are_inside_the_graph(folder: Path) -> None:
    def in_a_node(tensor: onnx.TensorProto, graph: onnx.GraphProto) -> None:
        graph.node.append(helper.make_node("Constant", [], ["c"], value=tensor))

    with pytest.raises(ModelFileError, match="expected all weights inside it, got tensor 'student"):
        load_model(rewritten(folder, in_a_node))


def test_a_graph_without_its_weights_is_refused(folder: Path) -> None:
    rewrite(folder, lambda fields: fields["files"].pop(WEIGHTS))
    with pytest.raises(ModelFileError, match="expected all weights inside it"):
        load_model(folder)


def test_more_weights_than_a_graph_can_hold_are_refused() -> None:
    graph, data = externalise(network().SerializeToString(), ("student.",))
    assert data is not None
    with pytest.raises(ModelFileError, match=r"weights\.safetensors: expected at most \d+ bytes of weights, got more"):
        complete(graph, {WEIGHTS: data}, name="network.onnx", max_bytes=len(graph) + 8)
