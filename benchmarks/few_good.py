"""How many good images are enough? Accuracy and false positives by their number, and whether the whole image pays.

    python benchmarks/few_good.py --root DATA/mvtec --categories bottle grid --root DATA --categories magnetic_tile
    python benchmarks/few_good.py --drawn --json out.json     # the demo's three categories, with more images

Good training images are drawn at random, each number of them anew; all test images are judged. "Patches" is the
image AUROC of the same detectors' worst patch alone, "likelihood" what a threshold of the same scores gives that is not
predictive and has no prior.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from pathlib import Path

import numpy as np
from ablation import Places
from results import add_json_option, table, write

from blemish import MVTecAD, Patchcore
from blemish.data.synthetic.demo import CATEGORIES, make_demo
from blemish.metrics.classification import auroc
from blemish.ops.conformal import Calibration

SHARES = ("false positives", "missed", "false positives, likelihood", "missed, likelihood")
FIGURES = {"AUROC": ".3f", "patches": ".3f"} | dict.fromkeys(SHARES, ".1%")


def one_fit(data, n_good, seed):
    """Return the figures of a detector fitted on so many of a data set's good images."""
    model = Patchcore().fit(random.Random(seed).sample(data.train, n_good))
    found = list(model.predict_many(data.test))
    defective = np.array([sample.is_defective for sample in data.test])
    scores = np.array([one.score for one in found])
    called, by_likelihood = (scores > threshold for threshold in (model.threshold, likely_threshold(model.calibration)))
    return {
        "AUROC": auroc(scores, defective),
        "patches": auroc([one.score_components["patch"] for one in found], defective),
        "false positives": float(called[~defective].mean()),
        "missed": float((~called[defective]).mean()),
        "false positives, likelihood": float(by_likelihood[~defective].mean()),
        "missed, likelihood": float((~by_likelihood[defective]).mean()),
    }


def likely_threshold(calibration):
    """Return the threshold of the same scores by maximum likelihood."""
    options = calibration.options._replace(prior=None, predictive=False)
    return Calibration.from_scores(calibration.scores, calibration.false_positive_rate, "tail", options).threshold


def rows_of(name, data, numbers, n_draws):
    """Return the mean figures by number of good images, as far as there are so many."""
    rows = {}
    for n_good in (n for n in numbers if n <= len(data.train)):
        draws = [one_fit(data, n_good, seed) for seed in range(n_draws)]
        rows[n_good] = mean_of(draws)
        show(name, n_good, rows[n_good])
    return rows


def mean_of(rows):
    return {figure: float(np.mean([row[figure] for row in rows])) for figure in FIGURES}


def show(name, n_good, row):
    cells = "   ".join(f"{figure} {row[figure]:{form}}" for figure, form in FIGURES.items())
    print(f"{name:16} {n_good:4} good   {cells}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, action=Places)
    parser.add_argument("--categories", nargs="+", dest="places", action=Places)
    parser.add_argument("--drawn", action="store_true", help="the demo's categories, 160 good images of each")
    parser.add_argument("--numbers", type=int, nargs="+", default=[10, 20, 40, 80, 160])
    parser.add_argument("--draws", type=int, default=2)
    add_json_option(parser, __file__)
    asked = parser.parse_args()
    if not (asked.places or asked.drawn):
        parser.error("nothing to measure: give --root and --categories, or --drawn")
    with tempfile.TemporaryDirectory() as folder:
        sets = {category: MVTecAD(root, category) for root, category in asked.places or ()}
        if asked.drawn:
            make_demo(Path(folder) / "drawn", seed=3, n_train=160, n_test=40, n_defective=10)
            sets |= {f"drawn {category}": MVTecAD(Path(folder) / "drawn", category) for category in CATEGORIES}
        found = {name: rows_of(name, data, asked.numbers, asked.draws) for name, data in sets.items()}
    means = []
    for n_good in asked.numbers:
        rows = [rows[n_good] for rows in found.values() if n_good in rows]
        if rows:
            means.append({"set": f"mean of {len(rows)}", "good images": n_good, **mean_of(rows)})
            show(f"mean of {len(rows)}", n_good, means[-1])
    shown = [{"set": name, "good images": n, **row} for name, rows in found.items() for n, row in rows.items()]
    formats = {name: [form] for name, form in {**FIGURES, "good images": "d"}.items()}
    titles = {"Means by the number of good images": means, "Accuracy by the number of good images": shown}
    write(asked.json, [table(title, rows, formats=formats) for title, rows in titles.items()])


if __name__ == "__main__":
    main()
