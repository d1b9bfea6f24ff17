"""Time the decoding of a PNG by kornia-rs and OpenCV, in the main thread and in worker threads, in the same run.

    python benchmarks/decode.py --size 1024 --repeats 40

The image is drawn: two waves and noise of standard deviation 6, so that it compresses like a photograph. "pause" is the
longest time that a Python loop in another thread had to wait for the interpreter lock while a worker decoded: kornia-rs
holds the lock, OpenCV does not. Threads that decode ahead of a loop therefore use OpenCV (`release_gil=True`), and all
other callers kornia-rs.
"""

from __future__ import annotations

import argparse
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import cv2
import numpy as np
from results import add_json_option, table, write

from blemish.imaging.decode import decode


def drawn_png(size: int, seed: int) -> bytes:
    y, x = np.mgrid[:size, :size]
    waves = 128 + 40 * np.sin(x / 17) + 30 * np.cos(y / 23)
    grey = waves + np.random.default_rng(seed).normal(0, 6, (size, size))
    image = np.clip(grey[..., None] * [1.0, 0.9, 0.8], 0, 255).astype(np.uint8)
    return cv2.imencode(".png", image)[1].tobytes()


def milliseconds(call, repeats: int) -> list[float]:
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - start))
    return times


def in_worker(call, repeats: int) -> list[float]:
    with ThreadPoolExecutor(1) as worker:
        return worker.submit(milliseconds, call, repeats).result()


def in_two_workers(call, repeats: int) -> list[float]:
    """Milliseconds an image of two threads together: wall time over images, in rounds of one image each."""
    with ThreadPoolExecutor(2) as workers:
        return milliseconds(lambda: list(workers.map(lambda _: call(), range(2))), repeats)


def pause(call, repeats: int) -> float:
    """Longest step in milliseconds of a Python loop while a worker decodes."""
    worker = threading.Thread(target=milliseconds, args=(call, repeats))
    worker.start()
    longest, last = 0.0, time.perf_counter()
    while worker.is_alive():
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
    worker.join()
    return 1000 * longest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=1024, help="rows and columns of the image")
    parser.add_argument("--repeats", type=int, default=40, help="images of each figure")
    parser.add_argument("--seed", type=int, default=0, help="of the noise in the image")
    add_json_option(parser, __file__)
    asked = parser.parse_args()
    data = drawn_png(asked.size, asked.seed)
    bytes_of_file = np.frombuffer(data, np.uint8)
    calls = {
        "blemish (kornia-rs)": partial(decode, data),
        "blemish, release_gil=True": partial(decode, data, release_gil=True),
        "OpenCV imdecode": lambda: cv2.imdecode(bytes_of_file, cv2.IMREAD_UNCHANGED),
    }
    assert np.array_equal(decode(data), decode(data, release_gil=True))
    places = {"main thread": milliseconds, "worker thread": in_worker, "2 workers, per pair": in_two_workers}
    samples: dict[str, dict[str, list[float]]] = {name: {place: [] for place in places} for name in calls}
    pauses = dict.fromkeys(calls, 0.0)
    for _ in range(4):  # rounds of every decoder in turn: what else the machine does meets all alike
        for name, call in calls.items():
            for place, measure in places.items():
                samples[name][place] += measure(call, -(-asked.repeats // 4))
            pauses[name] = max(pauses[name], pause(call, -(-asked.repeats // 4)))
    rows = []
    for name, by_place in samples.items():
        figures = {place: [float(np.median(ms)), min(ms)] for place, ms in by_place.items()}
        rows.append({"decoder": name, **figures, "pause of others": pauses[name]})
        cells = "  ".join(f"{place} {median:.1f} ({fastest:.1f})" for place, (median, fastest) in figures.items())
        print(f"{name:26} {cells}  pause of others {pauses[name]:.1f} ms")
    title = f"Decoding a PNG of {asked.size} x {asked.size} pixels, {len(data) / 1e6:.1f} MB"
    notes = "Milliseconds: median and fastest; two workers: for one image each."
    formats = {place: [".1f", ".1f"] for place in places} | {"pause of others": [".1f"]}
    write(asked.json, [table(title, rows, formats=formats, notes=notes)])


if __name__ == "__main__":
    main()
