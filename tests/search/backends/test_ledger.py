"""The ledger of what was acknowledged, and stores that lost some of it while they were not closed."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from pathlib import Path

import numpy as np
import pytest

from blemish import SaveError, StoreError
from blemish.search.backends import ledger as module
from blemish.search.backends.edge import EdgeBackend
from blemish.search.backends.interface import REGION, Filter, Point
from blemish.search.backends.ledger import IN_CHANGE, LEDGER, Ledger, compared, digest_of
from blemish.search.backends.seal import SEAL
from blemish.search.encoder import DIMS

A, B, C = (str(uuid.UUID(int=i)) for i in range(1, 4))


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    made = Ledger(tmp_path / LEDGER)
    made.rewrite({A: "1" * 32})
    return made


def points(*numbers: int) -> list[Point]:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((10, DIMS[REGION]), "f4")
    return [Point(str(uuid.UUID(int=i)), {REGION: vectors[i]}, {"kind": REGION, "n": i}) for i in numbers]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A store of three points that was not closed, as after a kill."""
    backend = EdgeBackend(tmp_path / "s", DIMS)
    backend.insert(points(1, 2, 3))
    backend.write_meta({"a": 1})
    backend.close()
    (tmp_path / "s" / SEAL).unlink()
    return tmp_path / "s"


def test_the_last_line_of_a_point_counts(ledger: Ledger):
    ledger.stored({B: "2" * 32})
    ledger.changing([A, C])
    assert ledger.read() == {A: IN_CHANGE, B: "2" * 32, C: IN_CHANGE}
    ledger.removed([A])
    ledger.stored({C: "3" * 32})
    ledger.stored({})
    assert ledger.read() == {B: "2" * 32, C: "3" * 32}


def test_a_line_that_a_kill_cut_off_was_not_acknowledged(ledger: Ledger):
    ledger.stored({B: "2" * 32})
    data = ledger.path.read_bytes()
    for cut in range(82, len(data)):
        ledger.path.write_bytes(data[:cut])
        assert ledger.read() == {A: "1" * 32}


def test_each_damaged_bit_of_other_lines_is_an_error(ledger: Ledger):
    ledger.stored({B: "2" * 32})
    data = ledger.path.read_bytes()
    for at in range(len(data) - 1):
        ledger.path.write_bytes(data[:at] + bytes([data[at] ^ 2]) + data[at + 1 :])
        with pytest.raises(StoreError, match=r"acknowledged: expected what was acknowledged, got line \d.*restore"):
            ledger.read()
    ledger.path.unlink()
    with pytest.raises(StoreError, match="got No such file"):
        ledger.read()


def test_superseded_lines_go_when_there_are_many(ledger: Ledger, monkeypatch: pytest.MonkeyPatch):
    ledger.changing([B])
    ledger.compact(1)
    assert len(ledger.path.read_bytes().splitlines()) == 2
    monkeypatch.setattr(module, "SPARE_BYTES", 0)
    for _ in range(5):
        ledger.stored({A: "4" * 32})
    ledger.compact(1)
    assert ledger.path.read_bytes().splitlines()[0].startswith(f"+ {A} 4444".encode())
    assert ledger.read() == {A: "4" * 32}


def test_a_line_that_cannot_be_written_leaves_the_others(ledger: Ledger, monkeypatch: pytest.MonkeyPatch):
    before = ledger.path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SaveError, match="The disk is full"):
        ledger.stored({B: "2" * 32})
    assert ledger.path.read_bytes() == before


def test_digests_depend_on_each_value():
    base = digest_of({"a": 1.5, "b": None}, {"region": [1.0, 2.0]})
    assert base == digest_of({"b": None, "a": 1.5}, {"region": np.array([1, 2], np.float32)})
    others = [({"a": 1.5}, {"region": [1.0, 2.0]}), ({"a": 1.5, "b": None}, {"image": [1.0, 2.0]}),
              ({"a": 1.5, "b": None}, {"region": [1.0, 2.0000002]}), ({"a": "1.5", "b": None}, {})]  # fmt: skip
    assert base not in {digest_of(*one) for one in others}


