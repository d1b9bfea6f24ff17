"""The examples run as they are, on images that they draw or on the user's, and leave figures that can be read."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from blemish import Patchcore, export
from blemish.data.synthetic.demo import make_demo
from blemish.imaging.decode import load
from tests.images import scratched, write

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("root")
    return make_demo(folder, image_size=128, n_train=6, n_test=2, n_defective=1, categories=("grid", "tile"))


def output(name: str, *arguments: str | Path, before: tuple[str, ...] = ()) -> str:
    command = [sys.executable, "-W", "error", *before, str(EXAMPLES / name), *map(str, arguments)]
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


@pytest.mark.slow
def test_efficientad(root: Path, tmp_path: Path):
    pytest.importorskip("torch", reason="torch is not installed: EfficientAD can't be trained")
    limits = ["--steps", "4", "--epochs", "2", "--budget", "", "--image-size", "128"]
    shown = output("efficientad.py", "--root", root, "--categories", "tile", "--out", tmp_path, *limits)
    assert "tile: Trained 4 steps" in shown
    assert shown.count("'image_AUROC': ") == 2
    assert load(tmp_path / "tile" / "good.png").std() > 10


@pytest.mark.slow
def test_similarity_search(tmp_path: Path):
    pytest.importorskip("qdrant_edge", reason="qdrant-edge-py is not installed: no store of defects")
    small = make_demo(tmp_path / "root", image_size=128, n_train=6, n_test=2, n_defective=4, categories=("tile",))
    shown = output("similarity_search.py", "--root", small, "--out", tmp_path)
    assert "tile: {'precision_at_5': " in shown
    assert "'n_stored': 8.0, 'n_queries': 8.0}" in shown
    assert "\naverage: {'precision_at_5': " in shown
    assert load(tmp_path / "tile" / "crack.png").std() > 10


@pytest.mark.slow
def test_receptive_field(root: Path, tmp_path: Path):
    shown = output("receptive_field.py", "--root", root, "--out", tmp_path)
    assert "conv4          4       1       56    33                       4" in shown
    assert shown.count("'receptive_field': 33, 'stride': 4, 'outputs': 56") == 2
    assert load(tmp_path / "grid.png").std() > 10


@pytest.mark.slow
def test_predict_exported(saved: Path, fitted: Patchcore, tmp_path: Path):
    model = tmp_path / "model.onnx"
    export(saved, model)
    image = write(tmp_path / "part.png", scratched(80, 120, 150)[0])
    # Blemish can't be imported there.
    alone = "import runpy, sys; sys.modules['blemish'] = None; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0])"
    shown = output("predict_exported.py", model, image, "--out", tmp_path / "marked", before=("-c", alone))
    expected = fitted.predict(image)
    assert f": DEFECTIVE, score {expected.score:.3f}" in shown
    assert f" of {expected.threshold:.4f}, p {expected.p_value:.2g}\n" in shown
    assert (load(tmp_path / "marked" / "part.png") != load(image)).any()


@pytest.mark.slow
def test_predict_exported_in_cpp(saved: Path, fitted: Patchcore, tmp_path: Path):
    """Compiled with the headers and the library of OpenVINO's wheel."""
    openvino, compiler = find_spec("openvino"), shutil.which("g++")
    if openvino is None or openvino.origin is None or compiler is None:
        pytest.skip("there is no openvino or no g++")
    folder, program = Path(openvino.origin).parent, tmp_path / "predict"
    (library,) = (folder / "libs").glob("libopenvino.so*")
    command = [compiler, "-std=c++17", "-Wall", EXAMPLES / "predict_exported.cpp", "-I", folder / "include", library]
    subprocess.run([*command, f"-Wl,-rpath,{library.parent}", "-o", program], check=True)
    export(saved, tmp_path / "model.onnx")
    image = scratched(80, 120, 150)[0]
    (tmp_path / "part.ppm").write_bytes(b"P6\n150 120\n255\n" + image.tobytes())
    done = subprocess.run(
        [program, tmp_path / "model.onnx", tmp_path / "part.ppm"], capture_output=True, text=True, check=True
    )
    expected = fitted.predict(image)
    found = re.fullmatch(
        r".*part.ppm: DEFECTIVE, score (\S+), p (\S+), (\d+) pixels above the threshold\n", done.stdout
    )
    assert found is not None, done.stdout
    assert float(found[1]) == pytest.approx(expected.score, rel=1e-4)
    assert float(found[2]) == pytest.approx(expected.p_value, rel=1e-4)
    assert int(found[3]) == pytest.approx(expected.mask.sum(), abs=2)


def test_each_example_is_run_here():
    run = Path(__file__).read_text(encoding="utf-8")
    for path in EXAMPLES.iterdir():
        called = f'output("{path.name}"' if path.suffix == ".py" else f'EXAMPLES / "{path.name}"'
        assert called in run or path.is_dir(), f"{path.name} is not tested"
