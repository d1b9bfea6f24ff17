"""What good images look like, learnt, written and read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from blemish import DataError, StoreError
from blemish.search.normal_statistics import LAYERS, SHALLOW, NormalStatistics
from tests.images import good, goods

if TYPE_CHECKING:
    from blemish.search.encoder import RegionEncoder


def test_whitened_good_images_have_no_mean_and_little_covariance(describer: RegionEncoder):
    looks = describer.good
    assert looks is not None
    found = [describer._layers(looks.geometry.prepare(image)) for image in goods()]
    for name in LAYERS:
        rows = np.concatenate([one[name].reshape(len(one[name]), -1).T for one in found]).astype(np.float64)
        white = rows @ looks.scaling[name].weight.T + looks.scaling[name].bias
        np.testing.assert_allclose(white.mean(axis=0), 0, atol=1e-3)
        assert np.abs(np.cov(white.T) - np.diag(np.diag(np.cov(white.T)))).max() < 1e-2
        assert np.diag(np.cov(white.T)).max() < 1.01
    means = np.stack([one[SHALLOW].mean(axis=(1, 2)) for one in found])
    squares = ((means @ looks.scaling[SHALLOW].weight.T + looks.scaling[SHALLOW].bias) ** 2).sum(axis=1)
    assert looks.usual_square == pytest.approx(squares.mean(), rel=1e-3)


def test_it_is_read_as_it_was_written(describer: RegionEncoder):
    assert describer.good is not None
    read = NormalStatistics.from_dict(json.loads(json.dumps(describer.good.to_dict())), where="s")
    assert read.geometry == describer.good.geometry
    assert read.usual_square == describer.good.usual_square
    for name in LAYERS:
        np.testing.assert_array_equal(read.scaling[name].weight, describer.good.scaling[name].weight)
        np.testing.assert_array_equal(read.scaling[name].bias, describer.good.scaling[name].bias)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tensors", "@@@"),
        ("tensors", "AAAA"),
        ("usual_square", float("nan")),
        ("usual_square", "much"),
        ("resize_hw", [7]),
        ("resize_hw", [10**9, 10**9]),
    ],
)
def test_what_is_damaged_is_refused(describer: RegionEncoder, field: str, value: object):
    assert describer.good is not None
    with pytest.raises(StoreError, match=r"store: expected what good images look like, got .* in s\. Put it back"):
        NormalStatistics.from_dict({**describer.good.to_dict(), field: value}, where="s")


def test_broken_images_are_passed_over(describer: RegionEncoder, tmp_path: Path, good_paths: list[Path]):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    found = NormalStatistics.of([broken, *good_paths[:3]], describer._layers, bit_depth=None)
    whole = NormalStatistics.of(good_paths[:3], describer._layers, bit_depth=None)
    assert found.usual_square == whole.usual_square
    with pytest.raises(DataError, match="got 1 of 2 that can be read"):
        NormalStatistics.of([broken, good(1)], describer._layers, bit_depth=None)
