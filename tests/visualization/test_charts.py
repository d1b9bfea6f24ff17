import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blemish.visualization.charts import loss_figure, nice_ticks
from blemish.visualization.primitives import DEFECTIVE, GOOD


@given(
    low=st.floats(-1e6, 1e6),
    width=st.floats(1e-3, 1e6),
)
def test_ticks_are_few_even_and_inside(low: float, width: float) -> None:
    ticks = nice_ticks(low, low + width)
    assert 1 <= len(ticks) <= 8
    assert all(low - 1e-6 * width <= tick <= low + width * (1 + 1e-6) for tick in ticks)
    steps = np.diff(ticks)
    assert steps.size == 0 or np.allclose(steps, steps[0], rtol=1e-3)


@pytest.mark.parametrize(("low", "high"), [(1.0, 1.0), (0.0, float("inf")), (float("nan"), 1.0)])
def test_an_empty_or_infinite_range_has_no_ticks(low: float, high: float) -> None:
    assert nice_ticks(low, high) == []


def test_both_curves_are_drawn_and_fall():
    steps = [0.0, 50.0, 100.0]
    page = loss_figure(steps, {"training": [1.0, 0.5, 0.2], "held out": [0.9, float("nan"), 0.4]}, title="Loss")
    assert page.shape == (400, 720, 3)
    blue = np.nonzero(np.all(page[64:341] == GOOD, axis=2))
    leftmost, rightmost = blue[0][blue[1].argmin()], blue[0][blue[1].argmax()]
    assert (leftmost < 40, rightmost > 180) == (True, True)
    assert np.all(page == DEFECTIVE, axis=2).any()


def test_a_chart_without_points_has_only_axes():
    assert loss_figure([], {"training": []}, title="Loss").shape == (400, 720, 3)
