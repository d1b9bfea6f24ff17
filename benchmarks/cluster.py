"""What does Ray cost over a plain pool of processes, and do two nodes do twice the work?

    python benchmarks/cluster.py --work /tmp/cluster

Nodes are Ray's own simulated ones, of one core each, on this machine. The pool is `concurrent.futures` with spawned
processes that run the same functions. Beside the clock's time, which other programs on the machine disturb, the
processor's time of all processes is measured: of the driver, of Ray and of the workers. The start of the nodes is
stated apart.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import shutil
import statistics
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112  # as the pool; Ray's own is 15
os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])

import ray
from charts import write_log_log
from ray.cluster_utils import Cluster
from results import add_json_option, table, write

from blemish import Patchcore, load
from blemish.cluster import fit_many, predict
from blemish.cluster.connection import versions
from blemish.cluster.fit import FitJob, absolute_samples, fit_here
from blemish.cluster.listing import find_files
from blemish.cluster.predictions import CHUNK, Inspector, spec_of
from blemish.cluster.rows import Parts
from blemish.data.synthetic.demo import make_demo
from blemish.imaging.decode import load as load_image
from blemish.modelfolder.folder import write_files

import psutil  # isort: skip  # Ray has it in its package

NODE = {"num_cpus": 1, "memory": 4 << 30, "object_store_memory": 80 << 20}
SMALL = {"image_size": 96, "layers": ("blocks.4", "blocks.10"), "score_fusion": False}
N_SOURCES = 200
CORES = 16 * 32
PLOTTED = (1, 2, 8, 32, 128, CORES)
WHOLE = ("core hours", "EUR", "cores that the file server feeds")
PAPER = (*WHOLE, "workers, hours", "file server, hours", "driver, hours", "results over the network, hours")
HOUR_EUR = 0.05  # of a core in a cloud, of a general-purpose machine
FILES_GBIT_S = 10  # of the file server


class Nodes:
    """A cluster of nodes with one core each, to which this process is connected."""

    def __init__(self, n):
        start = time.perf_counter()
        self.cluster = Cluster()
        self.add(num_cpus=0, include_dashboard=False)
        self.added = [self.add() for _ in range(n)]
        ray.init(address=self.cluster.address, log_to_driver=False, logging_level="ERROR")
        self.start_s = time.perf_counter() - start

    def add(self, **changes):
        """Add a node; Ray gives up after 30 s, which a machine with much other work needs more than once."""
        for _ in range(5):
            with contextlib.suppress(Exception):
                return self.cluster.add_node(**{**NODE, **changes})
        raise SystemExit("no node of Ray starts on this machine now")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        ray.shutdown()
        self.cluster.shutdown()


class Sampler(threading.Thread):
    """Adds up the processor's time of this process and all below it; they may end meanwhile."""

    def __init__(self):
        super().__init__(daemon=True)
        self._before, self._last, self._stop_it = self._times(), {}, threading.Event()
        self.start()

    def run(self):
        """Sample twice a second."""
        while not self._stop_it.wait(0.5):
            self._last.update(self._times())

    def seconds(self):
        """Stop, and return the seconds since the start."""
        self._stop_it.set()
        self.join()
        self._last.update(self._times())
        return sum(total - self._before.get(key, 0.0) for key, total in self._last.items())

    @staticmethod
    def _times():
        def of(process):
            with contextlib.suppress(psutil.Error):
                return (process.pid, process.create_time()), sum(process.cpu_times()[:2])
            return None

        return dict(filter(None, map(of, [psutil.Process(), *psutil.Process().children(recursive=True)])))


def measured(function):
    """Return seconds of the clock, of the processor in all processes, and of the processor in this one."""
    sampler, wall, own = Sampler(), time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - wall, sampler.seconds(), time.process_time() - own


# --- data -------------------------------------------------------------------------------------------------------------


def categories(work, n, n_images):
    """Return category to paths of good images, 512 x 512, drawn with another seed for each."""
    data = {}
    for i in range(n):
        root = work / "categories" / f"c{i:02}"
        if not root.is_dir():
            settings = {"image_size": 512, "n_train": n_images, "n_test": 1, "n_defective": 1}
            make_demo(root, seed=i, categories=("tile",), **settings)
        data[root.name] = sorted((root / "tile" / "train" / "good").glob("*.png"))[:n_images]
    return data


def small_images(work, n):
    """Return a folder of n files of 96 x 96 pixels in folders of a thousand: links to drawn ones."""
    root, source = work / f"small-{n}", work / "small-source"
    if not root.is_dir():
        make_demo(source, image_size=96, n_train=N_SOURCES, n_test=1, n_defective=1, categories=("tile",))
        goods = sorted((source / "tile" / "train" / "good").glob("*.png"))
        for i in range(n):
            folder = root / f"{i // 1000:03}"
            folder.mkdir(parents=True, exist_ok=True)
            os.link(goods[i % N_SOURCES], folder / f"{i:06}.png")
    return root


