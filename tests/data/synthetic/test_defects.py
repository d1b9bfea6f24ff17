"""Synthetic defects: exact masks, repeatable bytes, sizes and strengths as asked for, on the foreground."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from blemish.data.synthetic.defects import DEFECT_KINDS, VISIBLE, SyntheticDefect, synthetic_defect, synthetic_defects
from blemish.errors import InputError

if TYPE_CHECKING:
    from blemish.types import Bool, UInt8

LINES = ("scratch", "crack")
BLOBS = ("cut_paste", "noise_blend", "colour")


def texture(height: int = 160, width: int = 160, *, seed: int = 0, grey: bool = False) -> UInt8:
    """A coloured wavy texture with noise, whose phase differs from place to place."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / 160
    wave = np.sin(2 * np.pi * (11 * x + 4 * y * y)) + np.sin(2 * np.pi * 7 * y)
    colour = (1.0, 1.0, 1.0) if grey else (1.0, 0.7, 0.4)
    noise = rng.normal(0, 3, (height, width, 1 if grey else 3))
    return np.clip(120 + 25 * wave[..., None] * colour + noise, 0, 255).astype(np.uint8)


def disc() -> tuple[UInt8, Bool]:
    """A textured disc before white, and its coverage."""
    cover = np.zeros((200, 200), np.uint8)
    cv2.circle(cover, (90, 100), 60, 1, -1)
    image = np.where(cover[..., None] > 0, texture(200, 200), np.uint8(250))
    return image, cover > 0


def check(good: UInt8, image: UInt8, mask: Bool) -> None:
    """The mask is exactly where the images differ, visibly."""
    assert image.dtype == np.uint8
    assert mask.dtype == np.bool_
    assert image.shape == good.shape
    difference = np.abs(image.astype(int) - good).max(axis=2)
    np.testing.assert_array_equal(mask, difference > 0)
    assert difference[mask].min() > VISIBLE
    assert mask.sum() >= 4


@pytest.mark.parametrize("kind", DEFECT_KINDS)
def test_the_mask_is_where_the_images_differ(kind: str) -> None:
    good = texture()
    before = good.copy()
    for seed in range(8):
        image, mask = synthetic_defect(good, kind, np.random.default_rng(seed))
        check(good, image, mask)
        assert mask.mean() < 0.15
    np.testing.assert_array_equal(good, before)


def test_the_kinds() -> None:
    assert DEFECT_KINDS == (
        "cut_paste",
        "scar",
        "noise_blend",
        "scratch",
        "crack",
        "blur",
        "colour",
        "missing",
        "doubled",
    )


