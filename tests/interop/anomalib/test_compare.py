"""The comparison's table and ratios, on made-up numbers and, where anomalib is installed, on measured ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from blemish.cli import app
from blemish.data.synthetic.demo import make_demo
from blemish.errors import DataError, InputError
from blemish.imaging.decode import load
from blemish.interop.anomalib import compare
from blemish.interop.anomalib.compare import Comparison, Settings, check_categories, ratios_of, table
from blemish.interop.anomalib.side import ANOMALIB, DEFAULTS, SAME
from tests.real_anomalib import runs_anomalib


def side(**numbers: Any) -> dict[str, Any]:
    metrics = {"image_AUROC": numbers.pop("auroc"), "pixel_AUROC": 0.9, "AUPRO": 0.8}
    return {"metrics": metrics, "predict_ms": 10.0, "peak_mb": 500.0, "model_mb": 2.0, "coreset_s": 1.0, **numbers}


def made_up() -> Comparison:
    theirs = side(auroc=0.97, fit_s=60.0, without_validation_s=40.0, predict_ms=120.0, own={"image_AUROC": 0.96})
    return Comparison(
        settings=Settings(layers=("blocks.4", "blocks.10")),
        environment={"anomalib": "2.7.0", "blemish": "0.1.0", "python": "3.11", "machine": "x", "cores": 2},
        shared={ANOMALIB: {"import_s": 9.0, "install_mb": 1600.0}, SAME: {"import_s": 0.5, "install_mb": 400.0}},
        categories={
            "grid": {ANOMALIB: theirs, SAME: side(auroc=0.98, fit_s=2.0), DEFAULTS: side(auroc=0.99, fit_s=4.0)}
        },
    )


def test_ratios_say_how_many_times_less():
    found = ratios_of(made_up(), "grid")
    assert found[SAME]["fit_s"] == 30
    assert found[DEFAULTS]["fit_s"] == 15
    assert found[SAME]["without_validation_s"] == 20
    assert (found[SAME]["import_s"], found[DEFAULTS]["install_mb"], found[SAME]["predict_ms"]) == (18, 4, 12)
    assert "image_AUROC" not in found[SAME]


def test_the_table_has_every_number():
    lines = table(made_up())
    text = "\n".join(lines)
    assert "efficientnet_lite0, layers blocks.4, blocks.10, 256 px, coreset 10 %, 9 neighbours; anomalib 2.7.0" in text
    (row,) = (line for line in lines if line.startswith("fit, s"))
    assert row.split() == ["fit,", "s", "60.0", "2.0", "(30.0", "x)", "4.0", "(15.0", "x)"]
    (row,) = (line for line in lines if line.startswith("image AUROC"))
    assert row.split() == ["image", "AUROC", "0.9700", "0.9800", "0.9900"]
    assert "anomalib itself reports: image_AUROC 0.9600" in text


def test_of_two_runs_the_slower_counts():
    found = compare._slower([{"fit_s": 2.0, "n_bank": 7, "metrics": 1}, {"fit_s": 3.0, "n_bank": 7, "metrics": 1}])
    assert found == {"fit_s": 3.0, "n_bank": 7, "metrics": 1}


def test_the_json_has_ratios_and_settings():
    document = json.loads(json.dumps(made_up().to_dict()))
    assert document["settings"]["coreset_sampling_ratio"] == 0.1
    assert document["ratios"]["grid"][SAME]["fit_s"] == 30
    assert document["categories"]["grid"][ANOMALIB]["own"] == {"image_AUROC": 0.96}


def test_a_side_that_fails_says_what_it_said():
    with pytest.raises(InputError, match=r"comparison: expected each side to run to its end, got ValueError: no\."):
        compare._python(["-c", "raise ValueError('no')"])


def test_categories_without_test_images_are_refused(tmp_path: Path):
    root = make_demo(tmp_path, image_size=64, n_train=2, n_test=1, n_defective=1, categories=("tile",))
    check_categories(root, ["tile"])
    for path in (root / "tile" / "test").rglob("*.png"):
        path.unlink()
    with pytest.raises(DataError, match="test images"):
        check_categories(root, ["tile"])


@runs_anomalib
def test_the_command_measures_both(tmp_path: Path):
    root = make_demo(tmp_path / "demo", image_size=128, n_train=6, n_test=3, n_defective=1, categories=("tile",))
    out, chart = tmp_path / "out.json", tmp_path / "chart.png"
    arguments = ["--categories", "tile", "--image-size", "96", "--coreset-ratio", "0.05", "--neighbors", "3"]
    done = CliRunner().invoke(
        app, ["compare", "--root", str(root), *arguments, "--json", str(out), "--chart", str(chart)]
    )
    assert done.exit_code == 0, done.exception
    found = json.loads(out.read_text())
    sides = found["categories"]["tile"]
    assert sides[ANOMALIB]["n_bank"] == sides[SAME]["n_bank"] == int(0.05 * 6 * 12 * 12)
    for name in ("import_s", "install_mb", "fit_s", "coreset_s", "predict_ms", "peak_mb", "model_mb", "fit_cpu_s"):
        assert found["ratios"]["tile"][SAME][name] > 0, name
    assert load(chart).shape[1] == 960
    assert "anomalib itself reports: image_AUROC" in done.output
