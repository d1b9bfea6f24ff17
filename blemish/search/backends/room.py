"""Room on the disk, checked before the engine writes.

The engine writes through memory maps of sparse files: on a full disk the system kills the process (SIGBUS), and no
error can be raised then.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from blemish._io.files import save_error
from blemish.errors import StoreError, message

# Free space that no write of a store uses: more than others fill between the check and the end of a write, and than the
# engine needs for its log and the blocks that it touches in 80 files.
LEAST_FREE = 64 << 20
# A region takes 4 kB in the engine's files (benchmarks/store_scale.py), and as much in its log.
POINT_BYTES = 32 << 10
MIB = 1 << 20


def check_room(folder: Path, *, n_points: int = 0, n_bytes: int = 0) -> None:
    """Raise StoreError unless the disk of a folder has room for points and bytes, and 64 MiB beside them."""
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise save_error("store", folder, error) from error
    needed = LEAST_FREE + n_points * POINT_BYTES + n_bytes
    if free < needed:
        todo = (
            "Nothing was written, and what was acknowledged is there. Free some space and run this again; to ask only, "
            "open a copy on another disk: read_only=True (--read-only), with TMPDIR there."
        )
        expected, got = f"{needed // MIB} MiB free on its disk", f"{free // MIB} MiB"
        raise StoreError(message("store", expected, got, where=folder, todo=todo))


def size_on_disk(folder: Path) -> int:
    """Return the bytes that a folder takes on the disk, without holes in its files."""
    infos = (path.stat() for path in folder.rglob("*"))
    return sum(512 * info.st_blocks if hasattr(info, "st_blocks") else info.st_size for info in infos)
