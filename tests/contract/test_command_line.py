"""Every command of `blemish` once as a person uses it: exit code, what it says, what it writes."""

from __future__ import annotations

import csv
import functools
import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import pytest

import blemish
from blemish import EfficientAd, Patchcore
from blemish.data.synthetic import demo
from tests.contract import drawn, names, networks
from tests.contract.command_line import call

if TYPE_CHECKING:
    from tests.contract.conftest import Case, Frozen

COMMANDS = {
    "backbones", "benchmark", "check", "cluster", "compare", "demo", "distill", "export", "export-anomalib", "fit",
    "groups", "import", "index", "label", "predict", "receptive-field", "reindex", "similar", "station", "store",
    "suggest", "suspects", "test", "thresholds", "update", "verify",
}  # fmt: skip
GROUPS = {"backbones": ("list", "fetch"), "cluster": ("fit", "predict"), "store": ("check", "snapshot", "restore")}


def done(*arguments: object) -> Any:
    """Run a command with --json, which must succeed; return what it printed."""
    code, out, err = call(*arguments, "--json")
    assert code == 0, err
    return json.loads(out)


def refused(*arguments: object) -> str:
    """Run a command, which must end with exit code 2 and one line; return that."""
    code, _, err = call(*arguments)
    assert code == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err


def test_these_are_the_commands():
    code, out, _ = call("--help")
    assert code == 0
    listed = out.partition("Commands:")[2]
    assert set(re.findall(r"^  ([a-z-]+) ", listed, re.MULTILINE)) == COMMANDS


@pytest.mark.parametrize(
    "command",
    [*sorted(COMMANDS - GROUPS.keys()), *(f"{group} {name}" for group, names in GROUPS.items() for name in names)],
)
def test_each_command_has_help_with_an_example(command: str):
    code, out, _ = call(*command.split(), "--help")
    assert code == 0
    assert f"Example: blemish {command}" in " ".join(out.split())


@pytest.mark.slow
def test_the_version_and_the_module():
    assert call("--version")[:2] == (0, f"blemish {blemish.__version__}\n")
    ran = subprocess.run([sys.executable, "-m", "blemish", "--version"], check=True, capture_output=True, text=True)
    assert ran.stdout == f"blemish {blemish.__version__}\n"
    assert call()[0] in {0, 2}
    assert call("none")[0] == 2
    assert call("fit", "--none")[0] == 2


@pytest.mark.slow
def test_fit_test_and_predict(case: Case, root: Path, tmp_path: Path):
    model, report, scores = tmp_path / "m", tmp_path / "r.html", tmp_path / "s.csv"
    said = done("fit", root, "--category", "stripes", "--out", model, *case.options)
    assert set(said) >= names.FIT_KEYS
    loaded = case.kind.load(model)
    assert (said["model"], said["threshold"], said["left_out"]) == (str(model), loaded.threshold, [])
    assert 0 < said[names.PROMISED] < 1
    assert said["notes"] == list(loaded.notes)
    row = done("test", model, root, "--category", "stripes", "--report", report, "--csv", scores)
    assert set(row) >= names.IMAGE_METRICS | names.PIXEL_METRICS | {"test_s", "predict_ms", "n_test"}
    assert "data:image/jpeg" in report.read_text()
    rows = list(csv.DictReader(scores.read_text().splitlines()))
    assert {one["defect"] for one in rows} == {"good", "scratch"}
    assert all((float(one["score"]) > float(one["threshold"])) == (one["label"] == "1") for one in rows)
    part = root / "stripes" / "test" / "scratch" / "000.png"
    (found,) = done("predict", model, part, "--out", tmp_path / "figures", "--masks", tmp_path / "masks")
    assert set(found) == names.PREDICTION_KEYS | {"figure", "mask"}
    expected = loaded.predict(part)
    assert found["score"] == pytest.approx(expected.score, rel=1e-5)
    assert found["nearest_good"] == json.loads(json.dumps(expected.to_dict()))["nearest_good"]
    (figure,), (mask,) = (tmp_path / "figures").iterdir(), (tmp_path / "masks").iterdir()
    assert cv2.imread(str(figure)).shape[1] >= 512
    drawn_mask = cv2.imread(str(mask), cv2.IMREAD_UNCHANGED)
    assert ((drawn_mask > 0) == expected.mask).all()


