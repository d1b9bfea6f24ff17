"""Public data sets by name, each on a drawn tree of its shape."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from blemish.data.datasets import LAYOUT_NAMES, DataSet, categories, open_dataset
from blemish.data.layouts import LAYOUTS, recognised
from blemish.errors import DataError
from tests.data import drawn

# For each layout: how it is drawn, training images, test images by defect, masks by defect, files that are not used.
SHAPES = {
    "mvtec-ad": (drawn.mvtec_ad, 4, {"good": 2, "bent": 2}, {"bent": 2}, 0),
    "mvtec-loco": (
        drawn.mvtec_loco,
        4,
        {"good": 2, "logical_anomalies": 2, "structural_anomalies": 2},
        {"logical_anomalies": 3, "structural_anomalies": 2},
        2,
    ),
    "mvtec-ad-2": (drawn.mvtec_ad_2, 4, {"good": 1, "bad": 2}, {"bad": 2}, 3),
    "btad": (drawn.btad, 4, {"good": 2, "ko": 2}, {"ko": 2}, 0),
    "visa": (drawn.visa, 4, {"good": 2, "Anomaly": 2}, {"Anomaly": 2}, 1),
    "kolektor-sdd": (drawn.kolektor_sdd, 11, {"good": 3, "defect": 1}, {"defect": 1}, 0),
    "kolektor-sdd2": (drawn.kolektor_sdd2, 3, {"good": 3, "defect": 1}, {"defect": 1}, 2),
    "dagm": (drawn.dagm, 2, {"good": 2, "defect": 1}, {"defect": 1}, 4),
}


def check_shape(dataset: DataSet, shape: tuple) -> None:
    _, n_train, tests, masks, n_skipped = shape
    assert len(dataset.train) == n_train
    assert all(sample.defect == "good" and not sample.mask_paths for sample in dataset.train)
    assert Counter(sample.defect for sample in dataset.test) == tests
    found: Counter[str] = Counter()
    for sample in dataset.test:
        found[sample.defect] += len(sample.mask_paths)
    assert +found == masks
    assert len(dataset.skipped) == n_skipped  # type: ignore[attr-defined]
    assert dataset.unused_masks == ()  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", SHAPES)
def test_each_layout_is_recognised_and_read(name: str, tmp_path: Path) -> None:
    folder = SHAPES[name][0](tmp_path / "root" / "part")
    assert recognised(folder) == (None if name == "mvtec-ad" else name)
    dataset = open_dataset(folder)
    check_shape(dataset, SHAPES[name])
    assert open_dataset(folder, layout=name).test == dataset.test
    assert name == "mvtec-ad" or dataset.notes[0] == f"Read as {LAYOUTS[name].title}."  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", SHAPES)
def test_each_layout_is_a_category_of_its_root(name: str, tmp_path: Path) -> None:
    folder = SHAPES[name][0](tmp_path / "root" / "part")
    SHAPES[name][0](tmp_path / "root" / "other")
    assert categories(tmp_path / "root") == ["other", "part"]
    assert open_dataset(tmp_path / "root", category="part").train == open_dataset(folder).train
    with pytest.raises(DataError, match=r"^category: expected one category, .* name one of other, part\."):
        open_dataset(tmp_path / "root")


def test_no_mask_is_that_of_another_image(tmp_path: Path) -> None:
    dataset = open_dataset(drawn.mvtec_loco(tmp_path / "pushpins"))
    for sample in dataset.test:
        for mask in sample.mask_paths:
            assert (mask.parent.name, mask.parent.parent.name) == (sample.path.stem, sample.defect)


def test_visa_without_its_table_holds_out_a_fifth(tmp_path: Path) -> None:
    dataset = open_dataset(drawn.visa(tmp_path / "candle", table=False))
    assert (len(dataset.train), Counter(sample.defect for sample in dataset.test)) == (5, {"good": 1, "Anomaly": 2})
    assert dataset.notes[1].endswith("a fifth of the normal images is held out for the test.")  # type: ignore[attr-defined]


@pytest.mark.parametrize("text", ["object,image\ncandle,x", "object,split,image\nother,train,y"])
def test_a_table_of_visa_that_does_not_fit_is_refused(text: str, tmp_path: Path) -> None:
    drawn.visa(tmp_path / "candle")
    (tmp_path / "split_csv" / "1cls.csv").write_text(text)
    with pytest.raises(DataError, match=r"^split: expected .*1cls\.csv\."):
        open_dataset(tmp_path / "candle")


def test_commutators_of_kolektor_sdd_stay_on_one_side(tmp_path: Path) -> None:
    dataset = open_dataset(drawn.kolektor_sdd(tmp_path / "sdd"))
    train = {sample.path.parent.name for sample in dataset.train}
    assert not train & {sample.path.parent.name for sample in dataset.test if not sample.is_defective}


def test_real_iad_is_read_from_its_json_file(tmp_path: Path) -> None:
    root = drawn.real_iad(tmp_path / "Real-IAD")
    assert categories(root) == ["audiojack"]
    dataset = open_dataset(root, category="audiojack")
    assert (len(dataset.train), Counter(sample.defect for sample in dataset.test)) == (4, {"good": 2, "BX": 2})
    assert all(sample.mask_path is not None for sample in dataset.test if sample.is_defective)
    table = root / "realiad_jsons" / "realiad_jsons" / "audiojack.json"
    assert open_dataset(table).test == dataset.test
    assert repr(dataset).endswith("4 to train, 2 good and 2 defective to test")
    by_names = open_dataset(root / "realiad_256" / "audiojack")  # OK and NG say the same
    assert Counter(sample.defect for sample in by_names.test)["BX"] == 2


def test_two_resolutions_of_real_iad_are_not_mixed(tmp_path: Path) -> None:
    root = drawn.real_iad(tmp_path / "Real-IAD")
    first = "OK/S0000/audiojack_0000_OK_C1.jpg"
    drawn.images(root, f"realiad_1024/audiojack/{first}")
    with pytest.raises(
        DataError, match=r"^images: expected OK/S0000/.* in one folder, got .*realiad_1024.*, .*realiad_256"
    ):
        open_dataset(root, category="audiojack")


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"meta": None}, r"^data set: expected a JSON file of Real-IAD, with meta, train and test, got "),
        ({"test": [{"image_path": 3}]}, r"^test: expected entries with image_path and anomaly_class, got "),
        (
            {"test": [{"image_path": "no.jpg", "anomaly_class": "OK"}]},
            r"^test: expected an image that is there, got .*no\.jpg",
        ),
        ({"train": []}, r"^images: expected the first image in one folder, got no folder that holds it"),
    ],
)
def test_a_json_file_that_does_not_fit_is_refused(change: dict, error: str, tmp_path: Path) -> None:
    table = drawn.real_iad(tmp_path) / "realiad_jsons" / "realiad_jsons" / "audiojack.json"
    table.write_text(json.dumps(json.loads(table.read_text()) | change))
    with pytest.raises(DataError, match=error):
        open_dataset(table)


def test_a_layout_that_is_asked_for_and_is_not_there(tmp_path: Path) -> None:
    folder = drawn.btad(tmp_path / "01")
    with pytest.raises(
        DataError, match=r"^data set: expected VisA: Data/Images/\{Normal,Anomaly\}, .* got ground_truth/, "
    ):
        open_dataset(folder, layout="visa")
    with pytest.raises(DataError, match=r"^layout: expected one of mvtec-ad, .*real-iad, got 'coco'\."):
        open_dataset(folder, layout="coco")
    assert set(SHAPES) | {"real-iad"} == set(LAYOUT_NAMES)
