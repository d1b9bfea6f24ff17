"""Narrow networks for the tests of this package, which say nothing of their widths."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.efficientad_models import narrow_networks, write_teacher


@pytest.fixture(autouse=True, scope="module")
def _narrow_networks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Convolutions of a few channels; a module with `FULL_WIDTH = True` has the paper's."""
    if getattr(request.module, "FULL_WIDTH", False):
        yield
        return
    with narrow_networks():
        yield


@pytest.fixture(scope="module")
def teacher(_narrow_networks: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a random teacher."""
    return write_teacher(tmp_path_factory.mktemp("teacher"))
