"""Groups of images of one part: stated by a pattern or a column, held out together, never in both splits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from blemish import DataError, Folder, InputError, Manifest, Patchcore
from blemish.data.datasets import open_dataset
from blemish.data.grouping import group_of_pattern
from tests.images import SETTINGS, good, write


def drawn(root: Path, names: list[str]) -> Path:
    for k, name in enumerate(names):
        write(root / name, good(k))
    return root


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Two shots of each of ten good parts, and of two defective ones."""
    names = [f"good/part{i}_{side}.png" for i in range(10) for side in "ab"]
    return drawn(tmp_path, [*names, *(f"crack/bad{i}_{side}.png" for i in range(2) for side in "ab")])


@pytest.mark.parametrize(
    ("pattern", "path", "group"),
    [
        (r"part\d+", "good/part12_left.png", "part12"),
        (r"(\d+)_cam\d", "good/0007_cam2.png", "0007"),
        (r"lot(\d+)/", "lot3/x/001.png", "3"),
        (r"(?P<part>[a-z]+)-\d", "good/abc-1.png", "abc"),
        (r"part\d+", "good/other.png", ""),
        (r"(a)|b", "b.png", ""),
    ],
)
def test_the_pattern_is_searched_in_the_path_below_the_root(pattern: str, path: str, group: str):
    assert group_of_pattern(pattern, Path("root"))(Path("root") / path) == group


def test_the_folders_above_do_not_count():
    assert group_of_pattern(r"part\d", Path("part1/images"))(Path("part1/images/x.png")) == ""


def test_parts_are_held_out_with_all_their_images(tree: Path):
    dataset = open_dataset(tree, group_by=r"part\d+|bad\d+")
    held_out = {sample.group for sample in dataset.test if not sample.is_defective}
    assert len(held_out) == 2
    assert not held_out & {sample.group for sample in dataset.train}
    assert len(dataset.train) == 16
    assert "16 good images to fit on show 8 parts" in dataset.notes[-1]


def test_a_folder_of_anomalib_holds_parts_out_together(tree: Path):
    dataset = Folder("parts", root=tree, normal_dir="good", abnormal_dir="crack", group_by=r"part\d+")
    good_test = {sample.group for sample in dataset.test if not sample.is_defective}
    assert len(good_test) == 2
    assert not good_test & {sample.group for sample in dataset.train}
    assert {sample.group for sample in dataset.test if sample.is_defective} == {""}


def test_without_a_pattern_nothing_has_a_group(tree: Path):
    assert {sample.group for sample in (*open_dataset(tree).train, *open_dataset(tree).test)} == {""}


@pytest.mark.parametrize("pattern", ["(", "[a", "*"])
def test_what_is_no_pattern_is_refused(pattern: str, tree: Path):
    with pytest.raises(InputError, match=r"group_by: expected a regular expression"):
        open_dataset(tree, group_by=pattern)


def test_a_pattern_that_matches_nothing_is_refused(tree: Path):
    with pytest.raises(DataError, match=r"group_by: expected a pattern of .* in none of 24 paths, such as .*part"):
        open_dataset(tree, group_by=r"serial\d+")


def test_a_part_in_both_splits_is_refused(tmp_path: Path):
    drawn(tmp_path, [f"train/good/p{i}a.png" for i in range(4)] + ["test/good/p3b.png", "test/bent/p9.png"])
    with pytest.raises(DataError, match=r"either to fit or to test on, got 'p3' in both: .*p3a.png and .*p3b.png"):
        open_dataset(tmp_path, group_by=r"p\d")


def test_a_column_of_a_manifest_states_groups(tmp_path: Path):
    drawn(tmp_path, [f"{i}.png" for i in range(5)])
    lines = ["path,split,group", "0.png,train,A", "1.png,train,A", "2.png,train,B", "3.png,train,", "4.png,test,C"]
    (tmp_path / "list.csv").write_text("\n".join(lines))
    dataset = Manifest(tmp_path / "list.csv")
    assert [sample.group for sample in (*dataset.train, *dataset.test)] == ["A", "A", "B", "", "C"]
    (tmp_path / "list.csv").write_text("\n".join([*lines[:5], "4.png,test,A"]))
    with pytest.raises(DataError, match=r"'A' in both"):
        Manifest(tmp_path / "list.csv")
    (tmp_path / "list.jsonl").write_text('{"path": "0.png", "group": 7}\n{"path": "1.png", "group": ["x"]}')
    with pytest.raises(DataError, match=r"group: expected the name of a part, got \['x'\], in .*line 2"):
        Manifest(tmp_path / "list.jsonl")


@pytest.mark.slow
def test_stated_groups_count_once(tmp_path: Path):
    """Images that show one part without being alike: the user knows."""
    drawn(tmp_path, [f"part{i}_{side}.png" for i in range(8) for side in "ab"])
    dataset = open_dataset(tmp_path, group_by=r"part\d+")
    model = Patchcore(**SETTINGS).fit(dataset.train)
    assert model.calibration.n == 8
    assert model.fitted.training.groups == tuple(np.arange(16) // 2 * 2)
