"""The page on data layouts prints what `check` says of each drawn tree."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import blemish
from blemish.data.datasets import open_dataset
from blemish.data.layouts import LAYOUTS
from blemish.data.validation import survey_dataset
from blemish.errors import DataError
from blemish.modelfolder.upgrade import FORMAT_VERSION
from tests.anomalib_releases import RELEASES
from tests.data import drawn
from tests.data.drawn import images, masks, numbered

PAGE = Path(blemish.__file__).parents[1] / "docs" / "howto" / "data-layouts.md"


def _flat(root: Path) -> Path:
    images(root, "000.png", "001.png", "002.png", "003.png")
    masks(root, "000_label.bmp")
    return masks(root, "001_label.bmp", "002_label.bmp", "003_label.bmp", marked=False)


def _annotated(root: Path) -> Path:
    images(root, *numbered("images", 3))
    (root / "labels").mkdir()
    (root / "labels" / "000.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    return root


def _of(names: list[str], mask_names: tuple[str, ...] = ()) -> Callable[[Path], Path]:
    return lambda root: masks(images(root, *names), *mask_names)


NUMBERS = {8: "eight", 9: "nine", 10: "ten"}
GOOD = numbered("good", 5)
OWN: dict[str, Callable[[Path], Path]] = {
    "`good/`, `dent/`, `masks/dent/`": _of([*GOOD, "dent/0.png"], ("masks/dent/0.png",)),
    "`cam1/ok/`, `cam1/ng/`": _of([*numbered("cam1/ok", 5), "cam1/ng/0.png"]),
    "`cam1/ok/`, `cam2/ok/`": _of([*numbered("cam1/ok", 3), *(f"cam2/ok/{i}.png" for i in range(3))]),
    "`Training/gut/`, `Test/gut/`, `Test/Kratzer/`, `Masken/Kratzer/`": _of(
        [*numbered("Training/gut", 4), "Test/gut/7.png", "Test/Kratzer/8.png"], ("Masken/Kratzer/8.png",)
    ),
    "`良品/`, `不良品/`": _of([*numbered("良品", 5), "不良品/8.png"]),
    "`ok_1.png`, `ok_2.png`, ..., `ng_1.png`": _of([*(f"ok_{i}.png" for i in range(5)), "ng_1.png"]),
    "`000.png` beside `000_label.bmp`": _flat,
    "`images/`, `annotations/`": _of(numbered("images", 5), ("annotations/002.png",)),
    "`good/`, `dent/000.png`, `gt/000/000.png`, `gt/000/001.png`": _of(
        [*GOOD, "dent/000.png"], ("gt/000/000.png", "gt/000/001.png")
    ),
    "`good/`, `good/thumbs/`": _of([*GOOD, "good/thumbs/7.png"]),
    "`good/`, `good/day2/`, `good/shift B/`": _of([*GOOD, "good/day2/7.png", "good/shift B/8.png"]),
}
REFUSED: dict[str, Callable[[Path], Path]] = {
    "`good/`, `good/day2/rejected/`": _of([*GOOD, "good/day2/rejected/7.png"]),
    "`good/`, `good/12_NG.png`": _of([*GOOD, "good/12_NG.png"]),
    "`good/`, `good/unsure/`": _of([*GOOD, "good/unsure/7.png"]),
    "`positive/`, `negative/`": _of([*numbered("positive", 5), "negative/7.png"]),
    "`0/`, `1/`": _of([*numbered("0", 5), "1/7.png"]),
    "`monday/`, `scratches/`": _of([*numbered("monday", 5), "scratches/7.png"]),
    "`good/`, `ng/`, and `7.png` beside them": _of([*GOOD, "ng/8.png", "7.png"]),
    "`train/`, `test/`, with images and nothing else": _of([*numbered("train", 5), "test/7.png"]),
    "`images/`, `labels/000.txt`": _annotated,
    "`good/`, `good/trash/`": _of([*GOOD, "good/trash/7.png"]),
    "`good/`, `ng/`, `labels/` with photographs": _of([*GOOD, "ng/8.png", "labels/7.png"]),
    "two folders `dent/`, `hole/` and one `masks/0.png`": _of([*GOOD, "dent/0.png", "hole/0.png"], ("masks/0.png",)),
}
PUBLIC: dict[str, Callable[[Path], Path]] = {
    "mvtec-ad": drawn.mvtec_ad,
    "mvtec-loco": drawn.mvtec_loco,
    "mvtec-ad-2": drawn.mvtec_ad_2,
    "btad": drawn.btad,
    "visa": drawn.visa,
    "kolektor-sdd": drawn.kolektor_sdd,
    "kolektor-sdd2": drawn.kolektor_sdd2,
    "dagm": drawn.dagm,
    "real-iad": drawn.real_iad,
}


def row(tree: str, draw: Callable[[Path], Path], tmp_path: Path) -> str:
    """Return the row of the page on one tree."""
    root = draw(tmp_path / "parts")
    try:
        dataset = open_dataset(root, category="audiojack" if tree == "real-iad" else None)
    except DataError as error:
        said = str(error)
    else:
        summary = survey_dataset(dataset).summary
        test = ", ".join(f"{count} {name}" for name, count in summary.test.items()) or "none"
        counts = f"train: {summary.train}. test: {test}. masks: {summary.masks}. skipped: {summary.skipped}."
        said = " ".join([*getattr(dataset, "notes", ()), counts])
    cell = said.replace(f"{tmp_path}/", "").replace("|", r"\|").replace("<", r"\<")
    return f"| {tree} | {cell} |"


@pytest.mark.parametrize("tree", [*OWN, *REFUSED, *PUBLIC])
def test_the_page_says_what_check_says(tree: str, tmp_path: Path) -> None:
    assert row(tree, {**OWN, **REFUSED, **PUBLIC}[tree], tmp_path) in PAGE.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("tree", REFUSED)
def test_each_of_these_is_refused(tree: str, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        open_dataset(REFUSED[tree](tmp_path / "parts"))


def test_the_page_has_the_shape_of_each_layout() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for name, layout in LAYOUTS.items():
        assert f"| `{name}` | {layout.title} | `{layout.shape}` |" in text


def test_the_page_of_inputs_counts_what_there_is() -> None:
    text = (PAGE.parents[1] / "reference" / "inputs.md").read_text(encoding="utf-8")
    lines = [release.rpartition(".")[0] for release in RELEASES]
    assert f"anomalib {lines[0]} to {lines[-1]}; model folders of format version 1 to {FORMAT_VERSION};" in text
    assert f"{NUMBERS[len(PUBLIC)]} public layouts" in text
