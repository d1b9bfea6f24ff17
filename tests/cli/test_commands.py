"""The command line as a person uses it: what it prints, what it writes, and what it says of wrong things."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from blemish import Patchcore
from blemish.cli import repeat_categories
from blemish.data.synthetic.demo import make_demo
from blemish.imaging.decode import load
from blemish.types import Prediction
from tests.images import good, scratched, write, write_goods

SMALL = ("--image-size", "96", "--layers", "blocks.4")


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two small categories."""
    folder = tmp_path_factory.mktemp("demo") / "images"
    return make_demo(folder, image_size=96, n_train=8, n_test=4, n_defective=2, categories=("grid", "tile"))


# What is asked for is done


def test_predict_asks_whether_the_light_has_changed(saved: Path, run, tmp_path: Path):
    dark = [write(tmp_path / f"{i}.png", (good(i) * 0.2).astype(np.uint8)) for i in (1, 2)]
    code, out, err = run("predict", saved, *dark)
    assert code == 0
    assert out.count("  (darker than the good images)\n") == 2
    assert err == (
        "warning: 2 of 2 images are darker than the good images: has the light changed? "
        "Fit again with such images, or restore it.\n"
    )
    _, out, err = run("predict", saved, dark[0], write(tmp_path / "good.png", good(1)), "--json")
    assert ([row["drift"] for row in json.loads(out)], err) == (["darker than the good images", ""], "")


@pytest.mark.slow
def test_fit_test_and_predict(root: Path, run, tmp_path: Path):
    model, report, scores = tmp_path / "m", tmp_path / "r.html", tmp_path / "s.csv"
    code, out, err = run("fit", root, "--category", "tile", "--out", model, *SMALL, "--json")
    assert code == 0
    said = json.loads(out)
    assert said["threshold"] > 0
    assert said["false_positive_rate_promised"] == 0.02
    assert "The threshold is extrapolated from 8 good images: 2 % false positives are expected" in said["warning"]
    assert "8 good images, about" in err
    assert (model / "defect_statistics.safetensors").is_file()
    code, out, _ = run("test", model, root, "--category", "tile", "--json", "--report", report, "--csv", scores)
    assert code == 0
    assert 0 <= json.loads(out)["image_AUROC"] <= 1
    assert "data:image/jpeg" in report.read_text()
    rows = list(csv.DictReader(scores.read_text().splitlines()))
    assert len(rows) == json.loads(out)["n_test"]
    assert {row["defect"] for row in rows} > {"good"}
    assert all((float(row["score"]) > float(row["threshold"])) == (row["label"] == "1") for row in rows)
    good_image = next((root / "tile" / "test" / "good").iterdir())
    figures, masks = tmp_path / "f", tmp_path / "k"
    code, out, _ = run("predict", model, good_image, "--json", "--out", figures, "--masks", masks)
    assert code == 0
    assert json.loads(out)[0]["path"] == str(good_image)
    (figure,), (mask,) = figures.iterdir(), masks.iterdir()
    assert load(figure).shape[1] >= 720
    assert load(mask).shape == (96, 96, 3)
    assert set(np.unique(load(mask))) <= {0, 255}


@pytest.mark.slow
def test_every_option_of_fit_reaches_the_detector(run, tmp_path: Path):
    write_goods(tmp_path / "good")
    options = {
        "--backbone": "efficientnet_lite0", "--layers": "blocks.4,blocks.7", "--image-size": 128, "--center-crop": 96,
        "--coreset-ratio": 0.2, "--coreset-size": 50, "--neighbors": 3, "--false-positive-rate": 0.2, "--bit-depth": 12,
        "--seed": 7, "--threads": 1,
    }  # fmt: skip
    code, *_ = run(
        "fit", tmp_path / "good", "--out", tmp_path / "m", *(part for pair in options.items() for part in pair)
    )
    assert code == 0
    found = Patchcore.load(tmp_path / "m").settings
    assert (found.layers, found.image_size, found.center_crop) == (("blocks.4", "blocks.7"), 128, 96)
    assert (found.coreset_sampling_ratio, found.coreset_size, found.num_neighbors) == (0.2, 50, 3)
    assert (found.false_positive_rate, found.bit_depth, found.seed) == (0.2, 12, 7)


