"""How large may a store be? Load rate, query time and recall of a folder and of a real server.

    BLEMISH_QDRANT=qdrant python benchmarks/store_scale.py --embedded 20000 100000 --server 1000000 --json out.json

Vectors are synthetic: 4,000 types of defect, each region near one of them, as long as real ones. A query is that of
`DefectStore.similar`: five neighbors among the regions of one of ten categories, of one model. Recall is against the
exact search of the same queries. Times are of the whole call in Python, one at a time.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
import uuid
from pathlib import Path

import numpy as np
from qdrant_client.models import OptimizersConfigDiff
from results import add_json_option, table, write

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from blemish.search.backends.edge import EdgeBackend
from blemish.search.backends.interface import REGION, Filter, Point, Query
from blemish.search.backends.server import ServerBackend
from blemish.search.encoder import DIMS
from blemish.search.payload import NAMESPACE
from tests.qdrant_server import VARIABLE, QdrantServer, binary

CATEGORIES, TYPES, BATCH = 10, 4000, 2048
N_QUERIES, N_EXACT = 1000, 200
MODEL = "0123456789abcdef"


class Regions:
    """Synthetic regions: the same number gives the same one."""

    def __init__(self, seed=0):
        """Draw the mean vectors of the defect types."""
        self.rng = np.random.default_rng(seed)
        self.centers = self.rng.standard_normal((TYPES, DIMS[REGION]), np.float32)

    def vectors(self, first, n):
        """Return (n, D) unit vectors and the type of each."""
        rng = np.random.default_rng([first, 1])
        types = rng.integers(TYPES, size=n)
        # The mean cosine of two of one type is 0.5, as of real neighbors.
        made = self.centers[types] + rng.standard_normal((n, DIMS[REGION]), np.float32)
        return made / np.linalg.norm(made, axis=1, keepdims=True), types

    def points(self, first, n):
        """Return n regions with realistic payloads."""
        vectors, types = self.vectors(first, n)
        contour = " ".join(f"{x},{3 * x}" for x in range(20))
        return [
            Point(
                str(uuid.uuid5(NAMESPACE, str(first + i))),
                {REGION: vectors[i]},
                {
                    "kind": REGION,
                    "category": category_of(first + i),
                    "path": f"/images/line4/{first + i:08}.png",
                    "sha256": f"{first + i:064x}",
                    "box": [10, 20, 60, 20],
                    "area_px": 700,
                    "contour": contour,
                    "score": 12.5,
                    "p_value": 0.01,
                    "model": MODEL,
                    "time": "2026-01-01T00:00:00.000+00:00",
                    **({"label": f"type {types[i] % 20}", "labelled_by": "Ann"} if i % 3 else {}),
                },
            )
            for i in range(n)
        ]


def category_of(i):
    return f"part {i % CATEGORIES}"


def load(backend, regions, n, say):
    """Insert n regions; return the rate a second of the median batch, without pauses of the process."""
    times = []
    for at in range(0, n, BATCH):
        points = regions.points(at, min(BATCH, n - at))
        start = time.perf_counter()
        backend.insert(points)
        times.append((time.perf_counter() - start) / len(points))
        if len(times) % 25 == 0:
            say(f"  {at + BATCH} of {n}, {1 / np.median(times):.0f} a second")
    return 1 / float(np.median(times))


def queries_of(regions, n):
    vectors, _ = regions.vectors(10**9, n)
    return [
        Query(vector, 5, Filter(equals={"kind": [REGION], "category": [category_of(i)], "model": [MODEL]}))
        for i, vector in enumerate(vectors)
    ]


def measure(backend, regions, n_queries=N_QUERIES):
    queries = queries_of(regions, n_queries)
    for query in queries[:20]:
        backend.search(REGION, [query])
    times = []
    for query in queries:
        start = time.perf_counter()
        backend.search(REGION, [query])
        times.append(1000 * (time.perf_counter() - start))
    n_exact = min(n_queries // 5, N_EXACT)
    fast, exact = (backend.search(REGION, queries[:n_exact], exact=is_exact) for is_exact in (False, True))
    ids = [[{point.id for point in points} for points in answers] for answers in (fast, exact)]
    recall = np.mean([len(found & true) / len(true) for found, true in zip(*ids, strict=True)])
    p50, p99 = np.percentile(times, [50, 99])
    return {"p50_ms": float(p50), "p99_ms": float(p99), "recall@5": float(recall)}


def embedded(n, regions, say):
    folder = Path(tempfile.mkdtemp())
    backend = EdgeBackend(folder / "s", DIMS)
    try:
        row = {"load_per_s": load(backend, regions, n, say), "before optimise": measure(backend, regions)}
        start = time.perf_counter()
        backend.optimise()
        row |= {"optimise_s": time.perf_counter() - start, "after optimise": measure(backend, regions)}
        start = time.perf_counter()
        backend.close()
        backend = EdgeBackend(folder / "s", DIMS)
        row["open_s"] = time.perf_counter() - start
        row["disk_mb"] = sum(f.stat().st_blocks * 512 for f in folder.rglob("*") if f.is_file()) / 2**20
        return row
    finally:
        backend.close()
        shutil.rmtree(folder, ignore_errors=True)


def on_server(n, regions, say, index_s):
    """Load without the HNSW graph, as Qdrant's guide to bulk loads advises, measure, build it, measure again."""
    program = binary()
    if program is None:
        sys.exit(f"set {VARIABLE} to a Qdrant server's program")
    folder = Path(tempfile.mkdtemp())
    server = QdrantServer(program, folder).start()
    backend = ServerBackend(server.url, api_key=None, collection="scale", dims=DIMS, timeout_s=300.0)
    client = backend._client

    def build_graphs(from_kb):
        client.update_collection("scale", optimizers_config=OptimizersConfigDiff(indexing_threshold=from_kb))

    try:
        build_graphs(0)  # 0 means never
        start = time.perf_counter()
        row = {"load_per_s": load(backend, regions, n, say), "load_wall_s": time.perf_counter() - start}
        row |= {
            "before the graph": measure(backend, regions, 100),
            "count": backend.count(Filter(equals={"kind": [REGION]})),
        }
        print(f"server {n:,}, so far: {json.dumps(row)}", flush=True)
        start = time.perf_counter()
        build_graphs(10_000)
        time.sleep(5)
        while (
            info := client.get_collection("scale")
        ).status.value != "green" and time.perf_counter() - start < index_s:
            say(f"  indexed {info.indexed_vectors_count} of {n}")
            time.sleep(10)
        row |= {"graph_s": time.perf_counter() - start, "in the graph": info.indexed_vectors_count}
        row["after"] = measure(backend, regions)
        status = Path(f"/proc/{server.process.pid}/status").read_text(encoding="ascii")
        kept = dict(line.split(":", 1) for line in status.splitlines())
        row["server_anonymous_mb"] = int(kept["RssAnon"].split()[0]) / 1024
        row["server_resident_mb"] = int(kept["VmRSS"].split()[0]) / 1024
        row["disk_mb"] = sum(f.stat().st_blocks * 512 for f in folder.rglob("*") if f.is_file()) / 2**20
        return row
    finally:
        backend.close()
        server.kill()
        shutil.rmtree(folder, ignore_errors=True)


