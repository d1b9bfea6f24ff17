"""Fixtures of the contract tests: small detectors of each kind, fitted once, and frozen model folders, unpacked."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest

from blemish import EfficientAd, Padim, Patchcore
from tests.contract import drawn, names, networks

Detector: TypeAlias = "Patchcore | Padim | EfficientAd"
Kind: TypeAlias = "type[Patchcore] | type[Padim] | type[EfficientAd]"
GOLDEN = Path(__file__).parent / "golden"
FROZEN: dict[str, Kind] = {
    "patchcore": Patchcore,
    "patchcore_patches": Patchcore,
    "patchcore_anomalib": Patchcore,
    "efficientad": EfficientAd,
    "efficientad_anomalib": EfficientAd,
    "patchcore_format_2": Patchcore,
    "padim_format_2": Padim,
    "patchcore_format_3": Patchcore,
    "padim_format_3": Padim,
}


@dataclass(frozen=True)
class Case:
    """One kind of detector under test.

    Attributes:
        kind: the class.
        settings: small ones, under the tests' names.
        options: the same for the command line.
        least: how many good images it takes to fit.
        fitted: one fitted on `good_paths`; no test changes it.
        saved: its model folder; no test changes it.
    """

    kind: Kind
    settings: dict[str, Any]
    options: tuple[str, ...]
    least: int
    fitted: Detector
    saved: Path

    def make(self, **changes: Any) -> Detector:
        return self.kind(**names.settings(**{**self.settings, **changes}))

    @property
    def other(self) -> Kind:
        return Padim if self.kind is Patchcore else Patchcore


@dataclass(frozen=True)
class Frozen:
    """A model folder that an earlier version wrote, and what it predicted.

    Attributes:
        name: which of them.
        kind: its class.
        folder: the folder, unpacked; no test changes it.
        images: name to image.
        predicted: "image/field" to value.
    """

    name: str
    kind: Kind
    folder: Path
    images: dict[str, drawn.Array]
    predicted: dict[str, drawn.Array]


@pytest.fixture(scope="session")
def good_paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Twelve good images, 64 x 64, as files."""
    return drawn.write_good(tmp_path_factory.mktemp("good"), 12)


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two categories in the layout of MVTec AD."""
    folder = tmp_path_factory.mktemp("categories")
    return drawn.write_category(drawn.write_category(folder, "stripes"), "bands", n_train=9)


@pytest.fixture(scope="session")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return networks.write_backbone(tmp_path_factory.mktemp("backbone") / "tiny.onnx")


@pytest.fixture(scope="session")
def cases(tmp_path_factory: pytest.TempPathFactory, good_paths: list[Path], backbone: Path) -> Callable[[str], Case]:
    """Gives the case of a name; its detector is fitted when it is first asked for."""
    folder = tmp_path_factory.mktemp("cases")
    made: dict[str, Case] = {}

    def patchcore() -> Case:
        told = {"backbone": backbone, "layers": networks.LAYERS, "image_size": 64, "rate": 0.1, "threads": 1}
        layers = ",".join(networks.LAYERS)
        options = ("--backbone", str(backbone), "--layers", layers, "--image-size", "64", names.RATE_OPTION, "0.1")
        return case(Patchcore, told, options, 2)

    def padim() -> Case:
        told = {"backbone": backbone, "layers": networks.LAYERS, "image_size": 64, "rate": 0.1, "threads": 1}
        layers = ",".join(networks.LAYERS)
        options = (
            "--model", "padim", "--backbone", str(backbone), "--layers", layers, "--image-size", "64",
            names.RATE_OPTION, "0.1",
        )  # fmt: skip
        return case(Padim, told, options, 2)

    def efficientad() -> Case:
        teacher = networks.write_teacher(folder / "teacher.safetensors")
        told = {"teacher": teacher, "image_size": 48, "max_steps": 2, "lr": 1e-3, "holdout": 0.4, "rate": 0.25}
        options = (
            "--model", "efficientad", "--teacher", str(teacher), "--image-size", "48", "--max-steps", "2",
            "--lr", "1e-3", "--holdout", "0.4", "--device", "cpu", names.RATE_OPTION, "0.25",
        )  # fmt: skip
        return case(EfficientAd, {**told, "device": "cpu", "threads": 1}, options, 4)

    def case(kind: Kind, told: dict[str, Any], options: Any, least: int) -> Case:
        fitted = kind(**names.settings(**told)).fit(good_paths)
        saved = fitted.save(folder / kind.__name__)
        return Case(kind, told, (*options, "--threads", "1"), least, fitted, saved)

    makers = {"Patchcore": patchcore, "Padim": padim, "EfficientAd": efficientad}

    def get(name: str) -> Case:
        if name not in made:
            made[name] = makers[name]()
        return made[name]

    return get


@pytest.fixture(params=["Patchcore", "Padim", pytest.param("EfficientAd", marks=pytest.mark.slow)])
def case(request: pytest.FixtureRequest, cases: Callable[[str], Case]) -> Case:
    return cases(request.param)


@pytest.fixture
def patchcore(cases: Callable[[str], Case]) -> Case:
    return cases("Patchcore")


@pytest.fixture(scope="session")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Frozen]:
    """Gives the frozen model of a name, unpacked when it is first asked for."""
    place = tmp_path_factory.mktemp("frozen")
    with np.load(GOLDEN / "images.npz") as stored:
        images = dict(stored)

    def get(name: str) -> Frozen:
        folder = place / name
        if not folder.exists():
            with zipfile.ZipFile(GOLDEN / f"{name}.zip") as file:
                file.extractall(folder)
        with np.load(GOLDEN / f"{name}.npz") as stored:
            return Frozen(name, FROZEN[name], folder, images, dict(stored))

    return get


@pytest.fixture(params=list(FROZEN))
def frozen(request: pytest.FixtureRequest, unpacked: Callable[[str], Frozen]) -> Frozen:
    return unpacked(request.param)
