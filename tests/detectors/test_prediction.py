"""What is common to all detectors' predictions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from blemish.detectors.prediction import checked_threads, prediction, predictions
from blemish.errors import InputError
from blemish.ops.conformal import Calibration
from blemish.types import Problem
from tests.images import cut_off, good, write

CALIBRATION = Calibration.from_scores([1.0, 2.0, 3.0], 0.25)


def test_a_prediction_follows_from_score_and_map():
    anomaly_map = np.zeros((6, 8), np.float32)
    anomaly_map[2, 3:5] = 4
    found = prediction(4.0, anomaly_map, image=CALIBRATION, pixel=CALIBRATION, path=Path("a.png"))
    assert (found.label, found.threshold, found.p_value) == (True, 3.0, 0.25)
    assert (found.peak_xy, found.regions[0].box) == ((3, 2), (3, 2, 2, 1))
    assert found.mask.sum() == 2
    assert found.path == Path("a.png")
    assert not prediction(3.0, anomaly_map, image=CALIBRATION, pixel=CALIBRATION).label


def test_many_are_in_order_and_broken_ones_are_problems(tmp_path: Path):
    paths = [
        write(tmp_path / "a.png", good(0)),
        cut_off(tmp_path / "b.png", good(1)),
        write(tmp_path / "c.png", good(2)),
    ]

    def predict(image: np.ndarray, path: Path | None):
        return prediction(
            float(image.mean()), np.zeros((1, 1), np.float32), image=CALIBRATION, pixel=CALIBRATION, path=path
        )

    first, second, third = predictions(predict, paths, bit_depth=None, threads=2)
    assert not isinstance(first, Problem)
    assert not isinstance(third, Problem)
    assert (first.path, first.score) == (paths[0], good(0).mean())
    assert isinstance(second, Problem)
    assert (second.path, second.kind) == (paths[1], "unreadable")
    assert third.path == paths[2]


@pytest.mark.parametrize("threads", [0, 257, 1.5])
def test_threads_are_checked(threads: float):
    with pytest.raises(InputError, match="threads: expected a whole number from 1 to 256"):
        checked_threads(threads)


def test_one_thread_per_core(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("os.cpu_count", lambda: 7)
    assert checked_threads(None) == 7
    assert checked_threads(3) == 3
