"""Covering radius and time of the memory bank's selection: merge and reduce beside one exact traversal.

    python benchmarks/merge_reduce.py --root DATA --sets mvtec/bottle hazelnut_jpg kolektor_sdd elpv_mono

The rows are the whitened patch features of all good training images of a set, 1,600 of 232 values each; 2 % are kept.
Without a second look, the last tenth of the picks goes on as the first ones, among what the chunks kept; its radius is
measured by a search over all rows. Processor time is that of all threads.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from unittest import mock

import numpy as np
from results import add_json_option, table, write

from blemish import MVTecAD, Patchcore
from blemish.backbones.embedding import Extractor, embedding_graph
from blemish.data.training_images import TrainingImages
from blemish.detectors.patchcore.features import SHRINKAGE
from blemish.ops import merge_reduce
from blemish.ops.coreset import drawn_row, traversal
from blemish.ops.merge_reduce import coreset
from blemish.ops.neighbors import MemoryIndex
from blemish.ops.statistics import Moments
from blemish.types import no_progress


def whitened(root, name):
    """Return the (N, 232) float32 whitened patch features of a set's good images."""
    detector = Patchcore()
    settings, backbone = detector.settings, detector.pretrained
    samples = MVTecAD(root / Path(name).parent, Path(name).name).train
    images = TrainingImages(list(samples), bit_depth=None, threads=settings.n_threads)
    geometry = settings.geometry(images.sizes_hw, backbone)
    raw = Extractor(embedding_graph(backbone, pooling=settings.pooling).SerializeToString(), threads=settings.n_threads)
    seen = images.prepared(geometry, range(len(images)), stage="", progress=no_progress)
    rows = np.concatenate([raw.features(image).reshape(-1, sum(backbone.channels)) for _, image in seen])
    moments = Moments()
    for start in range(0, len(rows), 50_000):
        moments.add(rows[start : start + 50_000])
    scaling = moments.scaling("whiten", SHRINKAGE)
    return rows @ scaling.weight.T + scaling.bias


def timed(run):
    """Return the result of `run` and its processor time."""
    start = time.process_time()
    result = run()
    return result, time.process_time() - start


def measure(root, name):
    """Return the row of a set."""
    rows = whitened(root, name)
    n_select = len(rows) // 50
    exact, exact_s = timed(lambda: traversal(rows, n_select, drawn_row(len(rows), 0)))
    ours, ours_s = timed(lambda: coreset(rows, n_select))
    nothing = np.empty(0, np.int64), np.empty(0)
    with mock.patch.object(merge_reduce, "_uncovered", return_value=nothing):
        without = coreset(rows, n_select).indices
    radius = float(MemoryIndex(rows[without]).search(rows).distances.max())
    row = {"set": name, "patches": len(rows), "selected": n_select, "exact, s": exact_s, "here, s": ours_s}
    row |= {"radius / exact": ours.radius / exact.radius, "without a second look": radius / exact.radius}
    print({key: round(value, 3) if isinstance(value, float) else value for key, value in row.items()}, flush=True)
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder of the sets")
    parser.add_argument("--sets", nargs="+", default=["mvtec/bottle", "hazelnut_jpg", "kolektor_sdd", "elpv_mono"])
    add_json_option(parser, __file__)
    args = parser.parse_args()
    rows = [measure(args.root, name) for name in args.sets]
    formats = {"exact, s": [".1f"], "here, s": [".1f"], "radius / exact": [".3f"], "without a second look": [".3f"]}
    write(args.json, [table("Memory bank by merge and reduce", rows, formats=formats)], {"rows": rows})


if __name__ == "__main__":
    main()
