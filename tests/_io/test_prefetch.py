"""Results in order, few ahead, nothing left running."""

from __future__ import annotations

import threading

import pytest

from blemish._io.prefetch import prefetch
from blemish.errors import InputError


@pytest.mark.parametrize("threads", [0, 1, 3])
@pytest.mark.parametrize("ahead", [1, 5])
def test_results_come_in_the_order_of_the_items(threads, ahead):
    assert list(prefetch(lambda n: n * n, range(20), threads=threads, ahead=ahead)) == [n * n for n in range(20)]
    assert list(prefetch(str, [], threads=threads, ahead=ahead)) == []


def test_order_holds_when_the_first_is_the_slowest():
    others_done = threading.Event()

    def work(n):
        if n == 0:
            assert others_done.wait(10)
        if n == 2:
            others_done.set()
        return n

    assert list(prefetch(work, range(5), threads=2, ahead=4)) == list(range(5))


def test_items_are_taken_only_as_there_is_room():
    taken = []

    def items():
        for n in range(100):
            taken.append(n)
            yield n

    results = prefetch(str, items(), threads=2, ahead=3)
    assert taken == []
    assert next(results) == "0"
    assert len(taken) == 4
    assert next(results) == "1"
    assert len(taken) == 5
    results.close()
    assert len(taken) == 5


def test_an_error_comes_at_its_items_turn_and_ends_the_threads():
    before = threading.active_count()

    def work(n):
        if n == 3:
            raise ValueError("three")
        return n

    results = prefetch(work, range(100), threads=2, ahead=2)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match=r"^three$"):
        next(results)
    assert threading.active_count() == before


@pytest.mark.slow
def test_ending_the_loop_early_drops_what_has_not_started():
    before = threading.active_count()
    started = []
    release = threading.Event()

    def work(n):
        started.append(n)
        assert n == 0 or release.wait(10)

    results = prefetch(work, range(1000), threads=1, ahead=10)
    next(results)
    timer = threading.Timer(0.2, release.set)  # while close() waits for the one that runs
    timer.start()
    results.close()
    timer.join()
    assert started in ([0], [0, 1])
    assert threading.active_count() == before


def test_an_interrupt_in_the_loop_ends_the_threads():
    before = threading.active_count()

    def interrupted():
        yield 1
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(prefetch(str, interrupted(), threads=2, ahead=1))
    assert threading.active_count() == before


@pytest.mark.parametrize("arguments", [{"threads": -1}, {"ahead": 0}])
def test_settings_out_of_range_are_refused_at_once(arguments):
    with pytest.raises(InputError, match=r"^(threads|ahead): expected a number from"):
        prefetch(str, [], **arguments)
