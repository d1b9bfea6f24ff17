"""Time the decoding of PNG and JPEG beside OpenCV, in the main thread and in worker threads, in the same run.

    python benchmarks/decode.py --size 1024 --repeats 40

The image is drawn: two waves and noise of standard deviation 6, so that it compresses like a photograph. "pause" is the
longest time that a Python loop in another thread had to wait for the interpreter lock while a worker decoded:
kornia-rs, which decodes JPEG and refuses what its libjpeg-turbo warns of, holds the lock; OpenCV does not.
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


def drawn_image(size: int, seed: int) -> np.ndarray:
    y, x = np.mgrid[:size, :size]
    waves = 128 + 40 * np.sin(x / 17) + 30 * np.cos(y / 23)
    grey = waves + np.random.default_rng(seed).normal(0, 6, (size, size))
    return np.clip(grey[..., None] * [1.0, 0.9, 0.8], 0, 255).astype(np.uint8)


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


def opencv(data: bytes) -> np.ndarray:
    return cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED), cv2.COLOR_BGR2RGB)


def measured_rows(files: dict[str, bytes], repeats: int) -> list[dict]:
    """Rounds of every decoder in turn: other work on the machine meets all alike."""
    calls = {(kind, name): partial(call, data) for kind, data in files.items()
             for name, call in (("blemish", decode), ("OpenCV imdecode", opencv))}  # fmt: skip
    places = {"main thread": milliseconds, "worker thread": in_worker, "2 workers, per pair": in_two_workers}
    samples: dict[tuple, dict[str, list[float]]] = {key: {place: [] for place in places} for key in calls}
    pauses = dict.fromkeys(calls, 0.0)
    for _ in range(4):
        for key, call in calls.items():
            for place, measure in places.items():
                samples[key][place] += measure(call, -(-repeats // 4))
            pauses[key] = max(pauses[key], pause(call, -(-repeats // 4)))
    rows = []
    for key, by_place in samples.items():
        figures = {place: [float(np.median(ms)), min(ms)] for place, ms in by_place.items()}
        rows.append({"file": key[0], "decoder": key[1], **figures, "pause of others": pauses[key]})
        cells = "  ".join(f"{place} {median:.1f} ({fastest:.1f})" for place, (median, fastest) in figures.items())
        print(f"{key[0]:5} {key[1]:16} {cells}  pause of others {pauses[key]:.1f} ms")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=1024, help="rows and columns of the image")
    parser.add_argument("--repeats", type=int, default=40, help="images of each figure")
    parser.add_argument("--seed", type=int, default=0, help="of the noise in the image")
    add_json_option(parser, __file__)
    asked = parser.parse_args()
    image = drawn_image(asked.size, asked.seed)
    files = {ending.upper(): cv2.imencode(f".{ending}", image)[1].tobytes() for ending in ("png", "jpg")}
    for data in files.values():
        assert np.array_equal(decode(data), opencv(data))
    rows = measured_rows(files, asked.repeats)
    sizes = " and ".join(f"{kind} of {len(data) / 1e6:.1f} MB" for kind, data in files.items())
    title = f"Decoding {asked.size} x {asked.size} pixels: {sizes}"
    notes = "Milliseconds: median and fastest; two workers: for one image each."
    formats = {place: [".1f", ".1f"] for place in rows[0] if "thread" in place or "workers" in place}
    write(asked.json, [table(title, rows, formats=formats | {"pause of others": [".1f"]}, notes=notes)])


if __name__ == "__main__":
    main()
