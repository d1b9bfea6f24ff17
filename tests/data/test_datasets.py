"""Layouts of data sets: samples, masks, unused files, and errors that describe the folder."""

from __future__ import annotations

import os
import warnings

import pytest

from blemish.data.datasets import DataSet, Folder, MVTec, MVTecAD, categories, open_dataset
from blemish.data.discovery import list_images
from blemish.data.holdout import hold_out
from blemish.errors import DataError, InputError
from tests.images import touch


@pytest.fixture
def mvtec(tmp_path):
    return touch(
        tmp_path / "mvtec",
        *(f"grid/train/good/{n}.png" for n in (0, 2, 10)),
        *(f"grid/test/good/{n}.png" for n in (1, 11, 3)),
        *(f"grid/test/bent/{n:03}.png" for n in range(2)),
        *(f"grid/test/broken/{n:03}.png" for n in range(1)),
        *(f"grid/ground_truth/bent/{n:03}_mask.png" for n in range(2)),
        "grid/readme.txt",
        "tile/train/good/000.JPG",
        "tile/test/crack/000.JPG",
        "tile/ground_truth/crack/000.png",
        "license.txt",
    )


def names(samples):
    return [sample.path.name for sample in samples]


def test_mvtec_layout(mvtec):
    grid = MVTecAD(mvtec, category="grid")
    assert isinstance(grid, DataSet)
    assert grid.name == "grid"
    assert names(grid.train) == ["0.png", "2.png", "10.png"]
    assert {sample.split for sample in grid.train} == {"train"}
    assert [sample.defect for sample in grid.test] == ["good", "good", "good", "bent", "bent", "broken"]
    assert names(grid.test) == ["1.png", "3.png", "11.png", "000.png", "001.png", "000.png"]
    assert [sample.mask_path and sample.mask_path.name for sample in grid.test] == [
        *[None] * 3,
        "000_mask.png",
        "001_mask.png",
        None,
    ]
    assert names_of(grid.skipped) == ["readme.txt"]
    assert grid.unused_masks == ()
    assert MVTec is MVTecAD
    assert repr(grid).endswith("'grid'): 3 to train, 3 good and 3 defective to test")


def names_of(paths):
    return [path.name for path in paths]


def test_mvtec_with_other_endings_and_masks_without_a_suffix(mvtec):
    tile = MVTecAD(mvtec, "tile")
    assert names(tile.train) == ["000.JPG"]
    assert [sample.mask_path.name for sample in tile.test] == ["000.png"]


def test_mvtec_masks_without_an_image_and_of_good_images(mvtec):
    touch(
        mvtec / "grid", "ground_truth/bent/007_mask.png", "ground_truth/good/1_mask.png", "test/stray.png", "Thumbs.db"
    )
    grid = MVTecAD(mvtec, "grid")
    assert names_of(grid.unused_masks) == ["007_mask.png"]
    assert set(names_of(grid.skipped)) == {"readme.txt", "stray.png", "Thumbs.db"}
    assert all(sample.mask_path is None for sample in grid.test if not sample.is_defective)


def test_two_masks_for_one_image_are_both_its_masks(mvtec):
    touch(mvtec / "grid", "ground_truth/bent/000_mask.jpg")
    bent = MVTecAD(mvtec, "grid").test[3]
    assert names_of(bent.mask_paths) == ["000_mask.jpg", "000_mask.png"]


