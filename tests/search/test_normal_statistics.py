"""Statistics of good images, fitted, written and read."""

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
    from blemish.search import RegionEncoder


@pytest.mark.slow
def test_whitened_good_images_have_no_mean_and_little_covariance(encoder: RegionEncoder):
    normal = encoder.normal
    assert normal is not None
    features = [encoder.features(normal.geometry.prepare(image)) for image in goods()]
    for name in LAYERS:
        rows = np.concatenate([layers[name].reshape(len(layers[name]), -1).T for layers in features]).astype(np.float64)
        white = rows @ normal.whitening[name].weight.T + normal.whitening[name].bias
        np.testing.assert_allclose(white.mean(axis=0), 0, atol=1e-3)
        assert np.abs(np.cov(white.T) - np.diag(np.diag(np.cov(white.T)))).max() < 1e-2
        assert np.diag(np.cov(white.T)).max() < 1.01
    means = np.stack([layers[SHALLOW].mean(axis=(1, 2)) for layers in features])
    squares = ((means @ normal.whitening[SHALLOW].weight.T + normal.whitening[SHALLOW].bias) ** 2).sum(axis=1)
    assert normal.mean_squared_norm == pytest.approx(squares.mean(), rel=1e-3)


def test_statistics_are_read_as_they_were_written(encoder: RegionEncoder):
    assert encoder.normal is not None
    read = NormalStatistics.from_dict(json.loads(json.dumps(encoder.normal.to_dict())), where="s")
    assert read.geometry == encoder.normal.geometry
    assert read.mean_squared_norm == encoder.normal.mean_squared_norm
    for name in LAYERS:
        np.testing.assert_array_equal(read.whitening[name].weight, encoder.normal.whitening[name].weight)
        np.testing.assert_array_equal(read.whitening[name].bias, encoder.normal.whitening[name].bias)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tensors", "@@@"),
        ("tensors", "AAAA"),
        ("mean_squared_norm", float("nan")),
        ("mean_squared_norm", "much"),
        ("resize_hw", [7]),
        ("resize_hw", [10**9, 10**9]),
    ],
)
def test_damaged_statistics_are_refused(encoder: RegionEncoder, field: str, value: object):
    assert encoder.normal is not None
    with pytest.raises(StoreError, match=r"store: expected statistics of good images, got .* in s\. Put it back"):
        NormalStatistics.from_dict({**encoder.normal.to_dict(), field: value}, where="s")


@pytest.mark.slow
def test_broken_images_are_skipped(encoder: RegionEncoder, tmp_path: Path, good_paths: list[Path]):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    with_broken = NormalStatistics.fit([broken, *good_paths[:3]], encoder.features, bit_depth=None)
    without = NormalStatistics.fit(good_paths[:3], encoder.features, bit_depth=None)
    assert with_broken.mean_squared_norm == without.mean_squared_norm
    with pytest.raises(DataError, match="got 1 of 2 that can be read"):
        NormalStatistics.fit([broken, good(1)], encoder.features, bit_depth=None)
