"""Tasks of Ray of one fit that is spread over nodes: CPUs and memory reserved, started again after a death."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from blemish.cluster.connection import check_versions, versions
from blemish.cluster.errors import ClusterError
from blemish.cluster.pool import last_line
from blemish.cluster.tasks import MAX_RETRIES
from blemish.errors import BlemishError, InputError, message

if TYPE_CHECKING:
    from blemish.types import Sample


class DiedError(ClusterError):
    """The process of a task died, each time that it was started."""


class Tasks(Protocol):
    """Runs functions elsewhere.

    Attributes:
        n_ahead: tasks that should wait or run while the result of an earlier one is used.
    """

    @property
    def n_ahead(self) -> int:
        """Tasks that should wait or run while the result of an earlier one is used."""

    def shared(self, value: object) -> Any:
        """Return a reference of a value that many tasks get."""

    def submit(self, function: Callable[..., Any], *args: Any, n_returns: int = 1) -> Any:
        """Start a task; return the reference of its result, or one for each of `n_returns`."""

    def result(self, reference: Any) -> Any:
        """Return the result of a task once it is there."""


class NodeTasks:
    """Runs functions on the nodes of a cluster; those that run are cancelled by `close`.

    Args:
        n_cpus: of each task.
        n_bytes: of each task, which its node reserves.
        n_ahead: tasks that the nodes have room for.
    """

    def __init__(self, n_cpus: int, n_bytes: int, n_ahead: int) -> None:
        import ray

        self._n_ahead = n_ahead
        self._task = ray.remote(num_cpus=n_cpus, memory=n_bytes, max_retries=MAX_RETRIES)(run_here)
        self._versions = versions()
        self._open: dict[Any, None] = {}

    @property
    def n_ahead(self) -> int:
        """Tasks that the nodes have room for, and one: no node waits for this machine."""
        return self._n_ahead + 1

    def shared(self, value: object) -> Any:
        """Return a reference of a value that many tasks get."""
        import ray

        return ray.put(value)

    def submit(self, function: Callable[..., Any], *args: Any, n_returns: int = 1) -> Any:
        """Start a task; return the reference of its result, or one for each of `n_returns`."""
        options = self._task.options(num_returns=n_returns, name=f"fit {function.__name__}")
        references = options.remote(self._versions, function, *args)
        self._open[references[-1] if n_returns > 1 else references] = None
        return references

    def result(self, reference: Any) -> Any:
        """Return the result of a task once it is there.

        Raises:
            DiedError: if its process or node died each time.
            BlemishError: that it raised.
            ClusterError: if it returned nothing for another reason.
        """
        import ray

        try:
            return ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, BlemishError):
                raise error.cause from error
            todo = "This is a fault of Blemish: report it."
            raise ClusterError(message("fit", "a result", last_line(error), todo=todo)) from error
        except ray.exceptions.OutOfMemoryError as error:
            todo = "Use nodes with more memory, or smaller images."
            raise ClusterError(message("memory", "enough for the fit", "less, and Ray ended it", todo=todo)) from error
        except ray.exceptions.RayError as error:
            got = f"a process or node that died {MAX_RETRIES + 1} times: {' '.join(str(error).split())[:200]}"
            todo = "The logs of Ray on the node say more."
            raise DiedError(message("fit", "a result", got, todo=todo)) from error
        finally:
            self._open.pop(reference, None)

    def close(self) -> None:
        """Cancel the tasks whose results were not used."""
        import ray

        for reference in self._open:
            ray.cancel(reference, force=True)
        self._open = {}


def run_here(expected: tuple[str, str], function: Callable[..., Any], *args: Any) -> Any:
    """Return the result of a function, on a node that may have joined late."""
    check_versions(expected)
    return function(*args)


def check_seen(samples: Sequence[Sample]) -> None:
    """Raise InputError if this node does not see an image: it must not count as broken."""
    unseen = [str(sample.path) for sample in samples if not sample.path.exists()]
    if unseen:
        got = f"{len(unseen)} of {len(samples)} that it does not see, the first: {unseen[0]}"
        todo = "Mount the same folder at the same path on each node."
        raise InputError(message("images", "to be seen by the node", got, where=socket.gethostname(), todo=todo))
