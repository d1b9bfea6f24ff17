"""Choose the defaults of PatchCore by leave-one-set-out, and measure them.

    python benchmarks/defaults.py --keep FOLDER --root DATA/mvtec --categories bottle grid --root DATA --categories ...
    python benchmarks/defaults.py --keep FOLDER ... --only choice      # the tables of the choice alone

Each set is fitted on all of its good images, on 50 and on 20. Patch distances, coarse features and descriptors of
good images (each without its own patches) and of test images are kept in FOLDER, so that a candidate costs seconds. A
candidate is a way to score images. The choice for a set is the candidate with the highest mean AUROC over the *other*
sets, and the rate of the threshold is the highest at which the others have at most 2 % false positives. The second part
fits and tests the detector with its defaults. Figures are kept as well, so that a stopped run goes on.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import time
from pathlib import Path

import numpy as np
from ablation import Places
from results import add_json_option, table, write

from blemish import Engine, MVTecAD, Patchcore
from blemish.detectors.fusion import WEIGHTS_WITH_PART
from blemish.imaging.decode import read_image
from blemish.metrics.classification import auroc
from blemish.ops.conformal import Calibration
from blemish.ops.distance_statistics import fit_distance_statistics
from blemish.ops.gaussian import fit_gaussian
from blemish.ops.position_gaussian import N_FEATURES, PositionGaussians
from blemish.ops.statistics import Moments
from blemish.ops.tail_probability import CENSORED, Tail, leave_one_out_neg_log_p

DRAWS = {"all": None, "50": 50, "20": 20}
TOP_PATCHES = (1, 4, 16, 64)  # of 1,600
IMAGE_WEIGHTS = (0.0, 0.5, 1.0)
MARGINS = (0.05, 0.1, 0.15)
RATES = (0.005, 0.01, 0.015, 0.02, 0.025, 0.03)
MOST_FALSE_POSITIVES = 0.02
BEFORE = "position, top 1, image 1.0, part always, conformal 1 %"  # the defaults of 0.1.0


# What is kept of a set


def drawn(data, draw):
    """Return the good images of a draw, the same at each call; None if there are not more."""
    good, rng = list(data.train), random.Random(data.name)
    if draw == "all":
        return good
    for number in (50, 20):
        if number < len(good):
            chosen = sorted(rng.sample(range(len(good)), number))
            if number == DRAWS[draw]:
                return [good[i] for i in chosen]
    return None


def kept_features(folder, data, draw):
    """Return distances and features of a set, from the folder or computed."""
    path = folder / f"{data.name}-{draw}.npz"
    if not path.exists():
        good = drawn(data, draw)
        np.savez(path, **features_of(good, data.test))
    return dict(np.load(path))


def features_of(good, test):
    """Return patch distances, coarse features and global descriptors of good and of test images.

    Good images are compared with the memory bank without their own rows.
    """
    state = Patchcore().fit(good).fitted
    scorer, extractor, geometry = state.scorer, state.extractor, state.geometry
    found = {}
    for name, samples in (("good", good), ("test", test)):
        distances, parts, summaries = [], [], []
        for i, sample in enumerate(samples):
            image = geometry.prepare(read_image(sample, None))
            own = state.source[:, 0] == i if name == "good" else None
            distances.append(scorer.distances(extractor.features(image), exclude=own).distances)
            parts.append(extractor.parts(image))
            summaries.append(extractor.summary(image))
        found |= {name: np.stack(distances), f"{name}_parts": np.stack(parts), f"{name}_summaries": np.stack(summaries)}
    found["defective"] = np.array([sample.is_defective for sample in test])
    found["judged"] = judged(state.fusion.reason)
    return found


def judged(reason):
    """Return the AUROC of synthetic defects by position and by patches, NaN where there were too few good images."""
    numbers = re.findall(r"\d\.\d{2,}", reason)
    return np.array([float(number) for number in numbers] if numbers else [np.nan, np.nan])


# Components and candidates


def components(kept):
    """Return -log p of good images, by the others, and of test images: component to (good, test)."""
    scores = {}
    for kind in ("position", "capped"):
        statistics, good = fit_distance_statistics(kept["good"], 1.0, border=kind == "capped")
        test = np.stack([statistics.z_scores(distances) for distances in kept["test"]])
        for n in TOP_PATCHES:
            scores[kind, n] = top_mean(good, n), top_mean(test, n)
    scores["part"] = part_scores(kept["good_parts"], kept["test_parts"])
    moments = Moments()
    moments.add(kept["good_summaries"])
    gaussian, distances = fit_gaussian(moments, kept["good_summaries"])
    scores["image"] = distances, np.array([gaussian.mahalanobis(summary) for summary in kept["test_summaries"]])
    return {name: neg_log_p(*values) for name, values in scores.items()}


def top_mean(maps, n):
    """Return the mean of the highest patches, `n` of 1,600, of each map."""
    flat = maps.reshape(len(maps), -1)
    n_top = max(1, round(n * flat.shape[1] / 1600))
    return np.sort(flat, axis=1)[:, -n_top:].mean(axis=1, dtype=np.float64)


def part_scores(good, test):
    moments = Moments()
    moments.add(good.reshape(-1, good.shape[-1]))
    axes = moments.principal_axes(N_FEATURES)
    good, test = ((parts @ axes.weight.T + axes.bias).astype(np.float32) for parts in (good, test))
    gaussians, scores = PositionGaussians.fit(good)
    return scores, np.array([gaussians.score(parts) for parts in test])


def neg_log_p(good, test):
    tail = Tail.from_scores(good, censored=CENSORED)
    return leave_one_out_neg_log_p(good, censored=CENSORED), np.array([tail.neg_log_p(score) for score in test])


def candidates():
    """Return the ways to score an image: name to weights where position does not count, where it does, and margin."""
    found = {}
    for kind in ("position", "capped"):
        for n in TOP_PATCHES:
            for weight in IMAGE_WEIGHTS:
                name = f"{kind}, top {n}, image {weight}"
                plain = {(kind, n): 1.0, "image": weight}
                with_part = {(kind, n): WEIGHTS_WITH_PART["patch"], "part": WEIGHTS_WITH_PART["part"], "image": weight}
                found[f"{name}, part never"] = plain, plain, 0.0
                found[f"{name}, part always"] = with_part, with_part, 0.0
                found |= {f"{name}, part judged {margin}": (plain, with_part, margin) for margin in MARGINS}
    return found


def fused(scores, weights, row):
    return sum(weight * scores[name][row] for name, weight in weights.items() if weight)


# The choice


class Fits:
    """Scores of every candidate for every set and draw."""

    def __init__(self, kept):
        self.defective = {key: values["defective"] for key, values in kept.items()}
        parts = {key: components(values) for key, values in kept.items()}
        self.scores = {
            name: {key: self._fused(parts[key], *rule, kept[key]["judged"]) for key in kept}
            for name, rule in candidates().items()
        }

    @staticmethod
    def _fused(scores, plain, with_part, margin, judged):
        by_position, by_patches = judged
        weights = with_part if by_position >= by_patches - margin or plain is with_part else plain
        return fused(scores, weights, 0), fused(scores, weights, 1)

    def auroc(self, name, key):
        """Return the image AUROC of a candidate on a set and draw."""
        return auroc(self.scores[name][key][1], self.defective[key])

    def rates(self, name, key, rate, rule):
        """Return false positive and miss rate at a threshold."""
        good, test = self.scores[name][key]
        called, defective = test > Calibration.from_scores(good, rate, rule).threshold, self.defective[key]
        return float(called[~defective].mean()), float((~called[defective]).mean())

    def oracle(self, name, key):
        """Return the miss rate at the threshold that the test images' labels give, at most 2 % false positives."""
        test, defective = self.scores[name][key][1], self.defective[key]
        good = np.sort(test[~defective])
        threshold = good[len(good) - 1 - int(MOST_FALSE_POSITIVES * len(good) + 1e-9)]
        return float((test[defective] <= threshold).mean())

    def best(self, keys):
        """Return the candidate with the highest mean AUROC over sets and draws."""
        return max(self.scores, key=lambda name: np.mean([self.auroc(name, key) for key in keys]))

    def best_rate(self, name, keys):
        """Return the highest rate at which there are few enough false positives over all good test images."""
        allowed = [RATES[0]]
        for rate in RATES:
            n = np.array([(~self.defective[key]).sum() for key in keys])
            seen = np.array([self.rates(name, key, rate, "tail")[0] for key in keys])
            if (n * seen).sum() / n.sum() <= MOST_FALSE_POSITIVES:
                allowed.append(rate)
        return allowed[-1]


