"""Fill a small disk by a store and by another file at once; what is said and what is left is printed as JSON.

unshare -m sh -c 'mount -t tmpfs -o size=120m tmpfs DISK && python -m tests.full_disk DISK'
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import numpy as np

from blemish.errors import BlemishError
from blemish.search.backends.edge import EdgeBackend
from blemish.search.backends.interface import REGION, Filter, Point
from blemish.search.encoder import DIMS

BATCH = 100


def points(first: int) -> list[Point]:
    rng = np.random.default_rng(first)
    payload = {"kind": REGION, "path": "x" * 200, "contour": "10,20 " * 100}
    return [
        Point(
            str(uuid.UUID(int=i + 1)), {REGION: rng.standard_normal(DIMS[REGION], "f4")}, {**payload, "sha256": str(i)}
        )
        for i in range(first, first + BATCH)
    ]


def fill(path: Path, stop: threading.Event) -> None:
    with path.open("wb") as file, contextlib.suppress(OSError):
        while not stop.is_set():
            file.write(bytes(1 << 18))
            file.flush()
            time.sleep(0.001)


def error_of(act: Callable[[], object]) -> str:
    try:
        act()
    except BlemishError as error:
        return f"{type(error).__name__}: {error}"
    return ""


def main(disk: Path) -> None:
    store, stop = EdgeBackend(disk / "s", DIMS), threading.Event()
    filler = threading.Thread(target=fill, args=(disk / "filler", stop))
    filler.start()
    n, said = 0, ""
    while not said:
        said = error_of(lambda: store.insert(points(n)))
        n += 0 if said else BATCH
    filler.join()  # now nothing is left
    label = error_of(lambda: store.set_payload([str(uuid.UUID(int=1))], {"label": "x"}))
    optimised, counted = error_of(store.optimise), store.count(Filter())
    store.close()
    reopened = error_of(lambda: EdgeBackend(disk / "s", {}))
    copy = EdgeBackend(disk / "s", {}, read_only=True)
    left = {point.id for point in copy.scan(Filter())}
    copy.close()
    (disk / "filler").unlink()
    after = EdgeBackend(disk / "s", {})
    after.insert(points(n))
    result = {"acknowledged": n, "insert": said, "label": label, "optimise": optimised, "counted": counted}
    result |= {"reopened": reopened, "left": len(left), "at the end": after.count(Filter())}
    after.close()
    print(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
