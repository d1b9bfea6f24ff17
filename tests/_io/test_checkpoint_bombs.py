"""Checkpoints of a few megabytes can take neither gigabytes nor minutes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from blemish._io.torch_file import read_checkpoint
from blemish.backbones.keras_resnet import read_tfjs
from blemish.errors import ModelFileError
from tests import checkpoint_bombs as bombs

# Each took more than 2 GB or 10 s before; a test of it takes a second because it is long to make.
QUICK = ("torch.Size", "set", "numbers of one hash", "tuples as keys", "a number of a megabyte")
LIMIT_BYTES = 1_500_000_000
# Each bomb has a process of its own, forked from one that has imported everything.
CODE = f"""
import os, resource, sys
import blemish._io.torch_file, blemish.backbones.keras_resnet
from tests import checkpoint_bombs as bombs
from blemish.errors import ModelFileError

def read(kind, name):
    data = getattr(bombs, kind)[name]()
    reader = blemish.backbones.keras_resnet.read_tfjs if kind == "TARS" else blemish._io.torch_file.read_checkpoint
    resource.setrlimit(resource.RLIMIT_AS, ({LIMIT_BYTES} + len(data), {LIMIT_BYTES} + len(data)))
    used = resource.getrusage(resource.RUSAGE_SELF)
    resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime) + 15, int(used.ru_utime) + 15))
    for wrap in (bombs.zipped, bombs.legacy) if kind == "PICKLES" else (bytes,):
        try:
            reader(wrap(data), where="bomb")
        except ModelFileError as error:
            assert "fits into memory" not in str(error), error
            print(name + ": " + str(error), flush=True)

for name in getattr(bombs, sys.argv[1]):
    child = os.fork()
    if child == 0:
        read(sys.argv[1], name)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status == 0, (name, status)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
@pytest.mark.parametrize("wrap", [bombs.zipped, bombs.legacy], ids=["zip", "legacy"])
def test_copies_and_collisions_are_counted(name: str, wrap) -> None:
    text = r"got (one of more than 512 MiB of objects|one of many keys that are no text|a number of \d+ bytes)"
    with pytest.raises(ModelFileError, match=text):
        read_checkpoint(wrap(bombs.PICKLES[name]()), where="bomb")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="limits of a process are POSIX")
@pytest.mark.parametrize("kind", ["PICKLES", "TARS", "OTHERS"])
def test_bombs_in_a_small_process(kind: str) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", CODE, kind], env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    named = [line.partition(":")[0] for line in done.stdout.splitlines() if "expected" in line]
    n_each = 2 if kind == "PICKLES" else 1
    assert named == [name for name in getattr(bombs, kind) for _ in range(n_each)], done.stdout


def test_lists_that_share_lists_are_read_once() -> None:
    pickled = b"\x80\x02}X\x01\x00\x00\x00a" + bombs.shared(180) + b"s."
    tree = read_checkpoint(bombs.zipped(pickled), where="shared")
    assert len(tree["a"]) == 2


@pytest.mark.parametrize("name", ["pax", "long name"])
def test_large_headers_of_tarballs_are_not_read(name: str) -> None:
    small = bombs.tarball(bombs.member("x", b"a" * 70_000, {"pax": b"x", "long name": b"L"}[name]))
    with pytest.raises(
        ModelFileError, match="expected at most 5000 headers of at most 65536 bytes, got number 1 of 70"
    ):
        read_tfjs(small, where="bomb")


def test_a_file_of_weights_is_used_once() -> None:
    weights = [{"name": "a", "shape": [1], "dtype": "float32"}]
    once = bombs.tfjs([{"paths": ["a"], "weights": weights}], {"a": bytes(4)})
    np.testing.assert_array_equal(read_tfjs(once, where="w")["a"], [0])
    for manifest in ([{"paths": ["a", "a"], "weights": weights * 2}], [{"paths": ["a"], "weights": weights}] * 2):
        with pytest.raises(ModelFileError, match="expected each file of weights once, got one named again"):
            read_tfjs(bombs.tfjs(manifest, {"a": bytes(4)}), where="w")
