"""Fixtures that several test modules share."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def rng() -> np.random.Generator:
    """A random generator with a fixed seed."""
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real pictures; a test that asks for it is skipped, and says so, where there is none."""
    root = os.environ.get("BLEMISH_DATA", "")
    if not root:
        pytest.skip("BLEMISH_DATA is not set: this test needs real pictures")
    path = Path(root)
    assert path.is_dir(), f"BLEMISH_DATA is set to {root}, which is no folder"
    return path
