"""Work done ahead in threads: results in order, never more than a few waiting."""

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
    """Yield `function(item)` for each item, in order, while threads work on the next ones.

    Worth it where `function` leaves Python for most of its time, as decoding an image does. When the loop over it
    ends early (break, an error, Ctrl-C), what has not started is dropped and what runs is waited for.

    Args:
        function: called in a thread; what it raises is raised here, at its item's turn.
        items: taken one by one as there is room, never all at once.
        threads: how many calls run at a time; 0 calls in the caller's thread, one by one.
        ahead: results that may wait beyond the one asked for, at least 1: with `threads`, what bounds the memory.

    Raises:
        InputError: if `threads` or `ahead` is out of range, at once and not at the first item.

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
