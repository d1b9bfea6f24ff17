"""Ray that is started here: what it leaves on the machine, and what in the process."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="ray is not installed: nothing runs on a cluster")

# A process may start it more than once.
PROGRAM = """
import os
import ray
from blemish.cluster.connection import connected
before = dict(os.environ)
for _ in range(2):
    with connected(None, n_cpus=1) as nodes:
        print(len(nodes), ray.get(ray.remote(os.getenv).remote("RAY_USAGE_STATS_ENABLED")))
print({name for name in set(os.environ) - set(before) if name.startswith("RAY_")})
"""


@pytest.mark.parametrize("is_kept", [False, True])
def test_ray_leaves_no_file_and_no_variable_behind(is_kept: bool):
    with tempfile.TemporaryDirectory(prefix="b", dir="/tmp") as folder:  # short, as paths of sockets have to be
        places = {name: Path(folder, name) for name in ("HOME", "TMPDIR", "RAY_TMPDIR")}
        for place in places.values():
            place.mkdir()
        given = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        given |= {name: str(place) for name, place in places.items() if is_kept or name != "RAY_TMPDIR"}
        given["PYTHONPATH"] = os.pathsep.join(sys.path)
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", PROGRAM], capture_output=True, text=True, env=given, check=False
        )
        assert (done.returncode, done.stdout) == (0, "1 0\n1 0\nset()\n"), done.stderr
        left = {name for name, place in places.items() if any(place.iterdir())}
        assert left == ({"RAY_TMPDIR"} if is_kept else set())
