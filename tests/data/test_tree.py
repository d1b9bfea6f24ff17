"""Trees in which names of folders and files state the roles: each is read rightly or refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from blemish.data.datasets import DataSet, MVTecAD, open_dataset
from blemish.data.folder import Folder
from blemish.errors import DataError
from tests.data.drawn import image, images, mask, masks, numbered, put


def roles(dataset: DataSet, root: Path) -> dict[str, str]:
    """Role of each file below `root`: train, good, the defect with its masks, mask (unused), or - (not used)."""
    found: dict[Path, str] = {sample.path: "train" for sample in dataset.train}
    for sample in dataset.test:
        found[sample.path] = sample.defect
        found.update(dict.fromkeys(sample.mask_paths, f"mask of {sample.path.stem}"))
    found.update(dict.fromkeys(dataset.unused_masks, "mask"))  # type: ignore[attr-defined]
    for path in dataset.skipped:  # type: ignore[attr-defined]
        assert path not in found
        found[path] = "-"
    return {path.relative_to(root).as_posix(): role for path, role in sorted(found.items())}


def test_ok_and_ng_of_a_camera(tmp_path: Path) -> None:
    images(tmp_path, *numbered("cam1/ok", 2), *numbered("cam1/ng", 2))
    dataset = open_dataset(tmp_path)
    assert [sample.path.parent.name for sample in dataset.train] == ["ok"]
    assert [sample.defect for sample in dataset.test] == ["good", "ng", "ng"]


def test_folders_without_a_class_are_named(tmp_path: Path) -> None:
    images(tmp_path, *numbered("alpha", 2), *numbered("beta", 2), *numbered("2024-11-29", 1))
    dataset = open_dataset(tmp_path)
    assert len(dataset.train) == 5
    assert dataset.notes == (
        "No name states a class: images of 2 folders are read as good, alpha, beta. Move out what is not.",
    )
    assert open_dataset(tmp_path / "alpha").notes == ()


@pytest.mark.parametrize("name", ["@eaDir", "$RECYCLE.BIN", "__MACOSX", "#recycle", "lost+found"])
def test_folders_of_file_servers_are_not_looked_at(name: str, tmp_path: Path) -> None:
    images(tmp_path, *numbered("good", 2), *numbered("bad", 1), *numbered(f"{name}/good", 2), *numbered(name, 1))
    dataset = open_dataset(tmp_path)
    assert not [s.path for s in (*dataset.train, *dataset.test) if name in s.path.parts]
    assert dataset.skipped == ()


def test_two_cameras_are_one_part_and_a_note_says_so(tmp_path: Path) -> None:
    images(tmp_path, *numbered("cam1/ok", 2), *numbered("cam2/ok", 2), *numbered("cam2/ng", 1))
    note = r"Good images of 2 folders are read as one part: cam1, cam2. Name one of them if they are several."
    assert open_dataset(tmp_path).notes == (note,)  # type: ignore[attr-defined]


def test_masks_beside_their_images_state_the_class(tmp_path: Path) -> None:
    """KolektorSDD's shape without its folder names."""
    images(tmp_path, "000.png", "001.png", "002.png", "003.png")
    masks(tmp_path, "000_label.bmp")
    masks(tmp_path, "001_label.bmp", "002_label.bmp", marked=False)
    dataset = open_dataset(tmp_path)
    assert [sample.path.name for sample in dataset.test if sample.is_defective] == ["000.png"]
    assert "000.png" not in {sample.path.name for sample in dataset.train}
    assert dataset.notes == (  # type: ignore[attr-defined]
        "The masks state the class: an image whose mask marks pixels is defective, the others are good, "
        "also the 1 without a mask.",
    )


@pytest.mark.parametrize(
    "folder", ["mask", "gt", "ground-truth", "labels", "annotations", "Masken", "GroundTruth", "标注"]
)
def test_folders_of_masks_are_no_defects(folder: str, tmp_path: Path) -> None:
    images(tmp_path, *numbered("good", 5), *numbered("dent", 2))
    masks(tmp_path, f"{folder}/dent/000.png", f"{folder}/dent/001.png")
    found = roles(open_dataset(tmp_path), tmp_path)
    assert {name: role for name, role in found.items() if not name.startswith("good")} == {
        "dent/000.png": "dent",
        "dent/001.png": "dent",
        f"{folder}/dent/000.png": "mask of 000",
        f"{folder}/dent/001.png": "mask of 001",
    }