@pytest.mark.parametrize("kind", DEFECT_KINDS)
def test_same_generator_same_bytes(kind: str) -> None:
    one, two, other = (synthetic_defect(texture(), kind, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert one[0].tobytes() == two[0].tobytes()
    np.testing.assert_array_equal(one[1], two[1])
    assert one[0].tobytes() != other[0].tobytes()


@pytest.mark.parametrize("kind", DEFECT_KINDS)
def test_a_grey_image_stays_grey_even_with_a_coloured_source(kind: str) -> None:
    good = texture(grey=True)
    for seed, source in enumerate((None, texture(seed=1), texture(90, 120))):
        image, mask = synthetic_defect(good, kind, np.random.default_rng(seed), source=source, strength=0.9)
        check(good, image, mask)
        np.testing.assert_array_equal(image, np.repeat(image[..., :1], 3, axis=2))


def test_stains_of_a_coloured_image_are_coloured() -> None:
    good = texture()
    hues = []
    for seed in range(10):
        image, mask = synthetic_defect(good, "colour", np.random.default_rng(seed), strength=0.8)
        hues.append(np.ptp((image.astype(float) - good)[mask].mean(axis=0)))
    assert max(hues) > 20


@pytest.mark.parametrize("kind", DEFECT_KINDS)
@pytest.mark.parametrize("hw", [(32, 32), (32, 200), (140, 33)])
def test_small_and_oblong_images(kind: str, hw: tuple[int, int]) -> None:
    good = texture(*hw)
    for seed in range(4):
        check(good, *synthetic_defect(good, kind, np.random.default_rng(seed)))


@pytest.mark.parametrize("kind", DEFECT_KINDS)
@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_constant_image_gets_a_visible_defect(kind: str, level: int) -> None:
    good = np.full((64, 80, 3), level, np.uint8)
    image, mask = synthetic_defect(good, kind, np.random.default_rng(3))
    check(good, image, mask)
    assert np.abs(image.astype(int) - good)[mask].max() > 5


@pytest.mark.parametrize("kind", DEFECT_KINDS)
def test_white_noise_and_a_foreground_of_one_pixel(kind: str) -> None:
    good = np.random.default_rng(0).choice(np.array([0, 255], np.uint8), (48, 48, 3))
    pixel = np.zeros((48, 48), np.bool_)
    pixel[0, 47] = True
    for seed in range(4):
        check(good, *synthetic_defect(good, kind, np.random.default_rng(seed)))
        check(good, *synthetic_defect(good, kind, np.random.default_rng(seed), foreground=pixel))


@pytest.mark.parametrize("kind", BLOBS)
def test_the_area_is_about_the_one_asked_for(kind: str) -> None:
    good = texture(256, 256)
    for area in (0.004, 0.03):
        shares = [
            synthetic_defect(good, kind, np.random.default_rng(seed), area=area, strength=0.8)[1].mean()
            for seed in range(9)
        ]
        assert 0.5 * area < np.median(shares) < 2 * area


@pytest.mark.parametrize("kind", LINES)
def test_lines_are_thin(kind: str) -> None:
    good = texture(256, 256)
    for seed in range(8):
        _, mask = synthetic_defect(good, kind, np.random.default_rng(seed), area=0.002, strength=1.0)
        inner = cv2.erode(mask.astype(np.uint8), np.ones((5, 5), np.uint8))
        assert inner.sum() <= 0.1 * mask.sum()
        height, width = (np.ptp(places) for places in np.nonzero(mask))
        assert np.hypot(height, width) > 12


@pytest.mark.parametrize("kind", [kind for kind in DEFECT_KINDS if kind not in {"blur", "missing", "doubled"}])
def test_a_stronger_defect_changes_more(kind: str) -> None:
    good = texture(grey=True)

    def change(strength: float) -> float:
        changes = []
        for seed in range(7):
            image, mask = synthetic_defect(good, kind, np.random.default_rng(seed), area=0.01, strength=strength)
            changes.append(np.abs(image.astype(float) - good)[mask].mean())
        return float(np.median(changes))

    assert 1.5 * change(0.0) < change(0.5) < change(1.0)


def test_a_blur_lowers_the_contrast_and_a_missing_part_is_smooth() -> None:
    good = texture()
    for kind in ("blur", "missing"):
        for seed in range(4):
            image, mask = synthetic_defect(good, kind, np.random.default_rng(seed), area=0.02, strength=1.0)
            inner = cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
            rough = [np.abs(cv2.Laplacian(i.astype(np.float32), cv2.CV_32F))[inner].mean() for i in (image, good)]
            assert rough[0] < 0.6 * rough[1]


def test_a_stronger_blur_leaves_less_structure() -> None:
    good = texture(320, 320, grey=True)
    left = []
    for strength in (0.0, 1.0):
        image, mask = synthetic_defect(good, "blur", np.random.default_rng(0), area=0.03, strength=strength)
        inner = cv2.erode(mask.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
        left.append(image[inner].std() / good[inner].std())
    assert left[1] < 0.6 * left[0]


def test_patches_are_taken_from_the_source() -> None:
    good, source = np.full((96, 96, 3), 90, np.uint8), texture(96, 96)
    spread = []
    for taken_from in (None, source):
        image, mask = synthetic_defect(
            good, "cut_paste", np.random.default_rng(0), source=taken_from, area=0.05, strength=1.0
        )
        inner = cv2.erode(mask.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
        assert inner.any()
        spread.append(image[inner].std(axis=0).max())
    assert spread[0] == 0
    assert spread[1] > 10


@pytest.mark.parametrize("kind", DEFECT_KINDS)
def test_defects_lie_on_the_foreground(kind: str) -> None:
    good, cover = disc()
    on_object = [(synthetic_defect(good, kind, np.random.default_rng(seed))[1] & cover).any() for seed in range(20)]
    assert np.mean(on_object) >= 0.8


@pytest.mark.slow
def test_a_given_foreground_is_used() -> None:
    good, corner = texture(), np.zeros((160, 160), np.bool_)
    corner[:3, 150:] = True
    masks = [
        synthetic_defect(good, "cut_paste", np.random.default_rng(seed), foreground=corner, area=0.01)[1]
        for seed in range(20)
    ]
    assert np.mean([mask[:20, 130:].any() for mask in masks]) >= 0.8


def test_a_series_has_all_kinds_and_images_in_turn() -> None:
    images = [texture(64, 64, seed=seed) for seed in range(4)]
    series = list(synthetic_defects(images, 36, seed=5))
    assert set(Counter(defect.kind for defect in series).values()) == {4}
    assert set(Counter(defect.image_index for defect in series).values()) == {9}
    assert len({(defect.kind, defect.image_index) for defect in series}) > 18
    assert min(defect.strength for defect in series) < 0.2
    assert max(defect.strength for defect in series) > 0.8
    for defect in series:
        assert isinstance(defect, SyntheticDefect)
        check(images[defect.image_index], defect.image, defect.mask)


def test_a_series_depends_on_its_seed_and_not_on_its_length() -> None:
    images = [texture(64, 64, seed=seed) for seed in range(3)]
    longer = [defect.image.tobytes() for defect in islice(synthetic_defects(images, 1000, seed=1), 12)]
    assert [defect.image.tobytes() for defect in synthetic_defects(images, 12, seed=1)] == longer
    assert [defect.image.tobytes() for defect in synthetic_defects(images, 12, seed=2)] != longer
    strengths = [{defect.strength for defect in synthetic_defects(images, 12, seed=seed)} for seed in (1, 2)]
    assert not strengths[0] & strengths[1]


def test_a_series_of_one_image() -> None:
    good = texture(64, 64)
    for defect in synthetic_defects([good], 9):
        check(good, defect.image, defect.mask)
        assert defect.image_index == 0


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"image": np.zeros((40, 40), np.uint8)}, r"image: expected uint8 \(H, W, 3\), got uint8 \(40, 40\)"),
        ({"image": np.zeros((40, 40, 3), np.float32)}, r"image: expected uint8 \(H, W, 3\), got float32"),
        ({"image": np.zeros((31, 40, 3), np.uint8)}, r"image: expected at least 32 px high and wide, got uint8 \(31"),
        ({"kind": "hole"}, "kind: expected one of cut_paste, scar, .*, got 'hole'"),
        ({"area": 0.3}, r"area: expected a number from 0\.0001 to 0\.25, got 0\.3"),
        ({"strength": -0.1}, r"strength: expected a number from 0 to 1, got -0\.1"),
        ({"source": np.zeros((4, 4), np.uint8)}, r"source: expected uint8 \(h, w, 3\), got uint8 \(4, 4\)"),
        ({"foreground": np.ones((9, 9), np.bool_)}, r"foreground: expected bool \(40, 40\), got bool \(9, 9\)"),
        ({"foreground": np.zeros((40, 40), np.bool_)}, "foreground: expected at least 1 pixel, got none"),
    ],
)
def test_invalid_arguments(change: dict[str, object], text: str) -> None:
    arguments: dict[str, object] = {"image": texture(40, 40), "kind": "colour", "rng": np.random.default_rng(0)}
    with pytest.raises(InputError, match=text):
        synthetic_defect(**{**arguments, **change})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("images", "n", "seed", "text"),
    [
        ([], 3, 0, "images: expected at least 1 image, got none"),
        ([texture(40, 40)], 0, 0, "n: expected a whole number from 1"),
        ([texture(40, 40)], 3, -1, "seed: expected a whole number from 0"),
    ],
)
def test_an_invalid_series_is_refused_at_once(images: list[UInt8], n: int, seed: int, text: str) -> None:
    with pytest.raises(InputError, match=text):
        synthetic_defects(images, n, seed)
