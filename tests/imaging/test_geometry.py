"""From image to network input and back: sizes, crops, and that a map's maximum lies where the image's spot is."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from blemish.errors import InputError
from blemish.imaging.anomaly_map import upsample
from blemish.imaging.geometry import Geometry, MapRule, choose_geometry, is_size_of
from blemish.imaging.resize import resize

SIZES = st.integers(20, 300)


def image(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)


def spot(height: int, width: int, box: tuple[int, int, int, int]) -> np.ndarray:
    drawn = np.zeros((height, width, 3), np.uint8)
    x, y, w, h = box
    drawn[y : y + h, x : x + w] = 255
    return drawn


# choose_geometry


@pytest.mark.parametrize(
    ("images_hw", "image_size", "resize_hw", "why"),
    [
        ([(900, 900)], 256, (256, 256), "square images stay square"),
        ([(200, 800)] * 3, 128, (64, 256), "a shared aspect is kept, with the same number of pixels"),
        ([(200, 800), (202, 790)], 128, (64, 256), "within 5 % is shared"),
        ([(200, 800), (800, 200)], 128, (128, 128), "mixed aspects become square"),
        ([(200, 800), (230, 800)], 128, (128, 128), "15 % apart is mixed"),
        ([(10, 4000)], 64, (32, 1280), "no side is below one step of the coarsest grid"),
        ([(900, 900)], (96, 160), (96, 160), "a pair is taken as it is"),
        ([(900, 300)], 33, (64, 32), "rounded to steps of the coarsest grid"),
    ],
)
def test_size_of_the_input(images_hw, image_size, resize_hw, why: str):
    assert choose_geometry(images_hw, image_size, None) == Geometry(resize_hw), why


@pytest.mark.parametrize(
    ("images_hw", "image_size", "resize_hw", "why"),
    [
        ([(900, 900)], 320, (322, 322), "the nearest multiple of a patch"),
        ([(200, 800)], 320, (154, 644), "of both sides"),
        ([(10, 4000)], 64, (42, 1274), "no side is below 32 pixels"),
        ([(900, 900)], (98, 126), (98, 126), "a pair is taken as it is"),
    ],
)
def test_size_of_the_input_of_a_transformer(images_hw, image_size, resize_hw, why: str):
    assert choose_geometry(images_hw, image_size, None, patch_px=14) == Geometry(resize_hw), why


def test_crop_of_a_transformer():
    """The crop is what the network sees: the resized image may have any size."""
    assert choose_geometry([(9, 9)], (256, 256), 224, patch_px=14) == Geometry((256, 256), (224, 224))


@pytest.mark.parametrize(
    ("image_size", "crop", "text"),
    [
        ((256, 252), None, "expected multiples of 14 px, the side of the backbone's patches, got (256, 252)."),
        ((256, 252), None, "Give (252, 252)."),
        (256, 200, "center_crop: expected multiples of 14 px, the side of the backbone's patches, got (200, 200)."),
    ],
)  # fmt: skip
def test_sizes_of_no_whole_patches_are_refused(image_size, crop, text: str):
    with pytest.raises(InputError, match=re.escape(text)):
        choose_geometry([(100, 100)], image_size, crop, patch_px=14)


@pytest.mark.parametrize(("crop", "crop_hw"), [(64, (64, 64)), ((32, 96), (32, 96)), (96, (96, 96))])
def test_crop_is_one_number_or_two(crop, crop_hw: tuple[int, int]):
    geometry = choose_geometry([(50, 50)], 96, crop)
    assert (geometry.resize_hw, geometry.network_hw) == ((96, 96), crop_hw)


@pytest.mark.parametrize(
    ("image_size", "crop", "text"),
    [
        (16, None, "image_size: expected a number from 32 to 4096, got 16."),
        (5000, None, "image_size: expected a number from 32 to 4096, got 5000."),
        ("64", None, "image_size: expected a number from 32 to 4096, got '64'."),
        ((64, 31), None, "image_size: expected a number from 32 to 4096, got 31."),
        ((64, 64, 3), None, "image_size: expected one number or (height, width), got (64, 64, 3)."),
        (64, 96, "center_crop: expected at most (64, 64), got (96, 96). Raise image_size, or give a smaller crop."),
        (64, (32, 96), "center_crop: expected at most (64, 64), got (32, 96)."),
        (64, (96, 32), "center_crop: expected at most (64, 64), got (96, 32)."),
        (64, 0, "center_crop: expected a number from 32 to 4096, got 0."),
        (64, (64,), "center_crop: expected one number or (height, width), got (64,)."),
    ],
)
def test_sizes_out_of_range_are_refused(image_size, crop, text: str):
    with pytest.raises(InputError, match=re.escape(text)):
        choose_geometry([(100, 100)], image_size, crop)


# Geometry.prepare


def test_without_a_crop_the_whole_image_is_resized():
    given_image = image(70, 50)
    network_input = Geometry((64, 96)).prepare(given_image)
    np.testing.assert_array_equal(network_input, resize(given_image, (64, 96)))


def test_with_a_crop_the_centre_is_cut_out():
    given_image = image(128, 160)
    network_input = Geometry((64, 96), (32, 64)).prepare(given_image)
    np.testing.assert_array_equal(network_input, resize(given_image, (64, 96))[16:48, 16:80])
    assert network_input.flags.c_contiguous
    assert network_input.dtype == np.uint8


# Geometry.restore


@pytest.mark.slow
@given(height=SIZES, width=SIZES, cropped=st.booleans())
def test_a_map_comes_back_at_the_size_of_the_image(height: int, width: int, cropped: bool):
    geometry = Geometry((64, 96), (32, 64) if cropped else None, map_rule=MapRule(sigma_px=2.0))
    patch_map = np.full((4, 8), 3, np.float32)
    restored = geometry.restore(patch_map, (height, width))
    assert (restored.shape, restored.dtype) == ((height, width), np.float32)
    assert restored[height // 2, width // 2] == pytest.approx(3, rel=1e-5)
    if not cropped:  # a constant stays constant up to the edges
        np.testing.assert_allclose(restored, 3, rtol=1e-5)


def test_outside_of_a_crop_the_map_is_zero():
    restored = Geometry((64, 64), (32, 32), map_rule=MapRule(sigma_px=1.0)).restore(
        np.ones((4, 4), np.float32), (128, 128)
    )
    inside = np.zeros((128, 128), bool)
    inside[32:96, 32:96] = True
    assert (restored[inside] > 0).all()
    assert (restored[~inside] <= 0.5).all()
    assert not restored[:30].any()
    assert not restored[:, -30:].any()
    np.testing.assert_allclose(restored[34:94, 34:94], 1, rtol=1e-5)


def test_smoothing_at_the_networks_size_is_close_to_smoothing_at_the_images(rng: np.random.Generator):
    patch_map = rng.random((28, 28), np.float32)
    restored = Geometry((224, 224)).restore(patch_map, (896, 896))
    slow = ndimage.gaussian_filter(upsample(patch_map, (896, 896)), 16.0)
    assert np.abs(restored - slow).max() < 0.01 * np.ptp(patch_map)


@pytest.mark.parametrize("image_hw", [(1, 1), (30, 500), (64, 80)])
def test_extreme_image_sizes(rng: np.random.Generator, image_hw: tuple[int, int]):
    assert Geometry((64, 80)).restore(rng.random((7, 9), np.float32), image_hw).shape == image_hw


@pytest.mark.parametrize("crop", [None, (64, 64)])
@pytest.mark.parametrize("xy", [(60, 60), (100, 84), (120, 60)])
def test_a_spot_is_brightest_in_the_map_where_it_is_in_the_image(crop, xy: tuple[int, int]):
    """With a network that averages 8 x 8 pixels."""
    geometry = Geometry((96, 96), crop, map_rule=MapRule(sigma_px=0.0))
    x, y = xy
    pixels = geometry.prepare(spot(144, 192, (x, y, 12, 12)))[..., 0].astype(np.float32)
    cells = pixels.reshape(pixels.shape[0] // 8, 8, pixels.shape[1] // 8, 8).mean(axis=(1, 3))
    restored = geometry.restore(cells, (144, 192))
    rows, columns = np.nonzero(restored == restored.max())
    assert abs(rows.mean() - (y + 5.5)) <= 8
    assert abs(columns.mean() - (x + 5.5)) <= 10


# Geometry.patch_box


@pytest.mark.slow
@pytest.mark.parametrize("multiple_px", [1, 32])
@given(side=st.integers(32, 1024), height=st.integers(40, 900), width=st.integers(40, 900))
def test_a_chosen_size_is_a_size_of_its_number(multiple_px: int, side: int, height: int, width: int):
    chosen = choose_geometry([(height, width)], side, None, multiple_px=multiple_px).resize_hw
    assert is_size_of(chosen, side, multiple_px)


def test_another_size_is_none_of_that_number():
    assert not is_size_of((256, 256), 224, 1)
    assert not is_size_of((256, 416), 256)
    assert not is_size_of((260, 252), 256)


def test_box_of_a_patch():
    assert Geometry((64, 64)).patch_box(1, 2, (8, 8), (128, 256)) == (64, 16, 32, 16)
    assert Geometry((64, 64), (32, 32)).patch_box(0, 0, (4, 4), (128, 64)) == (16, 32, 8, 16)


@pytest.mark.slow
@given(
    image_hw=st.tuples(st.integers(1, 400), st.integers(1, 400)),
    grid_hw=st.tuples(st.integers(1, 16), st.integers(1, 16)),
    cropped=st.booleans(),
    data=st.data(),
)
def test_boxes_lie_in_the_image(image_hw, grid_hw, cropped: bool, data):
    geometry = Geometry((96, 64), (64, 32) if cropped else None)
    row, column = (data.draw(st.integers(0, n - 1)) for n in grid_hw)
    x, y, width, height = geometry.patch_box(row, column, grid_hw, image_hw)
    assert min(x, y) >= 0
    assert min(width, height) >= 1
    assert x + width <= image_hw[1]
    assert y + height <= image_hw[0]


def test_boxes_cover_the_image():
    covered = np.zeros((100, 77), bool)
    for row in range(7):
        for column in range(5):
            x, y, width, height = Geometry((64, 96)).patch_box(row, column, (7, 5), (100, 77))
            covered[y : y + height, x : x + width] = True
    assert covered.all()
