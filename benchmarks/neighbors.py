"""Time exact nearest neighbours against NumPy, torch and faiss on the same work, in the same run.

    python benchmarks/neighbors.py --queries 1024 --bank 20000 --dim 384 --json out.json
    python benchmarks/neighbors.py --features features.npz      # arrays "queries" and "bank" of real features

Made-up features ("clusters"): 200 centres in 24 dimensions whose variance falls as 1/i, points 0.5 around them, mapped
linearly to --dim channels, cut off below at -0.5 as a ReLU would, plus noise of 0.15. "noise" is plain Gaussian: the
worst case, with no structure to use.
torch and faiss are timed where they can be imported; both must run on all cores like NumPy.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import time
from pathlib import Path

import numpy as np
from results import add_json_option, table, write

from blemish.ops import int8_bounds as integer_scores
from blemish.ops import neighbors
from blemish.ops.neighbors import MemoryIndex

CHUNK = 2048
# OpenBLAS and OpenMP threads spin for a while after a product; nobody should pay for his neighbour's. After the rest
# the first call finds its bank out of the processor's reach; a line searches image after image, so it is not timed.
REST_S = 0.25


def clusters(rng, n_queries, n_bank, dim):
    mixing = rng.normal(size=(24, dim)) * np.arange(1, 25)[:, None] ** -0.5
    centres = rng.normal(size=(200, 24))
    n = n_queries + n_bank
    points = centres[rng.integers(200, size=n)] + 0.5 * rng.normal(size=(n, 24))
    rows = (np.maximum(points @ mixing, -0.5) + 0.15 * rng.normal(size=(n, dim))).astype(np.float32)
    return rows[:n_queries], rows[n_queries:]


def noise(rng, n_queries, n_bank, dim):
    rows = rng.normal(size=(n_queries + n_bank, dim)).astype(np.float32)
    return rows[:n_queries], rows[n_queries:]


def with_numpy(bank):
    """Chunked matrix product and minimum; squared lengths of the bank are prepared."""
    squares = (bank * bank).sum(axis=1)

    def search(queries):
        best = np.full(len(queries), np.inf, np.float32)
        index = np.zeros(len(queries), np.int64)
        each = np.arange(len(queries))
        for start in range(0, len(bank), CHUNK):
            scores = queries @ bank[start : start + CHUNK].T
            scores *= -2
            scores += squares[start : start + CHUNK]
            nearest = scores.argmin(axis=1)
            lower = scores[each, nearest] < best
            best[lower], index[lower] = scores[each, nearest][lower], nearest[lower] + start
        return np.sqrt(np.maximum(best + (queries * queries).sum(axis=1), 0)), index

    return search


def with_torch(bank):
    import torch

    rows = torch.from_numpy(bank)
    squares = (rows * rows).sum(dim=1)

    def search(queries):
        asked = torch.from_numpy(queries)
        best, index = [], []
        with torch.inference_mode():
            for start in range(0, len(rows), CHUNK):
                part = slice(start, start + CHUNK)
                found = torch.addmm(squares[part], asked, rows[part].T, alpha=-2).min(dim=1)
                best.append(found.values)
                index.append(found.indices + start)
            values, chunk = torch.stack(best).min(dim=0)
            indices = torch.stack(index).gather(0, chunk[None])[0]
            return (values + (asked * asked).sum(dim=1)).clamp(min=0).sqrt().numpy(), indices.numpy()

    return search


def with_faiss(bank):
    import faiss

    flat = faiss.IndexFlatL2(bank.shape[1])
    flat.add(bank)

    def search(queries):
        squares, indices = flat.search(queries, 1)
        return np.sqrt(squares[:, 0]), indices[:, 0]

    return search


def true_distances(queries, bank):
    out = np.empty(len(queries))
    for i, query in enumerate(queries.astype(np.float64)):
        out[i] = np.sqrt(((bank - query) ** 2).sum(axis=1).min())
    return out


def timed(call, queries):
    time.sleep(REST_S)
    call(queries)
    wall, processor = time.perf_counter(), time.process_time()
    found = call(queries)
    return time.perf_counter() - wall, time.process_time() - processor, found


def compare(queries, bank, repeats):
    searches = {"numpy": with_numpy(bank)}
    for name, make in (("torch", with_torch), ("faiss", with_faiss)):
        if importlib.util.find_spec(name) is not None:
            searches[name] = make(bank)
    start = time.perf_counter()
    index = MemoryIndex(bank)
    build_s = time.perf_counter() - start

    def ours(queries):
        found = index.search(queries)
        return found.distances[:, 0], found.indices[:, 0]

    searches["blemish"] = ours
    times = {name: [] for name in searches}
    truth = true_distances(queries, bank)
    wrong = {}
    for _ in range(repeats + 1):
        for name, search in searches.items():
            wall, processor, (distances, _) = timed(search, queries)
            times[name].append((wall, processor))
            wrong[name] = float(np.max(np.abs(distances - truth) / np.maximum(truth, 1e-12)))
    rows = []
    for name in searches:
        walls, processors = zip(*times[name][1:], strict=True)
        rows.append(
            {
                "method": name,
                "best_ms": 1e3 * min(walls),
                "median_ms": 1e3 * float(np.median(walls)),
                "processor_ms": 1e3 * min(processors),
                "largest_relative_error": wrong[name],
            }
        )
    for row in rows:
        for figure in ("best_ms", "median_ms", "processor_ms"):
            row[figure.replace("_ms", "_ratio")] = row[figure] / rows[-1][figure]
    return {"build_ms": 1e3 * build_s, "methods": rows, "bound": what_bounds(index, queries, bank)}


def best_s(call, repeats=5):
    times = []
    for _ in range(repeats):
        start = time.thread_time()
        call()
        times.append(time.thread_time() - start)
    return min(times)


def what_bounds(index, queries, bank):
    """Return the stages of a search in processor time of one thread, and the machine's rates for its products."""
    coarse = index._coarse
    time.sleep(REST_S)
    if coarse is None:
        return {}
    parts = index._blocks(len(queries))
    buffers = coarse.take_buffers(max(part.stop - part.start for part in parts))
    nothing = np.empty(0, np.int64)
    pairs = [coarse.candidates(queries[part], bank, 1, nothing, buffers) for part in parts]
    if any(pair is None for pair in pairs):
        return {"fell_back_to_float32": True}
    graph_s = best_s(lambda: [coarse._run(queries[part], buffers) for part in parts])
    candidates_s = best_s(lambda: [coarse.candidates(queries[part], bank, 1, nothing, buffers) for part in parts])
    finish_s = best_s(
        lambda: [neighbors._best_of_pairs(queries[p], bank, *pair, 1) for p, pair in zip(parts, pairs, strict=True)]
    )
    product_s = best_s(product_alone(coarse, parts, buffers))
    operations = 2 * len(queries) * coarse.width * buffers.dots.shape[1]
    left, right = np.ones((1024, bank.shape[1]), np.float32), np.ones((bank.shape[1], 4096), np.float32)
    start = time.perf_counter()
    for _ in range(5):
        left @ right
    float32_s = (time.perf_counter() - start) / 5
    return {
        "pairs_measured_per_query": sum(len(pair[0]) for pair in pairs) / len(queries),
        "pairs_measured_share": sum(len(pair[0]) for pair in pairs) / len(queries) / len(bank),
        "integer_dimensions": coarse.width,
        "stages_ms_one_thread": {
            "integer product alone": 1e3 * product_s,
            "rotate, round, bound": 1e3 * (graph_s - product_s),
            "group maxima, survivors": 1e3 * (candidates_s - graph_s),
            "distances of survivors": 1e3 * finish_s,
        },
        "integer_product_gop_per_s_one_thread": operations / product_s / 1e9,
        "float32_product_gop_per_s_all_threads": 2 * left.size * right.shape[1] / float32_s / 1e9,
    }


