"""The whole job on a small computer: fit, predict, start cold, and what it takes in memory and on disk.

    python benchmarks/fit_predict.py --json out.json
    python benchmarks/fit_predict.py --images photos/good     # your own images instead of 264 made-up ones

264 PNG images of 1024 x 1024 are made (a woven texture with sensor noise: PNG's slow case; JPEG with --jpeg).
Fitting, predicting and importing each run in a process of their own: no cache and no memory of one helps another.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

import numpy as np
from results import add_json_option, table, write

# Each prints one JSON document; sys.argv[1:] are its paths.
FIT = """
import json, resource, sys, time
start = time.perf_counter()
from pathlib import Path
from blemish import Patchcore
stages, last = {}, [time.perf_counter(), "start"]
def progress(stage, done, total):
    now = time.perf_counter()
    stages[stage] = stages.get(stage, 0) + now - last[0]
    last[0] = now
paths = sorted(Path(sys.argv[1]).iterdir())
model = Patchcore()
estimate = model.estimated_bytes(len(paths))
fit_start = time.perf_counter()
model.fit(paths, progress=progress)
fit_s = time.perf_counter() - fit_start
model.save(sys.argv[2])
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"fit_s": fit_s, "stages_s": stages, "peak_mb": peak / 1024, "estimated_mb": estimate / 2**20,
                  "bank_rows": model.fitted.scorer.index.n_rows, "n": len(paths)}))
"""
PREDICT = """
import json, sys, time
from pathlib import Path
from blemish import Patchcore
model = Patchcore.load(sys.argv[1])
paths = sorted(Path(sys.argv[2]).iterdir())
model.predict(paths[0])
times = []
for path in paths:
    start = time.perf_counter()
    model.predict(path)
    times.append(1000 * (time.perf_counter() - start))
start = time.perf_counter()
n = sum(1 for _ in model.predict_many(paths))
times.sort()
print(json.dumps({"median_ms": times[len(times) // 2], "p95_ms": times[int(0.95 * len(times))],
                  "predict_many_ms": 1000 * (time.perf_counter() - start) / n}))
"""
COLD = """
import sys
from blemish import Patchcore
print(Patchcore.load(sys.argv[1]).predict(sys.argv[2]).score)
"""


def write_images(folder, n, size, ending, seed):
    import cv2

    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    for i in range(n):
        phase = rng.uniform(0, 2 * np.pi, 2)
        woven = 128 + 50 * np.sin(x / 7 + phase[0]) * np.sin(y / 7 + phase[1])
        grey = woven + rng.normal(0, 6, (size, size))
        image = np.repeat(np.clip(grey, 0, 255).astype(np.uint8)[..., None], 3, axis=2)
        cv2.imwrite(str(folder / f"{i:04d}.{ending}"), image)


def run(code, *paths):
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code, *map(str, paths)], check=True, stdout=subprocess.PIPE, text=True)
    return time.perf_counter() - start, done.stdout


def best_of(n, code, *paths):
    return min(run(code, *paths)[0] for _ in range(n))


def installed_mb():
    """Return the size of the package and all it needs, in MB as `du` counts them, from each distribution's own list."""
    todo, seen, total = ["blemish"], set(), 0
    while todo:
        name = todo.pop()
        if name.lower() in seen:
            continue
        seen.add(name.lower())
        try:
            found = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        for file in found.files or ():
            path = Path(str(file.locate()))
            if path.is_file():
                total += -(-path.stat().st_size // 4096) * 4096
        wanted = [one for one in found.requires or () if "extra ==" not in one]
        todo += [re.match(r"[\w.-]+", one).group() for one in wanted]
    return total / 1e6, sorted(seen)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--n", type=int, default=264)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--jpeg", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    add_json_option(parser, __file__)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        images = asked.images
        if images is None:
            images = work / "good"
            images.mkdir()
            write_images(images, asked.n, asked.size, "jpg" if asked.jpeg else "png", asked.seed)
        nothing = best_of(5, "pass")
        report = {"cores": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()}
        report |= {"fit": json.loads(run(FIT, images, work / "model")[1])}
        report["predict"] = json.loads(run(PREDICT, work / "model", images)[1])
        report["import_s"] = best_of(5, "import blemish") - nothing
        report["import_patchcore_s"] = best_of(5, "from blemish import Patchcore") - nothing
        report["cold_start_s"] = best_of(5, COLD, work / "model", sorted(images.iterdir())[0])
        report["model_mb"] = sum(file.stat().st_size for file in (work / "model").iterdir()) / 1e6
        report["installed_mb"], report["distributions"] = installed_mb()
    print(json.dumps(report, indent=1))
    rows = [
        {"what": "fit", "measured": f"{report['fit']['fit_s']:.0f} s"},
        {"what": "predict one by one, with decoding", "measured": f"{report['predict']['median_ms']:.0f} ms"},
        {"what": "peak memory of fit", "measured": f"{report['fit']['peak_mb']:.0f} MB"},
        {"what": "import blemish", "measured": f"{report['import_s']:.2f} s"},
        {"what": "cold start to the first prediction", "measured": f"{report['cold_start_s']:.1f} s"},
        {"what": "installed, with all dependencies", "measured": f"{report['installed_mb']:.0f} MB"},
    ]
    write(asked.json, [table(f"The whole job: {report['fit']['n']} images", rows)], report)


if __name__ == "__main__":
    main()