@pytest.mark.slow
def test_predict_says_so_and_fails_on_a_defect_if_asked(saved: Path, run, tmp_path: Path):
    bad, fine = write(tmp_path / "bad.png", scratched(99)[0]), write(tmp_path / "fine.png", good(3))
    code, out, _ = run("predict", saved, fine, bad)
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == ["good", "DEFECTIVE"]
    assert run("predict", saved, fine, bad, "--fail-on-defect")[0] == 1
    assert run("predict", saved, fine, "--fail-on-defect")[0] == 0


@pytest.mark.slow
def test_a_sorted_folder_is_all_that_is_needed(run, tmp_path: Path):
    parts, model = tmp_path / "parts", tmp_path / "m"
    write_goods(parts / "good")
    write(parts / "scratch" / "0.png", scratched(99)[0])
    n_good = len(list((parts / "good").iterdir()))
    assert run("fit", parts, "--out", model, *SMALL)[0] == 0
    code, out, err = run("test", model, parts, "--json")
    assert code == 0
    assert json.loads(out)["n_test"] == 1 + round(n_good / 5)
    assert "learnt" not in err
    code, out, _ = run("predict", model, parts, "--json")
    assert (code, len(json.loads(out))) == (0, n_good + 1)


@pytest.mark.slow
def test_a_test_on_images_that_were_learnt_says_so(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    write_goods(tmp_path / "parts" / "good")
    write(tmp_path / "parts" / "scratch" / "0.png", scratched(99)[0])
    assert run("fit", "parts/good", "--out", "m", *SMALL)[0] == 0
    code, _, err = run("test", "m", tmp_path / "parts")
    assert code == 0
    assert "test images were learnt by the model" in err


@pytest.mark.slow
def test_benchmark_writes_the_table_of_each_category_and_the_average(root: Path, run, tmp_path: Path):
    out, table, page = tmp_path / "o.json", tmp_path / "o.csv", tmp_path / "r.html"
    arguments = ("--root", root, "--categories", "grid", "tile", *SMALL)
    code, printed, _ = run("benchmark", *arguments, "--json", out, "--csv", table, "--report", page)
    assert code == 0
    found = json.loads(out.read_text())
    assert list(found["categories"]) == ["grid", "tile"]
    for name in ("image_AUROC", "AUPRO", "false_positive_rate", "miss_rate", "fit_s", "predict_ms"):
        both = [found["categories"][category][name] for category in ("grid", "tile")]
        assert found["average"][name] == pytest.approx(sum(both) / 2)
    assert [line.split()[0] for line in printed.splitlines()] == ["image_AUROC", "grid", "tile", "average"]
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert [row["category"] for row in rows] == ["grid", "tile", "average"]
    assert float(rows[0]["AUPRO"]) == found["categories"]["grid"]["AUPRO"]
    assert page.stat().st_size > 10_000


@pytest.mark.slow
def test_benchmark_goes_on_after_a_category_that_cannot_be_read(root: Path, run, tmp_path: Path):
    out = tmp_path / "o.json"
    code, printed, err = run("benchmark", "--root", root, "--categories", "no,tile", *SMALL, "--json", out)
    assert code == 2
    assert err.startswith("error: no: ")
    assert "tile" in printed
    assert list(json.loads(out.read_text())["categories"]) == ["tile"]


@pytest.mark.slow
def test_benchmark_knows_its_detectors(root: Path, run):
    code, _, err = run("benchmark", "--root", root, "--model", "cflow")
    assert code == 2
    assert "cflow is no detector here; there are patchcore, padim, efficientad" in err


def test_categories_takerepeat_categories():
    assert repeat_categories(["x", "--categories", "a", "b", "--seed", "1"]) == [
        "x", "--categories", "a", "--categories", "b", "--seed", "1",
    ]  # fmt: skip


def test_backbones_are_listed(run):
    code, out, _ = run("backbones", "list", "--json")
    assert code == 0
    rows = {row["name"]: row for row in json.loads(out)}
    assert rows["efficientnet_lite0"]["present"]
    assert {"resnet18", "resnet50", "wide_resnet50_2", "mobilenet_v2", "dinov2_vits14"} <= set(rows)
    assert (rows["dinov2_vits14"]["licence"], rows["dinov2_vits14"]["gmac"]) == ("Apache-2.0", 10.5)
    code, out, _ = run("backbones", "list")
    line = next(line for line in out.splitlines() if line.startswith("dinov2_vits14"))
    assert line.split()[1:7] == ["-", "88.3", "MB", "10.5", "GMAC", "Apache-2.0"]


@pytest.mark.slow
def test_the_version_and_the_help(run):
    from blemish import __version__

    assert run("--version")[1].strip() == f"blemish {__version__}"
    for command in ("demo", "check", "fit", "test", "predict", "benchmark", "backbones list", "backbones fetch"):
        code, out, _ = run(*command.split(), "--help")
        assert code == 0
        assert f"Example: blemish {command}" in out.replace("\n  ", " "), command


# What is wrong is said


def test_an_error_is_one_line_that_names_the_folder(run, tmp_path: Path):
    for arguments in (("check", tmp_path), ("fit", tmp_path, "--out", tmp_path / "m")):
        code, _, err = run(*arguments)
        assert code == 2
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        assert str(tmp_path) in err


def messy(folder: Path) -> None:
    """Six good images among what else lies in such folders."""
    write_goods(folder, 6)
    (folder / "empty.png").touch()
    (folder / "cut.png").write_bytes((folder / "000.png").read_bytes()[:500])
    (folder / "text.jpg").write_text("not an image")
    (folder / "notes.txt").write_text("shift 3")
    write(folder / "Größe ß.png", good(50))


@pytest.mark.slow
def test_broken_images_are_named_and_left_out(run, tmp_path: Path):
    messy(tmp_path / "good")
    code, out, _ = run("fit", tmp_path / "good", "--out", tmp_path / "m", *SMALL, "--json")
    assert code == 3
    left_out = json.loads(out)["left_out"]
    assert len(left_out) == 3
    assert all(any(name in text for text in left_out) for name in ("empty.png", "cut.png", "text.jpg"))
    assert len(Patchcore.load(tmp_path / "m").fitted.training.paths) == 7
    code, out, err = run("predict", tmp_path / "m", tmp_path / "good", "--json")
    assert code == 3  # three could not be judged, and that must not go unseen
    rows = json.loads(out)
    assert sum(row["outcome"] != "not read" for row in rows) == 7
    unread = {Path(row["path"]).name: row["problem"] for row in rows if row["outcome"] == "not read"}
    assert set(unread) == {"empty.png", "cut.png", "text.jpg", "notes.txt"}
    assert unread["notes.txt"] == "no image, by name and content."
    assert err.count("error: ") == 3
    assert f"not read: {tmp_path / 'good' / 'notes.txt'}: no image, by name and content." in err


def test_check_names_what_is_wrong_before_a_run(run, tmp_path: Path):
    messy(tmp_path / "good")
    code, out, _ = run("check", tmp_path / "good", "--json")
    said = json.loads(out)
    assert {Path(one["path"]).name for one in said["problems"] if one["kind"] == "unreadable"} == {
        "empty.png", "cut.png", "text.jpg",
    }  # fmt: skip
    assert code == 3
    (tmp_path / "good" / "again.png").write_bytes((tmp_path / "good" / "001.png").read_bytes())
    _, out, _ = run("check", tmp_path / "good")
    assert all(str(tmp_path / "good") in line for line in out.splitlines() if "same pixels" in line)
    assert "same pixels" in out


def test_one_good_image_is_not_enough(run, tmp_path: Path):
    write_goods(tmp_path / "good", 1)
    code, _, err = run("fit", tmp_path / "good", "--out", tmp_path / "m")
    assert code == 2
    assert "good images: expected at least 2, got 1" in err
    assert not (tmp_path / "m").exists()


def test_a_target_with_other_files_is_refused_before_the_fit(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_goods(tmp_path / "good", 3)
    monkeypatch.setattr(Patchcore, "fit", lambda *_, **__: pytest.fail("it was fitted first"))
    code, _, err = run("fit", tmp_path / "good", "--out", tmp_path / "good")
    assert code == 2
    assert "expected a model folder to replace, got other files" in err
    (tmp_path / "file").touch()
    code, _, err = run("fit", tmp_path / "good", "--out", tmp_path / "file" / "m")
    assert code == 2
    assert str(tmp_path / "file") in err


@pytest.mark.skipif(os.geteuid() == 0 if hasattr(os, "geteuid") else True, reason="root may write everywhere")
def test_a_read_only_place_is_refused_before_the_fit(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_goods(tmp_path / "good", 3)
    monkeypatch.setattr(Patchcore, "fit", lambda *_, **__: pytest.fail("it was fitted first"))
    (tmp_path / "shut").mkdir(mode=0o500)
    assert run("fit", tmp_path / "good", "--out", tmp_path / "shut" / "m")[0] == 2


def test_settings_that_cannot_be_are_refused_before_the_images_are_read(root: Path, run):
    code, _, err = run("benchmark", "--root", root, "--image-size", "7")
    assert code == 2
    assert "image_size: expected" in err
    code, _, err = run("fit", root / "tile" / "train" / "good", "--out", "m", "--backbone", "alexnet")
    assert code == 2
    assert "alexnet" in err


def test_a_folder_that_is_no_model(run, tmp_path: Path):
    code, _, err = run("predict", tmp_path, tmp_path / "a.png")
    assert code == 2
    assert "model.json" in err


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for one process")
def test_an_interrupted_fit_keeps_the_model_that_was_there(saved: Path, tmp_path: Path):
    import shutil

    write_goods(tmp_path / "good", 60)
    target = tmp_path / "m"
    shutil.copytree(saved, target)
    before = {path.name: path.read_bytes() for path in target.iterdir()}
    arguments = ["fit", str(tmp_path / "good"), "--out", str(target), "--image-size", "512", "--coreset-ratio", "1"]
    # Where these tests run in the background Ctrl-C is ignored, and a child would ignore it too.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    running = subprocess.Popen([sys.executable, "-m", "blemish", *arguments], stderr=subprocess.PIPE, text=True)
    signal.signal(signal.SIGINT, handler)
    assert running.stderr is not None
    assert "60 good images" in running.stderr.readline()
    time.sleep(0.5)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "Traceback" not in err
    assert {path.name: path.read_bytes() for path in target.iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["good", "m"]


@pytest.mark.parametrize("label", [True, False])
def test_a_defective_image_without_a_defective_place_is_so_as_a_whole(
    label: bool, run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    calm = np.zeros((8, 8), np.float32)
    found = Prediction(9.0, label, 5.0 if label else 10.0, 0.01, calm, calm > 0, pixel_threshold=1.0)
    stand_in = SimpleNamespace(bit_depth=None, predict_many=lambda paths: [found for _ in paths])
    monkeypatch.setattr("blemish.detectors.registry.load", lambda folder, threads: stand_in)
    code, out, _ = run("predict", tmp_path, write(tmp_path / "part.png", good(1)))
    assert code == 0
    assert ("as a whole" in out) == label
