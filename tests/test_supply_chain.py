"""The tested versions with their hashes, and the SBOM."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
toml = pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli", reason="needs blemish[docs]")
requirements = pytest.importorskip("packaging.requirements", reason="needs blemish[dev]")
EXTRAS = ("search", "server", "openvino", "station", "cluster")


def pinned() -> dict[str, str]:
    """The version of each package in constraints.txt."""
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    return dict(re.findall(r"^([a-z0-9.-]+)==([^ ;]+)", text, re.MULTILINE))


def test_the_tested_versions_are_those_that_are_allowed():
    versions, project = pinned(), toml.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    texts = [*project["dependencies"], *(text for extra in EXTRAS for text in project["optional-dependencies"][extra])]
    checked = 0
    for requirement in map(requirements.Requirement, texts):
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        if name != "blemish" and (
            requirement.marker is None or requirement.marker.evaluate({"python_version": "3.11"})
        ):
            assert requirement.specifier.contains(versions[name]), requirement
            checked += 1
    assert checked > 15


def test_each_tested_version_has_hashes():
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    entries = re.split(r"^(?=[a-z])", text, flags=re.MULTILINE)[1:]
    assert len(entries) >= len(pinned()) > 30
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", entry) for entry in entries)


@pytest.mark.slow
def test_the_sbom_names_each_package_with_its_licence(tmp_path: Path):
    out = tmp_path / "sbom.json"
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "sbom"), str(out)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads(out.read_text())
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
    components = {entry["name"]: entry for entry in document["components"]}
    assert {"numpy", "onnx", "onnxruntime", "efficientad-teacher-pdn-s"} <= components.keys()
    assert not {"pytest", "ruff"} & components.keys()
    assert all(entry["licenses"] for entry in components.values())
    references = {entry["bom-ref"] for entry in components.values()} | {document["metadata"]["component"]["bom-ref"]}
    assert {ref for entry in document["dependencies"] for ref in (entry["ref"], *entry["dependsOn"])} <= references
