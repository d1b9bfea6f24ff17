"""Is each image predicted exactly once, and each model whole or absent, whatever is killed at random moments?

    python benchmarks/cluster_faults.py --work /tmp/cluster

Nodes are Ray's own simulated ones, of one core each, on this machine. Workers and nodes are killed (SIGKILL) while a
run goes on, and the driver, whose next run goes on where it stopped. The results are compared with those of a run
without kills. The fit that is spread over nodes reduces chunks of 1,000 patches in place of 24,576, so that small
images make many tasks.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# Before NumPy is loaded: where one thread computes and another starts a process, as nodes are here, OpenBLAS with
# threads of its own waits for ever.
os.environ["OMP_NUM_THREADS"] = "1"

import pyarrow.parquet as pq
from cluster import SMALL, Nodes, categories, cleared, psutil, small_images, small_model
from results import add_json_option, load_data, table, write

from blemish import Patchcore, load
from blemish.cluster import fit_many, predict
from blemish.ops import merge_reduce

# Moments of the kills, seconds after the start of a run or the last kill. A driver takes some to connect.
MOMENTS = {"a worker": (1.0, 6.0), "a node": (2.0, 8.0), "the driver": (4.0, 14.0)}
KILLS = {"a worker": 3, "a node": 2, "the driver": 3}  # during each kind of work
OURS = ("ray::Inspector", "ray::fit", "ray::run_here")
DRIVER = """
import sys
from pathlib import Path
from blemish import Patchcore
from blemish.cluster import fit_many, predict, predictions
predictions.PART_S = 1.0
kind, address, *given = sys.argv[1:]
if kind == "predict":
    predict(given[0], [given[1]], given[2], address=address)
else:
    folders = sorted(Path(given[0]).iterdir())[: int(given[2])]
    data = {path.name: sorted(path.rglob("train/good/*.png"))[:8] for path in folders}
    fit_many(data, given[1], detector=Patchcore(image_size=96), address=address)
"""


def score_of(path):
    """Return path to score of results; no path may come twice."""
    columns = pq.read_table(path, columns=["path", "score"])
    paths, scores = columns["path"].to_pylist(), columns["score"].to_pylist()
    assert len(set(paths)) == len(paths), "an image has two rows"
    return dict(zip(paths, scores, strict=True))


def bank_of(folder):
    """Return the bytes of a model's memory bank; the model must be whole."""
    load(folder)
    return (folder / "bank.safetensors").read_bytes()


class Kills:
    """Kills what a run rests on, at random moments.

    Attributes:
        n: kills so far.
    """

    def __init__(self, nodes, rng):
        self.nodes, self.rng, self.n = nodes, rng, 0

    def during(self, run, killed, n):
        """Repeat a run in a thread until `n` were killed during it; return the number of runs."""
        self.n = runs = 0
        while self.n < n:
            with ThreadPoolExecutor(1) as pool:
                running = pool.submit(run)
                while not running.done():
                    time.sleep(self.rng.uniform(*MOMENTS[killed]))
                    if self.n < n and not running.done():
                        self.n += self.worker() if killed == "a worker" else self.node()
                running.result()
            runs += 1
        return runs

    def worker(self):
        """Kill a process that works for us; return whether there was one."""

        def name_of(process):
            with contextlib.suppress(psutil.Error):
                return " ".join(process.cmdline())
            return ""

        alive = [p for p in psutil.Process().children(recursive=True) if name_of(p).startswith(OURS)]
        if alive:
            os.kill(self.rng.choice(alive).pid, signal.SIGKILL)
        return bool(alive)

    def node(self):
        """Kill the oldest node, as a power cut would, and add another one."""
        self.nodes.cluster.remove_node(self.nodes.added.pop(0), allow_graceful=False)
        for _ in range(9):
            with contextlib.suppress(SystemExit):  # other work on the machine, for minutes
                self.nodes.added.append(self.nodes.add())
                return True
        raise SystemExit("no node of Ray started for ten minutes")

    def driver(self, arguments, n, each):
        """Start drivers until `n` were killed and the next one ended; each goes on. Return the number of starts."""
        self.n = starts = 0
        while True:
            process = subprocess.Popen([sys.executable, "-c", DRIVER, *map(str, arguments)], stderr=subprocess.DEVNULL)
            starts += 1
            try:
                process.wait(timeout=self.rng.uniform(*MOMENTS["the driver"]) if self.n < n else None)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                self.n += 1
                each()
                continue
            assert process.returncode == 0
            if self.n >= n:
                return starts
            each(ended=True)