@pytest.mark.slow
def test_fit_says_the_threshold_its_rate_and_what_it_chose(good_paths: list[Path], patchcore: Case, tmp_path: Path):
    code, out, _ = call("fit", good_paths[0].parent, "--out", tmp_path / "m", *patchcore.options)
    assert code == 0
    (note,) = Patchcore.load(tmp_path / "m").notes
    assert note.startswith("Position is not used")
    *_, said, last = out.splitlines()
    assert said == note
    assert re.fullmatch(
        r"Threshold [\d.]+: about \d+ % false positives expected \(90 % interval [\d.]+ to [\d.]+ %\)\. "
        rf"Above [\d.]+ no good image is expected\. Saved in {tmp_path / 'm'}\.",
        last,
    )


def test_predict_says_so_and_fails_on_a_defect_if_asked(patchcore: Case, good_paths: list[Path], tmp_path: Path):
    bad = drawn.write(tmp_path / "bad.png", drawn.scratched(300))
    fine = next(path for path in good_paths if not patchcore.fitted.predict(path).label)
    code, out, _ = call("predict", patchcore.saved, fine, bad)
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == ["good", "DEFECTIVE"]
    assert str(bad) in out
    assert call("predict", patchcore.saved, fine, bad, "--fail-on-defect")[0] == 1
    assert call("predict", patchcore.saved, fine, "--fail-on-defect")[0] == 0


@pytest.mark.slow
def test_thresholds(case: Case, good_paths: list[Path], tmp_path: Path):
    model, figure = case.fitted.save(tmp_path / "m"), tmp_path / "f.png"
    for seed in range(300, 305):
        drawn.write(tmp_path / "defects" / f"{seed}.png", drawn.scratched(seed))
    said = done("thresholds", model, "--labelled", tmp_path / "defects", "--out", figure)
    assert set(said) == names.THRESHOLDS_KEYS
    rates = [row[names.RATE] for row in said["rates"]]
    assert rates == sorted({0.005, 0.01, 0.02, 0.05, 0.1, names.rate_of(case.fitted)})
    limits = [row["threshold"] for row in said["rates"]]
    assert limits == sorted(limits, reverse=True)
    assert {row["labelled"]["n"] for row in said["rates"]} == {5}
    assert all(row["synthetic"]["n"] == 90 and row["good"] is None for row in said["rates"])
    assert cv2.imread(str(figure)).shape[1] == 800
    code, out, _ = call("thresholds", model, "--labelled", tmp_path / "defects")
    assert code == 0
    assert f"Set it: blemish thresholds {model} --set {said['recommended']:g}" in out


def test_thresholds_are_moved(patchcore: Case, tmp_path: Path):
    model = patchcore.fitted.save(tmp_path / "m")
    said = done("thresholds", model, "--set", 0.3)
    moved = Patchcore.load(model)
    assert (said[names.RATE], said["threshold"]) == (0.3, moved.threshold)
    assert names.rate_of(moved) == 0.3
    assert moved.threshold < patchcore.fitted.threshold
    image = drawn.scratched(300)
    assert moved.predict(image).score == patchcore.fitted.predict(image).score


def test_thresholds_say_what_is_missing(patchcore: Case, good_paths: list[Path], tmp_path: Path):
    model, good = patchcore.saved, good_paths[0].parent
    assert names.HEADER in refused("thresholds", tmp_path)
    assert str(tmp_path / "none") in refused("thresholds", model, "--good", tmp_path / "none")
    assert "used for the fit" in refused("thresholds", model, "--good", good)
    write = drawn.write(tmp_path / "good" / "0.png", drawn.good(500))
    assert "a defective image" in refused("thresholds", model, "--labelled", write.parent)
    assert names.RATE in refused("thresholds", model, "--set", 1.5)
    assert call("thresholds", model, "--set", 0.1, "--good", good)[0] == 2


