"""Procedural textures have the scale, range and repeatability of their docstrings."""

from __future__ import annotations

import numpy as np
import pytest

from blemish.data.synthetic.textures import blob, curve, mix, noise, photograph, pose, rgb, shade, stroke


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("cell", [1.5, 2.3, 7.0, 20.0, 130.0])
def test_noise_has_unit_standard_deviation_at_its_scale(cell: float) -> None:
    fields = [noise(rng(seed), 128, cell) for seed in range(60)]
    assert all(field.shape == (128, 128) and field.dtype == np.float32 for field in fields)
    assert abs(np.mean(fields)) < 0.25
    assert 0.75 < np.std(fields) < 1.25
    assert not np.array_equal(fields[0], fields[1])
    np.testing.assert_array_equal(fields[3], noise(rng(3), 128, cell))


def test_noise_is_rougher_in_smaller_cells() -> None:
    rough = [np.abs(np.diff(noise(rng(), 128, cell), axis=1)).mean() for cell in (2.0, 8.0, 32.0)]
    assert rough[0] > 2 * rough[1] > 4 * rough[2]
    along = noise(rng(), 128, 2.0, 30.0)
    assert np.abs(np.diff(along, axis=1)).mean() > 4 * np.abs(np.diff(along, axis=0)).mean()


def test_pose_rotates_and_shifts_a_lattice_of_that_pitch() -> None:
    u, v = pose(rng(), 200, 20.0, turn_degrees=0.0, warp_px=0.0)
    np.testing.assert_allclose(np.diff(u, axis=1), 1 / 20, atol=1e-5)
    np.testing.assert_allclose(np.diff(v, axis=0), 1 / 20, atol=1e-5)
    np.testing.assert_allclose(np.diff(u, axis=0), 0, atol=1e-5)
    starts = [pose(rng(seed), 200, 20.0, turn_degrees=0.0, warp_px=0.0, shift=0.1)[0][0, 0] for seed in range(30)]
    assert 0.1 < np.ptp(starts) <= 0.2
    rotated, _ = pose(rng(), 200, 20.0, turn_degrees=2.0, warp_px=1.0)
    assert np.abs(np.diff(rotated, axis=0)).mean() > 1e-4


def test_stroke_covers_a_tapered_line() -> None:
    points = np.stack([np.linspace(20, 108, 48), np.full(48, 64.0)], axis=1).astype(np.float32)
    line = stroke(128, points, 4.0)
    assert line.min() == 0.0
    assert line.max() == 1.0
    assert line[:50].max() == 0.0
    assert line[60:68, 64].sum() == pytest.approx(4.0, abs=1.0)
    assert line[:, 22].sum() < line[:, 64].sum()


def test_curve_starts_where_it_is_told() -> None:
    start = np.array([3.0, 5.0], np.float32)
    points = curve(rng(), 100, 50.0, bend=0.2, start=start)
    np.testing.assert_allclose(points[0], start, atol=1e-5)
    free = curve(rng(), 100, 50.0, bend=0.0)
    assert np.linalg.norm(free[-1] - free[0]) == pytest.approx(50 * 47 / 48, rel=1e-3)
    assert (free[24] > 10).all()
    assert (free[24] < 90).all()


def test_blob_is_about_as_large_as_asked() -> None:
    areas = [blob(rng(seed), 200, 15.0).sum() for seed in range(20)]
    assert 0.5 * np.pi * 15**2 < np.median(areas) < 1.5 * np.pi * 15**2
    one = blob(rng(), 200, 15.0)
    assert one.min() == 0.0
    assert one.max() == 1.0


def test_mix_and_shade() -> None:
    below, above = np.zeros((2, 2, 3), np.float32), np.ones((2, 2, 3), np.float32)
    np.testing.assert_array_equal(mix(below, above, np.full((2, 2), 0.25, np.float32)), 0.25)
    slope = np.tile(np.arange(8, dtype=np.float32), (8, 1))
    white = np.ones((8, 8, 3), np.float32)
    lit, dark = (shade(sign * slope, white, relief=0.5, shine=0.0)[4, 4, 0] for sign in (1, -1))
    flat = shade(0 * slope, white, relief=0.5, shine=0.0)[4, 4, 0]
    assert lit > flat > dark  # light comes from the upper left
    np.testing.assert_array_equal(rgb(0.0, 0.5, 1.0), np.array([0, 0.5, 1], np.float32))


def test_photograph_adds_little_noise_and_some_drift() -> None:
    scene = np.full((96, 96, 3), 0.5, np.float32)
    shots = [photograph(rng(seed), scene) for seed in range(12)]
    assert 115 < np.mean(shots) < 135
    assert np.std([shot.mean() for shot in shots]) > 1.0
    assert 1.0 < (shots[0][1:] - shots[0][:-1]).std() / np.sqrt(2) < 2.5
