"""Modules that tests import at their first use, so that collecting the tests does not load them."""

from __future__ import annotations

from typing import Any

import pytest


class Lazy:
    """A module, imported when the first of its names is used; where it is not installed, the test is skipped."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("_"):  # pytest and doctest look at every name of a module for these
            raise AttributeError(attribute)
        module = pytest.importorskip(self._name, reason=f"needs {self._name}, of blemish[dev]")
        return getattr(module, attribute)


torch = Lazy("torch")
scipy_stats = Lazy("scipy.stats")
sklearn_cluster = Lazy("sklearn.cluster")
sklearn_datasets = Lazy("sklearn.datasets")
sklearn_metrics = Lazy("sklearn.metrics")
