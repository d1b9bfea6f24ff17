import numpy as np
import pytest

from blemish.ops.conformal import Calibration
from blemish.visualization.primitives import DEFECTIVE, GOOD, INK, OUTCOMES
from blemish.visualization.rate_chart import rate_figure

SCORES = np.random.default_rng(0).exponential(1.0, 80)


def test_each_strip_and_each_outcome_is_drawn() -> None:
    calibration = Calibration.from_scores(SCORES, 0.02, "tail")
    page = rate_figure(calibration, {"good, calibration": SCORES.tolist(), "labelled": [3.0, 1e6], "none": []})
    assert page.shape == (474, 800, 3)
    zones = [np.flatnonzero((page[75] == style.tint).all(axis=1)) for style in OUTCOMES.values()]
    assert [(zone[0], zone[-1]) for zone in zones] == sorted((zone[0], zone[-1]) for zone in zones)
    lines = np.flatnonzero((page[450] == INK).all(axis=1))
    assert (lines + 1).tolist() == [zones[1][0], zones[2][0]]
    strips = [np.flatnonzero((page[y, 160:716] == colour).all(axis=1)) for y, colour in ((396, GOOD), (426, DEFECTIVE))]
    assert len(strips[0]) > 40
    assert len(strips[1]) == 1  # the other one is beyond the end
    assert (page[415:440, 720:] < 255).any()
    assert (page[385:410, 720:] == 255).all()


@pytest.mark.parametrize("rule", ["tail", "conformal"])
@pytest.mark.parametrize("scores", [[1.0], [0.0, 0.0], [-5.0, 3.0, 3.0]])
def test_any_calibration_makes_a_chart(scores: list[float], rule: str) -> None:
    calibration = Calibration.from_scores(scores, 0.02, rule)  # type: ignore[arg-type]
    page = rate_figure(calibration, {"good": scores})
    assert page.shape == (444, 800, 3)
    looks_again = (page[75] == OUTCOMES["look again"].tint).all(axis=1).any()
    assert looks_again == (rule == "tail")
