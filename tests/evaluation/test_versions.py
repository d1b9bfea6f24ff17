"""Two versions of a detector on the images that people reviewed."""

from __future__ import annotations

from pathlib import Path

import pytest

from blemish.evaluation.thresholds import Count
from blemish.evaluation.versions import Versions, compare_versions
from tests.images import good, scratched, small_patchcore, write, write_goods

SAME = Versions(Count(2, 100), Count(2, 100), Count(5, 6), Count(5, 6), rate=0.02)


@pytest.mark.slow
def test_the_update_is_judged_by_held_out_scores(tmp_path: Path):
    before = small_patchcore().fit(write_goods(tmp_path / "good", 6))
    reviewed = [write(tmp_path / "reviewed" / f"{seed}.png", good(seed)) for seed in range(20, 26)]
    defects = [write(tmp_path / "defects" / f"{seed}.png", scratched(seed)[0]) for seed in range(3)]
    after = before.update(reviewed)
    found = compare_versions(before, after, reviewed, [*defects, tmp_path / "defects" / "none.png"])
    training = after.fitted.training
    held_out = [s for path, s in zip(training.paths, training.scores, strict=True) if "reviewed" in path]
    assert found.good_after == Count(sum(score > after.threshold for score in held_out), 6)
    assert found.good_before == Count(sum(before.predict(path).label for path in reviewed), 6)
    assert (found.defects_before, found.defects_after) == (Count(3, 3), Count(3, 3))
    assert [problem.path.name for problem in found.problems] == ["none.png"]


@pytest.mark.slow
def test_images_that_both_learnt_count_by_both_calibrations(tmp_path: Path):
    paths = write_goods(tmp_path / "good", 8)
    both = small_patchcore().fit(paths[:6]), small_patchcore().fit(paths)
    found = compare_versions(*both, paths, [])
    scores = [score for score in both[0].fitted.training.scores if score is not None]
    new = sum(both[0].predict(path).label for path in paths[6:])
    assert found.good_before == Count(sum(score > both[0].threshold for score in scores) + new, 8)
    assert found.good_after.n == 8


@pytest.mark.parametrize(
    ("changed", "warned"),
    [
        ({}, []),
        ({"good_after": Count(1, 100)}, []),
        ({"good_after": Count(4, 100)}, []),  # as many as 2 % may be by chance
        ({"good_after": Count(9, 100)}, ["more of the good images are called defective than the stated 2 %"]),
        ({"good_before": Count(30, 100), "good_after": Count(9, 100)}, []),
        ({"defects_after": Count(4, 6)}, ["fewer of the reviewed defects are found"]),
        ({"defects_after": Count(6, 6)}, []),
        ({"good_before": Count(0, 0), "good_after": Count(0, 0)}, []),
    ],
)
def test_what_is_worse_is_said(changed: dict[str, Count], warned: list[str]):
    versions = SAME._replace(**changed)
    expected = [f"warning: {text}. Look at them before the new model goes in service." for text in warned]
    assert versions.warnings == expected == [line for line in versions.lines() if "warning" in line]
    assert versions.to_dict()["version_warnings"] == expected


def test_lines_and_json_tell_the_counts():
    assert SAME.lines() == [
        "Good images called defective: 2 of 100 before, 2 of 100 now.",
        "Defects found: 5 of 6 before, 5 of 6 now.",
    ]
    assert SAME.to_dict()["defects_after"] == {"above": 5, "images": 6}
    none = Count(0, 0)
    assert Versions(none, none, none, none, rate=0.02).lines() == []
