"""Work that has a node to itself, on real nodes."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from blemish.cli.anomalib import _measured_on
from blemish.cluster.errors import ClusterError
from blemish.cluster.exclusive import run_alone
from blemish.interop.anomalib.compare import CategoryJob, Settings
from tests.cluster.conftest import started

pytestmark = pytest.mark.slow


class Job(NamedTuple):
    category: str


class Ran(NamedTuple):
    node: str
    start: float
    end: float


def ran(job: Job) -> Ran:
    import ray

    start = time.time()
    time.sleep(0.2)
    return Ran(ray.get_runtime_context().get_node_id(), start, time.time())


def test_only_the_largest_nodes_work_and_each_on_one_job_at_once(nodes: Any):
    larger = started(nodes, num_cpus=2)
    try:
        nodes.wait_for_nodes()
        done = dict(run_alone(ran, [Job(name) for name in "abcd"], {__file__: -1}, address=None))
    finally:
        nodes.remove_node(larger)
    assert sorted(job.category for job in done) == list("abcd")
    assert {each.node for each in done.values()} == {larger.node_id}
    in_order = sorted(done.values(), key=lambda each: each.start)
    assert all(before.end <= after.start for before, after in pairwise(in_order))


def test_files_that_a_node_does_not_see_are_named(nodes: Any, tmp_path: Path):
    with pytest.raises(ClusterError, match="gone"):
        list(run_alone(ran, [Job("a")], {str(tmp_path / "gone"): -1}, address=None))


def test_a_comparison_on_nodes_without_that_anomalib_says_so(nodes: Any, tmp_path: Path):
    (tmp_path / "grid").mkdir()
    jobs = [CategoryJob("grid", str(tmp_path), Settings(), "0.0.1")]
    ((job, measured),) = _measured_on("auto", jobs)
    assert job == jobs[0]
    assert "anomalib: expected" in measured.error
