"""How early a review finds a model's errors: in the station's order, by distance to the threshold, in random order.

    python benchmarks/review_order.py --root DATA/mvtec --categories bottle --root DATA --categories wood_boards ...

A detector is fitted on 20 good images and inspects others, up to 120 good and 30 defective ones. They are reviewed one
after the other, and each review counts for the order of the rest. The figure is 1 - mean rank of the errors (false
positives and misses) as a share of all images: 1 if they all come first, .5 on average in random order.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import numpy as np
from ablation import Places
from results import add_json_option, table, write

from blemish import MVTecAD, Patchcore
from blemish.search import RegionEncoder, most_anomalous_region
from blemish.station.informative import priorities

N_FIRST, N_GOOD, N_DEFECTIVE = 20, 120, 30


def inspected(data):
    """Return margins, labels, looks and truth of the images of a line."""
    rng = random.Random(data.name)
    good = rng.sample(list(data.train), len(data.train))
    defective = [sample for sample in data.test if sample.is_defective]
    rest = good[N_FIRST:] + [sample for sample in data.test if not sample.is_defective]
    rng.shuffle(defective)
    rng.shuffle(rest)
    line = rest[:N_GOOD] + defective[:N_DEFECTIVE]
    rng.shuffle(line)
    model = Patchcore().fit(good[:N_FIRST])
    encoder = RegionEncoder(model)
    encoder.fit()
    encoded = [encoder.encode(sample, force=True) for sample in line]
    scores = np.array([one.prediction.score for one in encoded])
    spread = max(model.threshold - float(np.median(model.calibration.scores)), 1e-9)
    looks = np.stack([most_anomalous_region(one).vector for one in encoded])
    truth = np.array([sample.is_defective for sample in line], np.bool_)
    return np.abs(scores - model.threshold) / spread, scores > model.threshold, looks, truth


def order_of(margins, labels, looks, truth):
    """Return the order in which the station shows the images."""
    left, seen = list(range(len(margins))), []
    while left:
        found = priorities(margins[left], labels[left], looks[left], looks[seen], truth[seen])
        seen.append(left.pop(int(found.total.argmax())))
    return np.array(seen)


def earliness(order, wrong):
    """Return 1 - mean rank of the errors as a share of all images."""
    return float(np.mean(1 - (np.flatnonzero(wrong[order]) + 0.5) / len(order)))


def row_of(data):
    """Return the figures of one set; None if the model makes no error."""
    margins, labels, looks, truth = inspected(data)
    wrong = labels != truth
    if not wrong.any():
        return None
    order = order_of(margins, labels, looks, truth)
    first = order[: max(1, len(order) // 5)]
    return {
        "set": data.name,
        "images": len(order),
        "errors": int(wrong.sum()),
        "random order": 0.5,
        "by threshold": earliness(np.argsort(margins, kind="stable"), wrong),
        "station": earliness(order, wrong),
        "found in the first fifth": float(wrong[first].sum() / wrong.sum()),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, action=Places)
    parser.add_argument("--categories", nargs="+", dest="places", action=Places, required=True)
    add_json_option(parser, __file__)
    asked = parser.parse_args()
    rows = [row for root, category in asked.places if (row := row_of(MVTecAD(root, category)))]
    formats = {name: [".2f"] for name in ("random order", "by threshold", "station")}
    formats["found in the first fifth"] = [".0%"]
    write(asked.json, [table("Errors found early in a review", rows, formats=formats)])


if __name__ == "__main__":
    main()
