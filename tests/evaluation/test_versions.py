"""Two versions of a detector on the images that people reviewed."""

from __future__ import annotations

from pathlib import Path

import pytest

from blemish.evaluation.thresholds import Count
from blemish.evaluation.versions import Versions, compare_versions
from tests.images import good, scratched, small_patchcore, write, write_goods

SAME = Versions(Count(2, 10), Count(2, 10), Count(5, 6), Count(5, 6))


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
    ("changed", "worse"),
    [
        ({}, False),
        ({"good_after": Count(1, 10)}, False),
        ({"good_after": Count(3, 10)}, True),
        ({"good_after": Count(2, 9)}, True),
        ({"defects_after": Count(4, 6)}, True),
        ({"defects_after": Count(6, 6)}, False),
        ({"good_before": Count(0, 0), "good_after": Count(0, 0)}, False),
    ],
)
def test_an_update_is_worse_if_it_is_on_either(changed: dict[str, Count], worse: bool):
    versions = SAME._replace(**changed)
    assert versions.is_worse is worse
    assert any("worse" in line for line in versions.lines()) is worse


def test_lines_and_json_tell_the_counts():
    assert SAME.lines() == [
        "Good images called defective: 2 of 10 before, 2 of 10 now.",
        "Defects found: 5 of 6 before, 5 of 6 now.",
    ]
    assert SAME.to_dict()["defects_after"] == {"above": 5, "images": 6}
    none = Count(0, 0)
    assert Versions(none, none, none, none).lines() == []
