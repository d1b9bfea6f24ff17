"""What a model learns from reviewed images: false positives and misses by the number of images that people reviewed.

    python benchmarks/reviews.py --root DATA/mvtec --categories bottle grid --root DATA --categories elpv_mono casting

A detector is fitted on 20 good images. Then 200 images come along a line in random order, one of ten of them defective,
and people say of each whether it is good. After some of them the detector is updated with all good ones so far, and
tested on images that are never reviewed. "Next" are the false positives among the good images that come along the line
until the next update.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import numpy as np
from ablation import Places
from results import add_json_option, table, write

from blemish import MVTecAD, Patchcore
from blemish.metrics.classification import auroc
from blemish.types import Prediction

N_FIRST, N_LINE = 20, 200
DEFECTIVE = 0.1
STEPS = (0, 25, 50, 100, 200)


def along_the_line(data, seed=0):
    """Return the first good images, those along the line, and the good and the defective test images."""
    rng = random.Random(f"{data.name} {seed}")
    good = rng.sample(list(data.train), len(data.train))
    defective = [sample for sample in data.test if sample.is_defective]
    rng.shuffle(defective)
    first, rest = good[:N_FIRST], good[N_FIRST:]
    n_good = min(len(rest), round(N_LINE * (1 - DEFECTIVE)))
    n_defective = min(round(n_good * DEFECTIVE / (1 - DEFECTIVE)), len(defective) // 3)
    line = rest[:n_good] + defective[:n_defective]
    rng.shuffle(line)
    return first, line, [sample for sample in data.test if not sample.is_defective], defective[n_defective:]


def scores_of(model, samples):
    found = model.predict_many(samples)
    return np.array([one.score for one in found if isinstance(one, Prediction)])


def reviewed(data):
    """Return a row for each number of reviewed images."""
    first, line, good, defective = along_the_line(data)
    model = Patchcore().fit(first)
    rows = []
    for step, following in zip(STEPS, (*STEPS[1:], None), strict=True):
        if step > len(line) > 0 and rows[-1]["reviewed"] >= len(line):
            break
        seen = [sample for sample in line[: min(step, len(line))] if not sample.is_defective]
        version = model.update(seen) if seen else model
        coming = [sample for sample in line[step:following] if not sample.is_defective]
        of_good, of_defective = scores_of(version, good), scores_of(version, defective)
        labels = np.r_[np.zeros(len(of_good), bool), np.ones(len(of_defective), bool)]
        rows.append(
            {
                "set": data.name,
                "reviewed": min(step, len(line)),
                "good images learnt": N_FIRST + len(seen),
                "AUROC": auroc(np.r_[of_good, of_defective], labels),
                "false positives": float((of_good > version.threshold).mean()),
                "missed": float((of_defective <= version.threshold).mean()),
                "next": float((scores_of(version, coming) > version.threshold).mean()) if coming else None,
            }
        )
        print({name: round(v, 3) if isinstance(v, float) else v for name, v in rows[-1].items()}, flush=True)
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, action=Places)
    parser.add_argument("--categories", nargs="+", dest="places", action=Places, required=True)
    add_json_option(parser, __file__)
    asked = parser.parse_args()
    rows = [row for root, category in asked.places for row in reviewed(MVTecAD(root, category))]
    formats = {"AUROC": [".3f"], "false positives": [".1%"], "missed": [".1%"], "next": [".1%"]}
    write(asked.json, [table("Learning from reviewed images", rows, formats=formats)])


if __name__ == "__main__":
    main()