def table_of(rows):
    """Return the rows as a table for the documentation."""
    shown = [
        {"store": name, "stored a second": row["load_per_s"], "disk MB": row["disk_mb"]}
        | row.get("after optimise", row.get("after", {}))
        for name, row in rows.items()
    ]
    formats = {
        "stored a second": [",.0f"],
        "disk MB": [".0f"],
        "p50_ms": [".1f"],
        "p99_ms": [".1f"],
        "recall@5": [".3f"],
    }
    return table("Stores of regions: five neighbors in one of ten kinds of part", shown, formats=formats)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--embedded", type=int, nargs="*", default=[])
    parser.add_argument("--server", type=int, nargs="*", default=[])
    parser.add_argument("--index-s", type=float, default=7200.0, help="how long to wait for a server's graph")
    add_json_option(parser, __file__)
    arguments = parser.parse_args()
    rows = {}

    def say(text):
        print(text, file=sys.stderr, flush=True)

    def keep(name, row):
        rows[name] = row
        print(f"{name}: {json.dumps(row)}", flush=True)
        write(arguments.json, [table_of(rows)], rows)

    for n in arguments.embedded:
        keep(f"embedded {n:,}", embedded(n, Regions(), say))
    for n in arguments.server:
        keep(f"server {n:,}", on_server(n, Regions(), say, arguments.index_s))


if __name__ == "__main__":
    main()
