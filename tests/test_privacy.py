"""Nothing leaves the machine, and no file is left but those that were named: also not by what Blemish is built on."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from blemish.runtime.telemetry import ONNXRUNTIME, OPENVINO, without_openvino

pytestmark = pytest.mark.slow

# Prints who is called over the network, from Python. ONNX Runtime calls from its own code; its device id shows it.
WATCHED = """
import sys
def watch(event, arguments):
    if event in {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname"}:
        print(event, *arguments[-1:])
sys.addaudithook(watch)
model, image, *good = sys.argv[1:]
"""
PROGRAMS = {
    "fit": "from blemish import Patchcore; Patchcore(image_size=64).fit(good).save('new')",
    "predict": "import blemish; blemish.load(model).predict(image)",
    "efficientad": "from blemish import EfficientAd; EfficientAd(max_steps=1, crop=4).fit(good).save('new')",
    "openvino": "from blemish import export; export(model, 'new.xml', to='openvino')",
    "search": (
        "import blemish\n"
        "with blemish.DefectStore('new', model=blemish.load(model), category='a') as store:\n"
        "    store.add(image, force=True)\n"
        "    store.similar(image, force=True)\n"
    ),
    "station": (
        "from blemish.station import InspectionService\n"
        "with InspectionService('new', {'a': model}) as service:\n"
        "    service.inspect(image)\n"
    ),
}
NEEDED = {"efficientad": "torch", "openvino": "openvino"}


def left_behind(program: str, folder: Path, *arguments: str | Path, **environment: str) -> tuple[str, list[str]]:
    """Return what a program printed, and the files that it left in the folders for people and for temporary files."""
    places = {name: folder / name for name in ("HOME", "TMPDIR", "work")}
    for place in places.values():
        place.mkdir(parents=True)
    unset = {ONNXRUNTIME, "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "CI"}
    given = {name: value for name, value in os.environ.items() if name not in unset} | environment
    given |= {"HOME": str(places["HOME"]), "TMPDIR": str(places["TMPDIR"]), "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-W", "ignore", "-c", WATCHED + program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=places["work"], env=given, check=False)
    assert done.returncode == 0, done.stderr
    files = (path for name in ("HOME", "TMPDIR") for path in places[name].rglob("*") if path.is_file())
    return done.stdout, [str(path.relative_to(folder)) for path in files]


@pytest.mark.parametrize("name", PROGRAMS)
def test_nothing_is_sent_and_no_other_file_is_left(name: str, saved: Path, good_paths: list[Path], tmp_path: Path):
    if find_spec(NEEDED.get(name, "numpy")) is None:
        pytest.skip(f"{NEEDED[name]} is not installed")
    assert left_behind(PROGRAMS[name], tmp_path, saved, good_paths[0], *good_paths) == ("", [])
    assert name == "predict" or list((tmp_path / "work").iterdir())


def test_who_wants_usage_data_sent_keeps_it(tmp_path: Path):
    shown = "import blemish.runtime, os; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    assert left_behind(shown, tmp_path, "model", "image", **{ONNXRUNTIME: "0"})[0] == "0\n"


def test_openvinos_package_of_usage_data_can_be_imported_afterwards():
    before = OPENVINO in sys.modules
    with without_openvino(), pytest.raises(ImportError):
        __import__(OPENVINO)
    assert (OPENVINO in sys.modules) == before
