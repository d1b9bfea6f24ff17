"""Freed memory that is kept: page faults, results, errors, and where it does nothing."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import pytest

from blemish.runtime import memory
from blemish.runtime.memory import VARIABLES, kept_memory

# Pages that a process gets from the system for twenty rounds of work as of a prediction of a large image.
PAGES = """
import resource
import numpy as np
from blemish.runtime import memory

def work():
    blocks = [np.ones(3 << 20, np.uint8) for _ in range(6)]
    return sum(int(block[0]) for block in blocks)

{before}
work()
start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - start)
"""


@pytest.fixture
def _fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    memory._glibc.cache_clear()
    yield
    memory._glibc.cache_clear()


def pages(before: str) -> int:
    done = subprocess.run([sys.executable, "-c", PAGES.format(before=before)], capture_output=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
@pytest.mark.usefixtures("_fresh")
def test_memory_that_was_freed_is_used_again():
    assert pages("memory.keep_some_memory()") < 1000
    assert pages("") > 10_000


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
@pytest.mark.usefixtures("_fresh")
def test_somebodys_own_tuning_stays(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")
    assert pages("memory.keep_some_memory()") > 10_000


@pytest.mark.usefixtures("_fresh")
def test_a_model_that_is_loaded_inside_takes_nothing_from_what_is_kept(monkeypatch: pytest.MonkeyPatch):
    class Library:
        calls: ClassVar[list[tuple[int, int]]] = []

        def mallopt(self, parameter: int, value: int) -> None:
            self.calls.append((parameter, value))

        def malloc_trim(self, _: int) -> None:
            pass

    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setattr("ctypes.CDLL", lambda name: Library())
    with kept_memory():
        before = len(Library.calls)
        memory.keep_some_memory()
        assert len(Library.calls) == before
    assert Library.calls[-1] == (memory.M_TRIM_THRESHOLD, memory.KEPT)


@pytest.mark.slow
def test_kept_memory_changes_no_result():
    with kept_memory():
        inside = np.ones(10_000_000).sum()
    assert inside == np.ones(10_000_000).sum()


def test_kept_memory_lets_errors_through():
    with pytest.raises(ZeroDivisionError), kept_memory():
        _ = 1 / 0


@pytest.mark.usefixtures("_fresh")
def test_nothing_is_done_without_glibc(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr("ctypes.CDLL", lambda name: pytest.fail("it was asked for"))
    memory.keep_some_memory()
    with kept_memory():
        pass
