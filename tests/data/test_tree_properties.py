"""Properties of trees of random names: nothing is learnt as good against a name, and no file is silently lost."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from blemish.data.datasets import open_dataset
from blemish.data.roles import tell
from blemish.errors import DataError
from tests.images import touch

NEUTRAL = ("monday", "cam1", "images", "Data", "2024-11-29", "line 2")
GOOD = ("good", "OK", "Normal", "gut", "i.O.", "良品")
DEFECTIVE = ("ng", "Rejected", "Ausschuss", "scratch", "不良品", "not_ok")
OTHERS = ("masks", "gt", "Labels", "thumbs", "unsure", "positive")
SPLITS = ("train", "Test", "val")
FOLDERS = st.lists(st.sampled_from([*NEUTRAL, *GOOD, *DEFECTIVE, *OTHERS, *SPLITS]), max_size=3)
STEMS = st.sampled_from(["0", "1", "IMG_7", "7_ng", "ok 3", "0_mask", "1_GT", "mask_1", "gt_2"])
PATHS = st.tuples(FOLDERS, STEMS).map(lambda parts: "/".join([*parts[0], f"{parts[1]}.png"]))


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(st.lists(PATHS, min_size=1, max_size=8, unique=True))
@example(["good/0.png", "0_mask.png", "monday/train/0.png", "monday/Test/1.png"])  # mask of an image that is not used
@example(["good/0.png", "0_mask.png", "monday/val/0.png", "monday/Test/1.png"])
def test_no_role_goes_against_a_name_and_no_file_is_lost(names: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = touch(Path(folder) / "parts", *names)
        try:
            dataset = open_dataset(root)
        except DataError as error:
            assert str(root) in str(error)  # noqa: PT017  # a refusal names the path
            return
        said = {root / name: [tell(part) for part in (*Path(name).parts[:-1], Path(name).stem)] for name in names}
        kinds = {path: {found.kind for found in tells if found is not None} for path, tells in said.items()}
        good = [sample.path for sample in (*dataset.train, *dataset.test) if not sample.is_defective]
        assert all(not kinds[path] & {"defective", "mask", "derived"} for path in good)
        in_folders = {path: {found.kind for found in tells[:-1] if found is not None} for path, tells in said.items()}
        defective = [sample for sample in dataset.test if sample.is_defective]
        assert all(not in_folders[sample.path] & {"good", "mask", "derived"} for sample in defective)
        masks = [mask for sample in defective for mask in sample.mask_paths]
        left = [*dataset.skipped, *dataset.unused_masks]  # type: ignore[attr-defined]
        seen = [*good, *(sample.path for sample in defective), *masks, *left]
        assert sorted(seen) == sorted(said)
