"""Tasks of Ray, one for each category: memory reserved on a node, started again after the death of process or node."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

from blemish.cluster.pool import last_line
from blemish.errors import message

# Deaths of its process or of its node that a task is started again after.
MAX_RETRIES = 2


class Job(Protocol):
    """What a task gets."""

    @property
    def category(self) -> str:
        """The category that it works on."""


AnyJob = TypeVar("AnyJob", bound=Job)
Outcome = TypeVar("Outcome")


class TaskError(NamedTuple):
    """Why a task returned nothing."""

    text: str


def run_tasks(
    function: Callable[[AnyJob], Outcome], jobs: Sequence[AnyJob], *, n_cpus: int, n_bytes: Mapping[str, int]
) -> Generator[tuple[AnyJob, Outcome | TaskError], None, None]:
    """Yield each job and its outcome as it ends; those that run are cancelled where the loop is left early.

    Args:
        n_cpus: of each task.
        n_bytes: category to the memory that its task is given; one that is not there asks for none.
    """
    import ray

    task = task_of(function)
    waiting: dict[Any, AnyJob] = {}
    try:
        for job in jobs:
            name = f"{function.__name__} {job.category}"
            options = task.options(num_cpus=n_cpus, memory=n_bytes.get(job.category, 0), name=name)
            waiting[options.remote(job)] = job
        while waiting:
            for reference in ray.wait(list(waiting), num_returns=1)[0]:
                yield waiting.pop(reference), outcome_of(reference)
    finally:
        for reference in waiting:
            ray.cancel(reference, force=True)


def task_of(function: Callable[..., Any]) -> Any:
    """Return the function as a task that is started again after the death of its process or node."""
    import ray

    return ray.remote(max_retries=MAX_RETRIES)(function)


def outcome_of(reference: Any) -> Any:
    """Return what a node returned, or the `TaskError` that says why it returned nothing."""
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.OutOfMemoryError:
        todo = "Use nodes with more memory, smaller images or fewer of them."
        return TaskError(message("memory", "enough for the task", "less, and Ray ended it", todo=todo))
    except ray.exceptions.RayTaskError as error:
        return TaskError(message("task", "a result", last_line(error), todo="This is a fault of Blemish: report it."))
    except ray.exceptions.RayError as error:
        got = f"a process or node that died {MAX_RETRIES + 1} times: {' '.join(str(error).split())[:200]}"
        return TaskError(message("task", "a result", got, todo="The logs of Ray on the node say more."))


def peak_bytes() -> int:
    """Return the highest memory that this process had so far; 0 where the system does not say."""
    if sys.platform == "win32":
        return 0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
