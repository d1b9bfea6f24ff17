"""Prefetching in threads: results in order, with a bounded number ahead."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from blemish._validation.checks import check_number

Item = TypeVar("Item")
Result = TypeVar("Result")


def prefetch(
    function: Callable[[Item], Result], items: Iterable[Item], *, threads: int = 2, ahead: int = 4
) -> Iterator[Result]:
    """Yield `function(item)` for each item, in order, while threads compute the next ones.

    Useful where `function` releases Python's lock for most of its time, as decoding by OpenCV does. When the loop ends
    early (break, an error, Ctrl-C), calls that have not started are cancelled and running ones are waited for.

    Args:
        threads: calls at a time; 0 calls in the caller's thread.
        ahead: results computed beyond the present one, at least 1; bounds the memory together with `threads`.

    >>> list(prefetch(str.upper, ["a", "b", "c"]))
    ['A', 'B', 'C']
    """
    check_number("threads", threads, low=0, high=256)
    check_number("ahead", ahead, low=1, high=10_000)
    return map(function, items) if threads == 0 else _in_threads(function, items, threads, ahead)


def _in_threads(
    function: Callable[[Item], Result], items: Iterable[Item], threads: int, ahead: int
) -> Iterator[Result]:
    pool = ThreadPoolExecutor(threads, thread_name_prefix="blemish-ahead")
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
