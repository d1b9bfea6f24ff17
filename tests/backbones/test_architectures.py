"""Each network's graph against golden arrays of an independent torch implementation (tests/golden/README.md)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from blemish import backbones, runtime
from blemish.backbones.architectures import build_graph, efficientnet_lite, mobilenet_v2, resnet
from blemish.backbones.keras_resnet import keras_resnet50
from blemish.errors import InputError, ModelFileError
from tests import random_weights

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "backbones.npz")
BOTTLENECKS = {"depths": (3, 4, 6, 3), "bottleneck": True}
CASES = {
    "lite0": (efficientnet_lite, lambda: random_weights.efficientnet_lite(1)),
    "lite2": (efficientnet_lite, lambda: random_weights.efficientnet_lite(2, random_weights.LITE2_STAGES)),
    "mobilenet_v2": (mobilenet_v2, lambda: random_weights.mobilenet_v2(3)),
    "resnet18": (resnet, lambda: random_weights.resnet(4, depths=(2, 2, 2, 2), bottleneck=False)),
    "resnet50": (resnet, lambda: random_weights.resnet(5, **BOTTLENECKS)),
    "wide_resnet50_2": (resnet, lambda: random_weights.resnet(6, **BOTTLENECKS, wide=2)),
    "keras_resnet50": (keras_resnet50, lambda: random_weights.keras_resnet50(7)),
}


def outputs(model: onnx.ModelProto, image: np.ndarray) -> dict[str, np.ndarray]:
    return runtime.load(model, threads=1).run(image)


def sampled(array: np.ndarray, n: int) -> np.ndarray:
    return array.ravel()[np.linspace(0, array.size - 1, n).astype(int)]


def differences(key: str, layers: list[str], maps: dict[str, np.ndarray]) -> float:
    """The largest difference to the golden numbers, relative to the scale of each layer; shapes must be equal."""
    names = GOLDEN[f"{key}/layers"].tolist()
    worst = 0.0
    for layer in layers:
        row = names.index(layer)
        golden = GOLDEN[f"{key}/values"][row]
        assert (*maps[layer].shape, 0, 0)[:4] == tuple(GOLDEN[f"{key}/shapes"][row])
        worst = max(worst, np.abs(sampled(maps[layer], len(golden)) - golden).max() / GOLDEN[f"{key}/scales"][row])
    return worst


@pytest.mark.slow
@pytest.mark.parametrize("size", [(96, 128), (97, 131)], ids=["even", "odd"])
@pytest.mark.parametrize("name", CASES)
def test_graph_equals_the_reference(name, size):
    network, weights = CASES[name]
    key = f"{name}/{size[0]}x{size[1]}"
    names = GOLDEN[f"{key}/layers"].tolist()
    image, state = random_weights.image(8, *size), weights()
    maps = outputs(build_graph(network, state, names[:-1]), image)
    maps |= outputs(build_graph(network, state, ["logits"]), image)
    assert differences(key, names, maps) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("size", [(96, 128), (97, 131)], ids=["even", "odd"])
def test_embedded_weights_equal_the_reference(size):
    layers = ["blocks.4", "blocks.10"]
    maps = outputs(backbones.build(layers=layers).model, random_weights.image(8, *size))
    assert differences(f"efficientnet_lite0/{size[0]}x{size[1]}", layers, maps) < 1e-4
    maps = outputs(backbones.build(layers=["logits"]).model, random_weights.image(8, *size))
    assert differences(f"efficientnet_lite0/{size[0]}x{size[1]}", ["logits"], maps) < 1e-4


@pytest.mark.parametrize("padding", ["reflect", "edge"])
@pytest.mark.parametrize("size", [(96, 128), (97, 131)], ids=["even", "odd"])
@pytest.mark.parametrize("name", ["lite0", "resnet18"])
def test_other_paddings_equal_the_reference(name, size, padding):
    network, weights = CASES[name]
    key = f"{name}-{padding}/{size[0]}x{size[1]}"
    names = GOLDEN[f"{key}/layers"].tolist()[:-1]
    maps = outputs(build_graph(network, weights(), names, padding=padding), random_weights.image(8, *size))
    assert differences(key, names, maps) < 1e-4


@pytest.mark.parametrize("padding", ["reflect", "edge"])
def test_constant_image_has_constant_features_without_zero_padding(padding):
    model = build_graph(efficientnet_lite, random_weights.efficientnet_lite(1), ["blocks.10"], padding=padding)
    features = outputs(model, np.full((1, 96, 97, 3), 90, np.uint8))["blocks.10"]
    assert np.ptp(features, axis=(2, 3)).max() < 1e-4 * np.abs(features).max()


def test_graph_ends_with_the_deepest_layer_and_keeps_the_order():
    state = random_weights.resnet(5, depths=(3, 4, 6, 3), bottleneck=True)
    without_end = {name: array for name, array in state.items() if not name.startswith(("layer4", "fc"))}
    model = build_graph(resnet, without_end, ["layer3", "layer2"])
    assert [output.name for output in model.graph.output] == ["layer3", "layer2"]
    assert sum(node.op_type == "Conv" for node in model.graph.node) == 1 + 3 * 13 + 3
    onnx.checker.check_model(model, full_check=True)


def test_groups_are_read_off_the_weights():
    """A block with as many groups as make its weights this narrow (ResNeXt)."""
    state = random_weights.resnet(5, depths=(3, 4, 6, 3), bottleneck=True)
    for name in [name for name in state if name.endswith("conv2.weight")]:
        state[name] = state[name][:, : state[name].shape[1] // 4]
    model = build_graph(resnet, state, ["layer1"])
    groups = [a.i for node in model.graph.node for a in node.attribute if a.name == "group"]
    assert sorted(set(groups)) == [1, 4]


@pytest.mark.parametrize(
    ("layers", "got"),
    [(["layer9"], "layer9"), ([], "none"), (["layer2", "layer2"], "layer2, layer2")],
    ids=["unknown", "none", "twice"],
)
def test_unknown_absent_or_repeated_layers(layers, got):
    state = random_weights.resnet(5, depths=(3, 4, 6, 3), bottleneck=True)
    with pytest.raises(InputError, match=f"layers: expected different names among .*layer1.0.*, got {got}"):
        build_graph(resnet, state, layers)


def test_one_tensor_with_two_layer_names():
    state = random_weights.resnet(4, depths=(2, 2, 2, 2), bottleneck=False)
    maps = outputs(build_graph(resnet, state, ["layer2.1", "layer2"]), random_weights.image(8, 64, 64))
    np.testing.assert_array_equal(maps["layer2"], maps["layer2.1"])


def test_weights_of_another_network():
    state = random_weights.mobilenet_v2(3)
    with pytest.raises(ModelFileError, match=r"expected conv1.weight, got \d+ others, such as classifier.1.bias"):
        build_graph(resnet, state, ["layer2"])


@pytest.mark.parametrize(
    ("name", "cut", "error"),
    [
        ("layer1.0.conv2.weight", np.s_[:, :3], r"expected \(out, 8 / groups, k, k\), k odd,, got \(8, 3, 3, 3\)"),
        (
            "layer1.0.conv2.weight",
            np.s_[:, :, :2, :2],
            r"k odd,, got \(8, 8, 2, 2\)",
        ),
        (
            "layer1.0.bn1.running_var",
            np.s_[:3],
            r"\(out, in, k, k\) and .* got \(8, 8, 3, 3\) and \(3,\), \(8,\)",
        ),
        (
            "layer2.0.downsample.0.weight",
            np.s_[:8],
            r"\(out,\), got \(8, 8, 1, 1\) and \(8,\), \(16,\)",
        ),
        ("fc.weight", np.s_[:, :3], r"expected \(classes, 64\) and \(classes,\), got \(10, 3\) and \(10,\)"),
        ("conv1.weight", np.s_[0], r"conv1.weight: expected \(out, in, k, k\) and"),
    ],
)
def test_weights_of_wrong_shape(name, cut, error):
    state = random_weights.resnet(4, depths=(2, 2, 2, 2), bottleneck=False)
    state[name] = state[name][cut]
    with pytest.raises(ModelFileError, match=error):
        build_graph(resnet, state, ["logits"])


def test_summands_of_different_width():
    state = random_weights.resnet(4, depths=(2, 2, 2, 2), bottleneck=False)
    for part in [name for name in state if name.startswith("layer2.0.downsample")]:
        state[part] = state[part][:8] if state[part].ndim else state[part]
    with pytest.raises(ModelFileError, match="weights: expected summands of as many channels, got 16 and 8"):
        build_graph(resnet, state, ["layer2"])


@pytest.mark.parametrize(
    ("value", "error"), [(np.float32(np.nan), "NaN or infinite values"), (np.int64(1), "int64")], ids=["nan", "int"]
)
def test_weights_that_are_not_finite_floats(value, error):
    state = random_weights.resnet(4, depths=(2, 2, 2, 2), bottleneck=False)
    state["bn1.bias"] = np.full(8, value)
    with pytest.raises(ModelFileError, match=f"bn1.bias: expected finite floating-point weights, got {error}"):
        build_graph(resnet, state, ["layer1"])


def test_unknown_padding():
    with pytest.raises(InputError, match="padding: expected zero or reflect or edge, got 'wrap'"):
        build_graph(resnet, {}, ["layer1"], padding="wrap")


@pytest.mark.slow
def test_golden_arrays_are_reproduced():
    pytest.importorskip("torch", reason="only whoever changes a twin needs torch")
    from tests import torch_twins

    made = torch_twins.goldens()
    assert sorted(made) == sorted(GOLDEN.files)
    for key, array in made.items():
        if array.dtype.kind == "f":
            np.testing.assert_allclose(array, GOLDEN[key], rtol=1e-5, atol=1e-5, err_msg=key)
        else:
            np.testing.assert_array_equal(array, GOLDEN[key], err_msg=key)