@pytest.mark.slow
def test_a_broken_image_is_named_and_the_rest_goes_on(patchcore: Case, tmp_path: Path):
    drawn.write_good(tmp_path / "good", 5)
    (tmp_path / "good" / "empty.png").touch()
    drawn.cut_off(tmp_path / "good" / "cut.png")
    code, out, _ = call("fit", tmp_path / "good", "--out", tmp_path / "m", *patchcore.options, "--json")
    said = json.loads(out)
    assert (code, len(said["left_out"])) == (3, 2)
    assert said["warning"]
    code, out, err = call("predict", tmp_path / "m", tmp_path / "good", "--json")
    assert (code, len(json.loads(out)), err.count("error: ")) == (3, 7, 2)
    code, out, _ = call("check", tmp_path / "good", "--json")
    problems = json.loads(out)["problems"]
    assert {Path(one["path"]).name for one in problems if one["kind"] == "unreadable"} == {"empty.png", "cut.png"}
    assert code == 3


@pytest.mark.slow
def test_check(root: Path, tmp_path: Path):
    assert done("check", root, "--category", "stripes")["problems"] is not None
    drawn.write_good(tmp_path / "one", 1)
    (tmp_path / "unread").mkdir()
    (tmp_path / "unread" / "empty.png").touch()
    code, out, _ = call("check", tmp_path / "unread")
    assert (code, "empty.png" in out) == (3, True)
    code, out, _ = call("check", tmp_path / "one")
    assert (code, "at least 2" in out) == (1, True)
    code, out, _ = call("check", root / "stripes" / "train" / "good")
    assert code == 0
    assert str(tmp_path / "none") in refused("check", tmp_path / "none")


@pytest.mark.slow
def test_what_cannot_be_is_said_in_one_line(patchcore: Case, root: Path, good_paths: list[Path], tmp_path: Path):
    part, good = good_paths[0], good_paths[0].parent
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").touch()
    assert names.HEADER in refused("predict", tmp_path / "full", part)
    assert "notes.txt" in refused("fit", good, "--out", tmp_path / "full", *patchcore.options)
    assert str(tmp_path / "none") in refused("fit", tmp_path / "none", "--out", tmp_path / "m")
    assert "alexnet" in refused("fit", good, "--out", tmp_path / "m", "--backbone", "alexnet")
    assert "image_size" in refused("benchmark", "--root", root, "--image-size", 7)
    assert names.HEADER in refused("test", tmp_path / "full", root, "--category", "stripes")
    code, _, err = call("fit", good, "--out", tmp_path / "m", "--model", "cflow")
    assert (code, "cflow" in err) == (2, True)
    code, _, err = call("fit", good, "--out", tmp_path / "m", "--teacher", "t.safetensors")
    assert (code, "option of efficientad" in err) == (2, True)
    assert not (tmp_path / "m").exists()


@pytest.mark.slow
def test_benchmark(patchcore: Case, root: Path, tmp_path: Path):
    out, table, page = tmp_path / "o.json", tmp_path / "o.csv", tmp_path / "r.html"
    told = ("--root", root, "--categories", "stripes", "bands", *patchcore.options)
    code, printed, _ = call("benchmark", *told, "--json", out, "--csv", table, "--report", page)
    assert code == 0
    found = json.loads(out.read_text())
    assert list(found["categories"]) == ["stripes", "bands"]
    for name in (*names.IMAGE_METRICS, *names.PIXEL_METRICS, "fit_s", "predict_ms"):
        both = [row[name] for row in found["categories"].values()]
        assert found["average"][name] == pytest.approx(sum(both) / 2)
    assert [line.split()[0] for line in printed.splitlines()][1:] == ["stripes", "bands", "average"]
    rows = csv.DictReader(table.read_text().splitlines())
    assert [row["category"] for row in rows] == ["stripes", "bands", "average"]
    assert page.stat().st_size > 10_000
    code, printed, err = call("benchmark", "--root", root, "--categories", "no,bands", *patchcore.options)
    assert (code, err.startswith("error: no: "), "bands" in printed) == (2, True, True)


