"""Loading graphs, and running them on batches of any size."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from blemish import runtime
from blemish.errors import InputError, ModelFileError

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 4, 6, 3), np.uint8)


def means(shape: list[str | int]) -> onnx.ModelProto:
    """A graph of two outputs: the mean and the sum of each image's rows, (B, W, 3)."""
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, shape)
    nodes = [helper.make_node("Cast", ["image"], ["numbers"], to=TensorProto.FLOAT)]
    nodes.append(helper.make_node("ReduceMean", ["numbers"], ["mean"], axes=[1], keepdims=0))
    nodes.append(helper.make_node("ReduceMax", ["numbers"], ["largest"], axes=[1], keepdims=0))
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("mean", "largest")]
    graph = helper.make_graph(nodes, "means", [image], outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_the_facts_of_a_graph():
    session = runtime.load(means(["B", "H", "W", 3]), threads=1)
    assert (session.input_name, session.input_shape) == ("image", (None, None, None, 3))
    assert session.outputs == ("mean", "largest")
    assert session.any_size
    assert not runtime.load(means(["B", 4, 6, 3]).SerializeToString(), threads=1).any_size


@pytest.mark.parametrize("batch", ["B", 1, 2, 5, 8])
@pytest.mark.parametrize("n", [1, 2, 5])
def test_any_batch_runs_on_a_graph_of_any_batch_size(batch: str | int, n: int):
    found = runtime.load(means([batch, 4, 6, 3]), threads=1).run(IMAGES[:n])
    np.testing.assert_allclose(found["mean"], IMAGES[:n].mean(axis=1), rtol=1e-6)
    np.testing.assert_array_equal(found["largest"], IMAGES[:n].max(axis=1))


def test_the_metadata_of_a_graph():
    model = means(["B", "H", "W", 3])
    assert runtime.load(model).metadata == {}
    model.metadata_props.add(key="patch_px", value="14")
    assert runtime.load(model).metadata == {"patch_px": "14"}


def test_only_the_outputs_that_were_asked_for():
    assert list(runtime.load(means(["B", 4, 6, 3])).run(IMAGES, ["largest"])) == ["largest"]


def test_results_are_written_into_given_arrays():
    arrays = {"largest": np.full((5, 6, 3), -1, np.float32)}
    runtime.load(means(["B", 4, 6, 3])).run_into({"image": IMAGES}, arrays)
    np.testing.assert_array_equal(arrays["largest"], IMAGES.max(axis=1))


@pytest.mark.parametrize("images", [IMAGES.astype(np.float32), IMAGES[:, :3], IMAGES[0]])
def test_an_input_of_another_type_or_shape_is_refused(images: np.ndarray):
    with pytest.raises(InputError, match=rf"image: expected uint8 \(B, H, W, 3\).*, got {images.dtype} \("):
        runtime.load(means(["B", 4, 6, 3])).run(images)


def test_bytes_that_are_no_graph_are_refused():
    with pytest.raises(ModelFileError, match="network: expected a graph that ONNX Runtime runs, got"):
        runtime.load(b"no graph")


def hostile(op: str, text: bytes, **attributes: object) -> bytes:
    """A graph of one node with a text of its own among its attributes or as its name."""
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["B", "H", "W", 3])
    nodes = [helper.make_node("Cast", ["image"], ["numbers"], to=TensorProto.FLOAT)]
    constant = helper.make_tensor("sizes", TensorProto.INT64, [2], [7, 5])
    nodes.append(helper.make_node(op, ["numbers", "sizes"], ["made"], name="TEXT", **attributes))
    made = helper.make_tensor_value_info("made", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "hostile", [image], [made], [constant])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model.SerializeToString().replace(b"TEXT", text)


@pytest.mark.parametrize("text", [b"\x1b[2J", b"\xe0\xff\x1b[", b"x\nOK"], ids=repr)
@pytest.mark.parametrize("mode", [None, "TEXT"])
def test_what_is_wrong_with_a_graph_is_raised_and_not_printed(
    text: bytes, mode: str | None, capfd: pytest.CaptureFixture[str]
):
    graph = hostile("Resize", text, mode=mode) if mode else hostile("Reshape", text)
    with pytest.raises((ModelFileError, InputError)):
        runtime.load(graph, passes=False).run(IMAGES)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("device", ["", "gpu", "cpu:1", "cuda:x", "CUDA"])
def test_an_unknown_device_is_refused(device: str):
    with pytest.raises(InputError, match="device: expected cpu, cuda, tensorrt, or cuda:1"):
        runtime.load(means(["B", 4, 6, 3]), device=device)


@pytest.mark.parametrize("device", ["cuda:1", "tensorrt"])
def test_a_device_that_is_not_built_in_is_refused(monkeypatch: pytest.MonkeyPatch, device: str):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(InputError, match=rf"device: .* got '{device}'. This onnxruntime has CPUExecutionProvider"):
        runtime.load(means(["B", 4, 6, 3]), device=device)


def test_a_device_that_does_not_start_is_refused(monkeypatch: pytest.MonkeyPatch):
    """ONNX Runtime itself goes on without it: here as on a machine without the libraries of CUDA."""
    kept = onnxruntime.InferenceSession
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda graph, options, **_: kept(graph, options))
    with pytest.raises(InputError, match=r"device: expected one that starts, got 'cuda'\. Install the CUDA libraries"):
        runtime.load(means(["B", 4, 6, 3]), device="cuda")


@pytest.mark.parametrize("threads", [0, -1])
def test_a_number_of_threads_that_cannot_be_is_refused(threads: int):
    with pytest.raises(InputError, match="threads: expected 1 or more, or None"):
        runtime.load(means(["B", 4, 6, 3]), threads=threads)
