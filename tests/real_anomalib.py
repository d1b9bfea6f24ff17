"""The mark of tests that run the real anomalib; benchmarks/torchvision_shim.py gets it to run on a CPU's torch."""

from __future__ import annotations

import importlib.util
from typing import Any, TypeVar

import pytest

Test = TypeVar("Test", bound=Any)


def runs_anomalib(test: Test) -> Test:
    """Mark a test: skipped, saying so, without anomalib; slow; and other people's warnings are no errors."""
    absent = importlib.util.find_spec("anomalib") is None
    for mark in (
        pytest.mark.anomalib,
        pytest.mark.slow,
        pytest.mark.filterwarnings("ignore"),
        pytest.mark.skipif(absent, reason="anomalib is not installed: golden numbers in tests/golden stand for it"),
    ):
        test = mark(test)
    return test