def small_model(work, images):
    """Return a model of the small images, with a memory bank of a usual size."""
    model = work / "small-model"
    if not model.is_dir():
        Patchcore(**SMALL).fit(sorted(images.rglob("*.png"))[:N_SOURCES]).save(model)
    return model


def cleared(path):
    """Return a path where nothing is left of an earlier run."""
    for each in path.parent.glob(f"{path.name}*"):
        shutil.rmtree(each) if each.is_dir() else each.unlink()
    return path


# --- the same work in a plain pool ------------------------------------------------------------------------------------


def pool_fit(data, out, n):
    """Fit in a plain pool; models come back as files and are written here, as on a cluster."""
    detector = Patchcore()
    settings = replace(detector.settings, threads=1)
    jobs = [FitJob(key, detector.name, settings, absolute_samples(data[key]), "", versions()) for key in data]
    with ProcessPoolExecutor(n, mp_context=multiprocessing.get_context("spawn")) as pool:
        for job, outcome in zip(jobs, pool.map(fit_here, jobs), strict=True):
            write_files(out / job.category, outcome.files)


WORKER = []


def load_worker(model):
    WORKER.append(Inspector(spec_of(model, 1, {})[0]))


def run_worker(files):
    return WORKER[0].run(files)


def pool_predict(model, images, out, n):
    """Predict in a plain pool, with the same chunks and rows, and one Parquet file at the end."""
    _, metadata = spec_of(model, 1, {})
    files = list(find_files([str(images)], {}))
    chunks = [files[i : i + CHUNK] for i in range(0, len(files), CHUNK)]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(n, mp_context=context, initializer=load_worker, initargs=(model,)) as pool:
        rows = [row for chunk in pool.map(run_worker, chunks) for row in chunk]
    out.with_name(f"{out.name}.parts").mkdir(parents=True)
    Parts(out, metadata).write(rows)


# --- efficiency -------------------------------------------------------------------------------------------------------


def row_of(work, on, times, n_items, pool=None):
    wall, cpu, driver = times
    return {
        "work": work,
        "on": on,
        "s": wall,
        "processor s": cpu,
        "of these the driver's": driver,
        "processor ms an item": 1000 * cpu / n_items,
        "processor, of that pool's": None if pool is None else cpu / pool[1],
        "clock, of that pool's": None if pool is None else wall / pool[0],
    }


def efficiency(work, data, model, images, n_images):
    """Return rows of fits and predictions in pools and on nodes, one and two of each, and seconds of the start."""
    fits, predictions = f"{len(data)} fits", f"{n_images:,} predictions"
    pools = {}
    for n in (1, 2):
        pools[fits, n] = measured(lambda n=n: pool_fit(data, cleared(work / "models-pool"), n))
        pools[predictions, n] = measured(
            lambda n=n: pool_predict(model, images, cleared(work / "results-pool.parquet"), n)
        )
    on_nodes = {}
    with Nodes(1) as nodes:
        for n in (1, 2):
            on_nodes[fits, n] = measured(
                lambda n=n: fit_many(data, cleared(work / f"models-{n}"), detector=Patchcore())
            )
            on_nodes[predictions, n] = measured(
                lambda n=n: predict(model, [images], cleared(work / f"results-{n}.parquet"))
            )
            if n == 1:
                nodes.added.append(nodes.add())
    rows = []
    for name, n_items in ((fits, len(data)), (predictions, n_images)):
        for n in (1, 2):
            own = on_nodes[name, n], pools[name, n]
            row = row_of(name, f"a pool of {n}", own[1], n_items)
            rows.append(row | {"efficiency": pools[name, 1][0] / (2 * own[1][0]) if n == 2 else None})
            row = row_of(name, f"{n} node{'s' if n > 1 else ''}", own[0], n_items, own[1])
            rows.append(row | {"efficiency": on_nodes[name, 1][0] / (2 * own[0][0]) if n == 2 else None})
    return rows, nodes.start_s


# --- unit costs and what follows from them ----------------------------------------------------------------------------


