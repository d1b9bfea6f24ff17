"""The whole job on a small computer: fit, predict, start cold, and the memory and disk that it takes.

    python benchmarks/fit_predict.py --json out.json
    python benchmarks/fit_predict.py --images photos/good     # your own images instead of 264 drawn ones
    python benchmarks/fit_predict.py --old ../blemish-0.1.0 --rounds 5   # two checkouts in turns, and their ratios

264 PNG images of 1024 x 1024 are drawn (a woven texture with sensor noise: PNG's slow case; JPEG with --jpeg).
Fitting, predicting and importing each run in a process of their own: no cache and no memory of one helps another.
With --old, each round fits and predicts with both checkouts, the first of them in turns; the least of each time counts,
and ratios are old over new. Processor time is that of all threads: other processes disturb it less than wall time.
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
from safetensors.numpy import load_file

# The checkout that this script belongs to.
NEW = Path(__file__).resolve().parent.parent
TIMES = ("fit_s", "fit_cpu_s", "predict_ms", "predict_cpu_ms", "predict_many_ms", "predict_many_cpu_ms")
FIGURES = (*TIMES, "peak_mb")

# Each prints one JSON document; sys.argv[1:] are its paths.
FIT = """
import json, resource, sys, time
from pathlib import Path
import blemish
from blemish import Patchcore
stages, last = {}, [time.perf_counter()]
def progress(stage, done, total):
    now = time.perf_counter()
    stages[stage] = stages.get(stage, 0) + now - last[0]
    last[0] = now
paths = sorted(Path(sys.argv[1]).iterdir())
model = Patchcore()
estimate = model.estimated_bytes(len(paths))
expected_s = getattr(model, "estimated_seconds", lambda paths: None)(paths)  # older versions have none
start, cpu = time.perf_counter(), time.process_time()
model.fit(paths, progress=progress)
fit_s, fit_cpu_s = time.perf_counter() - start, time.process_time() - cpu
model.save(sys.argv[2])
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"package": blemish.__file__, "version": blemish.__version__, "fit_s": fit_s, "fit_cpu_s": fit_cpu_s,
                  "stages_s": stages, "peak_mb": peak / 1024, "estimated_mb": estimate / 2**20,
                  "estimated_s": expected_s, "n": len(paths)}))
"""
PREDICT = """
import json, sys, time
from pathlib import Path
from blemish import Patchcore
model = Patchcore.load(sys.argv[1])
paths = sorted(Path(sys.argv[2]).iterdir())
model.predict(paths[0])
times, scores = [], []
cpu = time.process_time()
for path in paths:
    start = time.perf_counter()
    scores.append(model.predict(path).score)
    times.append(1000 * (time.perf_counter() - start))
cpu = time.process_time() - cpu
start, many_cpu = time.perf_counter(), time.process_time()
n = sum(1 for _ in model.predict_many(paths))
wall, many_cpu = time.perf_counter() - start, time.process_time() - many_cpu
times.sort()
print(json.dumps({"predict_ms": times[n // 2], "p95_ms": times[int(0.95 * n)], "predict_cpu_ms": 1000 * cpu / n,
                  "predict_many_ms": 1000 * wall / n, "predict_many_cpu_ms": 1000 * many_cpu / n, "scores": scores}))
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


def run(code, *paths, package=NEW):
    """Return wall seconds and output of a process that runs `code` with the package in the folder `package`."""
    # Not in the current folder, which `-c` would import from first.
    command = [sys.executable, "-c", code, *(str(Path(path).resolve()) for path in paths)]
    environment = {**os.environ, "PYTHONPATH": str(package)}
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as empty:
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment, cwd=empty)
    return time.perf_counter() - start, done.stdout


def best_of(n, code, *paths):
    return min(run(code, *paths)[0] for _ in range(n))


def fit_and_predict(images, model, package=NEW):
    """Return the figures of one fit and of the predictions of the same images."""
    fitted = json.loads(run(FIT, images, model, package=package)[1])
    if not Path(fitted["package"]).is_relative_to(package):
        raise SystemExit(f"{package}: expected to import blemish from there, got {fitted['package']}.")
    return fitted | json.loads(run(PREDICT, model, images, package=package)[1])


