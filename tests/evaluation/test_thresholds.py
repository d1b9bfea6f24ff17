"""Thresholds by false positive rate: what is expected at each, in words, in numbers, and by which one is chosen."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from blemish.errors import DataError
from blemish.evaluation import thresholds
from blemish.evaluation.thresholds import Count, Evidence, Scored, collect, threshold_fields, threshold_sentence
from blemish.ops.conformal import Calibration
from tests.images import good, scratched, write, write_goods

if TYPE_CHECKING:
    from blemish import Patchcore

SCORES = np.random.default_rng(0).exponential(1.0, 80)
TAIL = Calibration.from_scores(SCORES, 0.02, "tail")


@pytest.fixture(autouse=True)
def few_defects(monkeypatch: pytest.MonkeyPatch) -> None:
    """A defect of each kind, which is enough to see what they are drawn on."""
    monkeypatch.setattr(thresholds, "N_DEFECTS", 9)


def test_thresholds_are_said_as_an_estimate_with_its_interval():
    low, high = TAIL.rate_interval
    assert threshold_sentence(TAIL) == (
        f"Threshold {TAIL.threshold:.4g}: about 2 % false positives expected (90 % interval {100 * low:.2g} to "
        f"{100 * high:.2g} %). Above {TAIL.upper_threshold:.4g} no good image is expected."
    )
    assert low < 0.02 < high
    strict = Calibration.from_scores(SCORES, 0.0005, "tail")
    assert "Above" not in threshold_sentence(strict)  # the threshold is that level already


def test_an_interval_of_very_few_scores_begins_at_0():
    few = Calibration.from_scores(SCORES[:3], 0.02, "tail")
    low, _ = few.rate_interval
    assert 0 < low < 1e-5
    assert "(90 % interval 0 to " in threshold_sentence(few)


def test_thresholds_are_said_as_a_guarantee():
    calibration = Calibration.from_scores(SCORES, 0.05, "conformal")
    assert threshold_sentence(calibration) == f"Threshold {calibration.threshold:.4g}: at most 4.9 % false positives."
    assert threshold_fields(calibration)["upper_threshold"] is None


def test_the_fields_fit_in_json():
    fields = json.loads(json.dumps(threshold_fields(TAIL)))
    assert fields == {
        "threshold": TAIL.threshold,
        "upper_threshold": TAIL.upper_threshold,
        "false_positive_rate_promised": 0.02,
        "false_positive_rate_interval": list(TAIL.rate_interval),
    }


def between(*n_found: int) -> tuple[Scored, ...]:
    """Scores of so many defects more at each rate from 0.5 % on."""
    edges = [TAIL.with_rate(rate).threshold for rate in thresholds.RATES]
    return tuple(Scored("dent", edge + 1e-6) for edge, n in zip(edges, n_found, strict=True) for _ in range(n))


def test_each_row_counts_the_images_above_its_threshold():
    labelled = between(1, 0, 2, 0, 1)
    evidence = Evidence(TAIL, (Scored("good", 0.0),), (Scored("blur", 99.0), Scored("scar", 0.0)), labelled)
    rows = evidence.rows()
    assert [row.calibration.false_positive_rate for row in rows] == [0.005, 0.01, 0.02, 0.05, 0.1]
    assert [row.labelled for row in rows] == [Count(1, 4), Count(1, 4), Count(3, 4), Count(3, 4), Count(4, 4)]
    assert rows[0].good == Count(0, 1)
    assert rows[0].synthetic_by_kind == {"blur": Count(1, 1), "scar": Count(0, 1)}
    assert [row.calibration.threshold for row in rows] == [TAIL.with_rate(rate).threshold for rate in thresholds.RATES]
    own = replace(evidence, calibration=TAIL.with_rate(0.03))
    assert [row.calibration.false_positive_rate for row in own.rows()] == [0.005, 0.01, 0.02, 0.03, 0.05, 0.1]
    document = json.loads(json.dumps(rows[0].to_dict()))
    assert document["labelled"] == {"n_above": 1, "n": 4, "interval": list(Count(1, 4).interval)}
    assert json.loads(json.dumps(Evidence(TAIL).rows()[0].to_dict()))["labelled"] is None


@pytest.mark.parametrize(
    ("n_found", "rate"),
    [
        ((3, 0, 2, 0, 0), 0.02),  # of five defects each counts
        ((5, 0, 0, 0, 0), 0.005),
        ((18, 0, 1, 0, 1), 0.02),  # one of twenty is not worth five times the false positives
        ((18, 0, 0, 0, 2), 0.1),
        ((0, 0, 0, 0, 1), 0.1),
    ],
)
def test_the_lowest_rate_that_finds_nearly_all_is_recommended(n_found: tuple[int, ...], rate: float):
    best = Evidence(TAIL, labelled=between(*n_found)).recommended()
    assert best is not None
    assert best.calibration.false_positive_rate == rate


def test_nothing_is_recommended_if_nothing_is_found():
    assert Evidence(TAIL).recommended() is None
    assert Evidence(TAIL, labelled=(Scored("dent", -1.0),)).recommended() is None


@pytest.mark.slow
def test_synthetic_defects_are_drawn_on_training_images(fitted: Patchcore):
    evidence = collect(fitted)
    assert len({item.kind for item in evidence.synthetic}) == len(evidence.synthetic) == 9
    assert (evidence.good, evidence.labelled, evidence.problems) == ((), (), ())
    assert "12 training images, which the detector knows" in evidence.notes[0]
    assert collect(fitted).synthetic == evidence.synthetic


def test_synthetic_defects_are_drawn_on_held_out_images_where_there_are_some(
    fitted: Patchcore, good_paths: list[Path], tmp_path: Path
):
    write_goods(tmp_path / "good", 2)
    fresh = write(tmp_path / "good" / "new.png", good(77))
    (tmp_path / "good" / "000.png").unlink()
    (tmp_path / "good" / "000.png").symlink_to(good_paths[0])  # was used for the fit
    (tmp_path / "good" / "empty.png").touch()
    evidence = collect(fitted, good=tmp_path / "good")
    assert "2 held-out good images" in evidence.notes[0]
    assert evidence.good[-1].score == fitted.predict(fresh).score
    assert [problem.path.name for problem in evidence.problems] == ["empty.png"]
    with pytest.raises(DataError, match=r"good: expected held-out good images.*got 12, of which 12 were used"):
        collect(fitted, good=good_paths[0].parent)


def test_without_any_good_image_there_are_no_synthetic_defects(fitted: Patchcore):
    gone = replace(fitted.fitted.training, paths=tuple(f"/none/{i}.png" for i in range(12)))
    evidence = collect(type(fitted).from_state(fitted.settings, replace(fitted.fitted, training=gone)))
    assert evidence.synthetic == ()
    assert "can't be read any more" in evidence.notes[0]


@pytest.mark.slow
def test_labelled_defects_are_a_data_set_or_a_folder_of_them_alone(fitted: Patchcore, tmp_path: Path):
    for name in ("parts/scratch/0.png", "parts/dent/1.png", "alone/2.png", "alone/dent/3.png"):
        write(tmp_path / name, scratched(int(name[-5]))[0])
    for i in range(5):
        write(tmp_path / "parts" / "good" / f"{i}.png", good(50 + i))
    evidence = collect(fitted, labelled=tmp_path / "parts")
    assert (sorted(item.kind for item in evidence.labelled), len(evidence.good)) == (["dent", "scratch"], 1)
    evidence = collect(fitted, labelled=tmp_path / "alone")
    assert sorted(item.kind for item in evidence.labelled) == ["alone", "dent"]
    assert evidence.good == ()


@pytest.mark.parametrize("folder", ["parts/good/0.png", "good/0.png", "parts/train/good/0.png"])
def test_good_images_are_no_labelled_defects(fitted: Patchcore, tmp_path: Path, folder: str):
    write(tmp_path / folder, good(50))
    with pytest.raises(DataError, match=r"labelled: expected a defective image that can be read, got none"):
        collect(fitted, labelled=tmp_path / folder.split("/", maxsplit=1)[0])
