"""Measurements of one side of a comparison; anomalib's side is run by test_compare.py."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from blemish import MVTecAD
from blemish.data.synthetic.demo import make_demo
from blemish.interop.anomalib.side import DEFAULTS, SAME, Stages, run


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("root")
    make_demo(root, image_size=96, n_train=4, n_test=2, n_defective=1, categories=("tile",))
    return {
        "root": str(root),
        "category": "tile",
        "backbone": "efficientnet_lite0",
        "layers": None,
        "image_size": 96,
        "coreset_sampling_ratio": 0.1,
        "num_neighbors": 3,
        "seed": 0,
        "timed_picks": None,
        "threads": 2,
    }


@pytest.mark.slow
def test_with_the_same_settings(job: dict[str, Any]):
    measured = run({**job, "side": SAME})
    assert measured["n_bank"] == int(4 * 12 * 12 * 0.1)
    assert measured["n_test"] == len(MVTecAD(job["root"], "tile").test) == len(measured["scores"])
    assert {"image_AUROC", "pixel_AUROC", "AUPRO", "miss_rate"} <= measured["metrics"].keys()
    assert 0 < measured["coreset_s"] < measured["fit_s"]
    for name in ("fit_cpu_s", "predict_ms", "predict_cpu_ms", "peak_fit_mb", "peak_mb", "model_mb"):
        assert measured[name] > 0, name


@pytest.mark.slow
def test_in_a_process_of_its_own_with_the_defaults(job: dict[str, Any], tmp_path: Path):
    out = tmp_path / "out.json"
    command = [sys.executable, "-m", "blemish.interop.anomalib.side", json.dumps({**job, "side": DEFAULTS}), str(out)]
    subprocess.run(command, check=True)
    measured = json.loads(out.read_text())
    assert measured["n_bank"] > 0
    # The memory of this process is not counted.
    assert measured["peak_mb"] < 700


def test_the_coreset_lasts_from_the_last_patch_to_the_last_pick():
    stages = Stages()
    stages.last = {"reading images": 2.0, "coreset": 5.5, "calibrating": 9.0}
    assert stages.coreset_s() == 3.5
    stages("coreset", 1, 2)
    assert stages.last["coreset"] > 5.5
