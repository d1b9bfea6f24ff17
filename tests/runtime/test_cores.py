"""Cores that a process may use, by affinity and by the quotas of control groups."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from blemish.runtime import cores
from blemish.runtime.cores import cpu_quota, usable_cores

V2 = "0::/kubepods/pod1/a\n"
V1 = "4:memory:/docker/a\n3:cpu,cpuacct:/docker/a\n1:name=systemd:/docker/a\n"


def root(folder: Path, groups: str, **files: str) -> Path:
    """A file system's root with the control groups of this process and the files of the groups, by name."""
    written = {"proc/self/cgroup": groups} | {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    for name, text in written.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize(
    ("groups", "files", "quota"),
    [
        (V2, {"kubepods/pod1/a/cpu.max": "150000 100000\n"}, 1.5),
        (V2, {"kubepods/pod1/a/cpu.max": "max 100000\n"}, None),
        (V2, {"kubepods/pod1/a/cpu.max": "400000 100000\n", "kubepods/pod1/cpu.max": "200000 100000\n"}, 2.0),
        (V2, {"cpu.max": "300000 100000\n"}, 3.0),  # the container's own group is its root
        (V2, {"unified/kubepods/pod1/a/cpu.max": "50000 100000"}, 0.5),
        (
            V1,
            {"cpu,cpuacct/docker/a/cpu.cfs_quota_us": "250000", "cpu,cpuacct/docker/a/cpu.cfs_period_us": "100000"},
            2.5,
        ),
        (V1, {"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "50000\n"}, 2.0),
        (V1, {"cpu/docker/a/cpu.cfs_quota_us": "-1\n", "cpu/docker/a/cpu.cfs_period_us": "100000\n"}, None),
        (V2 + V1, {"cpu.max": "900000 100000", "cpu/cpu.cfs_quota_us": "8", "cpu/cpu.cfs_period_us": "2"}, 4.0),
        (V1, {"memory/docker/a/cpu.max": "100000 100000"}, None),  # of another controller
        ("", {}, None),
        ("\n0\n0:\n:::\nxyz\n", {"cpu.max": "1 0"}, None),
        (V2, {"cpu.max": "many 100000", "kubepods/cpu.max": "\0"}, None),
        ("0::/../../..\n", {"cpu.max": "200000 100000"}, 2.0),
    ],
)
def test_the_least_quota_of_the_groups_around_a_process_holds(
    groups: str, files: dict[str, str], quota: float | None, tmp_path: Path
):
    assert cpu_quota(root(tmp_path, groups, **files)) == quota


def test_a_system_without_control_groups_has_no_quota(tmp_path: Path):
    assert cpu_quota(tmp_path) is None


@pytest.mark.parametrize(
    ("quota", "n"), [("150000 100000", 2), ("10000 100000", 1), ("max 100000", 8), ("9900000 100000", 8)]
)
def test_quotas_are_rounded_and_at_least_one(quota: str, n: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(cores, "ROOT", root(tmp_path, V2, **{"cpu.max": quota}))
    assert usable_cores() == n


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_a_process_on_one_core_uses_one_thread():
    program = (
        "import os\n"
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from blemish import Patchcore\n"
        "from blemish.station import StationSettings\n"
        "settings = StationSettings()\n"
        "print(Patchcore().settings.n_threads, settings.workers, settings.threads_of_worker)\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=True)
    assert ran.stdout == "1 1 1\n"