def test_anomalibs_arguments_are_accepted_with_a_warning(mvtec):
    with pytest.warns(UserWarning, match=r"^MVTecAD: train_batch_size, num_workers taken .* without effect") as caught:
        MVTecAD(root=mvtec, category="grid", train_batch_size=32, num_workers=8)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match=r"^Folder: eval_batch_size taken .* one by one, .* detector's threads= says"):
        Folder("a", normal_dir=mvtec / "grid/train", eval_batch_size=1)
    with pytest.raises(InputError, match=r"^train_batch_size: expected .*, got 0"):
        MVTecAD(mvtec, "grid", train_batch_size=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MVTecAD(mvtec, "grid")


def test_errors_of_a_wrong_root_or_category_list_the_folders(mvtec, tmp_path):
    with pytest.raises(
        DataError, match=r"^root: expected a folder that holds <category>/train/good.*got nothing of that name"
    ):
        MVTecAD(tmp_path / "nowhere", "grid")
    with pytest.raises(
        DataError, match=r"^category: expected one that is there, got 'gird', .*Those there are: grid, tile\."
    ):
        MVTecAD(mvtec, "gird")
    with pytest.raises(DataError, match=r"is a category itself: pass its parent as root and 'grid' as category\."):
        MVTecAD(mvtec / "grid", "grid")
    with pytest.raises(DataError, match=r"^category: expected the name of one folder, got '\.\./mvtec/grid'"):
        MVTecAD(mvtec, "../mvtec/grid")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"It holds an empty folder\. Layout: <category>/train/good"):
        MVTecAD(tmp_path / "empty", "grid")
    touch(mvtec, "odd/train/okay/0.png", "flat/0.png")
    with pytest.raises(
        DataError, match=r"^category: expected train/good in it, got train with okay/, in .*odd\. Layout: "
    ):
        MVTecAD(mvtec, "odd")
    with pytest.raises(DataError, match=r"^category: expected train/good in it, got 0\.png, in .*flat"):
        MVTecAD(mvtec, "flat")


def test_no_good_images(mvtec, tmp_path):
    touch(mvtec, "bare/train/good/notes.txt")
    with pytest.raises(
        DataError, match=r"^train/good: expected images \(\.png, .*\), got notes\.txt, in .*bare/train/good"
    ):
        MVTecAD(mvtec, "bare")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"^normal_dir: expected images .*, got an empty folder, in .*empty\."):
        Folder("a", normal_dir=tmp_path / "empty")


def test_categories(mvtec):
    assert categories(mvtec) == ["grid", "tile"]
    assert categories(mvtec / "grid") == []
    assert categories(mvtec / "none") == []


def test_folder_with_defect_types_and_masks(tmp_path):
    touch(tmp_path, *(f"ok/{n}.png" for n in range(10)), "ok/.DS_Store", "ok/Thumbs.db", "ok/.hidden/9.png")
    touch(tmp_path, "bad/crack/0.png", "bad/crack/1.png", "bad/hole/0.png", "bad/2.png")
    touch(tmp_path, "masks/crack/0.png", "masks/hole/0_mask.png", "masks/2_gt.bmp", "masks/crack/5.png")
    parts = Folder("part", root=tmp_path, normal_dir="ok", abnormal_dir="bad", mask_dir="masks")
    assert parts.name == "part"
    assert len(parts.train) == 8
    defects = [
        (sample.defect, sample.path.name, sample.mask_path and sample.mask_path.name) for sample in parts.test[2:]
    ]
    assert defects == [
        ("bad", "2.png", "2_gt.bmp"),
        ("crack", "0.png", "0.png"),
        ("crack", "1.png", None),
        ("hole", "0.png", "0_mask.png"),
    ]
    assert parts.test[3].mask_path.parent.name == "crack"
    assert names_of(parts.unused_masks) == ["5.png"]
    assert names_of(parts.skipped) == ["Thumbs.db"]
    assert {sample.path for sample in parts.train} | {sample.path for sample in parts.test[:2]} == set(
        (tmp_path / "ok").glob("*.png")
    )


def test_folder_takes_several_of_each(tmp_path):
    touch(tmp_path, "a/0.png", "b/0.png", "t/0.png", "crack/0.png", "hole/0.png", "mc/0.png", "mh/0.png")
    parts = Folder(
        "part",
        root=tmp_path,
        normal_dir=["a", "b"],
        normal_test_dir="t",
        abnormal_dir=["crack", "hole"],
        mask_dir=["mc", "mh"],
    )
    assert [sample.path.parent.name for sample in parts.train] == ["a", "b"]
    assert [(sample.defect, sample.mask_path and sample.mask_path.parent.name) for sample in parts.test] == [
        ("good", None),
        ("crack", "mc"),
        ("hole", "mh"),
    ]


def test_one_mask_folder_that_mirrors_several_defect_folders(tmp_path):
    touch(tmp_path, "ok/0.png", "ok/1.png", "crack/0.png", "hole/0.png", "masks/crack/0.png", "masks/hole/0.png")
    parts = Folder("part", root=tmp_path, normal_dir="ok", abnormal_dir=["crack", "hole"], mask_dir="masks")
    assert [sample.mask_path.parent.name for sample in parts.test if sample.is_defective] == ["crack", "hole"]


