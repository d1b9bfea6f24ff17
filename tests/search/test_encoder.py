"""Vectors of regions and images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from blemish import DataError, InputError, ModelFileError, Padim, Patchcore, load, prepare_defect_search
from blemish.imaging.anomaly_map import regions
from blemish.search.encoder import (
    DIMS,
    RegionEncoder,
    _nearest_cells,
    image_vector,
    most_anomalous_region,
    normalized,
    region_vectors,
)
from blemish.search.normal_statistics import LAYERS, MIDDLE_DEEP, SHALLOW, STATISTICS
from tests.images import good, goods, scratched, small_patchcore, write_goods
from tests.stores import blotched


def test_vectors_have_one_length(encoder: RegionEncoder):
    encoded = encoder.encode(scratched(99)[0])
    for one in encoded.regions:
        assert (one.vector.shape, one.vector.dtype) == ((DIMS["region"],), np.float32)
        assert np.linalg.norm(one.vector) == pytest.approx(1, abs=1e-6)
    assert encoded.vector.shape == (DIMS["image"],)
    assert encoded.prediction.regions == tuple(one.region for one in encoded.regions)


def test_a_vector_equals_its_definition(encoder: RegionEncoder):
    image = blotched(99)
    encoded = encoder.encode(image)
    normal = encoder.normal
    assert normal is not None
    features = encoder.features(normal.geometry.prepare(image))
    anomaly_map = encoded.prediction.anomaly_map
    everything = regions(anomaly_map, -1.0)  # one region
    (vector,) = region_vectors(features, anomaly_map, everything, normal)
    parts = []
    for name in MIDDLE_DEEP:
        layer, n = features[name], features[name].shape[1]
        fine = np.kron(anomaly_map, np.ones((5, 5)))  # 480 pixels, which both grids divide
        weight = fine.reshape(n, 480 // n, n, 480 // n).mean(axis=(1, 3)) ** 4
        pooled = (layer * weight).sum(axis=(1, 2)) / weight.sum() - layer.mean(axis=(1, 2))
        parts.append(normal.whitening[name].weight @ pooled)
    extent = normal.whitening[SHALLOW].weight @ features[SHALLOW].mean(axis=(1, 2)) + normal.whitening[SHALLOW].bias
    shrunk = max(0, 1 - normal.mean_squared_norm / (extent @ extent))
    amount = 2 * shrunk / np.sqrt(1 + (2 * shrunk) ** 2)
    assert np.linalg.norm(vector[-24:]) == pytest.approx(amount, abs=1e-5)
    if shrunk:
        np.testing.assert_allclose(normalized(vector[-24:]), normalized(extent), atol=1e-5)
    for part, start in zip(parts, (0, 40), strict=True):
        np.testing.assert_allclose(normalized(vector[start : start + len(part)]), normalized(part), atol=1e-3)


def test_good_images_have_little_extent(encoder: RegionEncoder):
    extents = [np.linalg.norm(encoder.encode(good(seed), force=True).regions[0].vector[-24:]) for seed in (100, 101)]
    assert min(extents) < 0.7 * np.linalg.norm(encoder.encode(blotched(99)).regions[0].vector[-24:])


def test_cells_count_for_the_nearest_region():
    anomaly_map = np.zeros((60, 80), np.float32)
    anomaly_map[5:10, 5:10] = 2
    anomaly_map[50:52, 70:75] = 1
    anomaly_map[8, 14] = 3  # a speck that no cell's centre is nearest to
    chosen = regions(anomaly_map, 0.5)
    cells = _nearest_cells(anomaly_map.shape, chosen, (6, 8))
    assert cells.any(axis=(1, 2)).all()
    corner = next(i for i, one in enumerate(chosen) if one.box[0] == 5)
    far = next(i for i, one in enumerate(chosen) if one.box[0] == 70)
    assert cells[corner, 0, 0]
    assert not cells[far, 0, 0]
    assert cells[far, 5, 7]
    assert _nearest_cells(anomaly_map.shape, chosen[:1], (6, 8)).all()
    assert _nearest_cells(anomaly_map.shape, (), (6, 8)).shape == (0, 6, 8)


def test_the_same_image_has_the_same_vector_and_another_another(encoder: RegionEncoder):
    one, other = encoder.encode(scratched(1)[0]), encoder.encode(scratched(1)[0].copy())
    np.testing.assert_array_equal(one.regions[0].vector, other.regions[0].vector)
    assert one.sha256 == other.sha256
    assert encoder.encode(scratched(2)[0]).sha256 != one.sha256


@pytest.mark.slow
def test_a_model_whose_training_images_are_gone_needs_others():
    encoder = RegionEncoder(small_patchcore().fit(goods(4)))
    with pytest.raises(DataError, match=r"good images: expected at least 2 .*, got 0 of 0.*--good.*good="):
        encoder.fit()
    assert encoder.fit(goods(4)).mean_squared_norm > 0


def test_an_image_without_a_region_is_refused(encoder: RegionEncoder):
    encoded = next(d for d in map(encoder.encode, map(good, range(100, 130))) if not d.regions)
    with pytest.raises(InputError, match="image: expected an anomalous region, got none"):
        most_anomalous_region(encoded)
    assert image_vector(dict.fromkeys(LAYERS, np.zeros((1, 1, 1), np.float32)), _flat()).tolist() == [0, 0, 0]


def _flat():
    from blemish.imaging.geometry import Geometry
    from blemish.ops.statistics import Affine
    from blemish.search.normal_statistics import NormalStatistics

    flat = Affine(np.zeros((1, 1), np.float32), np.zeros(1, np.float32))
    return NormalStatistics(Geometry((32, 32)), dict.fromkeys(LAYERS, flat), 1.0)


@pytest.mark.parametrize("kind", [Patchcore, Padim])
def test_a_model_folder_alone_suffices_to_encode_defects(kind: type, tmp_path: Path):
    paths = write_goods(tmp_path / "images", 8)
    settings = {"n_features": 16} if kind is Padim else {"coreset_size": 40, "score_fusion": False, "defect_axes": 0}
    model = kind(image_size=64, threads=1, **settings).fit(paths)
    expected = RegionEncoder(model)
    expected.fit()
    prepare_defect_search(model)
    model.save(tmp_path / "model")
    for path in paths:
        path.unlink()
    loaded = load(tmp_path / "model", threads=1)
    encoder = RegionEncoder(loaded)
    encoder.fit()
    assert encoder.model_id == expected.model_id
    np.testing.assert_array_equal(
        encoder.encode(scratched(99)[0], force=True).vector, expected.encode(scratched(99)[0], force=True).vector
    )
    assert (
        loaded.save(tmp_path / "again").joinpath(STATISTICS).read_bytes()
        == (tmp_path / "model" / STATISTICS).read_bytes()
    )
    assert loaded.predict(scratched(99)[0]).score == model.predict(scratched(99)[0]).score


def test_a_new_fit_carries_no_statistics_of_the_last_one(tmp_path: Path):
    model = small_patchcore().fit(goods(8))
    model.carry(STATISTICS, {"resize_hw": np.array([64, 64])})
    assert model.fit(goods(9)).fitted.carried == {}


@pytest.mark.parametrize(
    "change",
    [
        {"resize_hw": np.array([0, 64])},
        {"resize_hw": np.array([64])},
        {"mean_squared_norm": np.array([np.nan])},
        {"blocks.2.weight": np.zeros((24, 23), np.float32)},
        {"blocks.4.bias": np.zeros(40)},
        {"blocks.14.weight": None},
    ],
    ids=str,
)
def test_other_statistics_than_were_written_are_refused(encoder: RegionEncoder, change: dict[str, np.ndarray | None]):
    assert encoder.normal is not None
    tensors = {name: value for name, value in {**encoder.normal.to_tensors(), **change}.items() if value is not None}
    changed = small_patchcore().fit(goods(6))
    changed.carry(STATISTICS, tensors)
    with pytest.raises(ModelFileError, match=STATISTICS):
        RegionEncoder(changed).fit()


def test_a_model_whose_training_images_are_gone_stays_as_it_is():
    model = small_patchcore().fit(goods(6))
    assert not prepare_defect_search(model)
    assert model.fitted.carried == {}
    with pytest.raises(DataError, match="at least 2"):
        prepare_defect_search(model, [])
    assert prepare_defect_search(model, goods(4))
    assert [*model.fitted.carried] == [STATISTICS]
