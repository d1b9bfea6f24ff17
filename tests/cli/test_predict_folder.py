"""`predict` takes every image of a folder once, and names what it does not read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.images import good, scratched, write

NAMES = (
    "train/good/0.png", "test/scratch/0.png", "masks/0.png", "other/deep/1.jfif", "ng/2", "7_mask.png",
    "ground_truth/a.PNG",
)  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of all that roles are guessed from elsewhere."""
    for seed, name in enumerate(NAMES):
        write(tmp_path / "in" / name, good(seed))
    return tmp_path / "in"


def test_every_image_at_any_depth_once(saved: Path, run, folder: Path) -> None:
    (folder / "link").symlink_to(folder / "masks", target_is_directory=True)
    (folder / "z.png").symlink_to(folder / "7_mask.png")
    code, out, err = run("predict", saved, folder, folder / "masks", folder / "masks" / "0.png", "--json")
    assert (code, err) == (0, "")
    assert sorted(row["path"].rsplit("/in/")[1].replace("link/", "masks/") for row in json.loads(out)) == sorted(NAMES)


@pytest.mark.slow
def test_what_is_not_read_is_named(saved: Path, run, folder: Path) -> None:
    (folder / "notes.txt").write_text("shift 3")
    (folder / "old.gif").write_bytes(b"GIF89a" + b"\0" * 30)
    code, out, err = run("predict", saved, folder)
    assert code == 3  # a GIF is an image that was not judged
    assert len(out.splitlines()) == len(NAMES)
    assert f"error: image: expected PNG, JPEG, BMP, TIFF or WebP, got a GIF, in {folder / 'old.gif'}." in err
    assert f"not read: {folder / 'notes.txt'}: no image, by name and content.\n" in err
    _, out, _ = run("predict", saved, folder, "--json")
    rows = [row for row in json.loads(out) if row["outcome"] == "not read"]
    assert [(Path(row["path"]).name, row["score"], row["label"]) for row in rows] == [
        ("old.gif", None, None), ("notes.txt", None, None),
    ]  # fmt: skip


@pytest.mark.slow
def test_figures_written_into_the_folder_are_not_judged_next_time(saved: Path, run, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    write(folder / "0.png", scratched(1)[0])
    figures = folder / "figures"
    assert run("predict", saved, folder, "--out", figures, "--masks", folder / "found")[0] == 0
    code, out, err = run("predict", saved, folder, "--out", figures, "--masks", folder / "found")
    assert (code, len(out.splitlines())) == (0, 1)
    written = f"{figures / '0000-0.png'}, {folder / 'found' / '0000-0.png'}"
    assert err == f"not read: {written}: written by Blemish, not an image of a part.\n"
    assert sorted(path.name for path in figures.iterdir()) == ["0000-0.png"]


@pytest.mark.slow
def test_no_file_of_the_user_is_replaced(saved: Path, run, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    write(folder / "a.png", good(0))
    part = write(folder / "0001-a.png", good(1)).read_bytes()
    for option in ("--out", "--masks"):
        code, out, err = run("predict", saved, folder, option, folder)
        assert (code, out) == (2, "")
        assert err.startswith("error: image: expected a new name, or that of an earlier figure, got a file that")
        assert err.endswith(
            f"in {folder / '0001-a.png'}. It would be lost: choose another name or folder, or move it away.\n"
        )
    assert sorted(path.name for path in folder.iterdir()) == ["0001-a.png", "a.png"]
    assert (folder / "0001-a.png").read_bytes() == part
    code, _, err = run("thresholds", saved, "--out", folder / "a.png")
    assert (code, "got a file that Blemish did not write" in err) == (2, True)


def test_figures_and_masks_need_two_folders(saved: Path, run, tmp_path: Path) -> None:
    image = write(tmp_path / "a.png", good(0))
    code, out, err = run("predict", saved, image, "--out", tmp_path / "o", "--masks", tmp_path / "x" / ".." / "o")
    assert (code, out) == (2, "")
    assert "--masks: it is the folder of --out, and masks have the names of figures" in err
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    "command", ["predict {} ''", "predict '' {}", "check ''", "fit {} --out ''", "index {} '' --store s"]
)
def test_an_empty_argument_is_not_the_working_directory(command: str, saved: Path, run, monkeypatch) -> None:
    """`blemish predict model "$IMAGE"` with a misspelt variable."""
    monkeypatch.chdir(saved)
    code, out, err = run(*(saved if part == "{}" else part.strip("'") for part in command.split()))
    assert (code, out) == (2, "")
    assert " is empty: is a variable of the shell not set?" in err


@pytest.mark.slow
def test_other_commands_name_what_they_do_not_read(saved: Path, run, folder: Path, tmp_path: Path) -> None:
    (folder / "notes.txt").write_text("shift 3")
    line = f"not read: {folder / 'notes.txt'}: no image, by name and content.\n"
    code, out, err = run("index", saved, folder, "--store", tmp_path / "store", "--json")
    assert (code, line in err) == (0, True)
    assert str(folder / "notes.txt") in json.loads(out)["not_read"]
    assert str(folder / "masks" / "0.png") in json.loads(out)["not_read"]
    exported = tmp_path / "m.onnx"
    for command in (
        ("export", saved, "--out", exported, "--images", folder),
        ("verify", exported, folder, "--model", saved),
    ):
        code, out, err = run(*command, "--json")
        assert (code, err) == (0, line)
        assert json.loads(out)["not_read"] == [str(folder / "notes.txt")]


def test_a_folder_without_images(saved: Path, run, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "notes.txt").write_text("shift 3")
    code, _, err = run("predict", saved, tmp_path / "in")
    assert code == 2
    assert err.startswith("error: images: expected images (")


@pytest.mark.slow
def test_fit_says_how_the_folder_was_read_and_what_is_not_used(run, tmp_path: Path) -> None:
    for seed in range(4):
        write(tmp_path / f"cam{seed % 2}" / "ok" / f"{seed}.png", good(seed))
    write(tmp_path / "cam0" / "thumbs" / "0.png", good(9))
    small = ("--image-size", "96", "--layers", "blocks.4")
    code, _, err = run("fit", tmp_path, "--out", tmp_path / "m", *small)
    assert code == 0
    assert "Good images of 2 folders are read as one part: cam0, cam1." in err
    assert f"not used: {tmp_path / 'cam0' / 'thumbs' / '0.png'}. `blemish check` says more." in err
    code, _, err = run("fit", tmp_path, "--out", tmp_path / "n", "--layout", "visa", *small)
    assert (code, "expected VisA: Data/Images/" in err) == (2, True)