def unit_costs(data, work, rows):
    """Return the processor's time and the bytes of one image and one category, measured here with one thread."""
    paths = next(iter(data.values()))
    detector = Patchcore(threads=1)
    start = time.process_time()
    detector.fit(paths)
    fit_s = (time.process_time() - start) / len(paths)
    folder = detector.save(cleared(work / "unit-model"))
    loaded = load(folder, threads=1)
    images = [load_image(path) for path in paths]
    loaded.predict(images[0])

    def median_ms(function, items):
        def one(item):
            start = time.process_time()
            function(item)
            return 1000 * (time.process_time() - start)

        return statistics.median(one(item) for item in items)

    predictions = [row for row in rows if row["work"].endswith("predictions") and "node" in row["on"]][-1]
    n = int(predictions["work"].split()[0].replace(",", ""))
    result = work / "results-2.parquet"
    return {
        "fit, processor s an image": fit_s,
        "decode, processor ms": median_ms(load_image, paths),
        "predict, processor ms": median_ms(loaded.predict, images),
        "driver, processor ms a row": 1000 * predictions["of these the driver's"] / n,
        "image, MB": statistics.mean(path.stat().st_size for path in paths) / 1e6,
        "model folder, MB": sum(path.stat().st_size for path in folder.iterdir()) / 1e6,
        "row, bytes": result.stat().st_size / n,
    }


def on_paper(costs):
    """Return rows for a large cluster, from the costs of one image: hours of each resource, and the longest."""
    rows = []
    gigabytes_s = FILES_GBIT_S / 8
    for work, n_images, core_s, driver_s, back_gb in (
        (
            "400 categories of 200 images",
            80_000,
            costs["fit, processor s an image"],
            0.0,
            0.4 * costs["model folder, MB"],
        ),
        (
            "20 million images",
            20_000_000,
            (costs["decode, processor ms"] + costs["predict, processor ms"]) / 1000,
            costs["driver, processor ms a row"] / 1000,
            20 * costs["row, bytes"] / 1000,
        ),
    ):
        parallel = min(CORES, 400) if work.startswith("400") else CORES
        hours = {
            "workers": n_images * core_s / parallel / 3600,
            "file server": n_images * costs["image, MB"] / 1000 / gigabytes_s / 3600,
            "driver": n_images * driver_s / 3600,
            "results over the network": back_gb / gigabytes_s / 3600,
        }
        slowest = max(hours, key=hours.get)
        rows.append(
            {
                "work": work,
                **{f"{name}, hours": value for name, value in hours.items()},
                "bottleneck": slowest,
                "core hours": n_images * core_s / 3600,
                "EUR": n_images * core_s / 3600 * HOUR_EUR,
                "cores that the file server feeds": gigabytes_s * 1000 / costs["image, MB"] * core_s,
            }
        )
    return rows


def images_a_second(costs):
    """Return lines of images a second over the cores: what the workers, the file server and the driver can do."""
    core_ms = costs["decode, processor ms"] + costs["predict, processor ms"]
    limits = {
        f"file server of {FILES_GBIT_S} Gbit/s": 1000 * FILES_GBIT_S / 8 / costs["image, MB"],
        "driver, which writes the rows": 1000 / costs["driver, processor ms a row"],
    }
    workers = [(n, n * 1000 / core_ms) for n in PLOTTED]
    return {
        "workers, images a second": workers,
        **{name: [(n, limit) for n in PLOTTED] for name, limit in limits.items()},
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for drawn images and results")
    parser.add_argument("--categories", type=int, default=12)
    parser.add_argument("--images", type=int, default=30, help="of each category")
    parser.add_argument("--predictions", type=int, default=20_000)
    add_json_option(parser, __file__)
    given = parser.parse_args()
    data = categories(given.work, given.categories, given.images)
    images = small_images(given.work, given.predictions)
    model = small_model(given.work, images)
    rows, start_s = efficiency(given.work, data, model, images, given.predictions)
    costs = unit_costs(data, given.work, rows)
    tables = [
        table(
            f"{len(data)} fits of {given.images} images of 512 x 512, and {given.predictions:,} predictions of 96 x 96",
            rows,
            formats={
                **{name: [".1f"] for name in ("s", "processor s", "of these the driver's", "processor ms an item")},
                **{name: [".2f"] for name in ("processor, of that pool's", "clock, of that pool's", "efficiency")},
            },
            notes=f"Start of a head and a node: {start_s:.0f} s, not counted. "
            "Efficiency: time of one over twice that of two, of pools and of nodes.",
        ),
        table(
            "Costs of one image of 512 x 512",
            [{"of": k, "measured": v} for k, v in costs.items()],
            formats={"measured": [".3g"]},
        ),
        table(
            f"On paper: {CORES} cores on 16 machines, images from one file server of {FILES_GBIT_S} Gbit/s",
            on_paper(costs),
            formats={name: [".0f" if name in WHOLE else ".2f"] for name in PAPER},
            notes=f"At {HOUR_EUR} EUR an hour of a core. 400 fits keep 400 of the cores busy.",
        ),
    ]
    for each in tables:
        print(each["title"], *each["rows"], sep="\n")
    write(given.json, tables, {"costs": costs, "start_s": start_s})
    write_log_log("cluster.svg", "Images a second by number of cores", "cores", images_a_second(costs))


if __name__ == "__main__":
    main()
