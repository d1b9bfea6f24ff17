from dataclasses import replace

import numpy as np
import pytest

from blemish.types import outcome_of
from blemish.visualization.primitives import OUTCOMES, PAPER, draw_gauge, gauge_position, rounded_rectangle, share_text
from tests.visualization.predictions import blob, prediction_of


def blank(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), PAPER, np.uint8)


def test_the_area_of_a_rounded_rectangle() -> None:
    page = blank(40, 60)
    rounded_rectangle(page, (10, 8, 30, 20), 6, (0, 0, 0))
    covered = (255 - page[..., 0].astype(float)).sum() / 255
    assert covered == pytest.approx(30 * 20 - (4 - np.pi) * 36, abs=1)
    rows, columns = np.nonzero(page[..., 0] < 255)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (8, 27, 10, 39)


def test_a_rectangle_is_clipped_to_the_page() -> None:
    page = blank(20, 20)
    rounded_rectangle(page, (-10, -10, 20, 20), 0, (0, 0, 0))
    assert not page[:10, :10].any()
    assert (page[10:] == 255).all()


@pytest.mark.parametrize(
    ("score", "threshold", "position"),
    [(20, 20, 0.5), (0, 20, 0.0), (30, 20, 0.75), (1e9, 20, 1.0), (0.5, 0.0, 0.75), (-2, -4, 0.75), (-9, -4, 0.0)],
)
def test_the_threshold_is_in_the_middle_of_a_gauge(score: float, threshold: float, position: float) -> None:
    assert gauge_position(score, threshold) == pytest.approx(position)


@pytest.mark.parametrize("score", [-5.0, 0.0, 10.0, 20.0, 20.1, 39.9, 40.0, 1e300])
def test_a_gauge_stays_in_its_box(score: float) -> None:
    page = blank(80, 340)
    draw_gauge(page, (20, 10, 300, 60), score, 20.0)
    outside = page.copy()
    outside[8:74, 5:335] = 255  # the arrow of a score beyond the end points out a little
    assert (outside == 255).all()
    assert (page < 255).any()


def test_the_score_is_centred_above_its_marker() -> None:
    page = blank(80, 340)
    draw_gauge(page, (20, 10, 300, 60), 25.0, 20.0)
    columns = np.flatnonzero((page[10:24] < 200).any(axis=(0, 2)))
    assert (columns[0] + columns[-1]) / 2 == pytest.approx(20 + 300 * 0.625, abs=4)


@pytest.mark.parametrize("score", [10.0, 25.0, 35.0, 99.0])
def test_a_gauge_with_two_thresholds_has_three_zones_and_stays_in_its_box(score: float) -> None:
    page = blank(80, 340)
    draw_gauge(page, (20, 10, 300, 60), score, 20.0, 30.0)
    bar = page[36]
    at = {name: np.flatnonzero((bar == style.tint).all(axis=1)) for name, style in OUTCOMES.items()}
    assert at["good"].max() <= 170 <= at["look again"].min()  # the threshold is in the middle
    assert at["look again"].max() <= 245 <= at["defective"].min() + 1  # 30 of 0 to 40
    assert (page == OUTCOMES[outcome_of(score > 20, score, 30.0)].colour).all(axis=2).any()
    outside = page.copy()
    outside[8:74, 5:335] = 255
    assert (outside == 255).all()


@pytest.mark.parametrize("upper", [20.0, 21.0, 500.0])
def test_the_second_threshold_may_be_anywhere_above(upper: float) -> None:
    page = blank(80, 160)
    draw_gauge(page, (20, 10, 120, 60), 25.0, 20.0, upper)
    assert (page[:, :5] == 255).all()
    assert (page[:, 155:] == 255).all()


def test_a_p_value_is_a_bound_or_an_estimate() -> None:
    prediction = prediction_of(blob(40, 40))
    assert share_text(prediction) == "at most 0.4 % of good parts score so high"
    assert share_text(replace(prediction, upper_threshold=30.0)) == "about 0.4 % of good parts score so high"
    assert share_text(replace(prediction, p_value=1e-9)) == "fewer than 0.1 % of good parts score so high"
