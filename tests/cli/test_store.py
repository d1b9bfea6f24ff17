"""The commands store check, store snapshot and store restore."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import pytest

from blemish import DefectStore
from blemish.search.backends.edge import EdgeBackend
from blemish.search.backends.interface import Examination
from blemish.search.backends.ledger import LEDGER, Ledger
from blemish.search.backends.seal import SEAL
from tests.images import scratched


@pytest.fixture
def store(tmp_path: Path, encoder) -> Path:
    with DefectStore(tmp_path / "s", model=encoder) as opened:
        opened.add(scratched(99)[0], label="scratch")
    return tmp_path / "s"


@pytest.mark.slow
def test_a_whole_store_is_checked_saved_and_restored(run, store: Path, tmp_path: Path):
    code, out, _ = run("store", "check", store, "--json")
    found = json.loads(out)
    assert (code, found["lost"], found["changed"], found["whole"]) == (0, [], [], True)
    n_points = found["regions"] + found["images"]
    code, out, _ = run("store", "check", store, "--read-only")
    assert (code, f"{found['regions']} regions and 1 images, none lost" in out) == (0, True)
    code, out, _ = run("store", "snapshot", store, tmp_path / "x", "--json")
    assert (code, json.loads(out)) == (0, {"saved": n_points, "file": str(tmp_path / "x")})
    code, out, _ = run("store", "restore", tmp_path / "x", tmp_path / "t")
    assert (code, f"{n_points} regions and images restored in" in out) == (0, True)
    assert run("store", "check", tmp_path / "t")[0] == 0
    code, _, err = run("store", "restore", tmp_path / "x", store)
    assert (code, "expected a new one, got one that is there" in err) == (2, True)


@pytest.mark.slow
def test_a_damaged_store_is_named_and_the_rest_saved(run, store: Path, tmp_path: Path):
    ledger, lost = Ledger(store / LEDGER), str(uuid.uuid4())
    ledger.stored({lost: "0" * 32})
    for _ in range(2):  # damaged after it was closed; and, without its seal, while it was open
        code, out, err = run("store", "check", store)
        assert (code, out, "store restore" in err) == (2, "", True)
        (store / SEAL).unlink(missing_ok=True)
    code, out, _ = run("store", "snapshot", store, tmp_path / "x", "--damaged")
    assert (code, f"1 lost and 0 changed, such as {lost}" in out) == (0, True)
    assert run("store", "restore", tmp_path / "x", tmp_path / "t")[0] == 0
    assert run("store", "check", tmp_path / "t")[0] == 0


@pytest.mark.slow
def test_what_is_found_by_reading_all_is_an_error(run, store: Path, monkeypatch: pytest.MonkeyPatch):
    found = Examination(2, ("a",), ("b",))
    monkeypatch.setattr(EdgeBackend, "check", lambda _: found)
    code, out, err = run("store", "check", store, "--json")
    assert (code, json.loads(out)["whole"]) == (2, False)
    assert "expected all that it acknowledged, got 1 lost and 1 changed, such as a, b" in err


def test_a_password_in_an_address_is_not_printed(run, saved: Path, tmp_path: Path):
    place = "HTTP://ann:s3cret@localhost:1"
    for arguments in (("store", "check", place), ("store", "restore", tmp_path, place), ("groups", "--store", place)):
        code, out, err = run(*arguments)
        assert (code, "s3cret" in out + err) == (2, False)
    code, _, err = run("store", "snapshot", "http://localhost:1", tmp_path / "x", "--damaged")
    assert (code, "--damaged: expected the folder of a store" in err) == (2, True)
