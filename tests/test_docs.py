"""What the README shows is true: its Python runs, its commands have the options, its links lead somewhere."""

from __future__ import annotations

import inspect
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from blemish.data.synthetic.demo import make_demo
from tests.images import good, scratched, write, write_goods

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", README, re.S)
SHELL = [line for block in re.findall(r"```sh\n(.*?)```", README, re.S) for line in block.splitlines() if line.strip()]
COMMANDS = [part.strip() for line in SHELL for part in line.split("#")[0].split("&&") if "blemish " in part]


def test_there_is_something_to_check():
    assert PYTHON
    assert len(COMMANDS) >= 5


@pytest.mark.slow
@pytest.mark.parametrize("code", PYTHON)
def test_python_runs_as_written(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    make_demo(
        tmp_path / "datasets" / "MVTecAD", image_size=96, n_train=4, n_test=2, n_defective=1, categories=("grid",)
    )
    write(tmp_path / "part.png", good(1))
    write(tmp_path / "old.png", scratched(2)[0])
    write_goods(tmp_path / "good", 4)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", [one for one in COMMANDS if re.match(r"blemish \w", one)])
def test_commands_have_the_options_that_are_shown(command: str, monkeypatch: pytest.MonkeyPatch):
    from typer.testing import CliRunner

    from blemish.cli.commands import app

    words = shlex.split(command)[1:]
    names = words[:2] if words[0] == "backbones" else words[:1]
    shown = CliRunner().invoke(app, [*names, "--help"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0, f"no command {names}"
    for option in re.findall(r"--[a-z-]+", command):
        assert option in shown.output, f"{names} has no {option}"


def test_files_that_are_named_are_there():
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / link).exists(), link
    for script in re.findall(r"(?:benchmarks|scripts|tests)/[\w.]+", README):
        assert (ROOT / script).exists(), script


def test_settings_that_are_named_are_settings():
    from blemish import DefectStore, Patchcore
    from blemish._validation.anomalib_arguments import OF_DETECTORS, OF_ENGINE

    settings = set(Patchcore().settings.to_dict()) | {"weights", "threads", "pre_trained"}
    settings |= set(inspect.signature(DefectStore).parameters) | set(OF_DETECTORS) | set(OF_ENGINE)
    for name in re.findall(r"`(\w+)=", README):
        assert name in settings, name
