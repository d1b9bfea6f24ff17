"""Fixtures that several test modules share."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import blemish.runtime  # noqa: F401  # before a test imports the engine itself, which would send usage data
from tests.images import small_patchcore, write_goods
from tests.qdrant_server import VARIABLE, QdrantServer, binary
from tests.stores import remembering

if TYPE_CHECKING:
    from blemish import DefectStore, Patchcore
    from blemish.search import RegionEncoder
    from tests.stores import Opener


# Doctests are looked for in every module, also where there is no torch.
collect_ignore = ["torch_twins.py"]

CLUSTER = "tests/cluster/"


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    """Name a text that holds an address after its argument: workers must collect the same tests."""
    return argname if isinstance(val, str) and " at 0x" in val else None


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give the tests of a file to one worker, so that the fixtures of a module are made once; those on a cluster too,
    so that there is one cluster at a time.
    """
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return CLUSTER if nodeid.startswith(CLUSTER) else nodeid.partition("::")[0]

    return Scheduling(config, log) if config.getoption("dist") == "load" else None


@pytest.fixture
def rng() -> np.random.Generator:
    """A random generator with a fixed seed."""
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real images; a test that asks for it is skipped, and says so, where there is none."""
    root = os.environ.get("BLEMISH_DATA", "")
    if not root:
        pytest.skip("BLEMISH_DATA is not set: this test needs real images")
    path = Path(root)
    assert path.is_dir(), f"BLEMISH_DATA is set to {root}, which is no folder"
    return path


@pytest.fixture(scope="session")
def good_paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Twelve good images of one material, 96 x 96, as files."""
    return write_goods(tmp_path_factory.mktemp("good"))


@pytest.fixture(scope="session")
def fitted(good_paths: list[Path]) -> Patchcore:
    """A detector fitted on `good_paths`; no test changes it."""
    return small_patchcore().fit(good_paths)


@pytest.fixture(scope="session")
def saved(fitted: Patchcore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model folder of `fitted`; no test changes it."""
    return fitted.save(tmp_path_factory.mktemp("saved") / "model")


@pytest.fixture(scope="session")
def qdrant_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Qdrant server; a test that asks for it is skipped, and says so, where no program is named."""
    program = binary()
    if program is None:
        pytest.skip(f"{VARIABLE} is not set: this test needs a Qdrant server's program")
    server = QdrantServer(program, tmp_path_factory.mktemp("qdrant")).start()
    yield server.url
    server.stop()


@pytest.fixture(scope="session")
def encoder(fitted: Patchcore) -> RegionEncoder:
    """An encoder of `fitted` with its statistics of good images; it remembers the arrays that it encoded."""
    from blemish.search import RegionEncoder

    made = RegionEncoder(fitted)
    made.fit()
    made.encode = remembering(made.encode)  # type: ignore[method-assign]
    return made


@pytest.fixture(params=["folder", "server"])
def opened(request: pytest.FixtureRequest, tmp_path: Path, encoder: RegionEncoder) -> Iterator[Opener]:
    """Opens one store again and again: in a folder, or on a server."""
    from blemish import DefectStore

    if request.param == "folder":
        place: dict[str, Any] = {"folder": tmp_path / "store"}
    else:
        place = {"url": request.getfixturevalue("qdrant_url"), "collection": f"t{uuid.uuid4().hex}"}
    stores: list[DefectStore] = []

    def make(**changes: Any) -> DefectStore:
        stores.append(DefectStore(**{**place, "model": encoder, "category": "stripes", **changes}))
        return stores[-1]

    yield make
    for one in stores:
        one.close()


@pytest.fixture
def store(opened: Opener) -> DefectStore:
    """A new store."""
    return opened()
