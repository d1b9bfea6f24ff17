"""Convolutions on tiles are convolutions: compared with torch's own, value by value."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from blemish import runtime
from blemish._graphs.builder import Graph
from blemish._graphs.tiles import Tiles

CHANNELS = 5


def through(build, images: np.ndarray) -> np.ndarray:
    """Run what `build(graph, planes)` returns on images, with three channels made five."""
    graph = Graph()
    planes = graph.add("Cast", [graph.add("Transpose", ["image"], perm=[0, 3, 1, 2])], to=1)
    mix = np.random.default_rng(0).normal(size=(CHANNELS, 3, 1, 1)) / 100
    planes = graph.add("Conv", [planes, graph.weight("mix", mix)])
    model = graph.model({"features": build(graph, planes)}, n_axes=3).SerializeToString()
    return runtime.load(model, threads=1).run(images)["features"]


def wide(images: np.ndarray) -> torch.Tensor:
    mix = torch.tensor(np.random.default_rng(0).normal(size=(CHANNELS, 3, 1, 1)) / 100)
    return torch.nn.functional.conv2d(torch.from_numpy(images.astype(np.float64)).permute(0, 3, 1, 2), mix)


@pytest.mark.parametrize("taps", [1, 3, 4])
@pytest.mark.parametrize(("n", "hw"), [(1, (12, 12)), (2, (11, 18))])
def test_a_convolution_is_one(taps: int, n: int, hw: tuple[int, int]):
    rng = np.random.default_rng(taps)
    images = rng.integers(0, 256, (n, *hw, 3), np.uint8)
    weight, bias = rng.normal(size=(7, CHANNELS, taps, taps)), rng.normal(size=7)
    made = hw[0] - taps + 1, hw[1] - taps + 1
    tiles_hw = -(-made[0] // 4), -(-made[1] // 4)
    more = 0 if taps == 1 else 1

    def build(graph: Graph, planes: str) -> str:
        tiles = Tiles(graph)
        x = tiles.from_planes(planes, CHANNELS, hw, (tiles_hw[0] + more, tiles_hw[1] + more))
        return tiles.mean_of_squares(tiles.conv(x, weight, bias, tiles_hw, relu=taps == 3), made)

    expected = torch.nn.functional.conv2d(wide(images), torch.tensor(weight), torch.tensor(bias))
    if taps == 3:
        expected = expected.relu()
    np.testing.assert_allclose(through(build, images), expected.square().mean(1).numpy(), rtol=2e-4)


@pytest.mark.parametrize("hw", [(8, 8), (10, 13), (8, 16)])
def test_a_pool_is_one(hw: tuple[int, int]):
    images = np.random.default_rng(1).integers(0, 256, (2, *hw, 3), np.uint8)
    tiles_hw, made = (-(-hw[0] // 4), -(-hw[1] // 4)), (hw[0] // 2, hw[1] // 2)

    def build(graph: Graph, planes: str) -> str:
        tiles = Tiles(graph)
        return tiles.mean_of_squares(tiles.pool(tiles.from_planes(planes, CHANNELS, hw, tiles_hw)), made)

    expected = torch.nn.functional.avg_pool2d(wide(images), 2).square().mean(1)
    np.testing.assert_allclose(through(build, images), expected.numpy(), rtol=1e-5)