@pytest.mark.parametrize("good", ["Good", "ok", "OK_parts", "i.O.", "bons", "良品"])
def test_good_test_images_are_good(good: str, tmp_path: Path) -> None:
    images(tmp_path, *numbered("train/good", 3), f"test/{good}/0.png", "test/dent/0.png")
    assert [sample.defect for sample in open_dataset(tmp_path).test] == ["good", "dent"]
    (tmp_path / "train" / "good").rename(tmp_path / "train" / "gut")  # no layout of MVTec AD any more
    assert [sample.defect for sample in open_dataset(tmp_path).test] == ["good", "dent"]


@pytest.mark.parametrize("form", ["000/{}.png", "000_mask_{}.png", "000-gt-{}.png", "class{}/000.png"])
@pytest.mark.parametrize("reader", ["tree", "mvtec", "folder"])
def test_several_masks_of_one_image_are_united(form: str, reader: str, tmp_path: Path) -> None:
    good, bad, truth = (
        ("train/good", "test/dent", "ground_truth/dent") if reader == "mvtec" else ("ok", "dent", "gt/dent")
    )
    images(tmp_path, *numbered(good, 3), *numbered(bad, 2))
    masks(tmp_path, *(f"{truth}/{form.format(i)}" for i in range(2)))
    if reader == "folder":
        dataset: DataSet = Folder("a", root=tmp_path, normal_dir="ok", abnormal_dir="dent", mask_dir="gt")
    else:
        dataset = open_dataset(tmp_path)
    first, second = (sample for sample in dataset.test if sample.is_defective)
    assert [path.relative_to(tmp_path / truth).as_posix() for path in first.mask_paths] == [
        form.format(0),
        form.format(1),
    ]
    assert second.mask_paths == ()


def test_a_mask_of_a_missing_image_is_not_given_to_another(tmp_path: Path) -> None:
    images(tmp_path, *numbered("good", 3), "dent/0.png", "hole/1.png")
    masks(tmp_path, "masks/dent/0.png", "masks/hole/0.png", "masks/hole/1.png")
    found = roles(open_dataset(tmp_path), tmp_path)
    assert (found["masks/dent/0.png"], found["masks/hole/0.png"], found["masks/hole/1.png"]) == (
        "mask of 0", "mask", "mask of 1",
    )  # fmt: skip


