"""Resizing: equal to Pillow's antialiased bilinear filter, in exact integers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from blemish.errors import InputError
from blemish.imaging.resize import fit_inside, resize

SIZES = st.integers(1, 60)


@pytest.mark.parametrize(
    ("from_hw", "to_hw"),
    [
        ((128, 128), (32, 32)),
        ((100, 90), (33, 28)),
        ((200, 64), (17, 64)),
        ((30, 40), (90, 100)),
        ((50, 50), (20, 120)),
        ((1, 1), (8, 5)),
        ((300, 7), (1, 1)),
    ],
)
@pytest.mark.parametrize("kind", ["noise", "weave"])
def test_is_pillows_antialiased_bilinear_within_one_grey_level(from_hw, to_hw, kind, rng):
    if kind == "noise":
        image = rng.integers(0, 256, (*from_hw, 3)).astype(np.uint8)
    else:
        rows, columns = np.indices(from_hw)
        image = np.repeat((((rows + columns) % 3) * 127).astype(np.uint8)[..., None], 3, axis=2)
    expected = np.asarray(Image.fromarray(image).resize(to_hw[::-1], Image.Resampling.BILINEAR))
    assert np.abs(resize(image, to_hw).astype(int) - expected).max() <= 1


@pytest.mark.slow
@given(value=st.integers(0, 255), from_hw=st.tuples(SIZES, SIZES), to_hw=st.tuples(SIZES, SIZES))
def test_a_constant_stays(value, from_hw, to_hw):
    out = resize(np.full((*from_hw, 3), value, np.uint8), to_hw)
    assert out.shape == (*to_hw, 3)
    assert (out == value).all()


@pytest.mark.slow
@given(from_hw=st.tuples(SIZES, SIZES), to_hw=st.tuples(SIZES, SIZES), seed=st.integers(0, 99))
def test_rotation_by_180_degrees_commutes_with_resizing(from_hw, to_hw, seed):
    # Not for the transpose: rows are rounded to 1/8 level before columns are taken.
    image = np.random.default_rng(seed).integers(0, 256, from_hw).astype(np.uint8)
    rotated = resize(np.ascontiguousarray(image[::-1, ::-1]), to_hw)
    assert np.abs(rotated[::-1, ::-1].astype(int) - resize(image, to_hw)).max() <= 1


def test_the_sums_are_exact(rng):
    """The integers behind the result, summed in int64."""
    from blemish.imaging.resize import FINE, ONE, _steps

    image = rng.integers(0, 256, (77, 53)).astype(np.uint8)
    down = np.zeros((77, 20), np.int64)
    for outputs, inputs, weights in _steps(77, 20, 1):
        down[inputs, outputs] += weights.astype(np.int64)
    across = np.zeros((53, 31), np.int64)
    for outputs, inputs, weights in _steps(53, 31, 1):
        across[inputs, outputs] += weights.astype(np.int64)
    assert (down.sum(0) == ONE).all()
    assert (across.sum(0) == ONE).all()
    middle = np.rint((down.T @ image.astype(np.int64)) * FINE / ONE).astype(np.int64)
    assert middle.max() * ONE < 2**24
    expected = (middle @ across + FINE * ONE // 2) // (FINE * ONE)
    assert np.array_equal(resize(image, (20, 31)), expected)


def test_channels_are_independent_and_axes_are_kept(rng):
    image = rng.integers(0, 256, (40, 50, 3)).astype(np.uint8)
    small = resize(image, (13, 21))
    for channel in range(3):
        grey = np.ascontiguousarray(image[..., channel])
        assert np.array_equal(small[..., channel], resize(grey, (13, 21)))
        assert np.array_equal(small[..., channel : channel + 1], resize(grey[..., None], (13, 21)))


def test_views_are_taken_and_the_input_is_not_changed(rng):
    image = rng.integers(0, 256, (40, 50, 3)).astype(np.uint8)
    before = image.copy()
    assert np.array_equal(resize(image[::2, ::-1], (9, 9)), resize(image[::2, ::-1].copy(), (9, 9)))
    assert np.array_equal(image, before)
    assert resize(image, (40, 50)) is image


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4), np.float32), np.zeros((0, 4), np.uint8), np.zeros((1, 2, 2, 3), np.uint8), [[1]]]
)
def test_other_arrays_are_refused(image):
    with pytest.raises(InputError, match=r"^image: expected uint8 \(H, W\), \(H, W, 1\) or \(H, W, 3\), got"):
        resize(image, (2, 2))


@pytest.mark.parametrize("size", [(0, 4), (4, -1), (4, 70_000)])
def test_refuses_sizes_out_of_range(size):
    with pytest.raises(InputError, match=r"^height_width: expected a number from 1 to 65535"):
        resize(np.zeros((4, 4), np.uint8), size)


def test_fit_inside_keeps_the_aspect_and_never_enlarges():
    assert fit_inside((1000, 500), 256) == (256, 128)
    assert fit_inside((10, 20), 256) == (10, 20)
    assert fit_inside((1, 4000), 100) == (1, 100)
