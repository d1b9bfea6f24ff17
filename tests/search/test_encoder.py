"""Vectors of regions and images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from blemish import DataError, InputError, Patchcore
from blemish.imaging.anomaly_map import regions
from blemish.search.encoder import (
    DIMS,
    RegionEncoder,
    _owners,
    image_vector,
    model_id,
    region_vectors,
    unit,
    worst_region,
)
from blemish.search.normal_statistics import LAYERS, MIDDLE_DEEP, SHALLOW
from tests.images import good, goods, scratched, small_patchcore
from tests.stores import blotched


def test_vectors_are_of_one_length_whatever_the_detector(describer: RegionEncoder):
    described = describer.describe(scratched(99)[0])
    for one in described.regions:
        assert (one.vector.shape, one.vector.dtype) == ((DIMS["region"],), np.float32)
        assert np.linalg.norm(one.vector) == pytest.approx(1, abs=1e-6)
    assert described.vector.shape == (DIMS["image"],)
    assert described.prediction.regions == tuple(one.region for one in described.regions)


def test_a_vector_is_what_the_page_says(describer: RegionEncoder):
    image = blotched(99)
    described = describer.describe(image)
    looks = describer.good
    assert looks is not None
    layers = describer._layers(looks.geometry.prepare(image))
    anomaly_map = described.prediction.anomaly_map
    whole = regions(anomaly_map, -1.0)  # one region that is all
    (vector,) = region_vectors(layers, anomaly_map, whole, looks)
    parts = []
    for name in MIDDLE_DEEP:
        features, n = layers[name], layers[name].shape[1]
        fine = np.kron(anomaly_map, np.ones((5, 5)))  # 480 pixels, which both grids divide
        weight = fine.reshape(n, 480 // n, n, 480 // n).mean(axis=(1, 3)) ** 4
        there = (features * weight).sum(axis=(1, 2)) / weight.sum() - features.mean(axis=(1, 2))
        parts.append(looks.scaling[name].weight @ there)
    around = looks.scaling[SHALLOW].weight @ layers[SHALLOW].mean(axis=(1, 2)) + looks.scaling[SHALLOW].bias
    shrunk = max(0, 1 - looks.usual_square / (around @ around))
    amount = 2 * shrunk / np.sqrt(1 + (2 * shrunk) ** 2)
    assert np.linalg.norm(vector[-24:]) == pytest.approx(amount, abs=1e-5)
    if shrunk:
        np.testing.assert_allclose(unit(vector[-24:]), unit(around), atol=1e-5)
    for part, start in zip(parts, (0, 40), strict=True):
        np.testing.assert_allclose(unit(vector[start : start + len(part)]), unit(part), atol=1e-3)


def test_good_images_have_no_amount(describer: RegionEncoder):
    amounts = [
        np.linalg.norm(describer.describe(good(seed), force=True).regions[0].vector[-24:]) for seed in (100, 101)
    ]
    assert min(amounts) < 0.7 * np.linalg.norm(describer.describe(blotched(99)).regions[0].vector[-24:])


def test_cells_belong_to_the_nearest_region():
    anomaly_map = np.zeros((60, 80), np.float32)
    anomaly_map[5:10, 5:10] = 2
    anomaly_map[50:52, 70:75] = 1
    anomaly_map[8, 14] = 3  # a speck that no cell's centre is nearest to
    chosen = regions(anomaly_map, 0.5)
    owners = _owners(anomaly_map.shape, chosen, (6, 8))
    assert owners.any(axis=(1, 2)).all()
    corner = next(i for i, one in enumerate(chosen) if one.box[0] == 5)
    far = next(i for i, one in enumerate(chosen) if one.box[0] == 70)
    assert owners[corner, 0, 0]
    assert not owners[far, 0, 0]
    assert owners[far, 5, 7]
    assert _owners(anomaly_map.shape, chosen[:1], (6, 8)).all()
    assert _owners(anomaly_map.shape, (), (6, 8)).shape == (0, 6, 8)


def test_the_same_image_has_the_same_vector_and_another_another(describer: RegionEncoder):
    one, other = describer.describe(scratched(1)[0]), describer.describe(scratched(1)[0].copy())
    np.testing.assert_array_equal(one.regions[0].vector, other.regions[0].vector)
    assert one.sha256 == other.sha256
    assert describer.describe(scratched(2)[0]).sha256 != one.sha256


def test_a_second_fit_of_the_same_has_the_same_id(fitted: Patchcore, good_paths: list[Path]):
    again = small_patchcore().fit(good_paths)
    assert model_id(again) == model_id(fitted)
    again.set_false_positive_rate(0.2)
    assert model_id(again) == model_id(fitted)
    assert model_id(small_patchcore(seed=1).fit(good_paths)) != model_id(fitted)


def test_a_model_without_its_images_says_what_to_give():
    describer = RegionEncoder(small_patchcore().fit(goods(4)))
    with pytest.raises(DataError, match=r"good images: expected at least 2 .*, got 0 of 0.*--good.*good="):
        describer.learn()
    assert describer.learn(goods(4)).usual_square > 0


def test_nothing_above_the_threshold_is_said(describer: RegionEncoder):
    described = next(d for d in map(describer.describe, map(good, range(100, 130))) if not d.regions)
    with pytest.raises(InputError, match="image: expected an anomalous region, got none"):
        worst_region(described)
    assert image_vector(dict.fromkeys(LAYERS, np.zeros((1, 1, 1), np.float32)), _flat()).tolist() == [0, 0, 0]


def _flat():
    from blemish.imaging.geometry import Geometry
    from blemish.ops.statistics import Affine
    from blemish.search.normal_statistics import NormalStatistics

    flat = Affine(np.zeros((1, 1), np.float32), np.zeros(1, np.float32))
    return NormalStatistics(Geometry((32, 32)), dict.fromkeys(LAYERS, flat), 1.0)
