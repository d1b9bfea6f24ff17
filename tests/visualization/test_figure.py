from pathlib import Path

import cv2
import numpy as np
import pytest

from blemish.errors import InputError
from blemish.imaging import decode
from blemish.types import GoodPatch, Prediction
from blemish.visualization.figure import (
    EDGE,
    FOUND,
    colour_scale,
    contact_sheet,
    contours,
    draw_mask,
    figure,
    heat_map,
    overlay,
    panels,
    to_jpeg,
)


def image_of(height: int, width: int, value: int = 128) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def prediction_of(anomaly_map: np.ndarray, *, score: float = 24.0, nearest: bool = False) -> Prediction:
    peak = np.unravel_index(int(anomaly_map.argmax()), anomaly_map.shape)
    return Prediction(
        score=score,
        label=score > 20,
        threshold=20.0,
        p_value=0.004,
        anomaly_map=anomaly_map,
        mask=anomaly_map > 20,
        pixel_threshold=20.0,
        peak_xy=(int(peak[1]), int(peak[0])),
        nearest_good=GoodPatch("good/000.png", (3, 4, 8, 8), 20.0) if nearest else None,
    )


def blob(height: int, width: int, top: float = 45.0) -> np.ndarray:
    rows, columns = np.ogrid[:height, :width]
    distance = ((rows - height * 0.4) / height) ** 2 + ((columns - width * 0.6) / width) ** 2
    return (8 + (top - 8) * np.exp(-distance * 60)).astype(np.float32)


