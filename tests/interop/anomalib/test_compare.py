"""Tables and ratios of comparisons, on fixed numbers and, where anomalib is installed, on measured ones."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from blemish.cli import app
from blemish.data.synthetic.demo import make_demo
from blemish.errors import DataError, InputError
from blemish.imaging.decode import load
from blemish.interop.anomalib import compare
from blemish.interop.anomalib.compare import (
    CategoryJob,
    Comparison,
    Measured,
    Settings,
    check_categories,
    installed_mb,
    ratios_of,
    requirements,
    table,
)
from blemish.interop.anomalib.side import ANOMALIB, DEFAULTS, SAME
from tests.real_anomalib import runs_anomalib


def side(**numbers: Any) -> dict[str, Any]:
    metrics = {"image_AUROC": numbers.pop("auroc"), "pixel_AUROC": 0.9, "AUPRO": 0.8}
    return {"metrics": metrics, "predict_ms": 10.0, "peak_mb": 500.0, "model_mb": 2.0, "coreset_s": 1.0, **numbers}


def made_up() -> Comparison:
    anomalib = side(auroc=0.97, fit_s=60.0, without_validation_s=40.0, predict_ms=120.0, own={"image_AUROC": 0.96})
    return Comparison(
        settings=Settings(layers=("blocks.4", "blocks.10")),
        environment={"anomalib": "2.7.0", "blemish": "0.1.0", "python": "3.11", "machine": "x", "cores": 2},
        shared={ANOMALIB: {"import_s": 9.0, "install_mb": 1600.0}, SAME: {"import_s": 0.5, "install_mb": 400.0}},
        categories={
            "grid": {ANOMALIB: anomalib, SAME: side(auroc=0.98, fit_s=2.0), DEFAULTS: side(auroc=0.99, fit_s=4.0)}
        },
    )


def test_ratios():
    ratios = ratios_of(made_up(), "grid")
    assert ratios[SAME]["fit_s"] == 30
    assert ratios[DEFAULTS]["fit_s"] == 15
    assert ratios[SAME]["without_validation_s"] == 20
    assert (ratios[SAME]["import_s"], ratios[DEFAULTS]["install_mb"], ratios[SAME]["predict_ms"]) == (18, 4, 12)
    assert "image_AUROC" not in ratios[SAME]


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
    slower = compare._slower([{"fit_s": 2.0, "n_bank": 7, "metrics": 1}, {"fit_s": 3.0, "n_bank": 7, "metrics": 1}])
    assert slower == {"fit_s": 3.0, "n_bank": 7, "metrics": 1}


def test_the_json_has_ratios_and_settings():
    document = json.loads(json.dumps(made_up().to_dict()))
    assert document["settings"]["coreset_sampling_ratio"] == 0.1
    assert document["ratios"]["grid"][SAME]["fit_s"] == 30
    assert document["categories"]["grid"][ANOMALIB]["own"] == {"image_AUROC": 0.96}


def test_the_error_of_a_side_that_fails():
    with pytest.raises(InputError, match=r"comparison: expected each side to run to its end, got ValueError: no\."):
        compare._python(["-c", "raise ValueError('no')"])


def test_a_category_that_fails_is_named_and_the_others_stay(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(compare, "find_anomalib", lambda: "2.7.0")
    monkeypatch.setattr(compare, "_shared", lambda say: made_up().shared)
    said: list[str] = []

    def elsewhere(jobs: Sequence[CategoryJob]) -> Iterator[tuple[CategoryJob, Measured]]:
        grid, wood = jobs
        assert (grid.root, grid.anomalib) == (str(tmp_path), "2.7.0")
        yield wood, Measured({}, "memory: no.")
        yield grid, Measured(made_up().categories["grid"])

    found = compare.compare(tmp_path, ["grid", "wood"], settings=Settings(), say=said.append, measure_all=elsewhere)
    assert list(found.categories) == ["grid"]
    assert found.failed == {"wood": "memory: no."}
    assert said == ["wood: memory: no.", "grid: done"]
    assert found.to_dict()["failed"] == found.failed


def test_another_version_of_anomalib_on_a_node_is_an_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(compare, "find_anomalib", lambda: "2.6.0")
    measured = compare.measure(CategoryJob("grid", "data", Settings(), "2.7.0"))
    assert measured.error == "anomalib: expected 2.7.0, got 2.6.0. Install the same version on each node."
    assert not measured.sides


@pytest.mark.slow
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
    document = json.loads(out.read_text())
    sides = document["categories"]["tile"]
    assert sides[ANOMALIB]["n_bank"] == sides[SAME]["n_bank"] == int(0.05 * 6 * 12 * 12)
    for name in ("import_s", "install_mb", "fit_s", "coreset_s", "predict_ms", "peak_mb", "model_mb", "fit_cpu_s"):
        assert document["ratios"]["tile"][SAME][name] > 0, name
    assert load(chart).shape[1] == 960
    assert "anomalib itself reports: image_AUROC" in done.output


def test_requirements():
    names = requirements("blemish")
    assert {"blemish", "numpy", "onnx", "onnxruntime", "opencv-python-headless", "safetensors", "protobuf"} <= names
    # Without extras.
    assert not names & {"pytest", "torch", "ruff"}


@pytest.mark.slow
def test_the_installed_size_is_that_of_the_files():
    numpy_mb = sum(path.stat().st_size for path in Path(np.__file__).parent.rglob("*") if path.is_file()) / 2**20
    installed = installed_mb("numpy")
    assert installed is not None
    assert installed >= 0.99 * numpy_mb  # its libraries lie beside it
    total = installed_mb("blemish")
    assert total is not None
    assert total > numpy_mb + sum(p.stat().st_size for p in Path(cv2.__file__).parent.rglob("*.so")) / 2**20


def test_an_absent_package_has_no_size():
    assert installed_mb("no-such-package-here") is None
