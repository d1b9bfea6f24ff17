from pathlib import Path

import cv2
import numpy as np
import pytest

from blemish.errors import InputError
from blemish.imaging import decode
from blemish.visualization import contact_sheet, figure, panels
from blemish.visualization.overlays import colour_bar
from blemish.visualization.primitives import INK
from tests.visualization.predictions import blob, image_of, prediction_of


def test_panels_have_one_size_and_captions() -> None:
    image, anomaly_map = image_of(120, 160), blob(120, 160)
    shown = panels(image, prediction_of(anomaly_map, nearest=True), mask=anomaly_map > 30, good_image=image_of(90, 90))
    captions = [
        "Image",
        "Marked by people",
        "Heat map",
        "Above threshold",
        "Most anomalous part",
        "Nearest good part",
    ]
    assert [panel.caption for panel in shown] == captions
    assert {panel.image.shape for panel in shown} == {(288, 384, 3)}
    good = panels(image, prediction_of(blob(120, 160, 9), score=9.0), mask=np.zeros((120, 160), bool))
    assert [panel.caption for panel in good] == [
        "Image", "Marked by people: none", "Heat map", "Above threshold: none"
    ]  # fmt: skip
    assert (good[0].image == good[2].image).all()


def test_the_caption_of_a_defective_image_without_regions() -> None:
    shown = panels(image_of(50, 50), prediction_of(blob(50, 50, 9), score=24.0))
    assert shown[-1].caption == "Above threshold: none, anomalous as a whole"


def test_a_hot_spot_below_the_threshold_is_visible_and_a_good_image_stays_grey() -> None:
    hot, good = (panels(image_of(60, 60), prediction_of(blob(60, 60, top), score=9.0)) for top in (16.0, 9.0))
    for shown in (hot, good):
        assert [panel.caption for panel in shown] == ["Image", "Heat map", "Above threshold: none"]
        np.testing.assert_array_equal(shown[2].image, shown[0].image)
    warmth = hot[1].image[..., 0].astype(int) - hot[1].image[..., 2]
    peak = np.unravel_index(warmth.argmax(), warmth.shape)
    assert warmth.max() > 40
    assert peak == pytest.approx((0.4 * 384, 0.6 * 384), abs=8)
    assert (good[1].image == 128).all()


def test_the_threshold_is_marked_on_the_colour_bar_of_wide_and_narrow_figures() -> None:
    for height_width in ((60, 60), (160, 20), (20, 160)):
        drawn = figure(image_of(*height_width, 200), prediction_of(blob(*height_width)))
        bar = colour_bar(116)[0]
        y, x = np.argwhere((drawn == bar[0]).all(axis=2))[0]
        np.testing.assert_array_equal(drawn[y : y + 8, x : x + 50], np.repeat(bar[None, :50], 8, axis=0))
        assert (drawn[y - 3 : y + 11, x + 58] == INK).all()


def test_no_comparison_without_a_nearest_good_patch() -> None:
    shown = panels(image_of(50, 50), prediction_of(blob(50, 50)), good_image=image_of(50, 50))
    assert [panel.caption for panel in shown] == ["Image", "Heat map", "Above threshold"]


def test_a_good_patch_is_compared_with_a_crop_of_the_same_size() -> None:
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


def test_the_most_anomalous_part_is_centred_on_the_peak() -> None:
    image = image_of(200, 200, 0)
    image[70:90, 110:130] = (255, 0, 0)
    shown = panels(image, prediction_of(blob(200, 200), nearest=True), good_image=image_of(200, 200))
    worst = shown[-2].image
    assert worst[192, 192].tolist() == [255, 0, 0]
    assert not worst[5, 5].any()


@pytest.mark.slow
@pytest.mark.parametrize(
    "height_width", [(1, 1), (1, 500), (500, 1), (7, 9), (300, 300), (200, 1600), (1600, 200), (2000, 3000)]
)
@pytest.mark.parametrize("nearest", [True, False])
def test_a_figure_of_any_shape(height_width: tuple[int, int], nearest: bool) -> None:
    anomaly_map = blob(*height_width)
    strip = figure(
        image_of(*height_width),
        prediction_of(anomaly_map, nearest=nearest),
        mask=anomaly_map > 30,
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


def test_the_verdict_is_blue_or_vermilion() -> None:
    good, defective = (
        figure(image_of(64, 64), prediction_of(blob(64, 64), score=score)) for score in (10.0, 30.0)
    )  # fmt: skip
    pill = np.s_[-70:-50, 34:40]
    assert good[pill][..., 2].mean() > good[pill][..., 0].mean()
    assert defective[pill][..., 0].mean() > defective[pill][..., 2].mean()


def test_the_same_input_gives_the_same_bytes() -> None:
    first, second = (figure(image_of(64, 80), prediction_of(blob(64, 80)), title="x") for _ in range(2))
    assert first.tobytes() == second.tobytes()


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
    ],
)
def test_an_invalid_argument_is_named(call: object, text: str) -> None:
    with pytest.raises(InputError, match=text):
        call()  # type: ignore[operator]


def test_a_mask_of_another_size_is_named() -> None:
    with pytest.raises(InputError, match=r"mask: expected bool \(8, 8\), got bool \(4, 4\)"):
        figure(image_of(8, 8), prediction_of(blob(8, 8)), mask=np.zeros((4, 4), bool))


@pytest.mark.slow
@pytest.mark.data
def test_figures_of_real_images(data_root: Path) -> None:
    samples = [("mvtec/grid", "broken"), ("mvtec_few/leather", "cut"), ("magnetic_tile", "crack")]
    for folder, defect in samples:
        path = min((data_root / folder / "test" / defect).iterdir())
        mask = decode.load_mask(data_root / folder / "ground_truth" / defect / f"{path.stem}_mask.png")
        anomaly_map = cv2.GaussianBlur(mask.astype(np.float32) * 60, (0, 0), 6)
        strip = figure(decode.load(path), prediction_of(anomaly_map), mask=mask, title=path.name)
        assert (strip[:20] == 255).all()
