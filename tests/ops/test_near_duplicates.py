"""Near-duplicates: shots of one part are one group, parts that only look alike are not."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from blemish.ops import near_duplicates as module
from blemish.ops.near_duplicates import IDENTITY, PAIRS, Symmetry, fingerprint, merged, near_duplicates, spaced

SIDE = 160


def part(seed: int, kind: str = "texture") -> np.ndarray:
    """A part of its own, (SIDE, SIDE, 3) float: a texture, an aligned ring with grain, or a lattice with grain."""
    rng = np.random.default_rng([seed, 3])
    grain = cv2.GaussianBlur(rng.standard_normal((SIDE, SIDE)), (0, 0), 1.5)
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    common = {
        "texture": 0 * x,
        "ring": 60.0 * (np.abs(np.hypot(x, y) - 50) < 8),
        "lattice": 40 * np.sin(x / 2.5 + rng.uniform(0, 6)) * np.sin(y / 2.5 + rng.uniform(0, 6)),
    }[kind]
    return np.repeat((110 + common + 40 * grain)[..., None], 3, axis=2)


def shot(image: np.ndarray, seed: int, shift: float = 1.0, light: float = 0.02, noise: float = 2.0) -> np.ndarray:
    """Another image of a part, uint8: shifted, in another light, with noise of its own."""
    rng = np.random.default_rng([seed, 4])
    move = np.array([[1, 0, rng.uniform(-shift, shift)], [0, 1, rng.uniform(-shift, shift)]])
    moved = cv2.warpAffine(image, move, (SIDE, SIDE), borderMode=cv2.BORDER_REFLECT)
    return np.clip(moved * rng.uniform(1 - light, 1 + light) + rng.normal(0, noise, image.shape), 0, 255).astype(
        np.uint8
    )


def groups_of(images) -> list[int]:
    return near_duplicates([fingerprint(image) for image in images]).tolist()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["texture", "ring", "lattice"])
def test_parts_that_look_alike_are_no_near_duplicates(kind: str):
    assert groups_of(shot(part(i, kind), i) for i in range(30)) == list(range(30))


@pytest.mark.slow
@pytest.mark.parametrize("shift", [0.0, 1.0, 4.0])
@pytest.mark.parametrize("kind", ["texture", "ring", "lattice"])
def test_shots_of_one_part_are_one_group(kind: str, shift: float):
    images = [shot(part(i, kind), 10 * i + k, shift) for i in range(12) for k in range(3)]
    assert groups_of(images) == [3 * (i // 3) for i in range(36)]


TURNS = [symmetry for pair in PAIRS for symmetry in pair if symmetry != IDENTITY]


@pytest.mark.slow
@pytest.mark.parametrize("symmetry", TURNS, ids=str)
@pytest.mark.parametrize("kind", ["texture", "ring"])
def test_mirrored_and_turned_copies_are_one_group_with_the_part(kind: str, symmetry: Symmetry):
    images = [part(i, kind) for i in range(20)]
    turned = [np.ascontiguousarray(symmetry.of(image)) for image in images]
    groups = groups_of(shot(image, i, shift=0.5) for i, image in enumerate([*images, *turned]))
    assert groups == [*range(20), *range(20)]


@pytest.mark.slow
def test_parts_in_all_eight_symmetries_are_one_group_each():
    images = [np.ascontiguousarray(symmetry.of(part(i))) for i in range(12) for symmetry in (IDENTITY, *TURNS)]
    assert groups_of(shot(image, i, 0.5) for i, image in enumerate(images)) == [8 * (i // 8) for i in range(96)]


@pytest.mark.slow
def test_mirrored_copies_of_images_that_are_not_square_are_found():
    images = [part(i)[:100] for i in range(16)]
    turned = [images[i] if i % 4 else images[i][::-1, ::-1] if i % 8 else images[i][::-1] for i in range(16)]
    images = [np.ascontiguousarray(image) for image in [*images, *turned]]
    groups = near_duplicates([fingerprint(np.clip(image, 0, 255).astype(np.uint8)) for image in images])
    assert groups.tolist() == [*range(16), *range(16)]


def casting(seed: int) -> np.ndarray:
    """Two rings of nearly one size at a place of their own, with little grain, (SIDE, SIDE, 3) float."""
    rng = np.random.default_rng([seed, 9])
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    (left, top), radius = rng.uniform(-8, 8, 2), 50 + rng.uniform(-3, 3)
    distance = np.hypot(x - left, y - top)
    rings = 70 * (np.abs(distance - radius) < 6) + 50 * (np.abs(distance - radius / 2) < 5)
    grain = cv2.GaussianBlur(rng.standard_normal((SIDE, SIDE)), (0, 0), 1.5)
    return np.repeat((100 + rings + 4 * grain)[..., None], 3, axis=2)


@pytest.mark.slow
def test_parts_that_are_like_the_next_one_are_no_chain():
    """60 parts that differ by little; without strict limits inside chains they are 19 groups."""
    assert len(set(groups_of(shot(casting(i), i) for i in range(60)))) >= 25


def frames(step: float, side: int = SIDE) -> list[np.ndarray]:
    """Frames of a scan over a texture, each of which shows `1 - step` of the one before."""
    rng, n = np.random.default_rng(5), round(10 / step)
    strip = 110 + 40 * cv2.GaussianBlur(rng.standard_normal((side, side + round(n * step * side))), (0, 0), 1.5) * 3
    starts = (round(i * step * side) for i in range(n))
    return [np.repeat(strip[:, at : at + side, None], 3, axis=2) for at in starts]


@pytest.mark.slow
@pytest.mark.parametrize("step", [0.1, 0.2, 0.25])
def test_frames_that_stand_for_a_group_share_nothing_with_other_groups(step: float):
    groups = np.array(groups_of(shot(image, i, shift=0.0) for i, image in enumerate(frames(step))))
    places = step * np.arange(len(groups))
    assert len(set(groups)) >= 3
    for group in set(groups):
        assert np.abs(places[groups != group] - places[group]).min() >= 1


def test_groups_are_joined_around_images_that_are_far_apart():
    chain = [(i, i + 1) for i in range(11)]
    assert spaced(np.arange(13), chain, n_links=2).tolist() == [0] * 3 + [5] * 5 + [10] * 4 + [12]
    assert spaced(np.array([0, 0, 2, 2, 4]), [(1, 3)], n_links=1).tolist() == [0, 0, 0, 0, 4]
    assert spaced(np.arange(3), []).tolist() == [0, 1, 2]


def wires(seed: int) -> np.ndarray:
    """A grid of wires of its own, (SIDE, SIDE, 3) float: one of three pitches and of three angles, any phase."""
    rng = np.random.default_rng([seed, 7])
    y, x = np.mgrid[:SIDE, :SIDE]
    angle, wavelength = rng.choice((-0.02, 0, 0.02)), rng.choice((9.0, 9.3, 9.6)) / (2 * np.pi)
    across, along = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    wave = np.maximum(np.cos(across / wavelength + rng.uniform(0, 6)), np.cos(along / wavelength + rng.uniform(0, 6)))
    return np.repeat((60 + 140 / (1 + np.exp(-12 * (wave - 0.7))))[..., None], 3, axis=2)


@pytest.mark.slow
def test_parts_do_not_belong_together_by_their_lattice():
    """40 grids; without a limit of the peaks they are 24 groups."""
    images = [np.clip(wires(i) + np.random.default_rng(i).normal(0, 2, (SIDE, SIDE, 3)), 0, 255) for i in range(40)]
    groups = groups_of(image.astype(np.uint8) for image in images)
    assert len(set(groups)) >= 32


@pytest.mark.slow
def test_shots_that_are_far_apart_in_the_list_are_found():
    images = [shot(part(i), 100 * k + i) for k in range(2) for i in range(40)]
    assert groups_of(images) == [i % 40 for i in range(80)]


@pytest.mark.slow
def test_the_light_does_not_matter():
    images = [shot(part(i), 10 * i + k, light=0.25) for i in range(12) for k in range(2)]
    assert groups_of(images) == [2 * (i // 2) for i in range(24)]


@pytest.mark.slow
def test_few_shots_among_many_parts_are_found():
    images = [shot(part(i), i) for i in range(30)]
    images[20] = shot(part(4), 99)
    assert groups_of(images) == [4 if i == 20 else i for i in range(30)]


@pytest.mark.parametrize("value", [0, 128, 255])
def test_plain_images_share_nothing(value: int):
    assert groups_of([np.full((SIDE, SIDE, 3), value, np.uint8)] * 12) == list(range(12))


def test_fewer_images_than_tell_what_is_common_are_not_compared():
    assert groups_of([shot(part(0), i) for i in range(module.LEAST_IMAGES - 1)]) == list(range(7))


@pytest.mark.parametrize("shape", [(160, 160, 3), (40, 400, 3), (33, 17, 3), (1200, 16, 3)])
def test_fingerprints_of_any_shape(shape: tuple[int, ...]):
    images = np.random.default_rng(0).integers(0, 256, (10, *shape), dtype=np.uint8)
    prints = [fingerprint(image) for image in images]
    assert max(prints[0].shape) == module.SIDE_PX
    assert min(prints[0].shape) >= 2 * module.MAX_SHIFT_PX
    assert near_duplicates([*prints, prints[3]]).tolist() == [*range(10), 3]


@pytest.mark.slow
def test_the_result_is_the_same_again():
    images = [shot(part(i // 2), i) for i in range(60)]
    assert groups_of(images) == groups_of(images)


def test_groups_are_joined_over_their_members():
    assert merged(np.arange(6), [(5, 4), (1, 5), (2, 3)]).tolist() == [0, 1, 2, 2, 1, 1]
    assert merged(np.array([0, 0, 2, 2]), [(3, 1)]).tolist() == [0, 0, 0, 0]
    assert merged(np.arange(0), []).tolist() == []
