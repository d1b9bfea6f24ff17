"""The fuzzers run: a moment of each target finds no fault."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from fuzz.run import mutated
from fuzz.targets import TARGETS

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="limits of a process are POSIX")
def test_a_moment_of_each_target() -> None:
    command = [sys.executable, "-m", "fuzz.run", "--seconds", "0.3"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=300)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert len(rows) == 13
    assert all(row["read"] + row["refused"] and not row["faults"] for row in rows)
    assert sum(row["refused"] for row in rows) > len(rows)


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_mutation_starts_from_files_that_are_read(name: str) -> None:
    files = TARGETS[name].corpus()
    assert files
    for data in files:
        TARGETS[name].read(data)


def test_the_same_seed_gives_the_same_files() -> None:
    corpus = [b"abcdefgh" * 9, b"0123456789"]
    first, second = ([mutated(corpus, random.Random(seed)) for seed in range(20)] for _ in range(2))
    assert first == second
    assert len(set(first)) > 10