def lightness(image: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(image, cv2.COLOR_RGB2LAB)[..., 0].astype(int)


def test_heat_map_grows_lighter_from_black_and_is_fixed_by_the_caller() -> None:
    values = np.linspace(-50, 150, 401, dtype=np.float32)[None]
    coloured = heat_map(values, 0.0, 100.0)
    steps = np.diff(lightness(coloured)[0])
    assert (steps >= -1).all()
    assert lightness(coloured)[0, 0] < 3
    assert lightness(coloured)[0, -1] > 240
    np.testing.assert_array_equal(coloured[0, 300:], np.repeat(coloured[:1, 300], 101, axis=0))
    # An image's own lowest and highest value do not matter.
    np.testing.assert_array_equal(heat_map(values[:, 150:160], 0.0, 100.0), coloured[:, 150:160])


def test_heat_map_is_rgb() -> None:
    red, green, blue = heat_map(np.full((1, 1), 0.65, np.float32), 0.0, 1.0)[0, 0].tolist()
    assert red > 200 > green > blue


def test_the_scale_puts_the_threshold_at_a_third() -> None:
    for threshold in (20.0, 0.3, -4.0, 0.0):
        low, high = colour_scale(threshold)
        assert (threshold - low) / (high - low) == pytest.approx(1 / 3)
    with pytest.raises(InputError, match=r"pixel_threshold: expected a number from -1e\+30 to 1e\+30, got inf"):
        colour_scale(float("inf"))


def test_overlay_leaves_a_calm_image_alone_and_covers_a_hot_one(rng: np.random.Generator) -> None:
    image = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
    low, high = colour_scale(20.0)
    calm = np.full((20, 30), 10.0, np.float32)
    np.testing.assert_array_equal(overlay(image, calm, low, high), image)
    hot = np.full((20, 30), 40.0, np.float32)
    np.testing.assert_array_equal(overlay(image, hot, low, high, alpha=1.0), heat_map(hot, low, high))
    half = overlay(image, hot, low, high, alpha=0.5).astype(float)
    assert np.abs(half - (image.astype(float) + heat_map(hot, low, high)) / 2).max() <= 1
    np.testing.assert_array_equal(overlay(image, hot, low, high, alpha=0.0), image)


def test_overlay_hides_more_the_higher_the_map() -> None:
    rising = np.linspace(5, 45, 200, dtype=np.float32)[None]
    black, white = (overlay(image_of(1, 200, value), rising, 10.0, 40.0).astype(int) for value in (0, 255))
    clearness = (white - black)[0, :, 0]
    assert clearness[0] == 255
    assert (np.diff(clearness) <= 1).all()
    assert clearness[-1] == round(255 * 0.15)


@pytest.mark.parametrize("ground", [0, 90, 255])
def test_outlines_are_seen_on_any_ground(ground: int) -> None:
    mask = np.zeros((200, 300), bool)
    mask[80:120, 100:180] = True
    drawn = contours(image_of(200, 300, ground), mask)
    row = drawn[100].astype(int)
    assert (np.abs(row - FOUND).max(axis=1) < 30).any()
    assert (np.abs(row - EDGE).max(axis=1) < 100).any()
    # The defect itself stays free, and so does everything far from it.
    np.testing.assert_array_equal(drawn[85:115, 105:175], ground)
    np.testing.assert_array_equal(drawn[:60], ground)


def test_outlines_grow_with_the_image_and_change_nothing_else() -> None:
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


def test_a_small_defect_is_not_hidden_under_its_outline() -> None:
    mask = np.zeros((100, 100), bool)
    mask[40:50, 40:50] = True
    drawn = contours(image_of(100, 100), mask)
    assert (drawn[mask] == 128).all(axis=1).mean() > 0.9


def test_a_single_pixel_gets_an_outline_and_an_empty_mask_none() -> None:
    mask = np.zeros((50, 50), bool)
    np.testing.assert_array_equal(contours(image_of(50, 50), mask), image_of(50, 50))
    mask[25, 25] = True
    assert (contours(image_of(50, 50), mask) != 128).any()


def test_the_marked_part_keeps_its_light_and_the_rest_fades() -> None:
    mask = np.zeros((60, 60), bool)
    mask[20:40, 20:40] = True
    drawn = draw_mask(image_of(60, 60, 40), mask, (86, 180, 233), alpha=0.5)
    assert drawn[30, 30].tolist() == [63, 110, 136]
    assert drawn[5, 5].tolist() == [138, 138, 138]


def test_panels_have_one_size_and_say_what_they_show() -> None:
    image, found = image_of(120, 160), blob(120, 160)
    shown = panels(image, prediction_of(found, nearest=True), mask=found > 30, good_image=image_of(90, 90))
    captions = [
        "Image",
        "Marked by people",
        "Heat map",
        "Called defective",
        "Most anomalous part",
        "Nearest good part",
    ]
    assert [panel.caption for panel in shown] == captions
    assert {panel.image.shape for panel in shown} == {(288, 384, 3)}
    calm = panels(image, prediction_of(blob(120, 160, 9), score=9.0), mask=np.zeros((120, 160), bool))
    assert [panel.caption for panel in calm] == [
        "Image", "Marked by people: none", "Heat map", "Called defective: none"
    ]  # fmt: skip
    assert (calm[0].image == calm[2].image).all()


def test_an_image_that_is_unusual_as_a_whole_says_so() -> None:
    shown = panels(image_of(50, 50), prediction_of(blob(50, 50, 9), score=24.0))
    assert shown[-1].caption == "Called defective: as a whole"


def test_the_nearest_good_part_is_left_out_where_the_detector_knows_none() -> None:
    shown = panels(image_of(50, 50), prediction_of(blob(50, 50)), good_image=image_of(50, 50))
    assert [panel.caption for panel in shown] == ["Image", "Heat map", "Called defective"]


def test_a_good_patch_alone_is_shown_beside_as_much_of_the_image() -> None:
    image = image_of(200, 200, 0)
    image[70:90, 110:130] = (255, 0, 0)
    shown = panels(image, prediction_of(blob(200, 200)), good_patch=image_of(40, 20, 77))
    assert [panel.caption for panel in shown[-2:]] == ["Most anomalous part", "Nearest good part"]
    worst, good = (panel.image for panel in shown[-2:])
    assert worst.shape == good.shape == (384, 384, 3)
    # 40 x 20 px of each, as high as the panel and half as wide.
    for part, colour in ((worst, (255, 0, 0)), (good, (77, 77, 77))):
        assert part[192, 192].tolist() == list(colour)
        assert (part[:, :90] == (240, 241, 244)).all()
    assert (good[:, 100:280] == 77).all()
    assert not worst[20, 100:280].any()


def test_the_worst_part_is_cut_from_around_the_peak() -> None:
    image = image_of(200, 200, 0)
    image[70:90, 110:130] = (255, 0, 0)
    shown = panels(image, prediction_of(blob(200, 200), nearest=True), good_image=image_of(200, 200))
    worst = shown[-2].image
    assert worst[192, 192].tolist() == [255, 0, 0]
    assert not worst[5, 5].any()


@pytest.mark.parametrize(
    "height_width", [(1, 1), (1, 500), (500, 1), (7, 9), (300, 300), (200, 1600), (1600, 200), (2000, 3000)]
)
@pytest.mark.parametrize("nearest", [True, False])
def test_a_figure_of_any_shape(height_width: tuple[int, int], nearest: bool) -> None:
    found = blob(*height_width)
    strip = figure(
        image_of(*height_width),
        prediction_of(found, nearest=nearest),
        mask=found > 30,
        good_image=image_of(40, 30),
        title="检测/Größe \udce9 🙂.png",
    )
    assert strip.dtype == np.uint8
    assert strip.shape[2] == 3
    assert 720 <= strip.shape[1] <= 2600
    assert strip.shape[0] <= 3000
    assert (strip[:20] == 255).all()
    assert (strip[:, :20] == 255).all()
    assert (strip[:, -20:] == 255).all()


def test_a_figure_says_the_verdict_in_colour() -> None:
    good, defective = (
        figure(image_of(64, 64), prediction_of(blob(64, 64), score=score)) for score in (10.0, 30.0)
    )  # fmt: skip
    pill = np.s_[-70:-50, 34:40]
    assert good[pill][..., 2].mean() > good[pill][..., 0].mean()
    assert defective[pill][..., 0].mean() > defective[pill][..., 2].mean()


def test_the_same_input_gives_the_same_bytes() -> None:
    one, two = (figure(image_of(64, 80), prediction_of(blob(64, 80)), title="x") for _ in range(2))
    assert one.tobytes() == two.tobytes()


def test_a_contact_sheet_has_a_cell_for_each_image() -> None:
    images = [image_of(30, 60, 10), image_of(60, 30, 20), image_of(5, 5, 30)]
    sheet = contact_sheet(images, ["a\n0.91", "b", ""], columns=2, title="Similar defects", size_px=100)
    assert sheet.shape == (2 * 28 + 44 + 2 * (100 + 8 + 40 + 20) - 20, 2 * 28 + 2 * 120 - 20, 3)
    for value in (10, 20, 30):
        assert (sheet == value).all(axis=2).sum() > 3000
    assert contact_sheet(images[:1], ["a"], columns=9, size_px=100).shape[1] == 156


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
        (lambda: contact_sheet([], []), "images: expected at least one image and one caption for each, got 0"),
        (lambda: contact_sheet([image_of(2, 2)], ["a"], columns=0), "columns: expected a number from 1"),
        (
            lambda: contact_sheet([image_of(2, 2)[..., 0]], ["a"]),
            r"images\[0\]: expected uint8 \(H, W, 3\), got uint8 \(2, 2\)",
        ),
        (
            lambda: figure(image_of(8, 8), prediction_of(blob(8, 8)), good_patch=np.zeros((4, 4), np.uint8)),
            r"good_patch: expected uint8 \(h, w, 3\), got uint8 \(4, 4\)",
        ),
        (lambda: to_jpeg(image_of(1, 70_000)), "image: expected at most 65500 px a side, got 70000 x 1 px"),
    ],
)
def test_wrong_input_is_named(call: object, text: str) -> None:
    with pytest.raises(InputError, match=text):
        call()  # type: ignore[operator]


def test_a_mask_of_another_size_is_named() -> None:
    with pytest.raises(InputError, match=r"mask: expected bool \(8, 8\), got bool \(4, 4\)"):
        figure(image_of(8, 8), prediction_of(blob(8, 8)), mask=np.zeros((4, 4), bool))


def test_jpeg_keeps_the_colour_of_a_thin_line() -> None:
    image = image_of(64, 64, 90)
    image[:, 31] = (240, 228, 66)
    again = cv2.imdecode(np.frombuffer(to_jpeg(image), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert np.abs(again[:, 31].astype(int) - (240, 228, 66)).max() < 40


@pytest.mark.data
def test_figures_of_real_images(data_root: Path) -> None:
    samples = [("mvtec/grid", "broken"), ("mvtec_few/leather", "cut"), ("magnetic_tile", "crack")]
    for folder, defect in samples:
        path = min((data_root / folder / "test" / defect).iterdir())
        mask = decode.load_mask(data_root / folder / "ground_truth" / defect / f"{path.stem}_mask.png")
        found = cv2.GaussianBlur(mask.astype(np.float32) * 60, (0, 0), 6)
        strip = figure(decode.load(path), prediction_of(found), mask=mask, title=path.name)
        assert (strip[:20] == 255).all()
