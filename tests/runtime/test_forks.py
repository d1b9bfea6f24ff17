"""Sessions in forked processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import gc, os, sys
from blemish import load
detector = load(sys.argv[1], threads=int(sys.argv[2]))
score = detector.predict(sys.argv[3]).score
child = os.fork()
if child == 0:
    same = detector.predict(sys.argv[3]).score == score
    del detector
    gc.collect()
    os._exit(0 if same else 1)
print(os.waitpid(child, 0)[1])
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize("threads", [1, 2, 4])
def test_a_detector_predicts_and_is_freed_in_a_fork(saved: Path, good_paths: list[Path], threads: int):
    """Freeing a session waits for its threads, which a fork does not have: it hung, or crashed."""
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, str(saved), str(threads), str(good_paths[0])]
    ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=60, check=True)
    assert ran.stdout == "0\n"
