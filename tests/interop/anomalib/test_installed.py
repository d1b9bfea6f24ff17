"""What a package and its dependencies take on disk."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import cv2
import numpy as np

from blemish.interop.anomalib.installed import closure, installed_mb


def test_all_that_is_required_is_found():
    found = closure("blemish")
    assert {"blemish", "numpy", "onnx", "onnxruntime", "opencv-python-headless", "safetensors", "protobuf"} <= found
    # Extras are not: they were not asked for.
    assert not found & {"pytest", "torch", "ruff"}


def test_the_size_is_that_of_the_files():
    numpy_mb = sum(path.stat().st_size for path in Path(np.__file__).parent.rglob("*") if path.is_file()) / 2**20
    found = installed_mb("numpy")
    assert found is not None
    assert found >= 0.99 * numpy_mb  # its libraries lie beside it
    whole = installed_mb("blemish")
    assert whole is not None
    assert whole > numpy_mb + sum(p.stat().st_size for p in Path(cv2.__file__).parent.rglob("*.so")) / 2**20


def test_what_is_not_installed_has_no_size():
    assert installed_mb("no-such-package-here") is None
    assert importlib.metadata.version("numpy")
