"""Drift: changes of light and focus leave the range of the good images, and are named."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from blemish.imaging.drift import GoodRange, ShapeRange, drift_of_most, image_statistics, not_comparable
from blemish.types import UInt8
from tests.images import goods

BRIGHTER, DARKER = "brighter than the good images", "darker than the good images"


def scaled(image: UInt8, brightness: float = 1.0, contrast: float = 1.0) -> UInt8:
    levels = image.astype(np.float64)
    changed = (levels.mean() + (levels - levels.mean()) * contrast) * brightness
    return np.clip(changed, 0, 255).astype(np.uint8)


def noisy(image: UInt8) -> UInt8:
    levels = image + 12 * np.random.default_rng(0).standard_normal(image.shape)
    return np.clip(levels, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def images() -> list[UInt8]:
    """Good images with room above and below their grey levels."""
    return [scaled(image, 0.7) for image in goods(12)]


@pytest.fixture(scope="module")
def good_range(images: list[UInt8]) -> GoodRange:
    return GoodRange.of([image_statistics(image) for image in images])


def test_more_light_changes_the_brightness_alone(images: list[UInt8]):
    change = image_statistics(scaled(images[0], 1.2)) - image_statistics(images[0])
    np.testing.assert_allclose(change, [np.log(1.2), 0, 0, 0], atol=0.02)


@pytest.mark.parametrize("level", [0, 255])
def test_a_constant_image_has_statistics(level: int):
    statistics = image_statistics(np.full((32, 32, 3), level, np.uint8))
    np.testing.assert_allclose(statistics, [np.log1p(level), -np.log1p(level), 0, 0], atol=1e-12)


def test_the_range_is_widened_the_more_the_fewer_images_there_are():
    rows = [np.array([level, 0.0, level / 100, 0.0]) for level in (1.0, 2.0, 4.0, 2.0, 2.0)]
    limits = GoodRange.of(rows).limits  # 1.4 + 20 / 5 = 5.4 times as wide as it is, on each side of the median
    assert limits["brightness"] == pytest.approx((2 - 5.4, 2 + 2 * 5.4))
    assert limits["contrast"] == pytest.approx((-0.1, 0.1))
    assert limits["sharpness"] == pytest.approx((0.02 - 0.1, 0.02 + 0.02 * 5.4))


def test_no_image_that_made_the_range_drifts(images: list[UInt8], good_range: GoodRange):
    assert {good_range.drift(image) for image in images} == {""}


@pytest.mark.parametrize(
    ("change", "phrase"),
    [
        (lambda image: scaled(image, 1.3), "brighter"),
        (lambda image: scaled(image, 0.7), "darker"),
        (lambda image: scaled(image, contrast=4), "of higher contrast"),
        (lambda image: scaled(image, contrast=0.3), "of lower contrast"),
        (lambda image: cv2.GaussianBlur(image, (0, 0), 1), "less sharp"),
        (noisy, "noisier or sharper"),
    ],
)
def test_a_change_is_named(change, phrase: str, images: list[UInt8], good_range: GoodRange):
    assert good_range.drift(change(images[0])) == f"{phrase} than the good images"


def test_the_statistic_that_is_farthest_outside_is_named(images: list[UInt8]):
    narrow = GoodRange({"brightness": (-2.0, 2.0), "contrast": (9.0, 10.0), "sharpness": (-9.0, 0.0)})
    assert narrow.drift(images[0]) == "of lower contrast than the good images"


@pytest.mark.parametrize(
    ("drifts", "sentence"),
    [
        ([BRIGHTER] * 18 + [""] * 2, f"18 of 20 images are {BRIGHTER}: has the light changed?"),
        ([DARKER, DARKER, BRIGHTER], f"2 of 3 images are {DARKER}: has the light changed?"),
        (["less sharp than the good images"] * 2, "has the focus or the gain of the camera changed?"),
        ([BRIGHTER, ""], ""),  # half are not most
        ([BRIGHTER, DARKER, BRIGHTER, DARKER], ""),
        ([BRIGHTER], ""),  # one image says nothing of the line
        ([], ""),
    ],
)
def test_the_line_has_changed_if_most_images_drift_alike(drifts: list[str], sentence: str):
    found = drift_of_most(drifts)
    assert bool(found) == bool(sentence)
    assert sentence in found


@pytest.mark.parametrize(
    ("height_width", "phrase"),
    [
        ((480, 640), ""), ((480, 672), ""), ((480, 680), "wider"), ((480, 600), "narrower"), ((320, 427), ""),
        ((310, 413), "smaller"), ((720, 960), ""), ((730, 973), "larger"), ((1, 1), "narrower"), ((1, 10_000), "wider"),
        ((120, 160), "smaller"), ((640, 480), "narrower"), ((480, 320), "narrower"),
    ],
)  # fmt: skip
def test_sizes_and_aspect_ratios_outside_of_the_good_ones_are_named(height_width: tuple[int, int], phrase: str):
    expected = f"{phrase} than the good images" if phrase else ""
    assert ShapeRange.of([(480, 640)]).drift(height_width) == expected
    assert ShapeRange.of([(480, 640), (200, 800), (900, 300)]).drift((300, 300)) == ""


def test_no_image_and_no_drift_is_no_sentence():
    assert not_comparable([]) == not_comparable(["", ""]) == ""


def grey(image: UInt8) -> UInt8:
    return np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)


def test_grey_images_of_a_coloured_part_and_the_reverse_are_named(images: list[UInt8], good_range: GoodRange):
    assert image_statistics(grey(images[0]))[3] == 0
    assert good_range.drift(grey(images[0])) == "less colourful than the good images"
    of_grey = GoodRange.of([image_statistics(grey(image)) for image in images])
    assert of_grey.drift(images[0]) == "more colourful than the good images"
    assert {of_grey.drift(grey(image)) for image in images} == {""}
    tinted = np.clip(images[0] * (1.5, 1.0, 0.4), 0, 255).astype(np.uint8)
    assert good_range.drift(tinted) == "more colourful than the good images"
    assert drift_of_most([of_grey.drift(image) for image in images]).startswith("12 of 12 images are more colourful")


def test_a_model_of_before_knows_no_colour(images: list[UInt8], good_range: GoodRange):
    before = GoodRange({name: limits for name, limits in good_range.limits.items() if name != "colour"})
    assert before.drift(grey(images[0])) == ""
