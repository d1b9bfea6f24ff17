"""Receptive fields of backbones against the outputs that change with a line of the image."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from blemish import runtime
from blemish._graphs.receptive_field import graph_fields, graph_stack
from blemish.backbones.architectures import build_graph, efficientnet_lite, mobilenet_v2, resnet
from blemish.backbones.keras_resnet import keras_resnet50
from blemish.errors import InputError
from blemish.ops.receptive_field import receptive_field
from tests import random_weights

SIDE = 128


def measured_field(model, layer, row, column):
    """The rows and columns of the image that a layer's output at one place depends on, found one line at a time.

    Weights are made positive, so that a brighter line always shows; ReLU6 is opened, so that nothing is cut off.
    """
    positive = onnx.ModelProto()
    positive.CopyFrom(model)
    for weight in positive.graph.initializer:
        array = onnx.numpy_helper.to_array(weight)
        if array.ndim == 4 and array.shape != (1, 3, 1, 1):
            array = np.abs(array) / np.abs(array).sum((1, 2, 3), keepdims=True)
        elif weight.name == "mean":
            array = np.full_like(array, -1.0)
        elif weight.name == "six":
            array = np.full_like(array, 1e30)
        elif array.ndim == 1 and weight.data_type == TensorProto.FLOAT:
            array = np.ones_like(array)
        weight.CopyFrom(onnx.numpy_helper.from_array(array.astype(array.dtype), weight.name))
    running = runtime.load(positive)
    base = np.zeros((1, SIDE, SIDE, 3), np.uint8)
    value = running.run(base)[layer][0, :, row, column]
    touched = []
    for axis in (1, 2):
        lines = []
        for line in range(SIDE):
            image = base.copy()
            image[(slice(None),) * axis + (line,)] = 255
            lines.append(bool(np.any(running.run(image)[layer][0, :, row, column] != value)))
        places = np.flatnonzero(lines)
        touched.append((int(places.min()), int(places.max()) + 1))
    return touched


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "state", "layer"),
    [
        (efficientnet_lite, random_weights.efficientnet_lite(1), "blocks.3"),
        (efficientnet_lite, random_weights.efficientnet_lite(1), "blocks.4"),
        (mobilenet_v2, random_weights.mobilenet_v2(3), "features.4"),
        (resnet, random_weights.resnet(4, depths=(2, 2, 2, 2), bottleneck=False), "layer2"),
        (keras_resnet50, random_weights.keras_resnet50(7), "layer2.0"),
    ],
)
def test_field_is_where_changes_of_the_image_change_the_output(network, state, layer):
    model = build_graph(network, state, [layer])
    field = graph_fields(model, [layer])[layer]
    for row, column in [(SIDE // field.stride // 2, 1), (0, SIDE // field.stride - 1)]:
        wanted = [field.span(row, SIDE), field.span(column, SIDE)]
        assert measured_field(model, layer, row, column) == wanted


def test_the_stack_of_a_backbone_has_its_field():
    model = build_graph(efficientnet_lite, random_weights.efficientnet_lite(1), ["blocks.4"])
    stack = graph_stack(model, "blocks.4")
    assert receptive_field(stack) == graph_fields(model, ["blocks.4"])["blocks.4"]
    assert (receptive_field(stack).size, receptive_field(stack).stride) == (67, 8)
    assert [layer.kernel for layer in stack if layer.kernel > 1] == [3, 3, 3, 3, 5, 5]


def model_of(*nodes):
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["B", "H", "W", 3])
    return helper.make_model(helper.make_graph(list(nodes), "g", [image], []))


def test_operators_without_a_window_are_refused():
    pooled = model_of(helper.make_node("GlobalAveragePool", ["image"], ["squeezed"]))
    with pytest.raises(InputError, match=r"expected convolutions, pools and pointwise steps, got GlobalAverage"):
        graph_fields(pooled, ["squeezed"])
    with pytest.raises(InputError, match=r"layer: expected a tensor of the network, got 'other'"):
        graph_fields(model_of(helper.make_node("Relu", ["image"], ["x"])), ["other"])


def conv_model(weight_shape, *, source="initializer", **attributes):
    """A convolution from `image` to x whose weight is an initializer, a constant, or the output of another node."""
    weight = onnx.numpy_helper.from_array(np.zeros(weight_shape, np.float32), "w" if source == "initializer" else "v")
    nodes = {
        "initializer": [],
        "constant": [helper.make_node("Constant", [], ["w"], value=weight)],
        "node": [helper.make_node("Relu", ["v"], ["w"])],
    }[source]
    model = model_of(*nodes, helper.make_node("Conv", ["image", "w"], ["x"], **attributes))
    if source != "constant":
        model.graph.initializer.append(weight)
    return model


@pytest.mark.parametrize("source", ["initializer", "constant", "node"])
@pytest.mark.parametrize(
    ("size", "attributes", "span"),
    [
        (7, {}, (0, 7)),
        (16, {"strides": [16, 16]}, (0, 16)),
        (3, {"dilations": [2, 2]}, (0, 5)),
        (3, {"pads": [1, 1, 1, 1]}, (-1, 2)),
        (5, {"auto_pad": "SAME_UPPER", "strides": [2, 2]}, (-1, 4)),
        (5, {"auto_pad": "SAME_LOWER", "strides": [2, 2]}, (-2, 3)),
        (3, {"auto_pad": "VALID"}, (0, 3)),
        (3, {"auto_pad": "NOTSET", "kernel_shape": [3, 3]}, (0, 3)),
    ],
    ids=lambda value: " ".join(value) or "none" if isinstance(value, dict) else None,
)
def test_absent_attributes_have_their_defaults(size, attributes, span, source):
    model = conv_model((4, 3, size, size), source=source, **attributes)
    assert graph_fields(model, ["x"])["x"].span(0) == span
    assert graph_stack(model, "x")[0].kernel == size


def test_pool_without_strides():
    pooled = model_of(helper.make_node("MaxPool", ["image"], ["x"], kernel_shape=[3, 3]))
    assert (graph_fields(pooled, ["x"])["x"].size, graph_fields(pooled, ["x"])["x"].stride) == (3, 1)


@pytest.mark.parametrize(
    ("shape", "attributes", "got"),
    [
        ((4, 3, 1, 7), {}, r"kernel 1, stride 1, dilation 1, padding 0, 0 and kernel 7"),
        ((4, 3, 3, 3), {"strides": [2, 1]}, "kernel 3, stride 1, .* and kernel 3, stride 2"),
        ((4, 3, 3, 3), {"pads": [1, 0, 1, 0]}, "kernel 3, .* padding 0, 0 and kernel 3, .* padding 1, 1"),
        ((4, 3, 3), {}, "1 axes"),
    ],
)
def test_windows_that_are_not_square_are_refused(shape, attributes, got):
    with pytest.raises(
        InputError, match=f"expected windows that are the same along height and width, got {got}.* in x"
    ):
        graph_fields(conv_model(shape, **attributes), ["x"])


def test_kernel_of_unknown_size_is_refused():
    model = model_of(helper.make_node("Conv", ["image", "nowhere"], ["x"]))
    with pytest.raises(InputError, match="expected convolutions of known kernel size, got none, in x"):
        graph_fields(model, ["x"])


def test_branches():
    wide = helper.make_node("Conv", ["image", "w"], ["a"], kernel_shape=[5, 5], pads=[2, 2, 2, 2])
    shifted = helper.make_node("Conv", ["image", "w"], ["b"], kernel_shape=[3, 3], pads=[0, 0, 2, 2])
    coarse = helper.make_node("MaxPool", ["image"], ["c"], kernel_shape=[2, 2], strides=[2, 2])
    added = model_of(wide, shifted, helper.make_node("Add", ["a", "b"], ["sum"]))
    assert graph_fields(added, ["sum"])["sum"].span(0) == (-2, 3)
    assert [layer.kernel for layer in graph_stack(added, "sum")] == [5]
    uneven = helper.make_node("Conv", ["image", "w"], ["a"], kernel_shape=[3, 3], pads=[2, 2, 0, 0])
    apart = model_of(uneven, shifted, helper.make_node("Add", ["a", "b"], ["sum"]))
    assert graph_fields(apart, ["sum"])["sum"].span(0) == (-2, 3)
    with pytest.raises(InputError, match="expected branches of which one sees the most, got others, in sum"):
        graph_stack(apart, "sum")
    with pytest.raises(InputError, match="expected branches of one stride, got 1 and 2, in sum"):
        graph_fields(model_of(wide, coarse, helper.make_node("Add", ["a", "c"], ["sum"])), ["sum"])
