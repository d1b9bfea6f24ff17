import cv2
import numpy as np
import pytest

from blemish.errors import InputError
from blemish.visualization import FOUND, colour_scale, contours, draw_mask, heat_map, overlay, to_jpeg
from blemish.visualization.overlays import EDGE
from tests.visualization.predictions import image_of


def lightness(image: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(image, cv2.COLOR_RGB2LAB)[..., 0].astype(int)


def test_lightness_of_the_heat_map_rises_from_black_and_depends_on_the_given_limits() -> None:
    values = np.linspace(-50, 150, 401, dtype=np.float32)[None]
    coloured = heat_map(values, 0.0, 100.0)
    steps = np.diff(lightness(coloured)[0])
    assert (steps >= -1).all()
    assert lightness(coloured)[0, 0] < 3
    assert lightness(coloured)[0, -1] > 240
    np.testing.assert_array_equal(coloured[0, 300:], np.repeat(coloured[:1, 300], 101, axis=0))
    # The minimum and maximum of the map have no influence.
    np.testing.assert_array_equal(heat_map(values[:, 150:160], 0.0, 100.0), coloured[:, 150:160])


def test_heat_map_is_rgb() -> None:
    red, green, blue = heat_map(np.full((1, 1), 0.65, np.float32), 0.0, 1.0)[0, 0].tolist()
    assert red > 200 > green > blue


def test_the_threshold_is_at_a_third_of_the_colour_scale() -> None:
    for threshold in (20.0, 0.3, -4.0, 0.0):
        low, high = colour_scale(threshold)
        assert (threshold - low) / (high - low) == pytest.approx(1 / 3)
    with pytest.raises(InputError, match=r"pixel_threshold: expected a number from -1e\+30 to 1e\+30, got inf"):
        colour_scale(float("inf"))


def test_overlay_is_transparent_at_low_values_and_opaque_at_high_values(rng: np.random.Generator) -> None:
    image = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
    low, high = colour_scale(20.0)
    low_map = np.full((20, 30), 10.0, np.float32)
    np.testing.assert_array_equal(overlay(image, low_map, low, high), image)
    high_map = np.full((20, 30), 40.0, np.float32)
    np.testing.assert_array_equal(overlay(image, high_map, low, high, alpha=1.0), heat_map(high_map, low, high))
    half = overlay(image, high_map, low, high, alpha=0.5).astype(float)
    assert np.abs(half - (image.astype(float) + heat_map(high_map, low, high)) / 2).max() <= 1
    np.testing.assert_array_equal(overlay(image, high_map, low, high, alpha=0.0), image)


def test_opacity_rises_with_the_map() -> None:
    rising = np.linspace(5, 45, 200, dtype=np.float32)[None]
    black, white = (overlay(image_of(1, 200, value), rising, 10.0, 40.0).astype(int) for value in (0, 255))
    clearness = (white - black)[0, :, 0]
    assert clearness[0] == 255
    assert (np.diff(clearness) <= 1).all()
    assert clearness[-1] == round(255 * 0.15)


@pytest.mark.parametrize("background", [0, 90, 255])
def test_contours_are_visible_on_any_background(background: int) -> None:
    mask = np.zeros((200, 300), bool)
    mask[80:120, 100:180] = True
    drawn = contours(image_of(200, 300, background), mask)
    row = drawn[100].astype(int)
    assert (np.abs(row - FOUND).max(axis=1) < 30).any()
    assert (np.abs(row - EDGE).max(axis=1) < 100).any()
    # The region itself and pixels far from it are unchanged.
    np.testing.assert_array_equal(drawn[85:115, 105:175], background)
    np.testing.assert_array_equal(drawn[:60], background)


def test_contours_are_wider_on_larger_images_and_leave_the_input_unchanged() -> None:
    widths = []
    for scale in (1, 4, 10):
        mask = np.zeros((300 * scale, 300 * scale), bool)
        mask[100 * scale : 200 * scale, 100 * scale : 200 * scale] = True
        image = image_of(*mask.shape)
        drawn = contours(image, mask)
        assert (image == 128).all()
        widths.append(int((drawn[150 * scale] != 128).any(axis=1).sum()))
    assert widths[0] < widths[1] < widths[2]
    assert widths[2] < 0.03 * 3000


def test_a_contour_does_not_cover_a_small_region() -> None:
    mask = np.zeros((100, 100), bool)
    mask[40:50, 40:50] = True
    drawn = contours(image_of(100, 100), mask)
    assert (drawn[mask] == 128).all(axis=1).mean() > 0.9


def test_a_single_pixel_has_a_contour_and_an_empty_mask_none() -> None:
    mask = np.zeros((50, 50), bool)
    np.testing.assert_array_equal(contours(image_of(50, 50), mask), image_of(50, 50))
    mask[25, 25] = True
    assert (contours(image_of(50, 50), mask) != 128).any()


def test_draw_mask_tints_the_region_and_fades_the_background() -> None:
    mask = np.zeros((60, 60), bool)
    mask[20:40, 20:40] = True
    drawn = draw_mask(image_of(60, 60, 40), mask, (86, 180, 233), alpha=0.5)
    assert drawn[30, 30].tolist() == [63, 110, 136]
    assert drawn[5, 5].tolist() == [138, 138, 138]


def test_jpeg_keeps_the_colour_of_a_thin_line() -> None:
    image = image_of(64, 64, 90)
    image[:, 31] = (240, 228, 66)
    again = cv2.imdecode(np.frombuffer(to_jpeg(image), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert np.abs(again[:, 31].astype(int) - (240, 228, 66)).max() < 40


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: heat_map(np.zeros((2, 2)), 0, 1), r"anomaly_map: expected float32 \(H, W\), got float64 \(2, 2\)"),
        (lambda: heat_map(np.full((2, 2), np.nan, np.float32), 0, 1), "anomaly_map: expected finite float32"),
        (lambda: heat_map(np.zeros((2, 2), np.float32), 1, 1), r"high: expected a number above low \(1\), got 1"),
        (
            lambda: overlay(image_of(4, 4), np.zeros((4, 5), np.float32), 0, 1),
            r"anomaly_map: expected float32 \(4, 4\), got float32 \(4, 5\)\. It must have the size of the image",
        ),
        (
            lambda: overlay(image_of(4, 4), np.zeros((4, 4), np.float32), 0, 1, alpha=2),
            "alpha: expected a number from 0 to 1, got 2",
        ),
        (lambda: contours(image_of(4, 4)[..., 0], np.zeros((4, 4), bool)), r"image: expected uint8 \(H, W, 3\)"),
        (lambda: contours(image_of(4, 4), np.zeros((4, 4), np.uint8)), r"mask: expected bool \(4, 4\), got uint8"),
        (
            lambda: contours(image_of(4, 4), np.zeros((4, 4), bool), thickness=0),
            "thickness: expected a number from 1 to 1000, got 0",
        ),
        (lambda: to_jpeg(image_of(1, 70_000)), "image: expected at most 65500 px a side, got 70000 x 1 px"),
    ],
)
def test_an_invalid_argument_is_named(call: object, text: str) -> None:
    with pytest.raises(InputError, match=text):
        call()  # type: ignore[operator]
