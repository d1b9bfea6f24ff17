"""The examples run as they are, on pictures that they draw or on the user's, and leave figures that can be read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from blemish.demo import make_demo
from blemish.images import load

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("root")
    return make_demo(folder, image_size=128, n_train=6, n_test=2, n_defective=1, categories=("grid", "tile"))


def output(name: str, *arguments: str | Path) -> str:
    command = [sys.executable, "-W", "error", str(EXAMPLES / name), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_patchcore(root: Path, tmp_path: Path):
    shown = output("patchcore.py", "--root", root, "--out", tmp_path)
    assert shown.count("'image_AUROC': ") == 3
    assert "\naverage: {'AUPRO': " in shown
    for name in ("grid/bent.png", "grid/good.png", "tile/crack.png"):
        assert load(tmp_path / name).std() > 10
