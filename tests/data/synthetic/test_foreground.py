"""The foreground is the object before a uniform background, and all of a texture."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from blemish.data.synthetic.demo import CATEGORIES, render_demo
from blemish.data.synthetic.foreground import estimate_foreground, largest_channel


def disc(height: int, width: int, background: int = 240, inside: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """A noisy disc before a noisy background, and its coverage."""
    cover = np.zeros((height, width), np.uint8)
    cv2.circle(cover, (width // 2, height // 2), min(height, width) // 3, 1, -1)
    noise = np.random.default_rng(0).normal(0, 2, (height, width, 3))
    image = np.where(cover[..., None] > 0, inside, background) + noise
    return np.clip(image, 0, 255).astype(np.uint8), cover > 0


@pytest.mark.parametrize("hw", [(32, 32), (96, 64), (300, 500), (1100, 400)])
@pytest.mark.parametrize(("background", "inside"), [(240, 60), (10, 120), (120, 180)])
def test_an_object_before_a_uniform_background(hw: tuple[int, int], background: int, inside: int) -> None:
    image, cover = disc(*hw, background, inside)
    foreground = estimate_foreground(image)
    assert foreground.shape == hw
    assert foreground.dtype == np.bool_
    assert (foreground & cover).sum() / (foreground | cover).sum() > (0.85 if min(hw) > 64 else 0.6)


def test_holes_of_an_object_are_foreground() -> None:
    image, cover = disc(256, 256)
    cv2.circle(image, (128, 128), 25, (240, 240, 240), -1)
    assert estimate_foreground(image)[100:156, 100:156].all()
    assert cover[100:156, 100:156].all()


@pytest.mark.parametrize("category", CATEGORIES)
def test_a_texture_is_all_foreground(category: str) -> None:
    image, _ = render_demo(category)
    assert estimate_foreground(image).all()


def test_uneven_light_and_constant_images_have_no_background() -> None:
    slope = np.tile(np.linspace(90, 170, 256), (256, 1))[..., None] + np.random.default_rng(0).normal(
        0, 2, (256, 256, 3)
    )
    assert estimate_foreground(slope.astype(np.uint8)).all()
    assert estimate_foreground(np.full((64, 64, 3), 255, np.uint8)).all()


def test_a_light_spot_with_a_soft_outline_is_no_object() -> None:
    y, x = np.mgrid[:256, :256] - 128
    spot = 120 + 90 * np.exp(-(x * x + y * y) / (2 * 40**2))
    assert estimate_foreground(np.repeat(spot[..., None], 3, axis=2).astype(np.uint8)).all()


def test_the_median_of_a_border_of_many_colours_is_no_background() -> None:
    image = np.full((200, 200, 3), 60, np.uint8)
    image[:, 100:] = 200
    image[:100, 90:120] = 120  # little of the border, and its median
    assert estimate_foreground(image).all()


def test_scattered_specks_are_no_object() -> None:
    image = np.full((256, 256, 3), 200, np.uint8)
    for x, y in np.random.default_rng(0).integers(10, 246, (60, 2)):
        cv2.circle(image, (int(x), int(y)), 6, (90, 90, 90), -1)
    assert estimate_foreground(image).all()


def test_largest_channel_is_numpys_maximum() -> None:
    image = np.random.default_rng(0).integers(0, 256, (9, 7, 3)).astype(np.uint8)
    np.testing.assert_array_equal(largest_channel(image), image.max(axis=2))
