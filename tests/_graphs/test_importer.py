"""Any ONNX file as a backbone: convolutional networks, token grids, fixed sizes, and files that are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from blemish import backbones, runtime
from blemish.backbones.embedding import embedding_graph
from blemish.errors import BlemishError, InputError, ModelFileError
from tests import random_weights

PATCH = 16
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def network(
    *,
    sizes: tuple[Any, ...] = ("n", 3, "h", "w"),
    dtype: int = TensorProto.FLOAT,
    name: str = "pixels",
    n_prefix: int = 1,
    middle: str = "patches",
    opset: int = 17,
) -> onnx.ModelProto:
    """Patches of 16 x 16 by a convolution, twice; then as tokens behind class tokens; then something unneeded."""
    kernel = np.random.default_rng(0).normal(0, 0.05, (4, 3, PATCH, PATCH))
    kind = helper.tensor_dtype_to_np_dtype(dtype if dtype != TensorProto.UINT8 else TensorProto.FLOAT)
    weights = {
        "kernel": kernel.astype(kind),
        "bias": np.array([1, 2, 3, 4], kind),
        "prefix by four": np.array([n_prefix, 4]),
        "flat": np.array([0, 4, -1]),
        "first": np.array([0]),
        "second": np.array([1]),
        "class": np.full((1, n_prefix, 4), 100, kind),
    }
    chw = sizes[1] == 3
    nodes = [] if dtype != TensorProto.UINT8 else [helper.make_node("Cast", [name], ["cast"], to=TensorProto.FLOAT)]
    x = "cast" if nodes else name
    if not chw:
        nodes.append(helper.make_node("Transpose", [x], ["turned"], perm=[0, 3, 1, 2]))
        x = "turned"
    nodes += [
        helper.make_node("Conv", [x, "kernel", "bias"], [middle], strides=[PATCH, PATCH]),
        helper.make_node("Reshape", [middle, "flat"], ["rows"]),
        helper.make_node("Transpose", ["rows"], ["turned rows"], perm=[0, 2, 1]),
        helper.make_node("Shape", ["turned rows"], ["sizes"]),
        helper.make_node("Slice", ["sizes", "first", "second"], ["n"]),
        helper.make_node("Concat", ["n", "prefix by four"], ["class shape"], axis=0),
        helper.make_node("Expand", ["class", "class shape"], ["classes"]),
        helper.make_node("Concat", ["classes", "turned rows"], ["tokens"], axis=1),
        helper.make_node("ReduceMean", ["tokens"], ["out"], axes=[1], keepdims=0),
    ]
    value = helper.make_tensor_value_info(name, dtype, sizes)
    out = helper.make_tensor_value_info("out", dtype if dtype != TensorProto.UINT8 else TensorProto.FLOAT, None)
    tensors = [numpy_helper.from_array(array, key) for key, array in weights.items()]
    graph = helper.make_graph(nodes, "g", [value], [out], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def saved(folder: Path, model: onnx.ModelProto) -> Path:
    path = folder / "my.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def expected(image: np.ndarray, mean: Any = MEAN, std: Any = STD) -> np.ndarray:
    """The patches, by a sum over each window."""
    scaled = (image / 255 - np.array(mean)) / np.array(std)
    kernel = np.random.default_rng(0).normal(0, 0.05, (4, 3, PATCH, PATCH))
    n, height, width, _ = scaled.shape
    windows = scaled.reshape(n, height // PATCH, PATCH, width // PATCH, PATCH, 3)
    return np.einsum("nhpwqc,dcpq->ndhw", windows, kernel) + np.array([1, 2, 3, 4])[None, :, None, None]


def maps(backbone: backbones.Backbone, image: np.ndarray) -> dict[str, np.ndarray]:
    return runtime.load(backbone.model, threads=1).run(image)


@pytest.mark.parametrize(
    ("sizes", "dtype", "name", "tolerance"),
    [
        (("n", 3, "h", "w"), TensorProto.FLOAT, "pixels", 1e-4),
        (("n", 3, "h", "w"), TensorProto.FLOAT, "image", 1e-4),
        (("n", "h", "w", 3), TensorProto.FLOAT, "pixels", 1e-4),
        (("n", 3, "h", "w"), TensorProto.FLOAT16, "pixels", 2e-2),
    ],
    ids=["chw", "named as ours", "hwc", "half"],
)
def test_feature_maps_and_tokens_of_any_layer(tmp_path, sizes, dtype, name, tolerance):
    path = saved(tmp_path, network(sizes=sizes, dtype=dtype, name=name))
    built = backbones.build(path, layers=["patches", "tokens"], mean=MEAN, std=STD)
    assert (built.name, built.layers, built.channels, built.strides) == ("my", ("patches", "tokens"), (4, 4), (16, 16))
    assert (built.image_hw, built.batch) == (None, None)
    image = random_weights.image(8, 64, 96)
    made = maps(built, image)
    np.testing.assert_allclose(made["patches"], expected(image), atol=tolerance * 5)
    np.testing.assert_array_equal(made["tokens"], made["patches"])
    assert [part.op_type for part in built.model.graph.node].count("ReduceMean") == 0


@pytest.mark.parametrize("opset", [13, 14, 15, 21])
def test_networks_of_other_opsets(tmp_path, opset: int):
    """The nodes that are added are valid in each, also those of the patch embedding."""
    built = backbones.build(saved(tmp_path, network(opset=opset)), layers=["tokens", "patches"], mean=MEAN, std=STD)
    image = random_weights.image(8, 64, 96)
    made = maps(built, image)
    np.testing.assert_allclose(made["tokens"], expected(image), atol=1e-3)
    np.testing.assert_array_equal(made["tokens"], made["patches"])
    embedding = embedding_graph(built, pooling=1)
    onnx.checker.check_model(embedding, full_check=True)
    features = runtime.load(embedding, threads=1).run(image)["features"]
    np.testing.assert_allclose(features, np.concatenate([made["tokens"]] * 2, axis=1), atol=1e-3)


def test_uint8_network_reads_the_image_unchanged(tmp_path):
    path = saved(tmp_path, network(sizes=("n", "h", "w", 3), dtype=TensorProto.UINT8))
    image = random_weights.image(8, 32, 32)
    made = maps(backbones.build(path, layers=["patches"]), image)["patches"]
    np.testing.assert_allclose(made, expected(image, (0,) * 3, (1 / 255,) * 3), rtol=1e-4, atol=1e-2)


def test_mean_and_standard_deviation_default_to_imagenet(tmp_path):
    image = random_weights.image(8, 32, 32)
    made = maps(backbones.build(saved(tmp_path, network()), layers=["patches"]), image)["patches"]
    np.testing.assert_allclose(made, expected(image, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), atol=1e-3)


def test_fixed_size_and_batch(tmp_path):
    built = backbones.build(saved(tmp_path, network(sizes=(2, 3, 32, 48))), layers=["tokens"])
    assert (built.image_hw, built.batch, built.strides) == ((32, 48), 2, (16,))
    image = random_weights.image(8, 32, 48)
    np.testing.assert_allclose(
        maps(built, image)["tokens"], expected(image, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), atol=1e-3
    )


@pytest.mark.parametrize(("n_prefix", "given"), [(0, None), (1, None), (5, None), (5, 5), (29, 29)])
def test_prefix_tokens_are_dropped(tmp_path, n_prefix, given):
    path = saved(tmp_path, network(n_prefix=n_prefix))
    built = backbones.build(path, layers=["tokens", "patches"], n_prefix_tokens=given)
    made = maps(built, random_weights.image(8, 48, 80))
    np.testing.assert_array_equal(made["tokens"], made["patches"])


@pytest.mark.parametrize(("layer", "patch_px"), [("tokens", PATCH), ("patches", None)])
def test_tokens_need_images_of_whole_patches(tmp_path, layer: str, patch_px: int | None):
    """Maps of other sizes would not lie on the image: the rest of it is not seen."""
    assert backbones.build(saved(tmp_path, network()), layers=[layer]).patch_px == patch_px


def test_tokens_without_a_grid(tmp_path):
    with pytest.raises(InputError, match=r"tokens of a grid of patches on 224 x 224 pixels, got 197 of which 2 are no"):
        backbones.build(saved(tmp_path, network()), layers=["tokens"], n_prefix_tokens=2)


def test_tokens_whose_square_does_not_divide_the_image(tmp_path):
    """9 patches and 16 others look like 25 patches, which 48 pixels do not hold."""
    path = saved(tmp_path, network(sizes=("n", 3, 48, 48), n_prefix=16))
    with pytest.raises(InputError, match=r"on 48 x 48 pixels, got 25, in .*my.onnx. Say how many are no patches"):
        backbones.build(path, layers=["tokens"])
    assert backbones.build(path, layers=["tokens"], n_prefix_tokens=16).strides == (16,)


def test_network_with_a_tensor_called_image(tmp_path):
    image = random_weights.image(8, 32, 32)
    made = maps(backbones.build(saved(tmp_path, network(middle="image")), layers=["tokens"]), image)["tokens"]
    np.testing.assert_allclose(made, expected(image, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), atol=1e-3)
    with pytest.raises(InputError, match=r"expected tensors of other names than ours, got image. Rename it"):
        backbones.build(saved(tmp_path, network(middle="image")), layers=["image"])


def test_older_files_list_their_weights_as_inputs(tmp_path):
    """As before version 4 of the format; a scalar comes first."""
    model = network()
    model.graph.initializer.append(numpy_helper.from_array(np.float32(0), "unneeded"))
    values = [helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in reversed(model.graph.initializer)]
    for i, value in enumerate(values):
        model.graph.input.insert(i, value)
    image = random_weights.image(8, 32, 32)
    built = backbones.build(saved(tmp_path, model), layers=["patches"], mean=MEAN, std=STD)
    assert [value.name for value in built.model.graph.input] == ["image"]
    np.testing.assert_allclose(maps(built, image)["patches"], expected(image), atol=1e-3)


def test_weights_that_no_layer_needs_are_left_out(tmp_path):
    built = backbones.build(saved(tmp_path, network()), layers=["patches"])
    names = {tensor.name for tensor in built.model.graph.initializer}
    assert names == {"kernel", "bias", "image offset", "image scale"}


def test_the_graph_is_deterministic(tmp_path):
    path = saved(tmp_path, network())
    built = [backbones.build(path, layers=["tokens"]).model.SerializeToString() for _ in range(2)]
    assert built[0] == built[1]


@pytest.mark.parametrize("layers", [["nothing"], [], None, ["rows", "rows"], ["pixels"], ["kernel"]])
def test_layers_outside_the_graph(tmp_path, layers):
    with pytest.raises(InputError, match=r"layers: expected different names of tensors, such as .*patches.*my.onnx"):
        backbones.build(saved(tmp_path, network()), layers=layers)


def test_layer_of_another_shape(tmp_path):
    error = r"out: expected float \(B, C, h, w\) or tokens \(B, T, C\), got float32 \(1, 4\), in .*my.onnx"
    with pytest.raises(InputError, match=error):
        backbones.build(saved(tmp_path, network()), layers=["out"])


def _external(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")


def _domain(model: onnx.ModelProto) -> None:
    model.graph.node[0].domain = "com.evil"


def _loop(model: onnx.ModelProto) -> None:
    model.graph.node[0].op_type = "Loop"


def _function(model: onnx.ModelProto) -> None:
    model.functions.add(name="f", domain="")


def _opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 9


def _second_input(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, [1]))


def _grey(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 1


def _broken(model: onnx.ModelProto) -> None:
    model.graph.node[0].op_type = "Convolution"


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (_external, "expected all weights inside it, got tensor 'kernel' kept in another file"),
        (_domain, "expected standard ONNX operators, got 'Conv' of domain 'com.evil'"),
        (_loop, "expected a network without loops, got operator Loop"),
        (_function, "expected no local functions, got function 'f'"),
        (_opset, "expected a graph of opset 13 or later, got opset 9"),
        (_second_input, "expected one input, the image, got pixels, mask"),
        (_grey, r"expected an image as input, .* got pixels float \(n, 1, h, w\)"),
        (_broken, "expected operators of image networks, got operator 'Convolution'"),
    ],
    ids=lambda value: value.__name__.strip("_") if callable(value) else "",
)
def test_files_that_are_refused(tmp_path, change, error):
    model = network()
    change(model)
    with pytest.raises(ModelFileError, match=f"{error}.*my.onnx"):
        backbones.build(saved(tmp_path, model), layers=["tokens"])


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 no graph", b"\xff" * 100])
def test_bytes_that_are_no_graph(tmp_path, data):
    path = tmp_path / "my.onnx"
    path.write_bytes(data)
    with pytest.raises(ModelFileError, match=r"expected .*graph.*, got .*, in .*my.onnx"):
        backbones.build(path, layers=["a"])


@pytest.mark.parametrize("name", [b"patches", b"pixels", b"kernel"])
def test_names_that_are_not_text(tmp_path, name):
    path = tmp_path / "my.onnx"
    path.write_bytes(network().SerializeToString().replace(name, b"\xff" * len(name)))
    with pytest.raises(
        ModelFileError, match=r"expected an ONNX graph, got (names that are no text|bytes that are none)"
    ):
        backbones.build(path, layers=["tokens"])


def test_absent_file(tmp_path):
    with pytest.raises(ModelFileError, match="backbone: expected a readable file, got 'No such file or directory'"):
        backbones.build(tmp_path / "none.onnx", layers=["a"])


def test_file_that_is_too_large(tmp_path):
    path = tmp_path / "large.onnx"
    with path.open("wb") as file:
        file.truncate((1 << 30) + 1)
    with pytest.raises(ModelFileError, match=r"expected at most 1073741824 bytes, got 1073741825, in .*large.onnx"):
        backbones.build(path, layers=["a"])


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"weights": "a.pth"}, "backbone: expected a name where that is given, got weights="),
        ({"padding": "edge"}, "backbone: expected a name where that is given, got padding="),
        ({"mean": (0.5, 0.5)}, "mean: expected three numbers, for red, green and blue, got 2"),
        ({"mean": (123.0, 116.0, 103.0)}, "mean: expected a number from 0.0 to 1.0, got 123.0"),
        ({"std": (0.0, 0.5, 0.5)}, "std: expected a number from 1e-06 to 1.0, got 0.0"),
    ],
    ids=str,
)
def test_invalid_settings(tmp_path, settings, error):
    with pytest.raises(BlemishError, match=error):
        backbones.build(saved(tmp_path, network()), layers=["tokens"], **settings)


def test_mean_is_refused_for_a_named_network():
    with pytest.raises(InputError, match="expected an ONNX file where they are given, got a name, efficientnet_lite0"):
        backbones.build(mean=(0.5, 0.5, 0.5))