def table_of_choice(fits, draw):
    """Return a row for each set: the choice without it, the choice with it, and the defaults of 0.1.0."""
    sets = [key for key in fits.defective if key[1] == draw]
    everything = list(fits.defective)
    whole = fits.best(everything)
    rows = []
    for key in sets:
        others = [other for other in everything if other[0] != key[0]]
        name = fits.best(others)
        rate = fits.best_rate(name, others)
        seen, missed = fits.rates(name, key, rate, "tail")
        before = BEFORE.rsplit(", ", 1)[0]
        old_seen, old_missed = fits.rates(before, key, 0.01, "conformal")
        rows.append(
            {
                "set": key[0],
                "chosen without the set": f"{name}, rate {rate:.1%}",
                "AUROC": fits.auroc(name, key),
                "AUROC, chosen with it": fits.auroc(whole, key),
                "AUROC, 0.1.0": fits.auroc(before, key),
                "missed": missed,
                "oracle misses": fits.oracle(name, key),
                "false positives": seen,
                "0.1.0 missed": old_missed,
                "0.1.0 false positives": old_seen,
            }
        )
    return [*rows, mean_row(rows)]


def mean_row(rows):
    mean = {name: float(np.mean([row[name] for row in rows])) for name in rows[0] if is_number(rows[0][name])}
    return {"set": "mean", **mean}


