"""Whether position counts: used for aligned parts, not for parts that turn, nor with few good images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from blemish.detectors.patchcore import position
from tests.images import small_patchcore

if TYPE_CHECKING:
    from blemish import Patchcore
    from blemish.types import UInt8


def part(seed: int, *, turns: bool) -> UInt8:
    """A bright plate with a dark bar and a noise of its own, aligned or at any angle and place."""
    rng = np.random.default_rng(seed)
    image = np.full((96, 96, 3), 60, np.uint8)
    angle, centre = (rng.uniform(0, 360), rng.uniform(40, 56, 2)) if turns else (0.0, np.array([48.0, 48.0]))
    for size, colour in (((60, 36), (190, 180, 160)), ((44, 8), (70, 80, 110))):
        box = cv2.boxPoints(((float(centre[0]), float(centre[1])), size, float(angle)))
        cv2.fillPoly(image, [box.round().astype(np.int32)], colour)
    return np.clip(image + rng.normal(0, 3, image.shape), 0, 255).astype(np.uint8)


def fitted(*, turns: bool, n: int = 24) -> Patchcore:
    return small_patchcore(score_fusion=True).fit([part(seed, turns=turns) for seed in range(n)])


@pytest.mark.slow
@pytest.mark.parametrize("turns", [False, True])
def test_position_counts_for_aligned_parts_alone(turns: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(position, "LEAST_IMAGES", 12)  # drawn parts with the same angle are near-duplicates
    model = fitted(turns=turns)
    fusion = model.fitted.fusion
    assert fusion is not None
    assert (fusion.parts is None) == turns
    used = "not used: the parts turn, shift or vary" if turns else "used: the parts are aligned"
    assert fusion.reason.startswith(f"Position is {used} (AUROC of synthetic defects 0.")
    assert model.header()["score_fusion"]["reason"] == fusion.reason
    assert ("part" in model.predict(part(99, turns=turns)).score_components) != turns


@pytest.mark.parametrize(
    ("less", "expected"), [(-0.3, 0.4), (0.05, 0.4), (0.1, 0.27), (0.18, 0.05), (0.19, 0.0), (0.2, 0.0), (0.9, 0.0)]
)
def test_the_weight_falls_with_what_position_misses(less: float, expected: float):
    assert position.part_weight(less) == expected


@pytest.mark.slow
def test_few_good_images_leave_position_out():
    fusion = fitted(turns=False, n=6).fitted.fusion
    assert fusion is not None
    assert fusion.parts is None
    assert fusion.reason == "Position is not used: that takes 50 good images or more."
