"""The Dockerfile and the systemd unit: what they call exists, and what they lock down stays locked."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from blemish.cli import app

DEPLOY = Path(__file__).parent.parent / "deploy"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
UNIT = (DEPLOY / "blemish-station.service").read_text(encoding="utf-8")


def instructions(name: str) -> list[str]:
    """The arguments of each instruction of a name in the last stage."""
    stage = DOCKERFILE.rpartition("\nFROM ")[2].replace("\\\n", " ")
    return re.findall(rf"^{name} +(.*)$", stage, re.MULTILINE)


def test_their_options_are_those_of_the_command():
    shown = CliRunner().invoke(app, ["station", "--help"], env={"COLUMNS": "200"}).output
    command = json.loads(instructions("ENTRYPOINT")[0])
    assert command[:2] == ["/opt/blemish/bin/blemish", "station"]
    for text in (DOCKERFILE, UNIT):
        used = re.findall(r"(?<= )--(?:host|records|add-user|role|watch)\b", text)
        assert used
        assert all(option in shown for option in used)


def test_the_container_is_not_root_and_stops_by_sigterm():
    assert instructions("USER") == ["10001:10001"]
    assert instructions("STOPSIGNAL") == ["SIGTERM"]
    assert instructions("VOLUME") == ["/data"]
    assert "--read-only" in DOCKERFILE
    assert not re.search(r"^(ADD|MAINTAINER) |:latest", DOCKERFILE, re.MULTILINE)
    check = json.loads(instructions("HEALTHCHECK")[0].partition("CMD ")[2])
    compile(check[-1], "healthcheck", "exec")


def test_the_unit_is_locked_down():
    for line in (
        "DynamicUser=yes",
        "ProtectSystem=strict",
        "NoNewPrivileges=yes",
        "CapabilityBoundingSet=",
        "PrivateTmp=yes",
    ):
        assert f"\n{line}\n" in UNIT
    timeout = int(re.findall(r"^TimeoutStopSec=(\d+)$", UNIT, re.MULTILINE)[0])
    server = (DEPLOY.parent / "blemish" / "station" / "web" / "server.py").read_text(encoding="utf-8")
    assert timeout > int(re.findall(r"^GRACE_S = (\d+)$", server, re.MULTILINE)[0])


@pytest.mark.slow
def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed: the unit is not verified")
    program = tmp_path / "blemish"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    unit = tmp_path / "blemish-station.service"
    unit.write_text(UNIT.replace("/opt/blemish/bin/blemish", str(program)))
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