def test_a_folder_inside_another_keeps_its_images(tmp_path):
    touch(tmp_path, "0.png", "1.png", "bad/7.png", "bad/masks/7.png")
    parts = Folder(
        "part", root=tmp_path, normal_dir=".", abnormal_dir="bad", mask_dir="bad/masks", normal_split_ratio=0
    )
    assert names(parts.train) == ["0.png", "1.png"]
    assert [(sample.path.name, sample.mask_path.parent.name) for sample in parts.test] == [("7.png", "masks")]


def test_good_images_alone_are_all_for_training(tmp_path):
    touch(tmp_path, "0.png", "deep/1.png")
    parts = Folder("part", normal_dir=tmp_path)
    assert len(parts.train) == 2
    assert parts.test == ()


def test_extensions(tmp_path):
    touch(tmp_path, "0.png", "1.JPG", "2.bmp")
    parts = Folder("part", normal_dir=tmp_path, extensions=["jpg", ".PNG"])
    assert names(parts.train) == ["0.png", "1.JPG"]
    assert names_of(parts.skipped) == ["2.bmp"]
    with pytest.raises(InputError, match=r'^extensions: expected a list such as \["\.png"\], got \'\.png\'\.'):
        Folder("part", normal_dir=tmp_path, extensions=".png")


def test_holding_out_is_seeded_and_leaves_at_least_one(tmp_path):
    touch(tmp_path, *(f"ok/{n}.png" for n in range(30)), "bad/0.png")

    def test_names(seed):
        parts = Folder("part", root=tmp_path, normal_dir="ok", abnormal_dir="bad", normal_split_ratio=0.5, seed=seed)
        assert len(parts.train) == 15
        return names(parts.test)

    assert test_names(1) == test_names(1)
    assert test_names(1) != test_names(2)
    assert hold_out([tmp_path], 0.9, 0) == ([tmp_path], [])
    assert [len(part) for part in hold_out([tmp_path] * 3, 0.01, 0)] == [2, 1]
    with pytest.raises(InputError, match=r"^normal_split_ratio: expected a number from 0 to 0\.999, got 1\.0"):
        Folder("part", root=tmp_path, normal_dir="ok", normal_split_ratio=1)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"normal_dir": "none"}, r"^normal_dir: expected a folder, got nothing of that name, in .*none\."),
        ({"normal_dir": "a.png"}, r"^normal_dir: expected a folder, got a file, in .*a\.png\."),
        ({"normal_dir": "ok", "abnormal_dir": "empty"}, r"^abnormal_dir: expected images .*got an empty folder"),
        ({"normal_dir": "ok", "normal_test_dir": "empty"}, r"^normal_test_dir: expected images"),
        (
            {"normal_dir": "ok", "mask_dir": "empty"},
            r"^mask_dir: expected an abnormal_dir whose images it marks, got none",
        ),
        (
            {"normal_dir": "ok", "abnormal_dir": "ok"},
            r"^folder: expected each one named once, got the same one twice, in .*ok",
        ),
        (
            {"normal_dir": "ok", "abnormal_dir": "bad", "mask_dir": ["m", "n"]},
            r"^mask_dir: expected one folder, or one for each abnormal_dir, got 2 for 1\.",
        ),
    ],
)
def test_errors_of_folder(arguments, text, tmp_path):
    touch(tmp_path, "a.png", "ok/0.png", "bad/0.png", "m/0.png", "n/0.png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=text):
        Folder("part", root=tmp_path, **arguments)


def test_loops_of_links_end_and_linked_folders_are_read_once(tmp_path):
    touch(tmp_path, "ok/0.png", "else/1.png")
    (tmp_path / "ok" / "self").symlink_to(tmp_path / "ok", target_is_directory=True)
    (tmp_path / "ok" / "up").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "ok" / "dangling.png").symlink_to(tmp_path / "gone.png")
    images, _ = list_images(tmp_path / "ok", (".png",))
    assert sorted(path.name for path in images) == ["0.png", "1.png", "dangling.png"]


def test_a_folder_that_cannot_be_read(tmp_path, monkeypatch):
    touch(tmp_path, "ok/0.png")

    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.iterdir", refuse)
    with pytest.raises(DataError, match=r"^folder: expected a readable one, got 'Permission denied', in "):
        Folder("part", normal_dir=tmp_path / "ok")