def compare(old, images, folder, rounds):
    """Return the figures of each round of both checkouts, their least, and the ratios old over new."""
    packages = {"old": old.resolve(), "new": NEW}
    measured = {"old": [], "new": []}
    for i in range(rounds):
        for name in ("old", "new") if i % 2 == 0 else ("new", "old"):
            measured[name].append(fit_and_predict(images, folder / name, packages[name]))
            print(f"round {i + 1}, {name}: {line(measured[name][-1])}", flush=True)
    least = {name: {key: min(row[key] for row in rows) for key in FIGURES} for name, rows in measured.items()}
    ratios = {key: least["old"][key] / least["new"][key] for key in FIGURES}
    scores = {name: np.array(rows[0]["scores"]) for name, rows in measured.items()}
    difference = float(np.abs(scores["new"] - scores["old"]).max() / np.abs(scores["old"]).max())
    print(f"ratios old / new: {line(ratios, '.3f')}")
    print(f"largest difference of a score, in parts of the highest: {difference:.1e}")
    for rows in measured.values():
        for row in rows:
            del row["scores"]
    return {"rounds": measured, **least, "ratios": ratios, "largest_difference_of_a_score": difference}


def line(figures, form=".1f"):
    return ", ".join(f"{name} {figures[name]:{form}}" for name in FIGURES)


def table_of_ratios(compared):
    """Return the comparison of two checkouts as a table for the documentation."""
    rows = [
        {"figure": key, "old": compared["old"][key], "new": compared["new"][key], "old / new": compared["ratios"][key]}
        for key in FIGURES
    ]
    versions = {name: rounds[0]["version"] for name, rounds in compared["rounds"].items()}
    notes = (
        f"Least of {len(compared['rounds']['new'])} rounds in turns; versions {versions['old']} and {versions['new']}."
    )
    formats = {"old": [".1f"], "new": [".1f"], "old / new": [".3f"]}
    return table("Two versions in the same run", rows, formats=formats, notes=notes)


def installed_mb():
    """Return the size of the package and all it needs, in MB as `du` counts them, from each distribution's own list."""
    todo, seen, total = ["blemish"], set(), 0
    while todo:
        name = todo.pop()
        if name.lower() in seen:
            continue
        seen.add(name.lower())
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        for file in distribution.files or ():
            path = Path(str(file.locate()))
            if path.is_file():
                total += -(-path.stat().st_size // 4096) * 4096
        required = [text for text in distribution.requires or () if "extra ==" not in text]
        todo += [re.match(r"[\w.-]+", text).group() for text in required]
    return total / 1e6, sorted(seen)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--n", type=int, default=264)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--jpeg", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--old", type=Path, metavar="PATH", help="checkout of another version, measured in turns")
    parser.add_argument("--rounds", type=int, default=3, help="of --old")
    add_json_option(parser, __file__)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = asked.images
        if images is None:
            images = folder / "good"
            images.mkdir()
            write_images(images, asked.n, asked.size, "jpg" if asked.jpeg else "png", asked.seed)
        if asked.old is not None:
            compared = compare(asked.old, images, folder, asked.rounds)
            write(asked.json, [table_of_ratios(compared)], compared)
            return
        report = measure(images, folder / "model")
    print(json.dumps(report, indent=1))
    write(asked.json, [table_of(report)], report)


def measure(images, model):
    """Return all figures of this checkout."""
    report = {"cores": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()}
    report |= fit_and_predict(images, model)
    del report["scores"]
    nothing = best_of(5, "pass")
    report["import_s"] = best_of(5, "import blemish") - nothing
    report["import_patchcore_s"] = best_of(5, "from blemish import Patchcore") - nothing
    report["cold_start_s"] = best_of(5, COLD, model, sorted(images.iterdir())[0])
    report["bank_rows"] = load_file(model / "bank.safetensors")["memory_bank"].shape[0]
    report["model_mb"] = sum(file.stat().st_size for file in model.iterdir()) / 1e6
    report["installed_mb"], report["distributions"] = installed_mb()
    return report


def table_of(report):
    """Return the figures of this checkout as a table for the documentation."""
    rows = [
        {"figure": "fit", "measured": f"{report['fit_s']:.0f} s"},
        {"figure": "fit, processor time", "measured": f"{report['fit_cpu_s']:.0f} s"},
        {"figure": "predict one by one, with decoding", "measured": f"{report['predict_ms']:.0f} ms"},
        {"figure": "peak memory of fit", "measured": f"{report['peak_mb']:.0f} MB"},
        {"figure": "import blemish", "measured": f"{report['import_s']:.2f} s"},
        {"figure": "cold start to the first prediction", "measured": f"{report['cold_start_s']:.1f} s"},
        {"figure": "installed, with all dependencies", "measured": f"{report['installed_mb']:.0f} MB"},
    ]
    return table(f"The whole job: {report['n']} images", rows)


if __name__ == "__main__":
    main()