def is_number(value):
    return isinstance(value, float)


def table_of_candidates(fits):
    """Return the mean of each candidate over all sets, by draw, best first."""
    rows = []
    for name in fits.scores:
        row = {"score": name}
        for draw in DRAWS:
            keys = [key for key in fits.defective if key[1] == draw]
            row[f"AUROC, {draw}"] = float(np.mean([fits.auroc(name, key) for key in keys]))
        keys = [key for key in fits.defective if key[1] == "all"]
        row["oracle misses, all"] = float(np.mean([fits.oracle(name, key) for key in keys]))
        rows.append(row)
    rows.sort(key=lambda row: -sum(row[f"AUROC, {draw}"] for draw in DRAWS))
    return rows[:8] + [row for row in rows[8:] if row["score"] in SHOWN]


SHOWN = (
    "position, top 1, image 1.0, part always",
    "position, top 1, image 0.0, part never",
    "capped, top 1, image 0.0, part never",
    "capped, top 16, image 0.0, part never",
)


def table_of_rates(fits, name):
    """Return false positives and misses of the rules and rates, over all sets, by draw."""
    rows = []
    for rule, rate in [("conformal", 0.01), ("conformal", 0.02), *(("tail", rate) for rate in (*RATES, 0.05, 0.1))]:
        row = {"rule": rule, "stated rate": rate}
        for draw in DRAWS:
            keys = [key for key in fits.defective if key[1] == draw]
            pairs = np.array([fits.rates(name, key, rate, rule) for key in keys])
            row[f"false positives, {draw}"], row[f"missed, {draw}"] = pairs.mean(axis=0).tolist()
            row[f"worst set, {draw}"] = float(pairs[:, 0].max())
        rows.append(row)
    return rows


# The defaults, measured


def measured(data, draw):
    """Return the figures of the detector with its defaults on a set."""
    good, model = drawn(data, draw), Patchcore()
    start = time.process_time()
    model.fit(good)
    fit_s = time.process_time() - start
    report = Engine().evaluate(model, data)
    reason = "" if model.fitted.fusion is None else model.fitted.fusion.reason
    interval = model.calibration.rate_interval
    scores = np.array([tested.score for tested in report.tested])
    defective = np.array([tested.sample.is_defective for tested in report.tested])
    above = scores > model.calibration.upper_threshold
    by_defect = {name: 1 - row["miss_rate"] for name, row in report.by_defect.items() if "miss_rate" in row}
    return {
        **{name: value for name, value in report.metrics.items() if value is not None},
        "recall by defect": by_defect,
        "interval": list(interval),
        "above the upper threshold": [float(above[~defective].mean()), float(above[defective].mean())],
        "position": reason,
        "fit processor s": fit_s,
        "n good": len(good),
    }