def product_alone(coarse, parts, buffers):
    from onnx import TensorProto, helper

    rng = np.random.default_rng(0)
    columns = buffers.dots.shape[1]
    node = helper.make_node("MatMulInteger", ["a", "b", "zero_point"], ["c"])
    constants = {
        "b": rng.integers(-127, 128, size=(coarse.width, columns)).astype(np.int8),
        "zero_point": np.uint8(128),
    }
    session = integer_scores.load_products([node], {"a": TensorProto.UINT8}, {"c": TensorProto.INT32}, constants)
    rows = rng.integers(0, 256, size=(parts[-1].stop, coarse.width)).astype(np.uint8)

    def run():
        for part in parts:
            session.run_into({"a": rows[part]}, {"c": buffers.dots[: part.stop - part.start]})

    return run


def show(name, result):
    print(f"\n{name}: {result['queries']} queries x {result['bank']} rows x {result['dim']}, k = 1")
    print(
        f"{'method':10}{'best ms':>9}{'ratio':>7}{'median ms':>11}{'ratio':>7}{'cpu ms':>9}{'ratio':>7}  largest error"
    )
    for row in result["methods"]:
        print(
            f"{row['method']:10}{row['best_ms']:9.1f}{row['best_ratio']:7.2f}{row['median_ms']:11.1f}"
            f"{row['median_ratio']:7.2f}{row['processor_ms']:9.1f}{row['processor_ratio']:7.2f}"
            f"  {row['largest_relative_error']:.1e}"
        )
    print(f"index built in {result['build_ms']:.0f} ms (the first build imports onnx and onnxruntime)")
    for figure, value in result["bound"].items():
        if isinstance(value, dict):
            print(f"{figure}: " + ", ".join(f"{stage} {ms:.1f}" for stage, ms in value.items()))
        else:
            print(f"{figure}: {value:.4g}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=1024)
    parser.add_argument("--bank", type=int, default=20000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--features", type=Path, help="an .npz file with arrays queries and bank, float32")
    add_json_option(parser, __file__)
    asked = parser.parse_args()
    if asked.features is not None:
        with np.load(asked.features) as arrays:
            features = {asked.features.name: (arrays["queries"], arrays["bank"])}
    else:
        sizes = (asked.queries, asked.bank, asked.dim)
        features = {make.__name__: make(np.random.default_rng(asked.seed), *sizes) for make in (clusters, noise)}
    report = {"cores": os.cpu_count(), "processor": platform.processor(), "seed": asked.seed, "results": {}}
    for name, (queries, bank) in features.items():
        result = compare(queries, bank, asked.repeats)
        result |= {"queries": len(queries), "bank": len(bank), "dim": bank.shape[1]}
        report["results"][name] = result
        show(name, result)
    rows = [
        {"features": name, "method": row["method"], "median ms": row["median_ms"], "times as long": row["median_ratio"]}
        for name, result in report["results"].items()
        for row in result["methods"]
    ]
    formats = {"median ms": [".0f"], "times as long": [".1f"]}
    write(asked.json, [table("Exact nearest neighbors", rows, formats=formats)], report)


if __name__ == "__main__":
    main()