class Work:
    """Runs, and how their results differ from those of a run without kills."""

    def __init__(self, folder, data, model, images):
        self.folder, self.model, self.images = folder, model, images
        self.data = {name: paths[:8] for name, paths in data.items()}
        self.large = {"large": sorted(images.rglob("*.png"))[:60]}
        self.different = self.failed = 0
        self.whole = {}

    def predictions(self):
        """Predict all images; compare the rows."""
        out = cleared(self.folder / "results.parquet")
        predict(self.model, [self.images], out)
        self.check_rows(out)

    def check_rows(self, out):
        """Compare rows with those of the first run."""
        self.different += score_of(out) != self.whole.setdefault("rows", score_of(out))

    def fits(self):
        """Fit all categories; compare the models."""
        self._fit(self.data, Patchcore(image_size=96), spread=False)

    def spread(self):
        """Fit one category over the nodes; compare the model."""
        self._fit(self.large, Patchcore(**SMALL, max_rows=1000), spread=True)

    def _fit(self, data, detector, *, spread):
        out = cleared(self.folder / "models")
        results = fit_many(data, out, detector=detector, spread=spread)
        self.failed += sum(result.status == "failed" for result in results)
        self.check_models(out, data)

    def check_models(self, out, data):
        """Compare the models that are there; each must be whole."""
        for name in data:
            if (out / name).exists():
                bank = bank_of(out / name)
                self.different += bank != self.whole.setdefault(name, bank)


def faults(work, nodes, times, rng, asked):
    """Yield a row for each thing that was killed, out of those asked for, during each kind of work."""
    kills = Kills(nodes, rng)
    runs = {"predictions": work.predictions, "fits": work.fits, "one fit over all nodes": work.spread}

    def row(killed, during, n_runs):
        wrong = f"{work.different} results that differ, {work.failed} fits that died three times and were named"
        work.different = work.failed = 0
        return {"killed": killed, "during": during, "kills": kills.n, "runs": n_runs, "wrong": wrong}

    for run in runs.values():
        run()  # the results without kills
    for killed in [one for one in ("a worker", "a node") if one in asked]:
        for during, run in runs.items():
            yield row(killed, during, kills.during(run, killed, times * KILLS[killed]))
    if "the driver" not in asked:
        return
    address, out, folder = nodes.cluster.address, cleared(work.folder / "d.parquet"), cleared(work.folder / "d-models")

    def each_predict(*, ended=False):
        if ended:
            work.check_rows(out)
            cleared(out)

    n = times * KILLS["the driver"]
    n_runs = kills.driver(("predict", address, work.model, work.images, out), n, each_predict)
    work.check_rows(out)
    yield row("the driver", "predictions", n_runs)

    def each_fit(*, ended=False):
        work.check_models(folder, work.data)
        if ended:
            cleared(folder)

    n_runs = kills.driver(("fit", address, work.folder / "categories", folder, len(work.data)), n, each_fit)
    work.check_models(folder, work.data)
    assert all((folder / name / "model.json").is_file() for name in work.data)
    yield row("the driver", "fits", n_runs)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for drawn images and results")
    parser.add_argument("--times", type=int, default=1, help="of 21 kills")
    parser.add_argument("--images", type=int, default=600, help="of a run")
    parser.add_argument("--categories", type=int, default=6, help="of a run, eight images each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--killed", nargs="+", choices=MOMENTS, default=list(MOMENTS), help="the JSON's rows of the others are kept"
    )
    add_json_option(parser, __file__)
    given = parser.parse_args()
    merge_reduce.CHUNK_ROWS = 1000
    images = small_images(given.work, given.images)
    data = categories(given.work, given.categories, 8)
    work = Work(given.work, data, small_model(given.work, images), images)
    title = f"Kills at random moments, on two nodes: {given.images:,} images, {given.categories} categories, one large"
    kept = [row for row in load_data(given.json) or [] if row["killed"] not in given.killed]
    made = []
    with Nodes(2) as nodes:
        for row in faults(work, nodes, given.times, random.Random(given.seed), given.killed):
            made.append(row)
            print(row, flush=True)
            rows = sorted([*kept, *made], key=lambda row: list(MOMENTS).index(row["killed"]))
            notes = f"{sum(row['kills'] for row in rows)} kills. Each image had one row, and each model was whole."
            write(given.json, [table(title, rows, notes=notes)], rows)  # after each: the run takes long


if __name__ == "__main__":
    main()
