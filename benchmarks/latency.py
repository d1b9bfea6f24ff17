"""How long does one prediction after the other take, and does the process grow?

    python benchmarks/latency.py
    python benchmarks/latency.py --n 500 --size 1024 --threads 1

JPEG images are drawn and predicted from their files, decoding included, by a detector that was loaded from its model
folder. The first predictions, which load and warm up, are left out.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
from fit_predict import write_images
from results import add_json_option, table, write
from station_load import resident_mb

from blemish import Patchcore, load

N_IMAGES, N_WARM = 60, 100


def measured(model, paths, n):
    """Return milliseconds of n predictions, and the resident memory after the warm-up and each tenth of them."""
    for i in range(N_WARM):
        model.predict(paths[i % len(paths)])
    times, memory = [], [resident_mb(os.getpid())]
    for i in range(n):
        start = time.perf_counter()
        model.predict(paths[i % len(paths)])
        times.append(1000 * (time.perf_counter() - start))
        if (i + 1) % (n // 10) == 0:
            memory.append(resident_mb(os.getpid()))
    return np.array(times), memory


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=5000, help="predictions, at least 10")
    parser.add_argument("--size", type=int, default=512, help="side of the images, in pixels")
    parser.add_argument("--threads", type=int, help="of the detector; one per core by default")
    add_json_option(parser, __file__)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "good"
        folder.mkdir()
        write_images(folder, N_IMAGES, asked.size, "jpg", seed=0)
        paths = sorted(folder.iterdir())
        saved = Patchcore().fit(paths).save(Path(name) / "model")
        times, memory = measured(load(saved, threads=asked.threads), paths, asked.n)
    middle, high = np.quantile(times, [0.5, 0.99])
    row = {
        "image": f"JPEG, {asked.size} x {asked.size}",
        "predictions": asked.n,
        "median, ms": middle,
        "p99, ms": high,
        "p99 / median": high / middle,
        "longest, ms": times.max(),
        "memory after the warm-up, MB": memory[0],
        "memory at the end, MB": memory[-1],
        "growth": memory[-1] / memory[0] - 1,
    }
    formats = {key: [".1f"] for key in row if "ms" in key} | {key: [".0f"] for key in row if "MB" in key}
    formats |= {"p99 / median": [".2f"], "growth": [".2%"], "predictions": [",d"]}
    print(row)
    write(asked.json, [table("One prediction after the other", [row], formats=formats)], {"memory": memory})


if __name__ == "__main__":
    main()
