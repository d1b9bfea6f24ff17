"""The command `station` as a process: starts, answers, stops, and says what is in the way."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.images import good, write

if TYPE_CHECKING:
    from collections.abc import Callable

pytest.importorskip("fastapi", reason="blemish[station] is not installed")
PASSWORD = "correct horse battery"


@pytest.mark.slow
def test_a_station_answers_and_finishes_when_it_is_told_to_stop(saved: Path, tmp_path: Path):
    command = [sys.executable, "-m", "blemish", "station", f"stripes={saved}", "--records", str(tmp_path / "records")]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen([*command, "--port", "0"], stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("The station is at http://127.0.0.1:")
        with httpx.Client(base_url=line.split()[-1], timeout=60) as client:
            assert client.get("/readyz").json()["ready"]
            data = write(tmp_path / "part.png", good(1)).read_bytes()
            number = client.post("/v1/models/stripes:predict", files={"image": ("part.png", data)}).json()["number"]
            assert number == 1
            with client.stream("GET", "/v1/events") as stream:
                assert next(stream.iter_lines()).startswith("retry")
                process.send_signal(signal.SIGTERM)
                assert process.wait(timeout=20) == 0


@pytest.mark.slow
def test_wrong_use_is_said_in_one_line(saved: Path, run: Callable[..., Any], tmp_path: Path):
    records = tmp_path / "records"
    code, _, err = run("station", saved, "--records", records, "--host", "0.0.0.0")
    assert (code, err.count("\n")) == (2, 1)
    assert "host: expected this machine alone while there are no users" in err
    code, _, err = run("station", tmp_path / "none", "--records", records)
    assert (code, str(tmp_path / "none") in err) == (2, True)
    code, _, err = run("station", f"a={saved}", f"a={saved}", "--records", records)
    assert (code, "a comes twice" in err) == (2, True)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, _, err = run("station", saved, "--records", records, "--port", taken.getsockname()[1])
    assert (code, "address: expected one that can be listened to" in err) == (2, True)


def test_it_says_which_extra_is_missing(run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("blemish.cli.station.find_spec", lambda name: None if name == "uvicorn" else object())
    code, _, err = run("station")
    assert code == 2
    assert err == "error: station: expected its packages, got no uvicorn. Run `pip install 'blemish[station]'`.\n"


@pytest.mark.slow
def test_users_are_added_on_the_command_line(run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    records = tmp_path / "records"
    code, _, err = run("station", "--records", records, "--add-user", "eva")
    assert (code, "password: expected a terminal to ask for it" in err) == (2, True)
    monkeypatch.setenv("BLEMISH_PASSWORD", PASSWORD)
    assert run("station", "--records", records, "--add-user", "eva", "--role", "admin")[1] == "eva is admin.\n"
    code, out, _ = run("station", "--records", records, "--token", "eva")
    assert (code, len(out.strip())) == (0, 43)
    assert run("station", "--records", records, "--remove-user", "eva")[1] == "eva is removed.\n"
    assert run("station", "--records", records, "--token", "eva")[0] == 2


@pytest.mark.slow
def test_inspections_are_exported_on_the_command_line(saved: Path, run: Callable[..., Any], tmp_path: Path):
    from blemish.station import InspectionService

    records = tmp_path / "records"
    with InspectionService(records, {"stripes": saved}) as station:
        station.records.review(station.inspect(good(1)).id, "good", who="eva")
        gone = station.inspect(good(2))
        station.files.remove(gone.id, gone.format)
    code, out, _ = run("station", "--records", records, "--export", tmp_path / "folders")
    assert (code, out) == (0, f"1 inspections are in {tmp_path / 'folders'}.\n")
    assert list((tmp_path / "folders" / "stripes" / "test" / "good").glob("*.png"))
    code, _, err = run("station", "--records", records, "--export", tmp_path / "coco", "--format", "coco")
    assert (code, err) == (3, f"{gone.id}: its image is gone.\n")
    assert run("station", "--records", records, "--export", tmp_path / "table", "--format", "csv")[0] == 0
    assert (tmp_path / "table" / "inspections.csv").read_text().count("\n") == 3
    code, _, err = run("station", "--records", records, "--export", tmp_path / "x", "--format", "xml")
    assert (code, "none of folders, coco, csv" in err) == (2, True)


@pytest.mark.slow
def test_the_command_line_loads_no_web_framework():
    code = "import sys, blemish.cli; print([name for name in ('fastapi', 'uvicorn', 'argon2') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
