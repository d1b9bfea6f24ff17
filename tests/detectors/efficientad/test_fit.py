"""Fitting: the split of the images, and the steps that fit in a budget."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blemish.detectors.efficientad import fit as efficientad_fit
from blemish.detectors.efficientad.fit import split_images
from blemish.detectors.efficientad.training import Losses, Training
from blemish.errors import InputError
from tests.efficientad_models import small_efficientad
from tests.images import goods


@pytest.mark.parametrize("n", [4, 5, 10, 209, 1000])
@pytest.mark.parametrize("holdout", [0.01, 0.2, 0.8])
def test_no_image_is_in_two_parts(n: int, holdout: float):
    split = split_images(np.arange(n), holdout, 0)
    assert sorted(itertools.chain(*split)) == list(range(n))
    assert len(split.train) >= 2
    assert len(split.held) >= 1
    assert len(split.calibration) >= 1
    assert len(split.train) == n - min(max(2, round(holdout * n)), n - 2)
    assert split == split_images(np.arange(n), holdout, 0)


def test_images_of_one_part_are_on_one_side_of_the_split():
    groups = np.arange(60) // 3 * 3
    split = split_images(groups, 0.3, 0)
    held_out = {*groups[split.held], *groups[split.calibration]}
    assert not held_out & {*groups[split.train]}
    assert len(split.held) + len(split.calibration) == len(held_out) == 6
    assert len(split.train) == 42


def test_another_seed_is_another_split():
    assert split_images(np.arange(50), 0.2, 0) != split_images(np.arange(50), 0.2, 1)


class Clock:
    """Seconds that pass only during a step."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, whole_s: float, part_s: float) -> None:
        self.now = 0.0
        self.steps: list[tuple[int, int]] = []
        monkeypatch.setattr("time.monotonic", lambda: self.now)
        clock = self

        def step(self: Training, k: int, rate: float, share: float = 0.001) -> Losses:
            clock.now += whole_s if self.crop_hw == self.hw else part_s
            clock.steps.append(self.crop_hw)
            return Losses(1, 1, 1, 1)

        monkeypatch.setattr(Training, "step", step)
        monkeypatch.setattr(efficientad_fit, "SHORT_CROP", 4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("budget", "crop", "n_steps"),
    [
        ("100s", 4, 92),  # 3 s are kept for what follows, 5 were spent timing
        ("24h", None, 5_000),
    ],
)
def test_a_budget_gives_the_steps_that_fit_in(
    teacher: Path, monkeypatch: pytest.MonkeyPatch, budget: str, crop: int | None, n_steps: int
):
    clock = Clock(monkeypatch, whole_s=1.5, part_s=1.0)
    changes: dict[str, Any] = {"image_size": 64, "max_steps": 5_000, "early_stop": False}
    model = small_efficientad(teacher, budget=budget, **changes).fit(goods(6))
    history = model.fitted.history
    assert history["crop"] == crop
    assert model.fitted.provenance["n_steps"] == pytest.approx(n_steps, abs=4)
    assert clock.now <= 100 or crop is None
    assert model.summary.startswith(f"Trained {model.fitted.provenance['n_steps']} steps")


@pytest.mark.slow
def test_timing_leaves_the_networks_as_they_were(teacher: Path):
    plain = small_efficientad(teacher, early_stop=False).fit(goods(5))
    timed = small_efficientad(teacher, early_stop=False, budget="1h").fit(goods(5))
    assert timed.fitted.provenance["n_steps"] == 3
    assert timed.fitted.maps.model == plain.fitted.maps.model


@pytest.mark.slow
def test_the_threshold_is_of_the_calibration_set_alone(teacher: Path):
    images = goods(10)
    model = small_efficientad(teacher).fit(images)
    split = split_images(np.arange(10), 0.4, 0)
    assert model.calibration.n == len(split.calibration) == 3
    scores = sorted(model.predict(images[i]).score for i in split.calibration)
    assert model.calibration.scores.tolist() == scores
    history = model.fitted.history
    assert (history["n_learnt"], history["n_held"], history["n_calibration"]) == (6, 1, 3)


@pytest.mark.slow
def test_a_budget_that_leaves_no_time_for_training_is_refused_before_it_is_spent(
    teacher: Path, monkeypatch: pytest.MonkeyPatch
):
    clock = Clock(monkeypatch, whole_s=1.5, part_s=1.0)
    with pytest.raises(InputError, match=r"budget: expected at least 10 s for 6 images on this machine, got 2 s"):
        small_efficientad(teacher, budget="2s", image_size=64).fit(goods(6))
    assert clock.steps == []
