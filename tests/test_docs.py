"""The README and the site are true: code runs, commands have the options, names exist, links lead somewhere."""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import inspect
import json
import os
import pkgutil
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import blemish
from blemish.cli import app
from blemish.data.synthetic.demo import make_demo
from blemish.search import Suggestion
from tests.images import good, scratched, write, write_goods

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
sys.path.append(str(DOCS / "_ext"))
import generated  # noqa: E402  # in docs/_ext, as Sphinx finds it

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted([*ROOT.glob("*.md"), *(path for path in DOCS.rglob("*.md") if "_build" not in path.parts)])
TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in PAGES}
TUTORIALS = ("similar-defects", "efficientad", "from-anomalib")
MAX_README_BYTES = 6_000


def fences(text: str, *languages: str) -> list[tuple[str, str]]:
    """Return (language, content) of each code block in one of the languages, in order."""
    found = re.findall(r"^```(\w+)\n(.*?)^```$", text, re.S | re.M)
    return [(language, content) for language, content in found if language in languages]


def commands_of(text: str) -> list[str]:
    """Return each `blemish ...` command that a page shows, in blocks and in running text."""
    text = text.replace("\\\n", " ")
    lines = [line.strip().removeprefix("$ ") for _, code in fences(text, "sh", "console") for line in code.splitlines()]
    parts = [part.strip() for line in lines for part in line.split(" #")[0].split("&&")]
    return [part for part in [*parts, *re.findall(r"`(blemish [^`\n]+)`", text)] if re.match(r"blemish [a-z]", part)]


COMMAND_LINE = generated.command_line()
COMMANDS = sorted({command for page, text in TEXTS.items() if page != "CHANGELOG.md" for command in commands_of(text)})


def test_there_is_something_to_check():
    assert len(fences(README, "python")) == 1
    assert len(COMMANDS) >= 40
    assert len(PAGES) >= 30


def test_readme_is_short():
    assert len(README.encode()) <= MAX_README_BYTES


