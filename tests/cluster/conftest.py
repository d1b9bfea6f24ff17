"""A real Ray cluster of two nodes on this machine, one core each."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
NODE = {"num_cpus": 1, "memory": 2 << 30, "object_store_memory": 80 << 20}
# Beside other tests Ray waits long. Its own limits hold a node that does not answer for dead, and then end the test's
# process without a word.
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # 15 without it
    "RAY_health_check_timeout_ms": "60000",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "300",
}


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """A cluster of two nodes, started once for all tests of a file; the test's process is connected to it.

    Not for more: half a minute after a node was killed Ray says so on stderr, in the midst of another test.
    """
    os.environ.update(ENVIRONMENT)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    ray = pytest.importorskip("ray", reason="ray is not installed: nothing runs on a cluster")
    from ray.cluster_utils import Cluster

    cluster = Cluster()
    started(cluster, include_dashboard=False)
    started(cluster)
    cluster.wait_for_nodes()
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def started(cluster: Any, **changes: Any) -> Any:
    """Add a node; Ray gives up after 30 s, which a machine with much other work needs more than once."""
    for _ in range(3):
        with contextlib.suppress(Exception):
            return cluster.add_node(**{**NODE, **changes})
    return cluster.add_node(**{**NODE, **changes})
