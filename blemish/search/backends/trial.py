"""Trial opening of a store in a process of its own, with bounded memory and time.

The engine may end its process where files are damaged (abort), or ask for gigabytes. A store without a seal, as a kill
leaves it, is opened there first.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

from blemish.errors import StoreError, is_frozen, message
from blemish.search.backends.seal import DAMAGED

# Beyond what the store's files take when they are mapped: the engine, its threads, and the points of a block.
MORE_BYTES = 4 << 30
LIMIT_S, BYTES_PER_S = 60.0, 5 << 20
PROGRAM = """
import json, sys
paths, folder, n_bytes = json.loads(sys.argv[1]), sys.argv[2], int(sys.argv[3])
sys.path[:] = paths
try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (n_bytes, n_bytes))
except ImportError:
    pass
import qdrant_edge as engine
shard, offset = engine.EdgeShard.load(folder), None
while True:
    records, offset = shard.scroll(
        engine.ScrollRequest(offset=offset, limit=512, with_payload=True, with_vector=True)
    )
    if offset is None:
        break
shard.close()
"""


def try_opening(shard: Path, folder: Path) -> None:
    """Raise StoreError if the engine can't open its files and read all points.

    In an application that PyInstaller froze nothing is tried: there is no interpreter to start.

    Args:
        shard: the engine's folder.
        folder: of the store.
    """
    if is_frozen() or not sys.executable:
        return
    n_bytes = sum(path.stat().st_size for path in shard.rglob("*") if path.is_file())
    arguments = json.dumps(sys.path), str(shard), str(2 * n_bytes + MORE_BYTES)
    command = [sys.executable, "-I", "-c", PROGRAM, *arguments]
    try:
        done = subprocess.run(
            command, capture_output=True, check=False, timeout=LIMIT_S + n_bytes / BYTES_PER_S, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired as error:
        raise _refused(folder, f"no answer in {error.timeout:.0f} s") from None
    except OSError:  # no process can be started here
        return
    if done.returncode:
        raise _refused(folder, _reason(done.returncode, done.stderr))


def _reason(code: int, stderr: bytes) -> str:
    if code < 0:
        return f"the end of the process that tried it ({signal.Signals(-code).name})"
    lines = [line for line in stderr.decode(errors="replace").splitlines() if line.strip()]
    return repr(lines[-1].strip()[:300]) if lines else f"exit code {code}"


def _refused(folder: Path, got: str) -> StoreError:
    return StoreError(message("store", "to open", got, where=folder, todo=DAMAGED))
