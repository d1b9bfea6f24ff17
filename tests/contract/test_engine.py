"""Engine and data sets: fit, test and predict on drawn images, by each of the three layouts."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from blemish import DataError, Engine, Folder, InputError, Manifest, MVTecAD, Prediction, Report, Sample
from tests.contract import drawn, names
from tests.contract.same import assert_same

if TYPE_CHECKING:
    from tests.contract.conftest import Case


def by_layout(root: Path, _: Path) -> MVTecAD:
    return MVTecAD(root, category="stripes")


def by_folders(root: Path, _: Path) -> Folder:
    place = root / "stripes"
    return Folder(
        "stripes",
        root=place,
        normal_dir="train/good",
        normal_test_dir="test/good",
        abnormal_dir="test/scratch",
        mask_dir="ground_truth/scratch",
    )


def rows_of(root: Path) -> list[dict[str, str]]:
    place = root / "stripes"
    rows = [{"path": str(path), "split": "train"} for path in sorted((place / "train" / "good").iterdir())]
    rows += [{"path": str(path), "split": "test"} for path in sorted((place / "test" / "good").iterdir())]
    for path in sorted((place / "test" / "scratch").iterdir()):
        mask = place / "ground_truth" / "scratch" / f"{path.stem}_mask.png"
        rows.append({"path": str(path), "split": "test", "defect": "scratch", "mask": str(mask)})
    return rows


def by_csv(root: Path, folder: Path) -> Manifest:
    with (folder / "stripes.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["path", "split", "defect", "mask"])
        writer.writeheader()
        writer.writerows(rows_of(root))
    return Manifest(folder / "stripes.csv")


def by_lines(root: Path, folder: Path) -> Manifest:
    (folder / "stripes.jsonl").write_text("\n".join(map(json.dumps, rows_of(root))))
    return Manifest(folder / "stripes.jsonl")


@pytest.mark.parametrize("make", [by_layout, by_folders, by_csv, by_lines])
def test_each_layout_says_the_same(make: Callable[[Path, Path], Any], root: Path, tmp_path: Path):
    data = make(root, tmp_path)
    assert data.name == "stripes"
    assert [sample.defect for sample in data.test] == ["good"] * 3 + ["scratch"] * 3
    assert len(data.train) == 8
    for sample in (*data.train, *data.test):
        assert isinstance(sample, Sample)
        assert sample.path.is_file()
        assert sample.is_defective == (sample.defect != "good") == (sample.mask_path is not None)
    assert {sample.split for sample in data.train} == {"train"}


@pytest.mark.slow
@pytest.mark.parametrize("make", [by_layout, by_folders, by_csv])
def test_a_fit_a_test_and_predictions(make: Callable[[Path, Path], Any], patchcore: Case, root: Path, tmp_path: Path):
    data, model, engine = make(root, tmp_path), patchcore.make(), Engine()
    engine.fit(model=model, datamodule=data)
    (row,) = engine.test(model=model, datamodule=data)
    assert set(row) == names.IMAGE_METRICS | names.PIXEL_METRICS
    assert all(type(value) is float and 0 <= value <= 1 for value in row.values())
    assert (row["image_AUROC"], row[names.MISS_METRIC]) == (1.0, 0.0)
    found = list(engine.predict(model, data))
    assert [one.path for one in found] == [sample.path for sample in data.test]
    assert_same(found[0], model.predict(data.test[0]))
    assert [one.label for one in engine.predict(model, [drawn.scratched(300)]) if isinstance(one, Prediction)] == [True]


@pytest.mark.slow
def test_an_efficientad_is_limited_by_the_engine(cases: Callable[[str], Case], root: Path):
    data, model = MVTecAD(root, "stripes"), cases("EfficientAd").make(max_steps=50)
    engine = Engine(max_epochs=1, max_steps=2)
    engine.fit(model=model, datamodule=data)
    (row,) = engine.test(model=model, datamodule=data)
    assert set(row) == names.IMAGE_METRICS | names.PIXEL_METRICS
    assert "2 steps" in model.summary


@pytest.mark.slow
def test_all_that_a_test_says(patchcore: Case, root: Path):
    data, told = MVTecAD(root, "stripes"), []
    engine = Engine(progress=lambda stage, done, total: told.append(stage))
    model = patchcore.make()
    engine.fit(model, data)
    report = engine.evaluate(model, data)
    assert isinstance(report, Report)
    assert report.category == "stripes"
    assert dict(report.metrics) == engine.test(model, data)[0]
    assert set(report.by_defect) == {"good", "scratch"}
    assert report.threshold == model.threshold
    assert [one.sample for one in report.tested] == list(data.test)
    for one in report.tested:
        found = model.predict(one.sample)
        assert (one.score, one.label, one.p_value) == (found.score, found.label, found.p_value)
    assert {"fit_s", "test_s", "predict_ms", "n_train", "n_test"} <= set(report.timings)
    assert all(low <= report.metrics[name] <= high for name, (low, high) in report.intervals.items())
    assert "testing" in told


def test_metrics_that_the_data_does_not_define_are_absent(patchcore: Case, root: Path):
    place = root / "stripes"
    no_masks = Folder("a", normal_dir=place / "train" / "good", abnormal_dir=place / "test" / "scratch")
    (row,) = Engine().test(patchcore.fitted, no_masks)
    assert set(row) == names.IMAGE_METRICS
    with pytest.raises(DataError, match="test"):
        Engine().test(patchcore.fitted, Folder("b", normal_dir=place / "train" / "good"))


def test_a_broken_test_image_is_left_out_and_listed(patchcore: Case, tmp_path: Path):
    root = drawn.write_category(tmp_path, "part", n_train=3)
    cut = drawn.cut_off(root / "part" / "test" / "scratch" / "009.png")
    drawn.write(root / "part" / "ground_truth" / "scratch" / "000_mask.png", np.ones((5, 5), bool))
    report = Engine().evaluate(patchcore.fitted, MVTecAD(root, "part"))
    assert {problem.kind for problem in report.problems} == {"unreadable", "mask-size"}
    assert cut in {problem.path for problem in report.problems}
    assert len(report.tested) == 6


def test_a_data_set_that_is_not_there_says_what_is(root: Path, tmp_path: Path):
    with pytest.raises(DataError, match="stripes"):
        MVTecAD(root, "none")
    with pytest.raises(DataError, match="none"):
        Folder("a", normal_dir=tmp_path / "none")
    (tmp_path / "bad.csv").write_text("path\nmissing.png\n")
    with pytest.raises(DataError, match=r"missing\.png"):
        Manifest(tmp_path / "bad.csv")
    with pytest.raises(InputError, match="task"):
        MVTecAD(root, "stripes", task="segmentation")  # type: ignore[call-arg]
    with pytest.raises(InputError, match="precision"):
        Engine(precision=16)  # type: ignore[call-arg]
