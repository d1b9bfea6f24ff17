"""Blemish: visual anomaly detection for industry.

The public names are loaded when they are first used, so that `import blemish` costs next to nothing.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from blemish._version import __version__

if TYPE_CHECKING:
    from blemish.data.datasets import Folder, Manifest, MVTec, MVTecAD
    from blemish.detectors.efficientad.detector import EfficientAd
    from blemish.detectors.padim.detector import Padim
    from blemish.detectors.patchcore.detector import Patchcore
    from blemish.detectors.registry import load
    from blemish.errors import (
        BlemishError,
        DataError,
        FetchError,
        ImageError,
        InputError,
        ModelFileError,
        NotFittedError,
        SaveError,
        StoreError,
    )
    from blemish.evaluation.engine import Engine
    from blemish.exporters import export, verify
    from blemish.search.encoder import prepare_defect_search
    from blemish.search.store import DefectStore
    from blemish.types import Prediction, Report, Sample

# OpenBLAS and Apple's Accelerate also compute with what lies behind the rows in memory, on arm64 in most products: the
# values are right, the processor's flags (overflow and the like) are not, and NumPy makes warnings of them.
warnings.filterwarnings("ignore", ".* encountered in (matmul|dot)", RuntimeWarning, r"blemish\.")

_MODULES = {
    "data.datasets": ("Folder", "MVTec", "MVTecAD", "Manifest"),
    "detectors.efficientad.detector": ("EfficientAd",),
    "detectors.padim.detector": ("Padim",),
    "detectors.patchcore.detector": ("Patchcore",),
    "detectors.registry": ("load",),
    "errors": (
        "BlemishError",
        "DataError",
        "FetchError",
        "ImageError",
        "InputError",
        "ModelFileError",
        "NotFittedError",
        "SaveError",
        "StoreError",
    ),
    "evaluation.engine": ("Engine",),
    "exporters": ("export", "verify"),
    "search.encoder": ("prepare_defect_search",),
    "search.store": ("DefectStore",),
    "types": ("Prediction", "Report", "Sample"),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "BlemishError",
    "DataError",
    "DefectStore",
    "EfficientAd",
    "Engine",
    "FetchError",
    "Folder",
    "ImageError",
    "InputError",
    "MVTec",
    "MVTecAD",
    "Manifest",
    "ModelFileError",
    "NotFittedError",
    "Padim",
    "Patchcore",
    "Prediction",
    "Report",
    "Sample",
    "SaveError",
    "StoreError",
    "__version__",
    "export",
    "load",
    "prepare_defect_search",
    "verify",
]


def __getattr__(name: str) -> object:
    """Load a public name from its module at its first use."""
    if name not in _HOMES:
        raise AttributeError(f"module 'blemish' has no attribute {name!r}")
    from importlib import import_module

    found = getattr(import_module(f"blemish.{_HOMES[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """Return the public names."""
    return list(__all__)
