"""Choose the defaults of PatchCore by leave-one-set-out, and measure them.

    python benchmarks/defaults.py --keep FOLDER --root DATA/mvtec --categories bottle grid --root DATA --categories ...
    python benchmarks/defaults.py --keep FOLDER ... --only choice      # the tables of the choice alone

Each set is fitted on all of its good images, on 50 and on 20. Patch distances, coarse features and descriptors of
good images and synthetic defects (each without its own part) and of test images are kept in FOLDER, so that a
candidate costs seconds. A candidate is a way to score images. The choice for a set is the candidate with the highest
mean AUROC over the *other* sets. The threshold is that of the rate, of the share of censored scores and of the weight
of the prior by which the fewest defects of the others are missed, with at most 2 % false positives; the prior's mean is
that of the others' scores. The second part fits and tests the detector with its defaults. Figures are kept as well, so
that a stopped run goes on.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import time
from pathlib import Path

import numpy as np
from ablation import Places
from results import add_json_option, show, table, write

from blemish import Engine, MVTecAD, Patchcore
from blemish.data.synthetic.defects import synthetic_defects
from blemish.detectors.fusion import CENSORED, SCORE_TAIL
from blemish.detectors.patchcore.position import LEAST_IMAGES, N_JUDGED
from blemish.imaging.decode import read_image
from blemish.metrics.classification import auroc
from blemish.ops.conformal import Calibration, TailOptions
from blemish.ops.distance_statistics import fit_distance_statistics
from blemish.ops.gaussian import fit_gaussian
from blemish.ops.position_gaussian import N_FEATURES, PositionGaussians
from blemish.ops.statistics import Moments
from blemish.ops.tail_probability import Prior, Tail, leave_one_out_neg_log_p

DRAWS = {"all": None, "50": 50, "20": 20}
TOP_PATCHES = (1, 4, 16, 64)  # of 1,600
IMAGE_WEIGHTS = (0.0, 0.5, 1.0)
RATES = (0.005, 0.01, 0.015, 0.02, 0.025, 0.03)
CENSORED_SCORES = (0.1, 0.2, 0.3, 0.4, 0.5)
PRIOR_WEIGHTS = (0, 10, 20, 40, 80)  # in scores above the median
MOST_FALSE_POSITIVES = 0.02
DEFAULT = "capped, top 16, image 1.0, part judged 0.4, 0.05 to 0.2"
BEFORE = "position, top 1, image 1.0, part always 0.6, conformal 1 %"  # the defaults of 0.1.0


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
    """Return patch distances, coarse features and global descriptors of good and test images, and synthetic defects.

    Good images and synthetic defects on them are compared with the memory bank without the rows of their part.
    """
    state = Patchcore().fit(good).fitted
    scorer, extractor, geometry = state.scorer, state.extractor, state.geometry
    groups = np.array(state.training.groups)

    def features(images, origins):
        distances, parts, summaries = [], [], []
        for image, i in zip(images, origins, strict=True):
            own = None if i is None else np.isin(state.source[:, 0], np.flatnonzero(groups == groups[i]))
            distances.append(scorer.distances(extractor.features(image), exclude=own).distances)
            parts.append(extractor.parts(image))
            summaries.append(extractor.summary(image))
        return np.stack(distances), np.stack(parts), np.stack(summaries)

    inputs = [geometry.prepare(read_image(sample, None)) for sample in good]
    tested = (geometry.prepare(read_image(sample, None)) for sample in test)
    judged = representatives(groups)[:: -(-len(set(groups.tolist())) // N_JUDGED)]
    defects = list(synthetic_defects([inputs[i] for i in judged], len(judged)))
    origins = judged[[defect.image_index for defect in defects]]
    found = {"groups": groups, "syn_of": origins, "defective": np.array([sample.is_defective for sample in test])}
    for name, images, of in (
        ("good", inputs, range(len(good))),
        ("test", tested, [None] * len(test)),
        ("syn", [defect.image for defect in defects], origins.tolist()),
    ):
        found |= zip((name, f"{name}_parts", f"{name}_summaries"), features(images, of), strict=True)
    return found


def representatives(groups):
    """Return the first image of each group."""
    return np.unique(groups)


# Components and candidates


def components(kept):
    """Return raw scores of good images, each without its part, of test images and of synthetic defects, by component.

    Good images are one of each part.
    """
    groups = kept["groups"]
    chosen, scores = representatives(groups), {}
    for kind in ("position", "capped"):
        statistics, good = fit_distance_statistics(kept["good"][chosen], 1.0, border=kind == "capped")
        others = (np.stack([statistics.z_scores(d) for d in kept[name]]) for name in ("test", "syn"))
        maps = (good, *others)
        for n in TOP_PATCHES:
            scores[kind, n] = tuple(top_mean(values, n) for values in maps)
    scores["part"] = part_scores(kept, chosen)
    moments, summaries = Moments(), kept["good_summaries"]
    moments.add(summaries)
    left_out = [summaries[groups == groups[i]] for i in chosen]
    gaussian, distances = fit_gaussian(moments, summaries[chosen], left_out=left_out)
    scores["image"] = distances, np.array([gaussian.mahalanobis(summary) for summary in kept["test_summaries"]]), None
    return scores


def top_mean(maps, n):
    """Return the mean of the highest patches, `n` of 1,600, of each map."""
    flat = maps.reshape(len(maps), -1)
    n_top = max(1, round(n * flat.shape[1] / 1600))
    return np.sort(flat, axis=1)[:, -n_top:].mean(axis=1, dtype=np.float64)


def part_scores(kept, chosen):
    groups, moments = kept["groups"], Moments()
    moments.add(kept["good_parts"].reshape(-1, kept["good_parts"].shape[-1]))
    axes = moments.principal_axes(N_FEATURES)
    good, test, syn = (
        (kept[f"{name}_parts"] @ axes.weight.T + axes.bias).astype(np.float32) for name in ("good", "test", "syn")
    )
    left_out = [[i, *(j for j in np.flatnonzero(groups == groups[i]).tolist() if j != i)] for i in chosen.tolist()]
    gaussians, scores = PositionGaussians.fit(good, left_out)
    judged = [
        gaussians.statistics.z_scores(gaussians.mahalanobis_without(defect, good[groups == groups[i]], len(good)))
        for defect, i in zip(syn, kept["syn_of"], strict=True)
    ]
    return scores, np.array([gaussians.score(parts) for parts in test]), np.array([float(z.max()) for z in judged])


def neg_log_p(good, test):
    tail = Tail.from_scores(good, censored=CENSORED)
    return leave_one_out_neg_log_p(good, censored=CENSORED), np.array([tail.neg_log_p(score) for score in test])


def loss(scores, patch):
    """Return how much less of the synthetic defects position finds than patches, in AUROC; None for few images."""
    if len(scores["part"][0]) < LEAST_IMAGES:
        return None

    def found(good, _, syn):
        return auroc(np.r_[good, syn], np.r_[np.zeros(len(good), bool), np.ones(len(syn), bool)])

    return found(*scores[patch]) - found(*scores["part"])


def candidates():
    """Return the ways to score an image: name to (patches, weight of the image, rule of the part's weight)."""
    found = {}
    for kind in ("position", "capped"):
        for n in TOP_PATCHES:
            for weight in IMAGE_WEIGHTS:
                for rule, part in PART_RULES.items():
                    found[f"{kind}, top {n}, image {weight}, part {rule}"] = (kind, n), weight, part
    return found


def ramp(weight, low, high):
    """Return the rule by which the part's weight falls from `weight` to 0 between two losses of AUROC."""
    return lambda less: 0.0 if less is None else weight * min(max((high - less) / (high - low), 0.0), 1.0)


def always(weight):
    return lambda _: weight


PART_RULES = {
    "never": always(0.0),
    "always 0.4": always(0.4),
    "always 0.6": always(0.6),
    "judged 0.6, margin 0.1": lambda less: 0.6 if less is not None and less <= 0.1 else 0.0,
    **{
        f"judged {weight}, {low} to {high}": ramp(weight, low, high)
        for weight in (0.3, 0.4, 0.6)
        for low, high in ((0.05, 0.2), (0.1, 0.2), (0.1, 0.25))
    },
}


# The choice


class Fits:
    """Scores of every candidate for every set and draw."""

    def __init__(self, kept):
        self.defective = {key: values["defective"] for key, values in kept.items()}
        self.scores, self.known = {name: {} for name in candidates()}, {}
        for key, values in kept.items():
            raw = components(values)
            parts = {name: neg_log_p(good, test) for name, (good, test, _) in raw.items()}
            losses = {patch: loss(raw, patch) for patch in raw if isinstance(patch, tuple)}
            for name, (patch, image, rule) in candidates().items():
                part = rule(losses[patch])
                weights = {patch: 1 - part, "part": part, "image": image}
                self.scores[name][key] = tuple(
                    sum(weight * parts[which][row] for which, weight in weights.items()) for row in (0, 1)
                )

    def auroc(self, name, key):
        """Return the image AUROC of a candidate on a set and draw."""
        if (name, key) not in self.known:
            self.known[name, key] = auroc(self.scores[name][key][1], self.defective[key])
        return self.known[name, key]

    def rates(self, name, key, rate, rule="tail", options=SCORE_TAIL):
        """Return false positive and miss rate at a threshold."""
        good, test = self.scores[name][key]
        threshold = Calibration.from_scores(good, rate, rule, options).threshold
        called, defective = test > threshold, self.defective[key]
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

    def mean_excess(self, name, keys):
        """Return the mean of the scores' excess over the median, over sets fitted on all good images."""
        tails = [
            Tail.from_scores(self.scores[name][key][0], censored=SCORE_TAIL.censored) for key in keys if key[1] == "all"
        ]
        return float(np.mean([tail.mean_excess for tail in tails]))

    def best_threshold(self, name, keys):
        """Return rate and tail: few misses, few enough false positives over all good images."""
        n = np.array([(~self.defective[key]).sum() for key in keys])
        mean_excess, found = self.mean_excess(name, keys), {}
        for censored, weight, rate in itertools.product(CENSORED_SCORES, PRIOR_WEIGHTS, RATES):
            options = TailOptions(censored, Prior(mean_excess, weight) if weight else None)
            seen, missed = np.array([self.rates(name, key, rate, options=options) for key in keys]).T
            if (n * seen).sum() / n.sum() <= MOST_FALSE_POSITIVES:
                found[rate, options] = missed.mean()
        return min(found, key=found.get)


def table_of_choice(fits, draw):
    """Return a row for each set: the choice without it, the choice with it, and the defaults of 0.1.0."""
    sets = [key for key in fits.defective if key[1] == draw]
    everything = list(fits.defective)
    whole = fits.best(everything)
    rows = []
    for key in sets:
        others = [other for other in everything if other[0] != key[0]]
        name = fits.best(others)
        rate, tail = fits.best_threshold(name, others)
        seen, missed = fits.rates(name, key, rate, options=tail)
        before = BEFORE.rsplit(", ", 1)[0]
        old_seen, old_missed = fits.rates(before, key, 0.01, "conformal")
        rows.append(
            {
                "set": key[0],
                "chosen without the set": f"{name}; rate {rate:.1%}, {of_tail(tail)}",
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


def of_tail(options):
    """Return the options of a tail in words."""
    known = "no prior" if options.prior is None else f"prior of {options.prior.n}"
    return f"{options.censored:.0%} censored, {known}" + ("" if options.predictive else ", likelihood alone")


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
    "position, top 1, image 1.0, part always 0.6",
    "position, top 1, image 0.0, part never",
    "capped, top 1, image 0.0, part never",
    "capped, top 16, image 0.0, part never",
    "capped, top 16, image 1.0, part never",
    "capped, top 16, image 1.0, part judged 0.4, 0.05 to 0.2",
)


def table_of_rates(fits, name):
    """Return false positives and misses of the rules and rates, over all sets, by draw."""
    rows, usual = [], SCORE_TAIL
    asked = [("conformal", rate, usual) for rate in (0.01, 0.02)]
    asked += [("tail", rate, usual) for rate in (*RATES, 0.05, 0.1)]
    for rate in (0.01, 0.02, 0.05):
        asked += [("tail", rate, usual._replace(censored=censored)) for censored in CENSORED_SCORES]
        asked += [("tail", rate, usual._replace(prior=usual.prior._replace(n=n))) for n in PRIOR_WEIGHTS if n]
        asked += [("tail", rate, usual._replace(prior=None, predictive=predictive)) for predictive in (True, False)]
    for rule, rate, tail in asked:
        row = {"rule": rule if rule == "conformal" else f"{rule}, {of_tail(tail)}", "stated rate": rate}
        for draw in DRAWS:
            keys = [key for key in fits.defective if key[1] == draw]
            pairs = np.array([fits.rates(name, key, rate, rule, tail) for key in keys])
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
    "SegF1": "SegF1",
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


AUROCS = ["AUROC", "AUROC, chosen with it", "AUROC, 0.1.0", "AP", "pixel AP", "AUPRO", "AUPRO at 5 %", "SegF1"]
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
            table("Rules and rates of the threshold, score by default", table_of_rates(fits, DEFAULT), formats=FORMATS)
        )
    for draw in ("all", "20"):
        if any(its == draw for _, its in found):
            title = f"The defaults, {'all good images' if draw == 'all' else '20 good images'}"
            tables.append(table(title, table_of_defaults(found, draw), formats=FORMATS))
    show(tables)
    write(asked.json, tables)


if __name__ == "__main__":
    main()