@pytest.mark.slow
def test_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # CI runs the demo itself, as the README has it; here fewer and smaller images will do.
    few = functools.partial(demo.make_demo, image_size=192, n_train=12, n_test=3, n_defective=2)
    monkeypatch.setattr(demo, "make_demo", few)
    said = done("demo", "--out", tmp_path / "demo")
    assert Path(said["report"]) == tmp_path / "demo" / "report.html"
    assert Path(said["report"]).stat().st_size > 10_000
    assert len(said["categories"]) == 3
    assert said["average"]["image_AUROC"] > 0.9
    for name in said["categories"]:
        Patchcore.load(tmp_path / "demo" / "models" / name)


def test_backbones():
    rows = {row["name"]: row for row in done("backbones", "list")}
    assert {"efficientnet_lite0", "resnet18", "resnet50", "wide_resnet50_2", "mobilenet_v2", "dinov2_vits14"} <= set(
        rows
    )
    assert rows["efficientnet_lite0"]["present"]
    assert set(rows["resnet50"]) == {"name", "licence", "mb", "gmac", "present", "source"}
    assert "alexnet" in refused("backbones", "fetch", "alexnet")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["patchcore_anomalib", "efficientad_anomalib"])
def test_export_and_import(unpacked: Callable[[str], Frozen], good_paths: list[Path], tmp_path: Path, name: str):
    frozen = unpacked(name)
    out, again, calibrated = tmp_path / "out.ckpt", tmp_path / "again", tmp_path / "calibrated"
    said = done("export-anomalib", frozen.folder, out)
    assert (said["checkpoint"], said["mb"] > 1) == (str(out), True)
    said = done("import", out, again)
    assert said["model"] == str(again)
    assert said["detector"] == names.DETECTOR_NAMES[frozen.kind.__name__]
    assert said["thresholds_from"] == "the checkpoint"
    first, second = (frozen.kind.load(folder).predict(frozen.images["wide"]) for folder in (frozen.folder, again))
    assert second.score == pytest.approx(first.score, rel=1e-4)
    said = done("import", out, calibrated, "--good", good_paths[0].parent, names.RATE_OPTION, 0.2)
    assert said["thresholds_from"].startswith("12 good ")
    assert names.rate_of(frozen.kind.load(calibrated)) == 0.2
    assert said["threshold"] == frozen.kind.load(calibrated).threshold


def test_export_and_import_say_what_does_not_fit(patchcore: Case, tmp_path: Path):
    assert "anomalib" in refused("export-anomalib", patchcore.saved, tmp_path / "out.ckpt")
    (tmp_path / "text.ckpt").write_text("none")
    assert "text.ckpt" in refused("import", tmp_path / "text.ckpt", tmp_path / "m")
    assert not (tmp_path / "out.ckpt").exists()
    assert not (tmp_path / "m").exists()


def test_compare_checks_what_it_is_told(root: Path):
    assert "none" in refused("compare", "--root", root, "--categories", "none")
    code, _, err = call("compare", "--root", root, "--model", "cflow")
    assert (code, "cflow" in err) == (2, True)
    if importlib.util.find_spec("anomalib") is None:
        assert "blemish[anomalib]" in refused("compare", "--root", root, "--categories", "stripes")


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """Defects in folders that say what they are."""
    for seed in range(200, 203):
        drawn.write(tmp_path / "old" / "scratch" / f"{seed}.png", drawn.scratched(seed))
        drawn.write(tmp_path / "old" / "blotch" / f"{seed}.png", drawn.blotched(seed))
    return tmp_path / "old"


