"""Work that has a node to itself: measurements of time and memory that no other task disturbs."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING

from blemish.cluster.connection import check_nodes, connected
from blemish.cluster.tasks import run_tasks

if TYPE_CHECKING:
    from blemish.cluster.tasks import AnyJob, Outcome, TaskError


def run_alone(
    function: Callable[[AnyJob], Outcome], jobs: Sequence[AnyJob], files: Mapping[str, int], *, address: str | None
) -> Generator[tuple[AnyJob, Outcome | TaskError], None, None]:
    """Yield each job and its outcome as it ends; no other task runs on its node meanwhile.

    Only nodes with as many CPUs as the largest take part: times of different machines can't be compared.

    Args:
        function: of a module that the nodes have.
        files: path to size in bytes of files that each node must see.
        address: as of `fit_many`.

    Raises:
        ClusterError: if the cluster can't be joined, or a node has other versions or does not see a file.
        InputError: if Ray is not installed.
    """
    with connected(address) as nodes:
        check_nodes(nodes, files)
        n_cpus = max((node.n_cpus for node in nodes), default=1)
        with closing(run_tasks(function, jobs, n_cpus=n_cpus, n_bytes={})) as ended:
            yield from ended