def test_names_beyond_ascii(tmp_path):
    touch(tmp_path, "gut 好/Prüfling 1.png")
    assert names(open_dataset(tmp_path / "gut 好").train) == ["Prüfling 1.png"]


def test_open_dataset_recognises_the_layouts(mvtec, tmp_path, monkeypatch):
    grid = MVTecAD(mvtec, "grid")
    assert open_dataset(mvtec, category="grid").test == grid.test
    assert open_dataset(mvtec / "grid").test == grid.test
    monkeypatch.chdir(mvtec / "grid")
    assert open_dataset(".").name == "grid"
    plain = open_dataset(touch(tmp_path / "good parts", "monday/0.png", "tuesday/0.png", "notes.txt"))
    assert (plain.name, len(plain.train), plain.test) == ("good parts", 2, ())


def test_errors_of_open_dataset_describe_the_path(mvtec, tmp_path):
    with pytest.raises(
        DataError, match=r"^category: expected one category, got a folder of 2, .*name one of grid, tile\."
    ):
        open_dataset(mvtec)
    with pytest.raises(
        DataError, match=r"^data set: expected a folder or a manifest, got nothing of that name, in .*none\."
    ):
        open_dataset(tmp_path / "none")
    with pytest.raises(DataError, match=r"^data set: expected a folder or a manifest, got a file, in .*license\.txt"):
        open_dataset(mvtec / "license.txt")
    with pytest.raises(DataError, match=r"^data set: expected a complete one, got the test images .*grid: name that\."):
        open_dataset(mvtec / "grid" / "test")


def test_open_dataset_reads_a_sorted_folder(tmp_path):
    root = touch(
        tmp_path / "parts",
        *(f"good/{n}.png" for n in range(10)),
        "crack/0.png",
        "Loch/monday/0.png",
        "masks/crack/0_mask.png",
        "notes/readme.txt",
    )
    parts = open_dataset(root)
    assert (parts.name, len(parts.train)) == ("parts", 8)
    assert [sample.defect for sample in parts.test] == ["good", "good", "crack", "monday"]
    assert [sample.mask_path and sample.mask_path.name for sample in parts.test] == [None, None, "0_mask.png", None]
    touch(root, "masks/Loch/monday/0_mask.png")
    assert [sample.mask_path.parent.name for sample in open_dataset(root).test[2:]] == ["crack", "monday"]


@pytest.mark.parametrize("good", ["OK", "normal"])
def test_a_sorted_folder_may_hold_good_images_alone(tmp_path, good):
    parts = open_dataset(touch(tmp_path / "parts", f"{good}/0.png", f"{good}/1.png"))
    assert (len(parts.train), parts.test) == (2, ())


@pytest.mark.parametrize(
    ("paths", "text"),
    [
        (["bad/0.png", "crack/0.png"], r"a known layout, got bad/, crack/.*Layouts: good/, a folder for each kind"),
        (
            ["good/0.png", "test/0.png"],
            r"a known layout, got good/, test/, and no name that says whether 0\.png is good",
        ),
        (["good/0.png", "crack/0.png", "7.png"], r"images in folders, got 7\.png beside them, .*Move them into"),
        (
            ["good/notes.txt", "crack/0.png"],
            r"^data set: expected good images only, or a known layout, got crack/, good/",
        ),
        (["good/0.png", "a/0.png", "b/0.png", "masks/0.png"], r"^mask: .*got 2: .*a/0\.png, .*b/0\.png, in .*masks"),
    ],
)
def test_an_unclear_folder_is_refused(tmp_path, paths, text):
    with pytest.raises(DataError, match=text):
        open_dataset(touch(tmp_path / "parts", *paths))


@pytest.mark.data
@pytest.mark.parametrize(("category", "n_train", "n_good", "n_bad"), [("bottle", 209, 20, 63), ("grid", 244, 21, 57)])
def test_mvtec_itself(category, n_train, n_good, n_bad, data_root):
    real = MVTecAD(data_root / "mvtec", category)
    assert len(real.train) == n_train
    assert sum(not sample.is_defective for sample in real.test) == n_good
    assert sum(sample.mask_path is not None for sample in real.test) == n_bad
    assert (real.skipped, real.unused_masks) == ((), ())
    assert all(os.access(sample.path, os.R_OK) for sample in real.test)