REFUSED = {
    "a rejected folder below good": (
        ["good/0.png", "good/day2/rejected/1.png"],
        "'good' says good and 'rejected' says def",
    ),
    "ausschuss below gut": (["gut/0.png", "gut/Ausschuss/1.png"], "'gut' says good and 'Ausschuss' says defective"),
    "a crack below ok": (["ok/0.png", "ok/crack/1.png"], "'ok' says good and 'crack' says defective"),
    "an ng file among good ones": (["good/0.png", "good/1_NG.png"], "'good' says good and '1_NG' says defective"),
    "a good file among defects": (["ok/0.png", "ng/good_1.png"], "'good_1' says good and 'ng' says defective"),
    "a folder that is unsure": (
        ["good/0.png", "good/unsure/1.png"],
        "a name that says good or defective, got 'unsure'",
    ),
    "positive and negative": (
        ["positive/0.png", "negative/1.png"],
        "a name that says good or defective, got 'negative'",
    ),
    "classes by number": (["0/a.png", "1/b.png"], "names that say which is good, got 0/ and 1/"),
    "a name and its negation": (
        ["acceptable/a.png", "Un-acceptable/b.png"],
        "names that say which is good, got Un-acceptable/ and acceptable/",
    ),
    "such names in Czech": (
        ["2024/vyhovující/a.png", "2024/Nevyhovující/b.png"],
        "names that say which is good, got Nevyhovující/ and vyhovující/",
    ),
    "numbered classes": (["class_0/a.png", "class_1/b.png"], "names that say which is good, got class_0/ and class_1/"),
    "classes below a camera": (["cam/Cls2/a.png", "cam/Cls5/b.png"], "say which is good, got Cls2/"),
    "grades": (["grade A/a.png", "grade C/b.png"], "names that say which is good, got grade A/ and grade C/"),
    "signs": (["+/a.png", "-/b.png"], r"names that say which is good, got \+/ and -/"),
    "emoji": (["\u2705/a.png", "\u274c/b.png"], "names that say which is good, got \u2705/ and \u274c/"),
    "answers": (["yes/a.png", "no/b.png"], "a name that says good or defective, got 'no'"),
    "Swedish inside of good": (
        ["good/a.png", "good/d\u00e5lig/b.png"],
        "'good' says good and 'd\u00e5lig' says defective",
    ),
    "doubt": (["good/a.png", "almost_good/b.png"], "a name that says good or defective, got 'almost_good'"),
    "a scratch beside a day": (["monday/0.png", "scratches/1.png"], r"no name that says whether 0\.png is good"),
    "an ng file in a flat folder": (["0.png", "1_ng.png"], r"no name that says whether 0\.png is good"),
    "test images without classes": (["train/0.png", "test/0.png"], "good images, got test images of unknown class"),
    "defects alone": (["defects/0.png", "ng/0.png"], "good images only, or a known layout, got defects/, ng/"),
    "masks alone": (["masks/0.png"], "of which all images are masks or previews by their names"),
    "images beside good ones": (["good/0.png", "images/1.png"], "a name that says good or defective, got 'images'"),
    "a backup beside good ones": (["ok/0.png", "raw_backup/1.png"], "a name that says good or def.*, got 'raw_backup'"),
    "parts in a test": (["train/ok/0.png", "test/all parts/1.png"], "a name that says good or def.*, got 'all parts'"),
    "scratches in some names": (["blue_1.png", "blue_scratch_2.png"], "1 of 2 images whose names speak of a defect"),
    "words without a space": (
        ["okparts/0.png", "okparts/badones/badparts/1.png"],
        "'okparts' says good and 'badparts'",
    ),
    "loose images beside good ones": (["cam/good/0.png", "cam/1.png"], r"images in folders, got 1\.png beside them"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_clear_is_refused_with_the_remedy(case: str, tmp_path: Path) -> None:
    names, text = REFUSED[case]
    draw = masks if case == "masks alone" else images
    root = draw(tmp_path / "parts", *names)
    with pytest.raises(DataError, match=rf"^data set: expected .*{text}.*, in {root}.*\. .*manifest") as caught:
        open_dataset(root)
    assert "\n" not in str(caught.value)


def test_photographs_in_a_folder_of_masks_are_refused(tmp_path: Path) -> None:
    """Such as labels that are inspected."""
    images(tmp_path, *numbered("good", 3), "ng/0.png", "labels/0.png")
    with pytest.raises(
        DataError, match=r"^masks: expected masks, .* got 0\.png with the brightnesses of a photograph, in .*labels\. "
    ):
        open_dataset(tmp_path)


def test_photographs_named_like_masks_are_images(tmp_path: Path) -> None:
    images(tmp_path, "0.png", "0_label.png", "1.png", "1_label.png")
    dataset = open_dataset(tmp_path)
    assert (len(dataset.train), dataset.test) == (4, ())


def test_names_of_all_images_that_speak_of_a_hole_are_those_of_a_part(tmp_path: Path) -> None:
    assert len(open_dataset(images(tmp_path, "hole_plate_1.png", "hole_plate_2.png")).train) == 2


@pytest.mark.parametrize("name", ["ng", "rejected", "Ausschuss", "not ok", "masks", "thumbnails", "不良品", "unsorted"])
@pytest.mark.parametrize("inside", ["", "monday", "2024/monday"])
def test_the_folder_itself_may_say_that_its_images_are_not_good(name: str, inside: str, tmp_path: Path) -> None:
    folder = images(tmp_path / name / inside, "0.png", "1.png")
    with pytest.raises(
        DataError, match=rf"^data set: expected good images, got .* by the name '{name}', .* rename {name}"
    ):
        open_dataset(folder)


@pytest.mark.parametrize("name", ["good", "ng/ok", "anomaly_detection", "scratch", "defects_2024", "line1"])
def test_folders_of_good_images_alone(name: str, tmp_path: Path) -> None:
    dataset = open_dataset(images(tmp_path / name, "monday/0.png", "1.png"))
    assert (len(dataset.train), dataset.test) == (2, ())


def test_the_type_of_a_defect_is_no_word_for_images(tmp_path: Path) -> None:
    images(tmp_path, "ok/images/0.png", "ok/images/1.png", "NG/images/2.png", "NG/images/dent/3.png")
    assert [sample.defect for sample in open_dataset(tmp_path).test] == ["good", "NG", "dent"]


def test_categories_of_any_names(tmp_path: Path) -> None:
    images(tmp_path / "bottle", "ok/0.png", "ok/1.png", "ng/0.png")
    assert len(open_dataset(tmp_path, category="bottle").test) == 2
    with pytest.raises(
        DataError, match=r"^data set: expected realiad_jsons/ in it, got ng/, ok/, in .* name a JSON file\."
    ):
        open_dataset(tmp_path / "bottle", layout="real-iad")


def test_files_may_be_named_by_class(tmp_path: Path) -> None:
    images(tmp_path, "ok_1.png", "ok_2.png", "def_1.png")
    assert [sample.defect for sample in open_dataset(tmp_path).test] == ["good", "defect"]


def test_images_and_masks_in_two_folders(tmp_path: Path) -> None:
    images(tmp_path, *numbered("images", 4))
    masks(tmp_path, "annotations/002.png")
    dataset = open_dataset(tmp_path)
    assert [sample.path.stem for sample in dataset.test if sample.is_defective] == ["002"]


def test_masks_in_a_folder_of_any_name_are_known_by_their_pixels(tmp_path: Path) -> None:
    images(tmp_path, *numbered("shots", 4, ".jpg"))
    masks(tmp_path, "xyz/001.png", "xyz/003.png")
    dataset = open_dataset(tmp_path)
    assert [sample.path.stem for sample in dataset.test if sample.is_defective] == ["001", "003"]
    assert dataset.notes[0].startswith("Taken as masks because of two brightnesses: 2, such as ")  # type: ignore[attr-defined]
    images(tmp_path / "b", *numbered("good", 2), *numbered("good/xyz", 1))
    put(tmp_path / "b" / "good" / "xyz" / "000.png", mask())
    with pytest.raises(DataError, match=r"got a file with two brightnesses that is named like another image, .*'good'"):
        open_dataset(tmp_path / "b")


@pytest.mark.parametrize(
    "name", ["000.bmp", "000_x.png", "000 marked.png", "000_mask.png", "000_GT.png", "mask_000.png"]
)
def test_a_mask_beside_a_defective_image_is_no_defective_image(name: str, tmp_path: Path) -> None:
    images(tmp_path, *numbered("train/good", 3), "test/good/0.png", "test/dent/000.jpg")
    put(tmp_path / "test" / "dent" / "000.jpg", np_big())
    put(tmp_path / "test" / "dent" / name, mask())
    for dataset in (open_dataset(tmp_path), MVTecAD(tmp_path.parent, tmp_path.name)):
        (dent,) = (sample for sample in dataset.test if sample.is_defective)
        assert (dent.path.name, [path.name for path in dent.mask_paths]) == ("000.jpg", [name])


def np_big():
    """An image that takes more bytes than its mask in any format."""
    import numpy as np

    return np.kron(image(0), np.ones((4, 4), np.uint8))


def test_two_valued_images_that_are_not_named_like_others_are_images(tmp_path: Path) -> None:
    masks(tmp_path, "good/0.png", "good/1.png", "good/2.png", "ng/7.png")
    dataset = open_dataset(tmp_path)
    assert (len(dataset.train), len(dataset.test)) == (2, 2)


@pytest.mark.parametrize("arguments", [{"normal_dir": "good"}, {"normal_dir": "good", "abnormal_dir": "ng"}])
def test_folder_refuses_names_that_contradict_its_arguments(arguments: dict, tmp_path: Path) -> None:
    images(tmp_path, "good/0.png", "good/day2/rejected/1.png", "ng/0.png")
    with pytest.raises(DataError, match=r"'good' says good and 'rejected' says defective, in .*rejected/1\.png"):
        Folder("a", root=tmp_path, **arguments)
    named = Folder(
        "a", root=tmp_path, normal_dir="good", abnormal_dir=["ng", "good/day2/rejected"], normal_split_ratio=0
    )
    assert (len(named.train), len(named.test)) == (1, 2)


def test_mvtec_refuses_names_that_contradict_its_layout(tmp_path: Path) -> None:
    images(tmp_path / "a", "train/good/0.png", "train/good/day2/rejected/1.png")
    with pytest.raises(DataError, match="'good' says good and 'rejected' says defective"):
        MVTecAD(tmp_path, "a")
    images(tmp_path / "b", "train/good/0.png", "test/unsure/1.png")
    with pytest.raises(DataError, match="expected a name that says good or defective, got 'unsure'"):
        MVTecAD(tmp_path, "b")


def test_a_folder_of_defects_with_some_masks_is_not_learnt_as_good(tmp_path: Path) -> None:
    root = images(tmp_path / "ng", "0.png", "1.png", "2.png")
    masks(root, "0_mask.png")
    with pytest.raises(DataError, match="expected good images, got defective images by the name 'ng'"):
        open_dataset(root)
    images(tmp_path / "a", "0.png", "1.png", "blue_scratch_2.png")
    masks(tmp_path / "a", "0_mask.png")
    with pytest.raises(DataError, match="got 1 of 2 images whose names speak of a defect, such as blue_scratch_2"):
        open_dataset(tmp_path / "a")


def test_previews_in_the_test_of_mvtec_are_no_defects(tmp_path: Path) -> None:
    images(tmp_path / "a", *numbered("train/good", 3), "test/dent/0.png", "test/heatmaps/0.png")
    dataset = MVTecAD(tmp_path, "a")
    assert ([sample.defect for sample in dataset.test], len(dataset.skipped)) == (["dent"], 1)


def test_folders_of_masks_inside_the_test_of_mvtec(tmp_path: Path) -> None:
    images(tmp_path / "a", *numbered("train/good", 3), "test/dent/0.png", "train/good/masks/000.png")
    masks(tmp_path / "a", "test/mask/dent/0.png")
    dataset = MVTecAD(tmp_path, "a")
    assert [(sample.defect, len(sample.mask_paths)) for sample in dataset.test] == [("dent", 1)]
    assert (len(dataset.train), [path.name for path in dataset.skipped]) == (3, ["000.png"])


def test_previews_are_left_out_and_named(tmp_path: Path) -> None:
    images(tmp_path, *numbered("good", 3), "good/thumbs/000.png", "ng/0.png", "ng/heatmaps/0.png")
    dataset = open_dataset(tmp_path)
    assert [path.parent.name for path in dataset.skipped] == ["thumbs", "heatmaps"]  # type: ignore[attr-defined]
    assert dataset.notes == (  # type: ignore[attr-defined]
        f"Previews and heat maps are not used: 2, such as {tmp_path / 'good' / 'thumbs' / '000.png'}.",
    )


def test_splits_without_a_test_and_with_defects_in_train(tmp_path: Path) -> None:
    images(tmp_path, *numbered("train/good", 2), "train/ng/0.png", "val/good/0.png", "val/ng/0.png")
    found = roles(open_dataset(tmp_path), tmp_path)
    assert found == {
        "train/good/000.png": "train",
        "train/good/001.png": "train",
        "train/ng/0.png": "-",
        "val/good/0.png": "good",
        "val/ng/0.png": "ng",
    }


def test_a_test_alone_has_nothing_to_fit_on_and_a_note_says_so(tmp_path: Path) -> None:
    dataset = open_dataset(images(tmp_path, "test/ok/0.png", "test/ng/0.png"))
    assert (dataset.train, [sample.defect for sample in dataset.test]) == ((), ["good", "ng"])
    assert dataset.notes == (  # type: ignore[attr-defined]
        "All good images are in a folder of a test: there are none to fit on.",
    )


def test_a_folder_of_defects_alone_where_defects_are_asked_for(tmp_path: Path) -> None:
    root = images(tmp_path / "ng", "0.png", "dent/1.png", "deep/2.png")
    assert [sample.defect for sample in open_dataset(root, plain="defective").test] == ["deep", "dent", "ng"]


ANNOTATED = {
    "labels/000.txt": "0 0.5 0.5 0.1 0.1\n",  # YOLO
    "annotations/instances.json": '{"annotations": []}',  # COCO
    "Annotations/000.xml": "<annotation/>",  # Pascal VOC
    "labels.csv": "file,label\n000.png,ng\n",
    "defects.txt": "000.png\n",
    "images/000.json": '{"shapes": [{"label": "scratch"}]}',  # LabelMe
    "images/000.txt": "0 0.51 0.2 0.10 0.3 1 0.4\n",
    "images/000.xml": "<annotation><object><name>crack</name></object></annotation>",
}


@pytest.mark.parametrize("name", ANNOTATED)
def test_images_beside_annotations_are_not_good_by_default(name: str, tmp_path: Path) -> None:
    root = images(tmp_path / "parts", *numbered("images", 3))
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_text(ANNOTATED[name])
    text = rf"good images, got annotations that are not read, 1 such as {name}, in .*parts\. Sort the images.*manifest"
    with pytest.raises(DataError, match=text):
        open_dataset(root)
    (root / "images").rename(root / "good")  # stated by a name
    if name.startswith("images"):
        assert len(open_dataset(root).train) == 3


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("images/000.json", '{"exposure_us": 400, "gain": 1.0}'),
        ("images/000.xml", "<camera><gain>1</gain></camera>"),
        ("images/000.txt", "2024-05-01 12:30:11 gain 1.0\n"),
        ("images/001.csv", "temperature\n21.5\n"),
        ("readme.txt", "0 0 0 0 0"),
    ],
)
def test_files_of_a_camera_are_no_annotations(name: str, text: str, tmp_path: Path) -> None:
    images(tmp_path, *numbered("images", 3))
    (tmp_path / name).write_text(text)
    assert len(open_dataset(tmp_path).train) == 3


