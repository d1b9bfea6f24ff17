"""Anomaly maps against SciPy and hand-made cases."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from blemish.errors import InputError
from blemish.imaging import anomaly_map as maps


class TestUpsample:
    def test_is_bilinear_between_centres(self):
        upsampled = maps.upsample(np.float32([[0, 1]]), (1, 4))
        np.testing.assert_allclose(upsampled, [[0, 0.25, 0.75, 1]], atol=1e-7)

    @given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 40), st.integers(1, 40))
    def test_keeps_a_constant_and_gives_the_shape(self, h, w, height, width):
        upsampled = maps.upsample(np.full((h, w), 3.5, np.float32), (height, width))
        assert upsampled.shape == (height, width)
        assert upsampled.dtype == np.float32
        np.testing.assert_allclose(upsampled, 3.5, rtol=1e-6)

    def test_height_comes_before_width_and_the_peak_stays_in_place(self):
        patch_map = np.zeros((8, 4), np.float32)
        patch_map[6, 1] = 1
        upsampled = maps.upsample(patch_map, (80, 20))
        x, y = maps.peak(upsampled)
        assert abs(y - (6.5 * 10 - 0.5)) <= 1
        assert abs(x - (1.5 * 5 - 0.5)) <= 1

    def test_bad_input_is_named(self):
        with pytest.raises(InputError, match=r"patch_map: expected float32 \(h, w\), got float64 \(2, 2\)"):
            maps.upsample(np.zeros((2, 2)), (4, 4))
        with pytest.raises(InputError, match="patch_map: expected finite"):
            maps.upsample(np.full((2, 2), np.nan, np.float32), (4, 4))
        with pytest.raises(InputError, match="height_width: expected a number of at least 1, got 0"):
            maps.upsample(np.zeros((2, 2), np.float32), (4, 0))


class TestSmooth:
    @pytest.mark.parametrize("shape", [(40, 60), (5, 90), (1, 1), (2, 3), (1, 30)])
    @pytest.mark.parametrize("sigma", [0.1, 0.8, 4.0])
    def test_is_scipys_gaussian_filter(self, rng, shape, sigma):
        anomaly_map = rng.random(shape, np.float32)
        expected = ndimage.gaussian_filter(anomaly_map.astype(np.float64), sigma, mode="reflect", truncate=4.0)
        np.testing.assert_allclose(maps.smooth(anomaly_map, sigma), expected, atol=1e-6)

    def test_keeps_a_constant_and_the_given_map(self, rng):
        np.testing.assert_allclose(maps.smooth(np.full((9, 9), 7, np.float32), 4.0), 7, rtol=1e-6)
        anomaly_map = rng.random((9, 9), np.float32)
        before = anomaly_map.copy()
        for sigma in (0.0, 2.0):
            assert not np.shares_memory(maps.smooth(anomaly_map, sigma), anomaly_map)
        np.testing.assert_array_equal(anomaly_map, before)
        np.testing.assert_array_equal(maps.smooth(anomaly_map, 0.0), before)

    def test_bad_input_is_named(self):
        with pytest.raises(InputError, match="sigma: expected a number of at least 0, got -1"):
            maps.smooth(np.zeros((2, 2), np.float32), -1)
        with pytest.raises(InputError, match="anomaly_map: expected float32"):
            maps.smooth(np.zeros((2, 2, 1), np.float32), 1)


class TestRegions:
    def test_box_area_score_centroid_and_contour(self):
        anomaly_map = np.zeros((10, 12), np.float32)
        anomaly_map[2:5, 3:7] = 2
        anomaly_map[3, 4] = 5
        (region,) = maps.regions(anomaly_map, 1)
        assert region.box == (3, 2, 4, 3)
        assert region.area_px == 12
        assert region.score == 5
        assert region.centroid_xy == (4.5, 3.0)
        assert sorted(region.contour.tolist()) == [[3, 2], [3, 4], [6, 2], [6, 4]]
        assert region.contour.dtype == np.int32

    def test_are_sorted_by_score_and_corners_connect(self):
        anomaly_map = np.zeros((9, 9), np.float32)
        anomaly_map[0, 0] = anomaly_map[1, 1] = 3
        anomaly_map[5, 5] = 9
        anomaly_map[8, 0:4] = 4
        regions = maps.regions(anomaly_map, 0)
        assert [region.score for region in regions] == [9, 4, 3]
        assert [region.area_px for region in regions] == [1, 4, 2]
        assert [region.area_px for region in maps.regions(anomaly_map, 0, min_area_px=2)] == [4, 2]

    def test_equal_scores_keep_reading_order(self, rng):
        anomaly_map = (rng.random((40, 50)) > 0.8).astype(np.float32)
        labels, n = ndimage.label(anomaly_map, structure=np.ones((3, 3)))
        first = [np.flatnonzero(labels == i)[0] for i in range(1, n + 1)]
        tops = [region.box[1] for region in maps.regions(anomaly_map, 0.5)]
        assert tops == [position // 50 for position in sorted(first)]
        assert len(tops) > 20

    def test_a_region_in_the_hole_of_another_has_its_own_contour(self):
        anomaly_map = np.ones((9, 9), np.float32)
        anomaly_map[1:8, 1:8] = 0
        anomaly_map[4, 4] = 2
        inner, outer = maps.regions(anomaly_map, 0.5)
        assert inner.contour.tolist() == [[4, 4]]
        assert sorted(outer.contour.tolist()) == [[0, 0], [0, 8], [8, 0], [8, 8]]
        assert outer.box == (0, 0, 9, 9)

    def test_threshold_is_strict(self):
        flat = np.ones((4, 4), np.float32)
        assert maps.regions(flat, 1.0) == ()
        assert len(maps.regions(flat, 0.999)) == 1
        assert maps.regions(flat, np.inf) == ()
        assert maps.regions(flat, 1e300) == ()
        assert len(maps.regions(flat, -1e300)) == 1
        assert maps.regions(flat, 0, min_area_px=17) == ()

    @pytest.mark.parametrize("threshold", [0.5, 0.9])
    def test_regions_equal_scipys_labels(self, rng, threshold):
        anomaly_map = rng.random((60, 70), np.float32)
        regions = maps.regions(anomaly_map, threshold)
        labels, n = ndimage.label(anomaly_map > threshold, structure=np.ones((3, 3)))
        assert len(regions) == n
        expected = ndimage.maximum(anomaly_map, labels, range(1, n + 1))
        np.testing.assert_array_equal([region.score for region in regions], np.sort(expected)[::-1])
        slices = ndimage.find_objects(labels)
        boxes = {(x.start, y.start, x.stop - x.start, y.stop - y.start) for y, x in slices}
        assert {region.box for region in regions} == boxes
        centres = ndimage.center_of_mass(np.ones_like(labels), labels, range(1, n + 1))
        np.testing.assert_allclose(
            sorted(region.centroid_xy[::-1] for region in regions), sorted(tuple(centre) for centre in centres)
        )
        assert sum(region.area_px for region in regions) == (anomaly_map > threshold).sum()

    def test_bad_input_is_named(self):
        flat = np.ones((4, 4), np.float32)
        with pytest.raises(InputError, match="threshold: expected a number"):
            maps.regions(flat, float("nan"))
        with pytest.raises(InputError, match="min_area_px: expected a number of at least 1, got 0"):
            maps.regions(flat, 0, min_area_px=0)
        with pytest.raises(InputError, match="anomaly_map: expected finite"):
            maps.regions(flat * np.float32(np.nan), 0)
        with pytest.raises(InputError, match="anomaly_map: expected float32"):
            maps.peak(np.ones((4, 4)))


def test_peak_is_the_first_of_the_highest():
    anomaly_map = np.zeros((3, 5), np.float32)
    anomaly_map[1, 4] = anomaly_map[2, 0] = 1
    assert maps.peak(anomaly_map) == (4, 1)


def test_anomalib_map_is_nearest_neighbor_upsampling_smoothed():
    patch_map = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.testing.assert_array_equal(maps.anomalib_map(patch_map, (6, 8), 0.0), patch_map.repeat(2, 0).repeat(2, 1))
    smoothed = maps.anomalib_map(patch_map, (48, 64), 4.0)
    squares = patch_map.repeat(16, 0).repeat(16, 1).astype(float)
    # The mirror image at the border does not repeat the outermost pixel.
    expected = ndimage.gaussian_filter(squares, 4.0, mode="mirror", truncate=4.0)
    np.testing.assert_allclose(smoothed, expected, atol=1e-4)


def test_anomalib_map_must_be_larger_than_the_kernel():
    with pytest.raises(InputError, match=r"network_hw: expected"):
        maps.anomalib_map(np.ones((2, 2), np.float32), (16, 64), 4.0)
