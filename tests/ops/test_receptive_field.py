"""Receptive fields by hand, by tracing each output back, and by the gradient of the real networks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blemish.detectors.efficientad import pdn
from blemish.errors import InputError
from blemish.ops.receptive_field import (
    Field,
    Layer,
    derive,
    explain,
    least_size,
    output_sizes,
    parse_stack,
    receptive_field,
)

TUTORIAL = "conv4,pool2/2,conv4,pool2/2,conv3,conv4"


def reference_field(layers, size, index):
    """Return the pixels of an output's receptive field by tracing each position back through each layer."""
    positions = {index}
    sizes = [size, *output_sizes(layers, size)]
    for layer, before in zip(reversed(layers), reversed(sizes[:-1]), strict=True):
        reached = {
            position * layer.stride - layer.padding + layer.dilation * k
            for position in positions
            for k in range(layer.kernel)
        }
        positions = {position for position in reached if 0 <= position < before}
    return positions


LAYERS = st.builds(
    Layer,
    st.just("layer"),
    st.integers(1, 5),
    st.integers(1, 3),
    st.integers(0, 2),
    st.none() | st.integers(0, 2),
    st.integers(1, 3),
)


@pytest.mark.slow
@given(st.lists(LAYERS, min_size=1, max_size=4), st.integers(1, 60), st.data())
def test_the_span_equals_the_traced_pixels(layers, size, data):
    sizes = output_sizes(layers, size)
    if min(sizes) < 1:
        return
    index = data.draw(st.integers(0, sizes[-1] - 1))
    pixels = reference_field(layers, size, index)
    start, stop = receptive_field(layers).span(index, size)
    assert not pixels or (start <= min(pixels) and max(pixels) < stop)
    if all(layer.padding == 0 and not layer.padding_after for layer in layers):
        assert (start, stop) == (min(pixels), max(pixels) + 1)


def test_the_tutorials_derivation():
    steps = derive(parse_stack(TUTORIAL))
    assert [step.size for step in steps] == [33, 30, 15, 12, 6, 4, 1]
    assert [step.field.size for step in steps] == [1, 4, 5, 11, 13, 21, 33]
    assert [step.field.stride for step in steps] == [1, 1, 2, 2, 4, 4, 4]
    text = explain(steps)
    assert "Along one side, 33 pixels become 1 output: 33 -> 30 -> 15 -> 12 -> 6 -> 4 -> 1." in text
    assert any("1 + 3 x 1 + 1 x 1 + 3 x 2 + 1 x 2 + 2 x 4 + 3 x 4 = 33 pixels" in line for line in text)
    assert any("first one's centre is at pixel 16; each neighbor's is 4 pixels on" in line for line in text)


def test_an_image_of_256_pixels():
    assert derive(parse_stack(TUTORIAL), 256)[-1].size == 56
    assert receptive_field(parse_stack(TUTORIAL)).span(3) == (12, 45)


def test_padding_moves_the_first_output_out():
    field = receptive_field(pdn.layers("small", padding=True))
    assert field == Field(33, 4, -3 - 1 - 6 - 2 - 4)
    assert (field.centre, field.span(0, 256), field.span(63, 256)) == (0.0, (0, 17), (236, 256))
    assert least_size(pdn.layers("small", padding=True)) == 1
    assert least_size(parse_stack("conv9p1,pool2/2")) == 8


@pytest.mark.slow
@pytest.mark.parametrize("padding", [False, True])
@pytest.mark.parametrize("size", pdn.SIZES)
def test_the_gradient_of_the_real_network_agrees(size, padding):
    torch = pytest.importorskip("torch", reason="needs blemish[train]")
    pixels = 61
    network = pdn.pdn(size, 2, padding=padding)
    field = receptive_field(pdn.layers(size, padding=padding))
    rows, columns = pdn.output_hw(size, (pixels, pixels), padding=padding)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.abs_()  # no two ways through the network cancel, and no ReLU closes one
    for row, column in [(0, 0), (rows // 2, columns - 1), (rows - 1, 1)]:
        image = torch.ones(1, 3, pixels, pixels, requires_grad=True)
        network(image)[0, :, row, column].sum().backward()
        touched = np.nonzero(image.grad.abs().amax((0, 1)).numpy())
        spans = [(int(axis.min()), int(axis.max()) + 1) for axis in touched]
        assert spans == [field.span(row, pixels), field.span(column, pixels)]
        assert len(touched[0]) == np.prod([stop - start for start, stop in spans])


def test_dilation_and_uneven_padding():
    layers = parse_stack("conv3/2p1d2")
    assert receptive_field(layers) == Field(5, 2, -1)
    assert Layer("same", 3, 2, 0, 1).output_size(8) == 4
    assert Layer("same", 3, 2, 0, 1).output_size(9) == 4
    assert Layer("wide", 4).output_size(2) == 0
    table = explain(derive([Layer("same", 3, 2, 0, 1, 2)], 9))
    assert any("3 (every 2.)" in line and "0, 1" in line for line in table)


@pytest.mark.parametrize(
    "text", ["", "conv", "pool2,", "conv3-1", "conv0x", "dense10", "conv3/p1", "conv3p", "conv-3", "conv3 pool2"]
)
def test_errors_of_a_description(text):
    with pytest.raises(InputError, match=r"stack: expected layers with commas between, got '.*'\. Write conv or pool"):
        parse_stack(text)


def test_errors_of_numbers_out_of_range():
    with pytest.raises(InputError, match=r"kernel: expected a whole number of at least 1, got 0, in conv1"):
        parse_stack("conv0")
    with pytest.raises(InputError, match=r"stride: expected a whole number of at least 1, got 0"):
        parse_stack("conv3/0")
    with pytest.raises(InputError, match=r"padding_after: expected a whole number of at least 0, got -1"):
        Layer("conv", 3, padding_after=-1)
    with pytest.raises(InputError, match=r"size: expected at least 33 pixels, for one output, got 32"):
        derive(parse_stack(TUTORIAL), 32)