def test_folders_inside_of_good_ones_are_named(tmp_path: Path) -> None:
    images(tmp_path, *numbered("good/2024-05-01", 3), "good/train/9.png", "good/mbovu/0.png", "ng/1.png")
    assert open_dataset(tmp_path).notes == (  # type: ignore[attr-defined]
        "Folders inside of good ones are read as good: good/mbovu. Move out what is not.",
    )
    images(tmp_path / "a", *numbered("train/good", 3), "train/good/mbovu/0.png", "test/dent/1.png")
    assert open_dataset(tmp_path / "a").notes == (  # type: ignore[attr-defined]
        "Folders inside of good ones are read as good: train/good/mbovu. Move out what is not.",
    )


@pytest.mark.parametrize(
    "name", ["trash", "outliers", "aussortiert", "excluded", "quarantine", "Papierkorb", "0_removed", "回收站"]
)
def test_what_was_set_aside_is_refused(name: str, tmp_path: Path) -> None:
    for root in (tmp_path / "inside", tmp_path / "beside"):
        folder = f"good/{name}" if root.name == "inside" else name
        images(root, *numbered("good", 3), f"{folder}/7.png")
        with pytest.raises(DataError, match=f"a name that says good or defective, got '{name}'"):
            open_dataset(root)


@pytest.mark.parametrize("name", ["predictions", "ng_overlay", "good preview", "vis", "scratch_heatmap"])
def test_drawn_results_beside_images_are_not_used(name: str, tmp_path: Path) -> None:
    images(tmp_path, *numbered("good", 3), "ng/0.png", f"{name}/0.png")
    found = roles(open_dataset(tmp_path), tmp_path)
    assert (found["ng/0.png"], found[f"{name}/0.png"]) == ("ng", "-")


@pytest.mark.parametrize("name", ["results", "output_2"])
def test_results_beside_good_images_are_no_defects(name: str, tmp_path: Path) -> None:
    images(tmp_path, *numbered("good", 3), f"{name}/0.png")
    with pytest.raises(DataError, match=f"a name that says good or defective, got '{name}'"):
        open_dataset(tmp_path)
    (tmp_path / name / "0.png").unlink()
    images(tmp_path / name, *numbered("good", 3))  # where a camera writes
    (tmp_path / "good" / "000.png").unlink()
    assert len(open_dataset(tmp_path / name).train) == 3


@pytest.mark.parametrize("name", ["mask.png", "GT.png", "ground-truth.bmp"])
def test_a_file_named_mask_alone_is_not_learnt(name: str, tmp_path: Path) -> None:
    masks(images(tmp_path, *numbered("good", 3)), f"good/{name}")
    dataset = open_dataset(tmp_path)
    assert len(dataset.train) == 3
    assert [path.name for path in dataset.unused_masks] == [name]  # type: ignore[attr-defined]
