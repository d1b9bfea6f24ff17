"""Options of detectors follow from their settings, and reading them loads nothing heavy."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import fields

import pytest
import typer

from blemish.cli import app
from blemish.cli.options import make_detector
from blemish.detectors.registry import DETECTORS, detector_type, settings_type
from blemish.detectors.settings import options

HEAVY = {"cv2", "jinja2", "kornia_rs", "numpy", "onnx", "onnxruntime", "rich", "safetensors", "torch"}


def help_of(command: str) -> dict[str, str]:
    """Return the help of each option of a command."""
    group = typer.main.get_command(app)
    return {parameter.opts[0]: parameter.help for parameter in group.commands[command].params}


@pytest.mark.slow
def test_the_command_line_starts_without_heavy_libraries():
    program = "import sys, blemish.cli; print(*{name.partition('.')[0] for name in sys.modules})"
    ran = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert "blemish" in ran.stdout.split()
    assert not HEAVY & set(ran.stdout.split())


@pytest.mark.parametrize("name", DETECTORS)
def test_the_registry_names_the_settings_of_the_detector(name: str):
    assert settings_type(name) is detector_type(name).settings_type


@pytest.mark.parametrize("command", ["fit", "benchmark"])
def test_each_option_of_a_detector_is_one_of_the_command(command: str):
    shown = help_of(command)
    for name in DETECTORS:
        for option, field in options(settings_type(name)).items():
            assert f"--{option}" in shown
            note = re.search(r"\[(.*)\]$", shown[f"--{option}"])
            if note is not None and field.default is not None:
                assert re.search(rf"(^|{name} ){re.escape(str(field.default))}(,|$)", note[1]), option


def test_the_help_shows_the_defaults_of_each_detector():
    shown = help_of("fit")
    assert shown["--image-size"].endswith(" [patchcore 320, padim 320, efficientad 256]")
    assert shown["--false-positive-rate"].endswith(" [0.02]")
    assert shown["--n-features"].endswith(" [padim 100]")
    assert shown["--checkpoint"].endswith(" [efficientad]")
    assert "[" not in shown["--threads"]


def test_options_of_several_detectors_come_first():
    shown = list(help_of("fit"))
    n_owners = [
        sum(option.removeprefix("--") in options(settings_type(name)) for name in DETECTORS)
        for option in shown[shown.index("--model") + 1 :]
    ]
    assert n_owners == sorted(n_owners, reverse=True)


def test_only_given_options_reach_the_detector():
    detector = make_detector("padim", {"n-features": 50, "layers": "blocks.4,blocks.7", "seed": None})
    settings = {field.name: getattr(detector.settings, field.name) for field in fields(detector.settings)}
    defaults = {field.name: field.default for field in fields(settings_type("padim"))}
    assert settings == {**defaults, "n_features": 50, "layers": ("blocks.4", "blocks.7")}


def test_an_option_of_another_detector_is_refused():
    with pytest.raises(typer.BadParameter, match="an option of patchcore, and --model is padim"):
        make_detector("padim", {"coreset-ratio": 0.1})
    with pytest.raises(typer.BadParameter, match="cflow is no detector here; there are patchcore, padim"):
        make_detector("cflow", {})


def test_a_setting_of_several_detectors_has_one_help():
    helps: dict[str, set[str]] = {}
    for name in DETECTORS:
        for option, field in options(settings_type(name)).items():
            helps.setdefault(option, set()).add(field.metadata["help"])
    assert {option for option, texts in helps.items() if len(texts) > 1} == set()
