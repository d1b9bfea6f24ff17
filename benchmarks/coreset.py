"""Time the greedy k-center coreset against a pass per pick, on the same rows, in the same run.

    python benchmarks/coreset.py --n 200000 --dim 456 --ratio 0.1 0.01 --json out.json
    python benchmarks/coreset.py --features features.npy        # (N, D) float32, real ones

Peers do one full pass for each pick, so all their picks cost the same: --peer-picks of them are timed and the rest is
extrapolated, and the table says so. Ours is timed whole.

- "anomalib's rule", re-implemented in NumPy, and in torch where it can be imported: a sparse random projection to
  4 ln N / (0.9^2 / 2 - 0.9^3 / 3) dimensions, density 1 / sqrt(D), then for each pick the materialised difference of
  all rows to it, its norm, the minimum with the distances so far, and the largest. The projection has 301 dimensions
  at N = 200,000 whatever D is: where D is smaller it makes the rows wider, and so does anomalib. "The same,
  unprojected" leaves it out in that case.
- "matrix-vector": what a careful NumPy user would write: one product of all rows with the pick, the squared lengths
  being known.

Made-up features ("clusters"), like patches of a deep network: --clusters 64 centres of deviation 2; within each, 24
directions of its own whose deviation falls geometrically from 3 / sqrt(24) to 0.2 / sqrt(24) in every channel; cut off
below at -0.5 as a ReLU would; noise of deviation 0.15. "gaussian" is plain noise, with no structure to use.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import resource
import time
from pathlib import Path

import numpy as np
from results import add_json_option, machine, write
from results import table as results_table

from blemish.ops.coreset import greedy_coreset, traversal_bytes

EPS = 0.9  # anomalib's SparseRandomProjection(eps=0.9) in k_center_greedy.py


def clusters(n, dim, *, n_clusters=64, rank=24, seed=0):
    rng = np.random.default_rng(seed)
    centres = 2 * rng.standard_normal((n_clusters, dim), dtype=np.float32)
    falling = np.geomspace(3, 0.2, rank, dtype=np.float32)[:, None] / np.sqrt(rank, dtype=np.float32)
    of = rng.integers(0, n_clusters, n)
    features = np.empty((n, dim), np.float32)
    for i in range(n_clusters):
        rows = np.flatnonzero(of == i)
        directions = falling * rng.standard_normal((rank, dim), dtype=np.float32)
        inside = rng.standard_normal((len(rows), rank), dtype=np.float32) @ directions
        noise = 0.15 * rng.standard_normal((len(rows), dim), dtype=np.float32)
        features[rows] = np.maximum(centres[i] + inside, -0.5) + noise
    return features


def gaussian(n, dim, *, seed=0):
    return np.random.default_rng(seed).standard_normal((n, dim), dtype=np.float32)


def project(features, seed=0):
    n, dim = features.shape
    n_components = int(4 * np.log(n) / (EPS**2 / 2 - EPS**3 / 3))
    rng = np.random.default_rng(seed)
    density = 1 / np.sqrt(dim)
    signs = rng.choice(np.float32([-1, 0, 1]), (n_components, dim), p=[density / 2, 1 - density, density / 2])
    return features @ (signs * np.float32(np.sqrt(1 / density / n_components))).T


def difference_numpy(features, n_picks):
    pick, nearest = 0, np.full(len(features), np.inf, np.float32)
    for _ in range(n_picks):
        np.minimum(nearest, np.linalg.norm(features - features[pick], axis=1), out=nearest)
        pick = int(nearest.argmax())
        nearest[pick] = 0


def difference_torch(features, n_picks):
    import torch

    rows = torch.from_numpy(features)
    pick, nearest = torch.tensor(0), torch.full((len(rows), 1), torch.inf)
    with torch.inference_mode():
        for _ in range(n_picks):
            distance = torch.linalg.norm(rows - rows[pick], ord=2, dim=1, keepdim=True)
            nearest = torch.minimum(nearest, distance)
            pick = nearest.squeeze(1).max(dim=0).indices
            nearest[pick] = 0


def matrix_vector(features, n_picks):
    squares = np.einsum("ij,ij->i", features, features)
    pick, nearest = 0, np.full(len(features), np.inf, np.float32)
    distance = np.empty(len(features), np.float32)
    for _ in range(n_picks):
        np.matmul(features, features[pick], out=distance)
        distance *= -2
        distance += squares
        distance += squares[pick]
        np.minimum(nearest, distance, out=nearest)
        nearest[pick] = -1
        pick = int(nearest.argmax())


def peers(features):
    """Yield (name, what one pick costs, what is done once, the rows it works on)."""
    start = time.perf_counter()
    projected = project(features)
    once = time.perf_counter() - start
    name = f"anomalib's rule, {projected.shape[1]} dimensions"
    has_torch = importlib.util.find_spec("torch") is not None
    for rows, label, before in [(projected, name, once), (features, "the same, unprojected", 0.0)]:
        if rows is features and features.shape[1] > projected.shape[1]:
            continue
        yield f"{label}, NumPy", difference_numpy, before, rows
        if has_torch:
            yield f"{label}, torch", difference_torch, before, rows
    yield "matrix-vector, NumPy", matrix_vector, 0.0, features


def time_peers(features, n_picks):
    """Return name -> (seconds once, seconds a pick)."""
    result = {}
    for name, run, once, rows in peers(features):
        run(rows, 3)
        start = time.perf_counter()
        run(rows, n_picks)
        result[name] = (once, (time.perf_counter() - start) / n_picks)
        print(f"  {name}: {result[name][1] * 1e3:.1f} ms a pick", flush=True)
    return result


def time_ours(features, ratios, repeats):
    """Return ratio -> seconds, the median of `repeats`."""
    result = {}
    for ratio in ratios:
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            greedy_coreset(features, max(1, int(len(features) * ratio)))
            times.append(time.perf_counter() - start)
        result[ratio] = sorted(times)[len(times) // 2]
        print(f"  blemish, {ratio:.1%}: {', '.join(f'{t:.1f}' for t in times)} s", flush=True)
    return result


def table(n, ours, timed, peer_picks):
    rows = []
    print(f"\n{'':44s} {'picks':>7s} {'seconds':>10s} {'ours is faster':>15s}")
    for ratio, seconds in ours.items():
        n_select = max(1, int(n * ratio))
        print(f"{'blemish, exact':44s} {n_select:7d} {seconds:10.1f}")
        for name, (once, each) in timed.items():
            whole = once + each * n_select
            rows.append(
                {"ratio": ratio, "n_select": n_select, "ours_s": seconds, "peer": name, "peer_s_a_pick": each}
                | {"peer_s": whole, "times_faster": whole / seconds}
            )
            print(f"{name:44s} {n_select:7d} {whole:9.0f}* {whole / seconds:14.1f}x")
    print(f"* {peer_picks} picks timed, the rest extrapolated: a pass per pick costs the same each time.")
    return rows


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=200_000, help="rows of the made-up features")
    parser.add_argument("--dim", type=int, default=456, help="values of each row")
    parser.add_argument("--ratio", type=float, nargs="+", default=[0.1, 0.01], help="shares of the rows to pick")
    parser.add_argument("--data", choices=["clusters", "gaussian"], default="clusters", help="which made-up features")
    parser.add_argument("--features", type=Path, help="a .npy file of (N, D) float32 features instead")
    parser.add_argument("--peer-picks", type=int, default=200, help="picks of each peer that are timed")
    parser.add_argument("--repeats", type=int, default=1, help="whole runs of ours; the median counts")
    add_json_option(parser, __file__)
    return parser.parse_args()


def main():
    args = arguments()
    if args.features:
        features = np.load(args.features, allow_pickle=False).astype(np.float32, copy=False)
    else:
        features = {"clusters": clusters, "gaussian": gaussian}[args.data](args.n, args.dim)
    n, dim = features.shape
    print(f"{n} x {dim}, {args.features or args.data}; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    ours = time_ours(features, args.ratio, args.repeats)
    # Before the peers, whose materialised differences would be counted.
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    estimate_mb = (features.nbytes + traversal_bytes(n, dim, max(1, int(n * max(args.ratio))))) / 2**20
    print(f"  peak memory of the process {peak_mb:.0f} MiB, features {features.nbytes / 2**20:.0f} MiB")
    timed = time_peers(features, args.peer_picks)
    rows = table(n, ours, timed, args.peer_picks)
    about = {"n": n, "dim": dim, "data": str(args.features or args.data), "peer_picks_timed": args.peer_picks}
    about |= {"machine": machine(), "numpy": np.__version__, "peak_mib": peak_mb, "estimate_mib": estimate_mb}
    shown = [
        {
            "share kept": row["ratio"],
            "seconds": row["ours_s"],
            "peer": row["peer"],
            "times as long": row["times_faster"],
        }
        for row in rows
    ]
    formats = {"share kept": ["%"], "seconds": [".1f"], "times as long": [".0f"]}
    notes = f"{args.peer_picks} picks of the peers are timed, the rest is extrapolated."
    made = results_table(f"Exact greedy coreset of {n:,} x {dim}", shown, formats=formats, notes=notes)
    write(args.json, [made], about | {"rows": rows})


if __name__ == "__main__":
    main()
