"""Training images that look defective, from their scores alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from blemish.detectors.suspects import find_suspects, high_group, indices_of, notes_of, warnings_of
from blemish.errors import InputError
from blemish.modelfolder.header import Training
from blemish.ops.conformal import Calibration

GOOD = np.random.default_rng(0).gamma(4, 1, 40)


def training(scores: Any, rarities: Any = ()) -> Training:
    names = [f"{i}.png" for i in range(len(scores))]
    sizes = [(8, 8)] * len(scores)
    return Training.calibrated(
        names, sizes, chosen=range(len(scores)), scores=scores, map_peaks=scores, rarities=rarities
    )


def calibration(scores: Any) -> Calibration:
    return Calibration.from_scores(scores, 0.02, "tail")


@pytest.mark.parametrize("rule", ["tail", "conformal"])
def test_high_scores_are_listed_the_highest_first(rule: Any):
    scores = np.r_[GOOD, 40.0, 60.0]
    found = find_suspects(training(scores), Calibration.from_scores(scores, 0.02, rule))
    if rule == "conformal":  # its threshold is the highest score
        assert found == ()
        return
    assert [(suspect.path, suspect.score, suspect.measure) for suspect in found] == [
        ("41.png", 60.0, "score"),
        ("40.png", 40.0, "score"),
    ]
    likely = replace(calibration(scores).tail, predictive=False)
    assert found[0].threshold == likely.quantile(0.001) < calibration(scores).upper_threshold
    assert found[0].p_value == likely.survival(60.0) < found[1].p_value < 0.001


def test_good_scores_are_not_listed():
    assert find_suspects(training(GOOD, GOOD), calibration(GOOD)) == ()
    assert warnings_of(training(GOOD, GOOD), calibration(GOOD), GOOD) == ()


def test_images_outside_the_calibration_set_are_unknown():
    assert find_suspects(Training(("a.png",), ((8, 8),)), calibration([1.0, 2.0])) == ()
    assert warnings_of(Training(("a.png",), ((8, 8),)), calibration([1.0, 2.0]), GOOD) == ()


def test_rarity_lists_what_the_score_hides():
    rare = np.r_[GOOD[:-2], 70.0, 71.0]
    found = find_suspects(training(GOOD, rare), calibration(GOOD))
    assert [(suspect.path, suspect.measure) for suspect in found] == [("39.png", "rarity"), ("38.png", "rarity")]


@pytest.mark.parametrize("review", ["confirmed", "dropped"])
def test_reviewed_images_are_listed_no_more(review: str):
    scores = np.r_[GOOD, 40.0, 60.0]
    reviewed = training(scores).reviewed([41], review)
    assert [suspect.path for suspect in find_suspects(reviewed, calibration(scores))] == ["40.png"]
    assert reviewed.scores[41] == (60.0 if review == "confirmed" else None)
    assert reviewed.chosen == [*range(41), *([41] if review == "confirmed" else [])]


@pytest.mark.parametrize("score", [0.0, 5.0])
def test_images_that_are_all_the_same_are_a_warning(score: float):
    scores = np.r_[np.full(60, score), 5 + GOOD]
    (warning,) = warnings_of(training(scores), calibration(scores), scores)
    assert warning.startswith("All good images look the same")


@pytest.mark.parametrize(("n_parts", "named"), [(1, "only 1 part: "), (4, "only 4 parts: ")])
def test_images_of_few_parts_are_a_warning(n_parts: int, named: str):
    few = replace(training(GOOD), groups=tuple(i % n_parts for i in range(len(GOOD))))
    (warning,) = warnings_of(few, calibration(GOOD), GOOD)
    assert f"40 good images show {named}" in warning
    assert notes_of(few) == ()


def test_images_of_some_parts_are_a_note():
    some = replace(training(GOOD), groups=tuple(i % 5 for i in range(len(GOOD))))
    assert warnings_of(some, calibration(GOOD), GOOD) == ()
    assert notes_of(some)[0].startswith("40 good images show 5 parts: 35 have the detail of another")
    assert notes_of(training(GOOD)) == notes_of(replace(some, groups=tuple(range(len(GOOD))))) == ()


def test_many_suspects_are_a_warning():
    scores = np.r_[GOOD, 0.5, 0.5, 0.5, 50, 60]
    rare = np.r_[GOOD, 300, 350, 400, 0.5, 0.5]
    (warning,) = warnings_of(training(scores, rare), calibration(scores), scores)
    assert warning.startswith("5 of 45 good images look defective (11 %). More than 5 % move the threshold")


def test_two_groups_of_scores_are_a_warning():
    scores = np.r_[5 + GOOD, 30 + GOOD[:20]]
    highest = int(np.argmax(scores))
    (warning,) = warnings_of(training(scores), calibration(scores), scores)
    assert warning.startswith(f"20 of 60 good images score far above the others, the highest {highest}.png.")
    assert high_group(scores[::-1]) == 20
    assert high_group(scores[:19]) == 0  # too few
    assert high_group(-scores) == 0


def test_one_group_is_no_warning():
    rng = np.random.default_rng(3)
    for scores in (rng.normal(10, 1, 200), rng.exponential(1, 200) + 1):
        assert high_group(scores) == 0


def test_paths_are_those_of_the_fit():
    assert indices_of(training(GOOD), ["3.png", "0.png"]) == [3, 0]
    with pytest.raises(InputError, match=r"path: expected a training image of the model, got 'x\.png'\. `blemish susp"):
        indices_of(training(GOOD), ["x.png"])
