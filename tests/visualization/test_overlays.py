from dataclasses import replace

import cv2
import numpy as np
import pytest

from blemish.errors import InputError
from blemish.visualization import FOUND, colour_scale, contours, draw_mask, heat_layer, overlay, to_jpeg
from blemish.visualization.overlays import EDGE, colour_bar
from tests.visualization.predictions import blob, image_of, prediction_of


def test_the_lightness_of_the_colours_rises_and_the_last_is_light_yellow() -> None:
    values = np.r_[np.linspace(-50, 100, 301), np.geomspace(100, 1e5, 100)].astype(np.float32)[None]
    bar = overlay(image_of(1, 401, 0), values, 0.0, 100.0)
    lightness = cv2.cvtColor(bar, cv2.COLOR_RGB2LAB)[0, :, 0].astype(int)
    assert (np.diff(lightness) >= -1).all()
    assert lightness[100] == 0
    assert lightness[-1] > 210
    red, green, blue = bar[0, -1].tolist()
    assert red > 200 < green
    assert blue < 150


def test_a_value_has_one_colour_in_each_map() -> None:
    rising = np.linspace(-50, 150, 401, dtype=np.float32)[None]
    drawn = overlay(image_of(1, 401), rising, 0.0, 100.0)
    np.testing.assert_array_equal(overlay(image_of(1, 10), rising[:, 150:160], 0.0, 100.0), drawn[:, 150:160])
    np.testing.assert_array_equal(overlay(image_of(1, 401), 10 * rising, 0.0, 1000.0), drawn)


def test_values_far_above_the_threshold_keep_their_differences() -> None:
    values = np.array([[50, 100, 200, 400, 800]], np.float32)
    lightness = cv2.cvtColor(overlay(image_of(1, 5, 0), values, 0.0, 100.0), cv2.COLOR_RGB2LAB)[0, :, 0].astype(int)
    assert (np.diff(lightness) >= 5).all()


@pytest.mark.parametrize("background", [0, 40, 128, 255])
def test_a_spot_below_the_threshold_is_warm_on_any_part(background: int) -> None:
    for part in (image_of(1, 1, background), np.full((1, 1, 3), (120, 70, 30), np.uint8)):
        red, green, blue = overlay(part, np.full((1, 1), 15, np.float32), 10.0, 30.0)[0, 0].astype(int).tolist()
        assert red > max(green, blue) + 10


@pytest.mark.parametrize(
    ("threshold", "good_peak", "limits"),
    [
        (20.0, 6.0, (6.0, 34.0)),
        (20.0, 19.5, (18.0, 22.0)),  # good images that are alike
        (20.0, 25.0, (18.0, 22.0)),  # a high false positive rate
        (-4.0, -9.0, (-9.0, 1.0)),
        (0.0, 0.0, (-1.0, 1.0)),
        (20.0, None, (10.0, 30.0)),
        (0.0, None, (-1.0, 1.0)),
    ],
)
def test_the_threshold_is_in_the_middle_of_a_scale_that_good_images_set(
    threshold: float, good_peak: float | None, limits: tuple[float, float]
) -> None:
    prediction = replace(prediction_of(blob(4, 4)), pixel_threshold=threshold, good_peak=good_peak)
    assert colour_scale(prediction) == pytest.approx(limits)


def test_a_threshold_that_is_not_finite_has_no_scale() -> None:
    with pytest.raises(InputError, match=r"pixel_threshold: expected a number from -1e\+30 to 1e\+30, got inf"):
        colour_scale(replace(prediction_of(blob(4, 4)), pixel_threshold=float("inf")))


def test_overlay_is_the_grey_image_at_low_values_and_opaque_at_high_values(rng: np.random.Generator) -> None:
    image = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    low_map, high_map = (np.full((20, 30), value, np.float32) for value in (10, 40))
    np.testing.assert_array_equal(overlay(image, low_map, 10.0, 40.0), grey)
    whole = overlay(image, high_map, 10.0, 40.0, alpha=1.0)
    assert (whole == whole[0, 0]).all()
    half = overlay(image, high_map, 10.0, 40.0, alpha=0.5).astype(float)
    assert np.abs(half - (grey.astype(float) + whole) / 2).max() <= 1
    np.testing.assert_array_equal(overlay(image, high_map, 10.0, 40.0, alpha=0.0), grey)


def test_opacity_rises_with_the_map_up_to_the_threshold() -> None:
    rising = np.linspace(5, 45, 201, dtype=np.float32)[None]
    black, white = (overlay(image_of(1, 201, value), rising, 10.0, 40.0).astype(int) for value in (0, 255))
    clearness = (white - black)[0, :, 0]
    assert clearness[0] == 255
    assert (np.diff(clearness) <= 1).all()
    assert clearness[75] == pytest.approx(255 * (1 - 0.85 * 2 / 3), abs=1)
    assert clearness[100] == clearness[-1] == round(255 * 0.15)


def test_the_colour_bar_is_the_overlay_of_rising_values() -> None:
    bar = colour_bar(101)
    assert bar[0, 0].tolist() == [128, 128, 128]
    np.testing.assert_array_equal(bar[:, 50], overlay(image_of(1, 1), np.full((1, 1), 20, np.float32), 10.0, 30.0)[0])


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


@pytest.mark.slow
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
        (
            lambda: overlay(image_of(2, 2), np.zeros((2, 2)), 0, 1),
            r"anomaly_map: expected float32 \(2, 2\), got float64 \(2, 2\)",
        ),
        (
            lambda: overlay(image_of(2, 2), np.full((2, 2), np.nan, np.float32), 0, 1),
            "anomaly_map: expected finite float32",
        ),
        (
            lambda: overlay(image_of(2, 2), np.zeros((2, 2), np.float32), 1, 1),
            r"high: expected a number above low \(1\), got 1",
        ),
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


def test_a_heat_layer_laid_over_an_image_is_the_overlay():
    rising = np.linspace(-1, 2, 200, dtype=np.float32)[None].repeat(2, 0)
    grey = np.full((2, 200, 3), 128, np.uint8)
    layer = heat_layer(rising, 0.0, 1.0).astype(np.float64)
    laid = grey + layer[..., 3:] / 255 * (layer[..., :3] - grey)
    np.testing.assert_allclose(laid, overlay(grey, rising, 0.0, 1.0, alpha=1.0), atol=1)
    assert (layer[:, rising[0] <= 0, 3] == 0).all()
    with pytest.raises(InputError, match="high: expected a number above low"):
        heat_layer(rising, 1.0, 1.0)