@pytest.mark.slow
def test_readme_python_runs_as_written(tmp_path: Path):
    small: dict[str, Any] = {"image_size": 96, "n_train": 4, "n_test": 2, "n_defective": 1}
    make_demo(tmp_path / "datasets" / "MVTecAD", categories=("grid",), **small)
    write(tmp_path / "part.png", good(1))
    write(tmp_path / "old.png", scratched(2)[0])
    write_goods(tmp_path / "good", 4)
    for _, code in fences(README, "python"):
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def run_page(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run each `sh` and `python` block of a tutorial in `folder`, in order; Python blocks share their names."""
    program = folder / "bin" / "blemish"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m blemish "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    environment = {**os.environ, "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), environment.get("PYTHONPATH", "")])
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {"__name__": name}
    for language, code in fences(TEXTS[f"docs/tutorials/{name}.md"], "sh", "python"):
        if language == "python":
            exec(compile(code, f"{name}.md", "exec"), names)
        elif code.strip() != "blemish demo":  # CI runs it as the README's own command; here its images are smaller
            command = ["bash", "-euo", "pipefail", "-c", code]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{code}\n{done.stderr}"


@pytest.fixture(scope="module")
def first_tutorial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the first tutorial was done; the other tutorials start from it."""
    folder = tmp_path_factory.mktemp("tutorial")
    images = folder / "blemish-demo" / "images"
    make_demo(images, image_size=128, n_train=12, n_test=2, n_defective=2, categories=("grid", "tile"))
    with pytest.MonkeyPatch.context() as monkeypatch:
        run_page("first-detector", folder, monkeypatch)
    return folder


@pytest.mark.slow
def test_first_tutorial_runs_as_written(first_tutorial: Path):
    assert (first_tutorial / "tile.html").stat().st_size > 10_000
    assert list((first_tutorial / "figures").glob("*.png"))
    header = json.loads((first_tutorial / "tile-model" / "model.json").read_text(encoding="utf-8"))
    assert header["settings"]["false_positive_rate"] == 0.1


@pytest.mark.slow
@pytest.mark.parametrize("name", TUTORIALS)
def test_tutorials_run_as_written(name: str, first_tutorial: Path, monkeypatch: pytest.MonkeyPatch):
    if name == "similar-defects":
        pytest.importorskip("qdrant_edge", reason="qdrant-edge-py is not installed: no store of defects")
    if name == "efficientad":
        pytest.importorskip("torch", reason="torch is not installed: EfficientAD can't be trained")
    run_page(name, first_tutorial, monkeypatch)


def test_each_tutorial_is_run():
    pages = {Path(page).stem for page in TEXTS if page.startswith("docs/tutorials/")}
    assert pages == {"index", "first-detector", *TUTORIALS}


@pytest.mark.parametrize("page", TEXTS)
def test_python_that_is_shown_is_python(page: str):
    for _, code in fences(TEXTS[page], "python"):
        ast.parse(code)
    for _, code in fences(TEXTS[page], "console"):
        session = [line[4:] for line in code.splitlines() if line.startswith((">>> ", "... "))]
        ast.parse("\n".join(session))


@functools.cache
def shown_help(command: str) -> str:
    shown = CliRunner().invoke(app, [*command.split(), "--help"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0, f"no command {command}"
    return shown.output


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_have_the_options_that_are_shown(command: str):
    words = shlex.split(command)[1:]
    if words == ["--version"]:
        return
    names = words[:2] if words[0] in {"backbones", "cluster", "store"} else words[:1]
    shown = shown_help(" ".join(names))
    for option in re.findall(r"(?<=\s)--?[a-z][a-z-]*", command):
        assert re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", shown), f"{names} has no {option}"


@pytest.mark.parametrize("name", generated.commands())
def test_command_line_reference_is_the_real_help(name: str):
    section = COMMAND_LINE.split(f"### blemish {name}\n")[1].split("\n### ")[0]
    documented = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", "\n".join(re.findall(r"^`-.*`$", section, re.M))))
    shown = shown_help(name)
    assert documented == set(re.findall(r"(?<=^  )--?[a-z][a-z-]*", shown, re.M)) - {"--help"}
    said = " ".join(re.sub(r"[`\\]", "", section).split())
    for line in re.findall(r"^  -\S.*?  +(\S.*)$", shown, re.M):
        first = re.sub(r"[`\\]", "", line).split("  [")[0].strip()
        if first != "Show this message and exit.":
            assert first in said, f"{name}: {first}"


@pytest.mark.parametrize("detector", ["Patchcore", "Padim", "EfficientAd"])
def test_settings_reference_has_each_setting_with_a_meaning(detector: str):
    rows = re.findall(r"^`(\w+) = .*`\n: (.*) Type: .*$", generated.settings(detector), re.M)
    assert {name for name, _ in rows} == set(inspect.signature(getattr(blemish, detector)).parameters)
    for name, meaning in rows:
        assert meaning.strip(), f"{name} has no meaning"


def test_each_public_name_is_documented():
    page = TEXTS["docs/reference/python.md"]
    documented = set(re.findall(r"^\.\. (?:autoclass|autoexception|autofunction|data):: blemish\.(\w+)$", page, re.M))
    assert documented == set(blemish.__all__) - {"__version__"}
    for name in re.findall(r"^\.\. auto\w+:: ([\w.]+)$", page, re.M):
        assert pkgutil.resolve_name(name), name


def test_json_keys_are_documented():
    empty = np.zeros((2, 2), np.float32)
    prediction = blemish.Prediction(1.0, True, 0.5, 0.1, empty, empty > 1, 0.5).to_dict()
    suggestion = Suggestion("crack", 1.0, {}, False, None, ()).to_dict()
    for key in {*prediction, *suggestion}:
        assert f"`{key}`" in TEXTS["docs/reference/outputs.md"], key


@pytest.mark.parametrize("page", TEXTS)
def test_links_lead_somewhere(page: str):
    folder = (ROOT / page).parent
    for link in re.findall(r"\]\((?!http)([^)#\s]+)\)", re.sub(r"```.*?```", "", TEXTS[page], flags=re.S)):
        assert (folder / link).exists(), link
    for script in re.findall(r"(?<![\w/.])(?:(?:benchmarks|examples|tests)/[\w/]+\.py|scripts/\w+)", TEXTS[page]):
        assert (ROOT / script).exists(), script


@pytest.mark.parametrize("page", [page for page in TEXTS if page != "CHANGELOG.md"])
def test_settings_that_are_named_are_settings(page: str):
    from blemish._validation.anomalib_arguments import OF_DATA_SETS, OF_DETECTORS, OF_ENGINE
    from blemish.backbones import build

    kinds = (
        blemish.Patchcore,
        blemish.Padim,
        blemish.EfficientAd,
        blemish.Engine,
        blemish.DefectStore,
        blemish.Folder,
        build,
    )
    known = {name for kind in kinds for name in inspect.signature(kind).parameters}
    known |= {*OF_DETECTORS, *OF_ENGINE, *OF_DATA_SETS, *inspect.signature(blemish.MVTecAD).parameters}
    for code in re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", TEXTS[page], flags=re.S)):
        for name in re.findall(r"(?<![\w-])([a-z_]+)=", code):
            assert name in known, f"{name}= in {code}"


RESULTS = sorted(path.stem for path in generated.RESULTS.glob("*.json"))


@pytest.mark.parametrize("name", RESULTS)
def test_results_are_shown_with_command_and_machine(name: str):
    document = json.loads((generated.RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    commands = [table["command"] for table in document["tables"]]
    assert not any(re.search(r"(\s|=)/", command) for command in commands), "paths of one machine"
    for table in document["tables"]:
        assert table["command"], table["title"]
        assert table["measured"]["machine"], table["title"]
        assert all(len(row) == len(table["columns"]) for row in table["rows"]), table["title"]
        assert table["rows"], table["title"]
    assert any(f"<!-- generated: benchmark {name}" in text for text in TEXTS.values()), f"{name} is on no page"
    assert generated.benchmark(name).count("Measured with version") == len(document["tables"])


def test_each_benchmark_has_results():
    scripts = {path.stem for path in (ROOT / "benchmarks").glob("*.py")}
    assert scripts - {"charts", "kept", "results", "torchvision_shim"} <= set(RESULTS)


@pytest.mark.slow
@pytest.mark.parametrize("script", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda script: script.stem)
def test_what_a_benchmark_takes_from_the_package_is_there(script: Path):
    """Benchmarks run by hand only: a name that moved would be found when its figures are needed."""
    for node in ast.walk(ast.parse(script.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "blemish":
            module = importlib.import_module(node.module)
            missing = [name.name for name in node.names if not _is_there(module, name.name)]
            assert not missing, f"{script.name}: {node.module} has no {', '.join(missing)}"


def _is_there(module: Any, name: str) -> bool:
    return hasattr(module, name) or importlib.util.find_spec(f"{module.__name__}.{name}") is not None


def test_markers_are_known():
    for page, text in TEXTS.items():
        assert text.count("<!-- generated:") == len(generated.MARKER.findall(text)), page
        assert all(name in generated.GENERATORS for name, _ in generated.MARKER.findall(text)), page


@pytest.mark.parametrize("page", [page for page, text in TEXTS.items() if generated.MARKER.search(text)])
def test_generated_parts_can_be_made(page: str):
    filled = generated.filled(TEXTS[page])
    assert not generated.MARKER.search(filled)
    assert len(filled) > len(TEXTS[page])


def test_layers_are_drawn_with_a_purpose():
    drawn = generated.layers()
    packages = {path.name for path in (ROOT / "blemish").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert packages <= set(generated.PURPOSES)
    assert all(f">{name}</text>" in drawn for name in packages)