METRICS = {
    "AUROC": "image_AUROC",
    "AP": "image_AP",
    "pixel AP": "pixel_AP",
    "AUPRO": "AUPRO",
    "AUPRO at 5 %": "AUPRO_0.05",
    "missed": "miss_rate",
    "false positives": "false_positive_rate",
}


def table_of_defaults(found, draw):
    rows = []
    for (name, its_draw), numbers in found.items():
        if its_draw == draw:
            row = {"set": name, "good images": numbers["n good"]}
            row |= {title: numbers.get(key) for title, key in METRICS.items()}
            low, high = numbers["interval"]
            row["2 % stated: 90 % interval"] = f"{low:.1%} to {high:.1%}"
            row["recall by defect type"] = ", ".join(f"{d} {r:.0%}" for d, r in numbers["recall by defect"].items())
            rows.append(row)
    numeric = [title for title in METRICS if all(row[title] is not None for row in rows)]
    mean = {title: float(np.mean([row[title] for row in rows])) for title in numeric}
    return [*rows, {"set": "mean", **mean}]


AUROCS = ["AUROC", "AUROC, chosen with it", "AUROC, 0.1.0", "AP", "pixel AP", "AUPRO", "AUPRO at 5 %"]
SHARES = ["missed", "oracle misses", "0.1.0 missed", "oracle misses, all", "stated rate"]
FORMATS = {
    **{key: [".3f"] for key in AUROCS},
    **{f"AUROC, {draw}": [".4f"] for draw in DRAWS},
    **{key: [".1%"] for key in [*SHARES, "false positives", "0.1.0 false positives"]},
    **{f"{title}, {draw}": [".1%"] for title in ("false positives", "missed", "worst set") for draw in DRAWS},
}


def load(path):
    rows = json.loads(path.read_text()) if path.exists() else []
    return {(row["set"], row["draw"]): row["numbers"] for row in rows}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, action=Places)
    parser.add_argument("--categories", nargs="+", dest="places", action=Places, required=True)
    parser.add_argument("--keep", type=Path, required=True, help="a folder for features and figures; some gigabytes")
    parser.add_argument("--only", choices=["choice", "defaults"], help="one part; what the other needs must be kept")
    add_json_option(parser, __file__)
    asked = parser.parse_args()
    asked.keep.mkdir(parents=True, exist_ok=True)
    sets = [MVTecAD(root, category) for root, category in asked.places]
    keys = [(data, draw) for data in sets for draw in DRAWS if drawn(data, draw) is not None]
    figures = asked.keep / "defaults.json"
    found = load(figures)
    for data, draw in keys if asked.only != "choice" else []:
        if (data.name, draw) not in found and draw != "50":
            found[data.name, draw] = measured(data, draw)
            stored = [{"set": name, "draw": its, "numbers": numbers} for (name, its), numbers in found.items()]
            figures.write_text(json.dumps(stored, indent=1))
            print(
                data.name, draw, {k: v for k, v in found[data.name, draw].items() if isinstance(v, float)}, flush=True
            )
    tables = []
    if asked.only != "defaults":
        kept = {(data.name, draw): kept_features(asked.keep, data, draw) for data, draw in keys}
        fits = Fits(kept)
        best = fits.best(list(fits.defective))
        print("best over all sets:", best)
        for draw in DRAWS:
            title = f"Leave-one-set-out, {'all good images' if draw == 'all' else f'{draw} good images'}"
            tables.append(table(title, table_of_choice(fits, draw), formats=FORMATS))
        tables.append(table("Candidates, mean over the sets", table_of_candidates(fits), formats=FORMATS))
        tables.append(
            table(f"Rules and rates of the threshold, score: {best}", table_of_rates(fits, best), formats=FORMATS)
        )
    for draw in ("all", "20"):
        if any(its == draw for _, its in found):
            title = f"The defaults, {'all good images' if draw == 'all' else '20 good images'}"
            tables.append(table(title, table_of_defaults(found, draw), formats=FORMATS))
    for one in tables:
        print(one["title"])
        for row in one["rows"]:
            print("  ", *(f"{cell:.3f}" if is_number(cell) else cell for cell in row), sep="  ")
    write(asked.json, tables)


if __name__ == "__main__":
    main()
