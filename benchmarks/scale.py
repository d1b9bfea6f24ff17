"""How the cost of a PatchCore fit grows with the number of good images: time by stage, memory and disk.

    python benchmarks/scale.py --n 100 200 300 400 600 1000
    python benchmarks/scale.py --n 100 300 --old ../blemish-0.1.0   # the same with another checkout
    python benchmarks/scale.py --n 3000 10000 --add                 # joins the results that there are

JPEG images of 512 x 512 are drawn: places of an embossed texture, each with its own turn, light and sensor noise,
seeded. Each size is fitted in a process of its own with the defaults. Processor time is that of all threads; the slope
is that of a line through its logarithm over that of the number of images, 1 for linear growth.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
from charts import write_log_log
from fit_predict import FIT, NEW
from results import add_json_option, load_data, table, write

SIZE = 512
SPAN = 4096  # of the texture that images are places of


def draw(folder, n, seed=0):
    """Write n images that are not there yet; image i is the same whatever n is."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    coarse, fine = (cv2.GaussianBlur(rng.standard_normal((SPAN, SPAN)).astype(np.float32), (0, 0), s) for s in (9, 2))
    texture = 120 + 500 * coarse + 160 * fine
    for i in range(n):
        path = folder / f"{i:05d}.jpg"
        if path.exists():
            continue
        rng = np.random.default_rng([seed, i])
        turn = cv2.getRotationMatrix2D((SPAN / 2, SPAN / 2), rng.uniform(-6, 6), rng.uniform(0.97, 1.03))
        turn[:, 2] -= rng.uniform(SIZE / 2, SPAN - 1.5 * SIZE, 2)
        view = cv2.warpAffine(texture, turn, (SIZE, SIZE), borderMode=cv2.BORDER_REFLECT)
        grey = rng.uniform(0.95, 1.05) * view + 3 * rng.standard_normal((SIZE, SIZE))
        shade = np.array([0.8, 0.95, 1.1]) * grey[..., None]
        cv2.imwrite(str(path), np.clip(shade, 0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 92])


def fit(package, paths, scratch):
    """Return what a fit in a new process took."""
    chosen = scratch / "chosen"
    chosen.mkdir()
    for path in paths:
        (chosen / path.name).hardlink_to(path)
    env = {**os.environ, "PYTHONPATH": str(package)}
    command = [sys.executable, "-c", FIT, str(chosen), str(scratch / "model")]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True, cwd=scratch)
    found = json.loads(done.stdout.splitlines()[-1])
    found["model_mb"] = sum(file.stat().st_size for file in (scratch / "model").iterdir()) / 2**20
    return found


def slope(rows):
    """Return the slope of log processor time over log number of images; None for one size."""
    if len(rows) < 2:
        return None
    return float(np.polyfit(np.log([row["n"] for row in rows]), np.log([row["fit_cpu_s"] for row in rows]), 1)[0])


def shown(row):
    """Return the row of the table."""
    stages = row["stages_s"]
    return {
        "version": row["label"],
        "good images": row["n"],
        "processor time, s": row["fit_cpu_s"],
        "of an image, ms": 1000 * row["fit_cpu_s"] / row["n"],
        "wall time, s": row["fit_s"],
        "estimated, s": row.get("estimated_s"),
        "reading": stages.get("reading images"),
        "bank": sum(stages.get(name, 0) for name in ("reducing patches", "coreset", "collecting patches")),
        "calibrating": stages.get("calibrating"),
        "position": stages.get("judging position"),
        "peak memory, MB": row["peak_mb"],
        "estimated, MB": row["estimated_mb"],
        "model, MB": row["model_mb"],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, nargs="+", default=[100, 200, 300, 400, 600, 1000], help="numbers of images")
    parser.add_argument("--old", type=Path, help="another checkout, fitted too")
    parser.add_argument("--old-n", type=int, nargs="+", default=[100, 300], help="numbers of images for it")
    parser.add_argument("--add", action="store_true", help="keep the sizes that the results have and this run has not")
    parser.add_argument("--images", type=Path, help="folder for the drawn images; default a temporary one")
    add_json_option(parser, __file__)
    args = parser.parse_args()
    runs = [("this", NEW, n) for n in sorted(args.n)]
    if args.old:
        runs += [("before", args.old.resolve(), n) for n in sorted(args.old_n)]
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.images or Path(temporary) / "images"
        draw(folder, max(n for *_, n in runs))
        paths = sorted(folder.iterdir())
        for label, package, n in runs:
            with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
                rows.append({"label": label, "n": n} | fit(package, paths[:n], Path(scratch)))
            print({name: round(v, 1) if isinstance(v, float) else v for name, v in shown(rows[-1]).items()}, flush=True)
    before = (load_data(args.json) or {"rows": []})["rows"] if args.add else []
    made = {(row["label"], row["n"]) for row in rows}
    rows = sorted(
        [*rows, *(row for row in before if (row["label"], row["n"]) not in made)], key=lambda r: (r["label"], r["n"])
    )
    for row in rows:
        row.pop("package", None)
    ours = [row for row in rows if row["label"] == "this"]
    steps = [slope(pair) for pair in pairwise(ours)]
    formats = {"processor time, s": [".1f"], "of an image, ms": [".0f"], "wall time, s": [".1f"], "model, MB": [".1f"]}
    formats |= {name: [".1f"] for name in ("reading", "bank", "calibrating", "position")}
    formats |= {name: [".0f"] for name in ("peak memory, MB", "estimated, MB", "estimated, s")}
    notes = "Stages in seconds of wall time."
    if len(ours) > 1:
        between = ", ".join(f"{step:.2f}" for step in steps)
        notes += f" Slope of processor time: {slope(ours):.2f} over all sizes; between neighbours {between}."
    print(notes)
    made_table = table(
        "Cost of a fit by number of good images", [shown(row) for row in rows], formats=formats, notes=notes
    )
    write(args.json, [made_table], {"rows": rows})
    lines = {
        "processor time of the fit, s": [(row["n"], row["fit_cpu_s"]) for row in ours],
        "peak memory, MB": [(row["n"], row["peak_mb"]) for row in ours],
    }
    write_log_log("scale.svg", "Cost of a fit by number of images", "good images", lines)


if __name__ == "__main__":
    main()
