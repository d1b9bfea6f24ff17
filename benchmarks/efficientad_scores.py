"""Image scores of EfficientAD from the maps of the same trainings, chosen by leave-one-set-out.

    python benchmarks/efficientad_sets.py --root DATA --budgets '60 steps' --variants EfficientAD --keep FOLDER
    python benchmarks/efficientad_scores.py --root DATA --models FOLDER

A candidate is the mean of the highest cells of a map, or its geometric mean with the mean of all cells. The map is
plain, or of z-scores by the statistics of good images at each position, where there are thirty calibration images or
always. Two more change how the plain map is made. Thresholds are those of a stated 2 %. The choice for a set is the
candidate with the highest mean AUROC over the other sets; z-scores always, which call too many good images defective,
are left out of it.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from efficientad_sets import SETS
from results import add_json_option, show, table, write

from blemish import EfficientAd, MVTecAD
from blemish.detectors.efficientad.settings import LEAST_POSITION
from blemish.imaging.anomaly_map import mean_of_highest
from blemish.imaging.decode import read_image
from blemish.metrics.classification import auroc
from blemish.ops.conformal import Calibration
from blemish.ops.distance_statistics import fit_distance_statistics

SHARES = (0.001, 0.003, 0.01, 0.03, 0.1)
PLAIN, FROM_THIRTY, ALWAYS = "plain", "z-scores", "z-scores always"
LEAST = {PLAIN: np.inf, FROM_THIRTY: LEAST_POSITION, ALWAYS: 2}
DEFAULT = f"{FROM_THIRTY}, highest 1% and all"
MAPS = {"autoencoder's share half": {"share": 0.5}, "not smoothed": {"sigma": 0.0}}
RATE = 0.02


def scores_of(cells):
    """Return the image score of each kind, by name, of the cells of each image's map, (n, h, w) float32."""
    found = {"highest value": [float(one.max()) for one in cells]}
    for share in SHARES:
        top = np.array([mean_of_highest(one, share) for one in cells])
        name = f"highest {share:.1%}".replace(".0%", "%")
        found[name] = top
        found[f"{name} and all"] = np.sqrt(np.maximum(top * cells.mean(axis=(1, 2), dtype=np.float64), 0))
    return found


def maps_of(model, paths):
    """Return both raw maps of images, (n, 2, h, w) float32."""
    maps, prepare = model.fitted.maps, model.fitted.geometry.prepare
    return np.stack([np.stack(maps.raw(prepare(read_image(path, None)))) for path in paths])


def candidates(model, good, test):
    """Yield each candidate's name, and its scores of calibration and of test images.

    Args:
        model: a fitted EfficientAD.
        good: (n, 2, h, w) float32, raw maps of its calibration images.
        test: (m, 2, h, w) float32, of the test images.
    """
    usual = model.fitted.maps
    cells = [np.stack([usual.cells(*pair) for pair in pairs]) for pairs in (good, test)]
    statistics, z_scores = fit_distance_statistics(cells[0], 1.0)
    normalised = [z_scores, np.stack([statistics.z_scores(one) for one in cells[1]])]
    for kind, least in LEAST.items():
        of_good, of_test = map(scores_of, cells if len(good) < least else normalised)
        for name, values in of_good.items():
            yield f"{kind}, {name}", values, of_test[name]
    for name, change in MAPS.items():
        rule = usual.geometry.map_rule._replace(sigma_px=change.get("sigma", usual.geometry.map_rule.sigma_px))
        maps = replace(usual, geometry=replace(usual.geometry, map_rule=rule), share=change.get("share", usual.share))
        both = (scores_of(np.stack([maps.cells(*pair) for pair in pairs])) for pairs in (good, test))
        yield f"{PLAIN}, {name}, highest 1% and all", *(found["highest 1% and all"] for found in both)


def figures(model, data):
    """Return AUROC, share of missed defects and of false positives of each candidate on a set."""
    training = model.fitted.training
    good = maps_of(
        model, [path for path, score in zip(training.paths, training.scores, strict=True) if score is not None]
    )
    samples = list(data.test)
    test = maps_of(model, [sample.path for sample in samples])
    defective = np.array([sample.is_defective for sample in samples])
    found = {}
    for name, of_good, of_test in candidates(model, good, test):
        threshold = Calibration.from_scores(of_good, RATE, "tail").threshold
        called = np.array(of_test) > threshold
        found[name] = (auroc(of_test, defective), float((~called[defective]).mean()), float(called[~defective].mean()))
    return found


def tables(found):
    """Return the table of candidates, and that of the choice without each set."""
    sets = list(found)
    values = {name: np.array([found[one][name] for one in sets]) for name in found[sets[0]]}
    rows = []
    for name, numbers in values.items():
        row = {"score": f"{name} (default)" if name == DEFAULT else name}
        row |= {Path(one).name: float(number) for one, number in zip(sets, numbers[:, 0], strict=True)}
        mean = numbers.mean(axis=0).tolist()
        rows.append(row | dict(zip(("mean AUROC", "missed", "false positives"), mean, strict=True)))
    chosen, asked = [], {name: numbers for name, numbers in values.items() if not name.startswith(ALWAYS)}
    for i, one in enumerate(sets):
        others = {name: np.delete(numbers, i, axis=0)[:, 0].mean() for name, numbers in asked.items()}
        best = max(others, key=others.get)
        numbers = dict(zip(("AUROC", "missed", "false positives"), values[best][i].tolist(), strict=True))
        chosen.append({"set": Path(one).name, "chosen without the set": best, **numbers})
    mean = {key: float(np.mean([row[key] for row in chosen])) for key in ("AUROC", "missed", "false positives")}
    auroc_format = {key: [".3f"] for key in ("AUROC", "mean AUROC", *(Path(one).name for one in sets))}
    formats = auroc_format | {"missed": [".1%"], "false positives": [".1%"]}
    return [
        table("Image scores of EfficientAD, the same trainings", rows, formats=formats),
        table("The score chosen without the set", [*chosen, {"set": "mean", **mean}], formats=formats),
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--models", type=Path, required=True, help="the folder of efficientad_sets.py's --keep")
    parser.add_argument("--sets", nargs="+", default=SETS, help="folders under the root")
    add_json_option(parser, __file__)
    asked = parser.parse_args()
    found = {}
    for category in asked.sets:
        path = Path(category)
        model = EfficientAd.load(asked.models / path.name, threads=1)
        found[category] = figures(model, MVTecAD(asked.root / path.parent, path.name))
        print(category, {name: round(numbers[0], 3) for name, numbers in found[category].items()}, flush=True)
    made = tables(found)
    show(made)
    write(asked.json, made)


if __name__ == "__main__":
    main()
