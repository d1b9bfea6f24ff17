"""Maps: where cells lie, what lies around them, and how two become one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from onnx import TensorProto, helper
from scipy.ndimage import gaussian_filter

from blemish.detectors.efficientad.maps import Maps, Quantiles, open_maps, placed
from blemish.detectors.efficientad.settings import EfficientAdSettings
from blemish.errors import ModelFileError
from blemish.imaging.geometry import Geometry, MapRule
from blemish.ops.distance_statistics import fit_distance_statistics
from tests.lazy import torch

SIDE = 64


def maps(sigma_px: float = 0.0, **changes) -> Maps:
    kept = {"padding": False, "pad_maps": True, "border": "edge"}
    quantiles = Quantiles(1.0, 3.0), Quantiles(0.0, 0.5)
    geometry = Geometry((SIDE, SIDE), map_rule=MapRule(sigma_px=sigma_px))
    return Maps(b"", None, geometry, *quantiles, **{**kept, **changes})


def cells(seed: int = 0, n: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 4, (n, n)).astype(np.float32)


def test_quantiles_become_0_and_a_tenth():
    values = np.arange(1001, dtype=np.float32).reshape(1, 7, 143)
    quantiles = Quantiles.of(values)
    assert quantiles == (900, 995)
    np.testing.assert_allclose(quantiles.normalised(np.float32([900, 995, 1090])), [0, 0.1, 0.2], rtol=1e-6)


def test_maps_without_spread_stay_finite():
    quantiles = Quantiles.of(np.full((2, 3, 3), 7, np.float32))
    assert np.isfinite(quantiles.normalised(np.float32([7, 8]))).all()
    assert Quantiles.of(np.zeros((2, 3, 3), np.float32)).high > 0


def test_a_cell_lies_in_the_middle_of_what_it_sees():
    one = np.zeros((8, 8), np.float32)
    one[2, 5] = 1
    found = placed(one, (SIDE, SIDE))
    assert found.max() == found[4 * 2 + 16, 4 * 5 + 16] == 1
    assert found[4 * 2 + 18, 4 * 5 + 16] == 0.5


def test_the_outermost_cell_goes_on():
    given = cells()
    found = placed(given, (SIDE, SIDE))
    assert (found[0, 0], found[-1, 0]) == (given[0, 0], given[-1, 0])
    np.testing.assert_allclose(found[0, 16:45:4], given[0], rtol=1e-6)


def test_joined_is_the_mean_of_the_normalised_maps():
    one, other = cells(0), cells(1)
    both = 0.5 * 0.1 * (one - 1) / 2 + 0.5 * 0.1 * other / 0.5
    np.testing.assert_allclose(maps().joined(one, other), placed(both.astype(np.float32), (SIDE, SIDE)), atol=1e-5)


def test_without_a_share_the_score_is_the_highest_value_of_the_map():
    made = maps(sigma_px=3.0)
    assert made.score(cells(0), cells(1)) == made.joined(cells(0), cells(1)).max()


def test_the_score_is_the_geometric_mean_of_the_highest_cells_and_of_all():
    one, other = cells(0), cells(1)
    both = np.sort((0.5 * 0.1 * one / 2 + 0.5 * 0.1 * other / 0.5).reshape(-1))
    expected = np.sqrt(both[-6:].mean() * both.mean())
    assert maps(top_share=0.1).score(one, other) == pytest.approx(expected, rel=1e-5)
    assert maps(top_share=1e-6).score(one, other) == pytest.approx(np.sqrt(both[-1] * both.mean()), rel=1e-5)


def test_the_score_rises_with_a_small_defect_and_with_one_that_is_everywhere():
    good, other = np.full((8, 8), 1.0, np.float32), np.zeros((8, 8), np.float32)
    small = good.copy()
    small[2, 3] = 3.0
    made = maps(top_share=0.02)
    assert made.score(small, other) > 1.5 * made.score(good, other)
    assert made.score(1.5 * good, other) == pytest.approx(1.5 * made.score(good, other))
    assert made.score(0 * good, other) == 0.0


def test_with_statistics_the_score_is_that_of_the_z_scores():
    made = maps(top_share=0.1)
    good = np.stack([made.cells(cells(seed), cells(seed + 50)) for seed in range(20)])
    statistics, _ = fit_distance_statistics(good, 1.0)
    one, other = 2 * cells(0), cells(1)
    z_scores = np.sort(statistics.z_scores(made.cells(one, other)).reshape(-1))
    expected = np.sqrt(z_scores[-6:].mean() * z_scores.mean())
    assert replace(made, statistics=statistics).score(one, other) == pytest.approx(expected, rel=1e-5)


def test_with_statistics_a_place_where_good_images_differ_counts_less():
    rng = np.random.default_rng(0)
    good = np.full((30, 8, 8), 1.0, np.float32) + rng.uniform(0, 0.1, (30, 8, 8)).astype(np.float32)
    good[:, 4:] += rng.uniform(0, 2, (30, 4, 8)).astype(np.float32)
    nothing, plain = np.zeros((8, 8), np.float32), maps(top_share=0.02, share=0.0)
    statistics, _ = fit_distance_statistics(np.stack([plain.cells(one, nothing) for one in good]), 0.0)
    made = replace(plain, statistics=statistics)
    calm, unsteady = (np.full((8, 8), 1.0, np.float32) for _ in range(2))
    calm[1, 1] = unsteady[6, 6] = 2.5
    assert plain.score(calm, nothing) == plain.score(unsteady, nothing)
    assert made.score(calm, nothing) > 1.2 * made.score(unsteady, nothing)


@pytest.mark.parametrize("border", ["edge", "zero", "normal"])
def test_an_autoencoder_without_a_share_says_nothing(border):
    made = maps(share=0.0, border=border)
    np.testing.assert_allclose(made.joined(cells(0), cells(1)), made.joined(cells(0), cells(2)))
    assert not np.allclose(maps(share=0.3, border=border).joined(cells(0), cells(1)), made.joined(cells(0), cells(1)))


@pytest.mark.parametrize("changes", [{}, {"padding": True}, {"border": "normal"}])
def test_a_smoothed_map_is_the_map_of_smoothed_cells(changes):
    both = np.float32(0.5 * 0.1 * (cells(0) - 1) / 2 + 0.5 * 0.1 * cells(1) / 0.5)
    nothing = {"student": Quantiles(0.0, 0.1), "share": 0.0}
    expected = replace(maps(**changes), **nothing).joined(gaussian_filter(both, 0.75), cells(1))
    np.testing.assert_allclose(maps(sigma_px=3.0, **changes).joined(cells(0), cells(1)), expected, atol=1e-5)


def test_a_border_of_zeros_is_anomalibs():
    """Source: anomalib 2.6.0, efficient_ad/torch_model.py: pad 4 zeros, interpolate, normalise, mean."""
    one, other = cells(0), cells(1)
    padded = [torch.nn.functional.pad(torch.from_numpy(x)[None, None], (4, 4, 4, 4)) for x in (one, other)]
    wide = [torch.nn.functional.interpolate(x, (SIDE, SIDE), mode="bilinear")[0, 0].numpy() for x in padded]
    expected = 0.5 * 0.1 * (wide[0] - 1) / 2 + 0.5 * 0.1 * wide[1] / 0.5
    np.testing.assert_allclose(maps(border="zero").joined(one, other), expected, atol=1e-5)


def test_a_border_of_normal_is_nelsons():
    """Source: nelson1425/efficientad.py, test: join, pad 4 zeros, interpolate."""
    one, other = cells(0), cells(1)
    both = torch.from_numpy((0.5 * 0.1 * (one - 1) / 2 + 0.5 * 0.1 * other / 0.5)[None, None])
    wide = torch.nn.functional.interpolate(torch.nn.functional.pad(both, (4, 4, 4, 4)), (SIDE, SIDE), mode="bilinear")
    np.testing.assert_allclose(maps(border="normal").joined(one, other), wide[0, 0].numpy(), atol=1e-5)


@pytest.mark.parametrize("changes", [{"pad_maps": False}, {"padding": True}])
def test_maps_that_cover_all_are_stretched(changes: dict[str, bool]):
    one = cells(0)
    found = maps(**changes).joined(one, np.zeros_like(one))
    assert found.shape == (SIDE, SIDE)
    assert found[0, 0] == pytest.approx(0.05 * (one[0, 0] - 1) / 2)


def small_graph(*, axes: list[int], value: float = 1.0) -> bytes:
    """A graph whose maps are means over `axes`, times a value."""
    nodes = [helper.make_node("Cast", ["image"], ["cast"], to=TensorProto.FLOAT)]
    nodes.append(helper.make_node("Mul", ["cast", "value"], ["times"]))
    outputs = []
    for name, over in (("student_map", [3]), ("autoencoder_map", axes)):
        nodes.append(helper.make_node("ReduceMean", ["times"], [name], axes=over, keepdims=0))
        outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["B", "H", "W", 3])
    constant = helper.make_tensor("value", TensorProto.FLOAT, [1], [value])
    graph = helper.make_graph(nodes, "g", [image], outputs, [constant])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def test_a_network_is_tried_before_it_is_used():
    geometry, settings = Geometry((SIDE, SIDE)), EfficientAdSettings(image_size=SIDE)
    assert (
        open_maps(small_graph(axes=[3]), geometry, settings, threads=1)
        .raw(np.full((SIDE, SIDE, 3), 9, np.uint8))[1]
        .min()
        == 9
    )
    for broken in (small_graph(axes=[2]), small_graph(axes=[2, 3]), small_graph(axes=[3], value=np.inf)):
        with pytest.raises(ModelFileError, match=r"network\.onnx: expected two finite float32 maps"):
            open_maps(broken, geometry, settings, threads=1)