@pytest.mark.slow
def test_index_similar_suggest_label_and_groups(patchcore: Case, old: Path, tmp_path: Path):
    part, sheet = drawn.write(tmp_path / "new.png", drawn.scratched(300)), tmp_path / "sheet.png"
    model, store = patchcore.saved, ("--store", tmp_path / "s")
    said = done("index", model, old, *store, "--labels", "from-folders")
    assert (said[names.INDEXED], said["new_regions"], said["left_out"]) == (6, said["regions"], [])
    assert done("index", model, old, *store)["new_regions"] == 0
    said = done("similar", model, part, *store, "-k", 3, "--sheet", sheet)
    assert [one["label"] for one in said["matches"]] == ["scratch"] * 3
    assert (said["query"]["path"], said["suggestion"]["label"]) == (str(part), "scratch")
    assert cv2.imread(str(sheet)).shape[1] > 200
    (said_of,) = done("suggest", model, part, *store)
    assert (said_of["path"], said_of["label"]) == (str(part), "scratch")
    one = said["matches"][0]["id"]
    assert done("label", *store, "--as", "scuff", "--by", "Ann", one) == {"labelled": 1, "label": "scuff", "by": "Ann"}
    (groups,) = done("groups", *store, "--least-similarity", 0.85).values()
    assert {label for group in groups for label in group["labels"]} == {"scratch", "blotch", "scuff"}


@pytest.mark.slow
def test_reindex(patchcore: Case, old: Path, good_paths: list[Path], tmp_path: Path):
    part, store = drawn.write(tmp_path / "new.png", drawn.scratched(300)), ("--store", tmp_path / "s")
    done("index", patchcore.saved, old, *store, "--labels", "from-folders")
    other = patchcore.make(seed=1, coreset_sampling_ratio=0.05).fit(good_paths).save(tmp_path / "other")
    assert "blemish reindex" in refused("similar", other, part, *store)
    said = done("reindex", other, *store)
    assert (said[names.INDEXED], said["left_out"]) == (6, [])
    code, out, _ = call("suggest", other, part, *store)
    assert (code, "Probably" in out) == (0, True)
    code, out, err = call("suggest", other, part, tmp_path / "none.png", *store, "--json")
    assert (code, len(json.loads(out)), "none.png" in err) == (3, 2, True)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["groups", "similar", "suggest", "reindex", "label"])
def test_a_store_that_is_not_there_is_said(patchcore: Case, good_paths: list[Path], tmp_path: Path, command: str):
    asked = [patchcore.saved, good_paths[0]]
    given = {"similar": asked, "suggest": asked, "reindex": asked[:1], "label": ["--as", "x", "id"]}.get(command, [])
    assert "nothing there" in refused(command, *given, "--store", tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
def test_receptive_field(good_paths: list[Path], tmp_path: Path):
    said = done("receptive-field", "--model", "efficientad-s", "--size", 256)
    assert (said["receptive_field_px"], said["stride_px"], said["steps"][-1]["map"]) == (33, 4, 56)
    assert done("receptive-field", "conv4,pool2/2")["receptive_field_px"] == 5
    said = done("receptive-field", "--backbone", "efficientnet_lite0", "--layer", "blocks.4")
    assert (said["receptive_field_px"], said["stride_px"]) == (67, 8)
    out = tmp_path / "f.png"
    said = done("receptive-field", names.IMAGE_OPTION, good_paths[0], "--out", out)
    assert said["drawing"] == str(out)
    assert cv2.imread(str(out)).shape[1] >= 512
    assert "stack" in refused("receptive-field", "dense")


def test_receptive_field_of_an_onnx_file(backbone: Path):
    said = done("receptive-field", "--backbone", backbone, "--layer", networks.LAYERS[1])
    assert (said["receptive_field_px"], said["stride_px"]) == (8, 8)


@pytest.mark.slow
def test_distill(tmp_path: Path):
    for i in range(8):
        drawn.write(tmp_path / "photographs" / f"{i}.png", drawn.good(i, 260, 260))
    out = tmp_path / "t.safetensors"
    small = ("--backbone", "efficientnet_lite0", "--layers", "blocks.1,blocks.3", "--batch", 1, "--threads", 1)
    card = done("distill", tmp_path / "photographs", "--out", out, "--steps", 1, *small)
    assert card["learning"]["steps"] == 1
    assert card.items() <= json.loads(out.with_suffix(".json").read_text()).items()
    assert EfficientAd(teacher=out, device="cpu").is_fitted is False
    assert "nothing" in refused("distill", tmp_path / "none", "--out", out)
