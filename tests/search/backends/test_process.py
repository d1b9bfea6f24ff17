"""A store in a forked process: an error and no wait, and the parent keeps what is its own."""

from __future__ import annotations

import os
import pickle
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from blemish import DefectStore, StoreError
from tests.images import scratched
from tests.stores import filled

if TYPE_CHECKING:
    from blemish.search import RegionEncoder
    from tests.stores import Opener

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system"),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]
LIMIT_S = 20


def in_child(act: Callable[[], object]) -> str:
    """What a forked child says of an action: its result or its error; "killed" where it does not end."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            answer = repr(act())
        except BaseException as error:
            answer = f"{type(error).__name__}: {error}"
        os.write(writing, answer.encode())
        os._exit(0)
    os.close(writing)
    ready, _, _ = select.select([reading], [], [], LIMIT_S)
    answer = os.read(reading, 10_000).decode() if ready else "killed"
    if not ready:
        os.kill(child, signal.SIGKILL)
    os.close(reading)
    os.waitpid(child, 0)
    return answer


@pytest.mark.slow
def test_each_use_in_a_fork_is_an_error(opened: Opener):
    store = opened()
    filled(store, 1)
    stored = next(iter(store.defects()))
    image = scratched(3)[0]
    uses: list[Callable[[], object]] = [
        store.count, lambda: list(store.defects()), lambda: store.get([stored.id]), lambda: store.add(image),
        lambda: store.similar(image), lambda: store.similar(stored), lambda: store.suggest(image), store.groups,
        lambda: store.duplicates(stored), lambda: store.label([stored.id], "x"), lambda: store.remove(stored.sha256),
        store.optimise, store.reindex,
    ]  # fmt: skip
    for number, use in enumerate(uses):
        answer = in_child(use)
        assert answer.startswith(f"StoreError: store: expected use in process {os.getpid()}, which opened it"), number
        assert "Close it before the fork, and open it in the child" in answer
    assert in_child(store.close) == "None"
    assert store.count() == 2  # the parent's is as it was
    store.add(image)


@pytest.mark.slow
def test_a_lock_that_another_thread_held_is_not_waited_for(opened: Opener):
    store = opened()
    store._lock.acquire()
    try:
        answers: list[str] = []
        thread = threading.Thread(target=lambda: answers.append(in_child(lambda: store.add(scratched(1)[0]))))
        thread.start()
        thread.join()
    finally:
        store._lock.release()
    assert answers[0].startswith("StoreError: store: expected use in process")


FORK = """
import gc, os, sys, time
from blemish import DefectStore
store = DefectStore(sys.argv[1])
n = store.count()
child = os.fork()
if child == 0:
    if sys.argv[2] == "free":
        del store
        gc.collect()
        os._exit(0)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    time.sleep(30)
    os._exit(0)
if sys.argv[2] == "free":
    print("child", os.waitpid(child, 0)[1], flush=True)
elif sys.argv[2] == "reopen":
    store.close()
    with DefectStore(sys.argv[1]) as again:
        print("same", again.count() == n, flush=True)
    os.kill(child, 9)
else:
    print(child, flush=True)
    os._exit(0)  # as if it were killed, while its child lives
"""


@pytest.mark.slow
@pytest.mark.parametrize(("how", "said"), [("free", "child 0\n"), ("reopen", "same True\n"), ("die", None)])
def test_a_child_that_lives_on_does_not_hold_the_store(
    encoder: RegionEncoder, tmp_path: Path, how: str, said: str | None
):
    folder = tmp_path / "s"
    with DefectStore(folder, model=encoder) as store:
        filled(store, 1)
    command = [sys.executable, "-W", "ignore", "-c", FORK, str(folder), how]
    ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=60, check=True)
    assert said is None or ran.stdout == said
    with DefectStore(folder) as again:
        assert again.count() == 2
    if said is None:
        os.kill(int(ran.stdout), 9)


@pytest.mark.slow
def test_a_store_cannot_be_sent_to_another_process(opened: Opener):
    with pytest.raises(StoreError, match=r"got a pickle for another, in .* Open it in the process that uses it"):
        pickle.dumps(opened())
