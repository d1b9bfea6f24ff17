"""Convolutions on tiles are convolutions: compared with torch's own, value by value."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from onnx import TensorProto, helper

from blemish import runtime
from blemish.runtime.tiles import Kernel, Tiles
from tests.lazy import torch

CHANNELS = 5


def run(build: Callable[[Tiles], str], planes: np.ndarray) -> np.ndarray:
    """Run the nodes that `build(tiles)` adds on an input (B, C, H, W) named planes."""
    tiles = Tiles()
    output = build(tiles)
    given = helper.make_tensor_value_info("planes", TensorProto.FLOAT, ["B", *planes.shape[1:]])
    made = helper.make_tensor_value_info(output, TensorProto.FLOAT, None)
    graph = helper.make_graph(tiles.nodes, "tiles", [given], [made], tiles.initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return runtime.load(model, threads=1).run(planes)[output]


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("taps", [1, 3, 4])
@pytest.mark.parametrize(("n", "hw"), [(1, (12, 12)), (2, (11, 18))])
def test_a_convolution_is_one(taps: int, n: int, hw: tuple[int, int]):
    planes, weight, bias = random(n, CHANNELS, *hw), random(7, CHANNELS, taps, taps, seed=taps), random(7)

    def build(tiles: Tiles) -> str:
        return tiles.to_planes(tiles.conv(tiles.from_planes("planes", CHANNELS, hw), Kernel(weight, bias)))

    expected = torch.nn.functional.conv2d(*(torch.tensor(x, dtype=torch.float64) for x in (planes, weight, bias)))
    np.testing.assert_allclose(run(build, planes), expected.numpy(), atol=2e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("taps", [1, 3, 4])
def test_a_convolution_reads_its_own_channels_alone(taps: int):
    planes, kernel = random(2, 3 * CHANNELS, 9, 14), Kernel(random(7, CHANNELS, taps, taps), random(7))

    def build(tiles: Tiles) -> str:
        x = tiles.from_planes("planes", 3 * CHANNELS, (9, 14))
        part = x._replace(channels=CHANNELS, start=CHANNELS, width=3 * CHANNELS)
        return tiles.to_planes(tiles.conv(part, kernel))

    middle = torch.tensor(planes[:, CHANNELS : 2 * CHANNELS])
    expected = torch.nn.functional.conv2d(middle, *map(torch.tensor, kernel)).numpy()
    np.testing.assert_allclose(run(build, planes), expected, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("hw", [(8, 8), (10, 13), (8, 16)])
def test_a_pool_is_one(hw: tuple[int, int]):
    planes = random(2, CHANNELS, *hw)
    expected = torch.nn.functional.avg_pool2d(torch.tensor(planes), 2).numpy()
    found = run(lambda tiles: tiles.to_planes(tiles.pool(tiles.from_planes("planes", CHANNELS, hw))), planes)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("taps", [3, 4])
@pytest.mark.parametrize("hw", [(16, 16), (21, 34), (5, 40)])
def test_a_stem_is_a_convolution_a_relu_and_a_pool(taps: int, hw: tuple[int, int]):
    planes = random(2, 3, *hw)
    kernels = [Kernel(random(8, 3, taps, taps, seed=seed), random(8, seed=seed)) for seed in (1, 2)]

    def build(tiles: Tiles) -> str:
        return tiles.add("Concat", [tiles.to_planes(x) for x in tiles.stem("planes", kernels, hw)], axis=1)

    maps = [torch.nn.functional.conv2d(torch.tensor(planes), *map(torch.tensor, kernel)) for kernel in kernels]
    expected = torch.nn.functional.avg_pool2d(torch.cat(maps, 1).relu(), 2).numpy()
    np.testing.assert_allclose(run(build, planes), expected, rtol=1e-4, atol=1e-5)


def test_a_mean_over_channels_is_one():
    planes = random(2, CHANNELS, 9, 6)
    found = run(lambda tiles: tiles.mean_of_channels(tiles.from_planes("planes", CHANNELS, (9, 6))), planes)
    np.testing.assert_allclose(found, planes.mean(axis=1), rtol=1e-5, atol=1e-6)
