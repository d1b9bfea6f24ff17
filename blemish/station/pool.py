"""Workers with a bounded queue: what does not fit is refused, what was accepted is done."""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from blemish.errors import message
from blemish.station.errors import BusyError

T = TypeVar("T")
# Added to the niceness of a thread that others go before, where threads have their own (Linux). No more, since a thread
# that hardly runs would hold the interpreter's lock for long.
NICENESS = 5
# Weight of the newest duration in the running mean.
NEWEST = 0.1


def lower_priority() -> None:
    """Let the workers go before the thread that calls this, where the system allows it."""
    with contextlib.suppress(AttributeError, OSError):
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + NICENESS)


class Pool:
    """A fixed number of threads that carry out jobs in the order in which they were accepted.

    Args:
        n_workers: jobs at once.
        capacity: jobs that may wait besides.
    """

    def __init__(self, n_workers: int, capacity: int) -> None:
        self.n_workers, self.capacity = n_workers, capacity
        self._executor = ThreadPoolExecutor(n_workers, thread_name_prefix="inspect")
        self._free = threading.Semaphore(n_workers + capacity)
        self._lock, self._n_pending, self._mean_s, self._is_closed = threading.Lock(), 0, 0.1, False

    @property
    def n_pending(self) -> int:
        """Jobs that were accepted and are not done."""
        return self._n_pending

    @property
    def retry_after_s(self) -> float:
        """Seconds after which half of the queue is probably done: whole, at least 1."""
        return float(math.ceil(max(1.0, self._mean_s * self.capacity / (2 * self.n_workers))))

    def submit(
        self, job: Callable[[], T], *, afterwards: Callable[[T], object] | None = None, wait_s: float = 0.0
    ) -> Future[T]:
        """Accept a job, and return its result to be.

        Args:
            afterwards: called with the result once it is there; it raises nothing.
            wait_s: how long to wait for a free place.

        Raises:
            BusyError: if there is none, or the pool was closed.
        """
        if not self._free.acquire(timeout=wait_s):
            todo = "Send it again later, or fewer at once."
            text = message("queue", f"at most {self.capacity} waiting images", "one more", todo=todo)
            raise BusyError(text, self.retry_after_s)
        result: Future[T] = Future()
        result.set_running_or_notify_cancel()  # what was accepted is done, also if nobody waits any more
        with self._lock:
            if self._is_closed:
                self._free.release()
                raise BusyError(message("station", "one that runs", "one that is stopping"), self.retry_after_s)
            self._n_pending += 1
            self._executor.submit(self._run, job, result, afterwards)
        return result

    def _run(self, job: Callable[[], T], result: Future[T], afterwards: Callable[[T], object] | None) -> None:
        start = time.perf_counter()
        try:
            value = job()
        except BaseException as error:  # whoever waits for the result raises it
            result.set_exception(error)
        else:
            result.set_result(value)
            if afterwards is not None:
                afterwards(value)
        finally:
            with self._lock:
                self._n_pending -= 1
                self._mean_s += NEWEST * (time.perf_counter() - start - self._mean_s)
            self._free.release()

    def close(self) -> None:
        """Accept nothing more, and wait until all that was accepted is done."""
        with self._lock:
            self._is_closed = True
        self._executor.shutdown(wait=True)