def test_a_point_in_change_may_be_anything():
    assert compared({A: "1", B: "2", C: IN_CHANGE}, {A: "1", C: "9"}) == (2, (B,), ())
    assert compared({A: "1", B: "2"}, {A: "1", B: "3", C: "9"}) == (3, (), (B,))


# Stores


@pytest.mark.slow
def test_what_was_acknowledged_and_is_there_opens(folder: Path):
    backend = EdgeBackend(folder, {})
    assert backend.check() == (3, (), ())
    backend.set_payload([A], {"n": 7, "label": None})
    backend.delete(Filter().with_equals(kind="other"))
    backend.insert(points(4, 1))
    backend.optimise()
    assert backend.check() == (4, (), ())
    backend.close()
    assert (folder / SEAL).exists()
    assert EdgeBackend(folder, {}, read_only=True).check() == (4, (), ())


@pytest.mark.slow
@pytest.mark.parametrize("read_only", [False, True])
def test_a_loss_and_a_change_are_refused(folder: Path, read_only: bool):
    ledger = Ledger(folder / LEDGER)
    there = ledger.read()
    ledger.stored({str(uuid.UUID(int=9)): "9" * 32})
    for _ in range(2):
        with pytest.raises(StoreError, match=r"all acknowledged .* got 1 lost and 0 changed, such as 0.*9.*--damaged"):
            EdgeBackend(folder, {}, read_only=read_only)
    ledger.rewrite({**there, A: "8" * 32})
    with pytest.raises(StoreError, match=r"got 0 lost and 1 changed"):
        EdgeBackend(folder, {}, read_only=read_only)


@pytest.mark.slow
def test_a_lost_ledger_is_refused_and_one_of_an_older_version_made(folder: Path):
    (folder / LEDGER).unlink()
    with pytest.raises(StoreError, match="store: expected a file acknowledged, got none"):
        EdgeBackend(folder, {})
    (folder / "store.json").write_text('{"a": 1}')
    backend = EdgeBackend(folder, {})
    assert (backend.check(), backend.read_meta()) == ((3, (), ()), {"a": 1})
    backend.close()
    (folder / SEAL).unlink()
    (folder / LEDGER).unlink()
    with pytest.raises(StoreError, match="store: expected a file acknowledged, got none"):
        EdgeBackend(folder, {})


@pytest.mark.slow
def test_a_store_in_which_something_failed_gets_no_seal(folder: Path):
    backend = EdgeBackend(folder, {})
    with pytest.raises(StoreError, match="to write"):
        backend.insert([Point(C, {REGION: np.ones(3, np.float32)}, {})])
    backend.close()
    assert not (folder / SEAL).exists()
    backend = EdgeBackend(folder, {})
    assert backend.check() == (3, (), ())
    backend.close()
    assert (folder / SEAL).exists()


LEFT_OPEN = """
import sys
from pathlib import Path
from blemish.search.backends.edge import EdgeBackend
store = EdgeBackend(Path(sys.argv[1]), {})
"""


@pytest.mark.slow
def test_a_store_that_a_program_left_open_is_sealed_at_its_end(folder: Path):
    subprocess.run([sys.executable, "-c", LEFT_OPEN, str(folder)], check=True)
    assert (folder / SEAL).exists()


@pytest.mark.slow
def test_a_damaged_index_of_a_field_is_made_again(tmp_path: Path):
    folder = tmp_path / "s"
    backend = EdgeBackend(folder, DIMS)
    backend.write_meta({"a": 1})
    for i in range(1, 10):
        backend.insert(points(i))
        backend.set_payload([str(uuid.UUID(int=i))], {"label": "x"})
    backend.close()
    (folder / SEAL).unlink()
    pages = list(folder.glob("vectors/segments/*/payload_index/*-kind-map/page_0.dat"))
    assert pages
    for page in pages:
        with page.open("r+b") as file:
            file.seek(4)  # of the first value
            file.write(b"\0")
    backend = EdgeBackend(folder, {})
    assert backend.count(Filter().with_equals(kind=REGION)) == 9
    backend.close()
