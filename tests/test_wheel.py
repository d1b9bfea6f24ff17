"""The wheel that users install holds what the package reads at run time."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import blemish

ROOT = Path(blemish.__file__).parent.parent


@pytest.mark.slow
def test_the_wheel_holds_every_file_of_the_package(tmp_path):
    pytest.importorskip("hatchling", reason="needs blemish[dev]")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--quiet",
        "-w",
        str(tmp_path),
    ]
    subprocess.run([*command, str(ROOT)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        inside = {info.filename: info.file_size for info in archive.infolist()}
    there = {path.relative_to(ROOT).as_posix(): path.stat().st_size for path in (ROOT / "blemish").rglob("*.*")}
    ours = {name: size for name, size in there.items() if "__pycache__" not in name}
    assert {name: inside.get(name) for name in ours} == ours
    assert "blemish/detectors/efficientad/teachers/pdn_s.safetensors" in ours
    assert "blemish/station/web/templates/line.html.j2" in ours
    templates = "blemish/evaluation/report/templates"
    assert {f"{templates}/report.html.j2", f"{templates}/charts.svg.j2", f"{templates}/report.css"} <= set(ours)
