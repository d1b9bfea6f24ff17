"""EfficientAD on the development sets by budget, beside PatchCore and beside the paper's recipe without shortcuts.

    python benchmarks/efficientad_sets.py --root DATA --budgets 5m 10m --threads 1 --json OUT
    python benchmarks/efficientad_sets.py --root DATA --budgets 10m --variants recipe --json OUT

Every budget is a training of its own, as `blemish fit --model efficientad --budget ...`, on one thread: then seconds
are processor time, if the machine has a core to spare; `cpu_s` says. `recipe` takes as many steps of the same crops as
the budget allowed, without what differs from the paper: the last layer is not solved, images become squares, the score
is the map's highest value. `EfficientAD:384` has as many pixels as 384 x 384. Rows that the JSON has are not run again;
false positives and misses follow from their scores, at the thresholds of today.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from results import add_json_option, load_data, table, write

from blemish import EfficientAd, Engine, MVTecAD, Patchcore
from blemish.detectors.fusion import SCORE_TAIL
from blemish.ops.conformal import PLAIN, Calibration

SETS = ["mvtec/bottle", "hazelnut_jpg", "casting", "mpdd_metal_plate", "kolektor_sdd", "elpv_mono"]
SHOWN = ("image_AUROC", "AUPRO")
RATE = 0.02
MOST_FALSE_POSITIVES = 0.02  # of the oracle's threshold
CROP = 24  # of a number of steps, as a short budget chooses it
RECIPE = {"solve_last": False, "top_share": 0.0, "image_size": (256, 256)}


def one(model, data):
    """Fit, test, and return the row."""
    engine = Engine()
    wall, cpu = time.perf_counter(), time.process_time()
    engine.fit(model, data)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    found = engine.evaluate(model, data)
    scores = np.array([tested.score for tested in found.tested])
    defective = np.array([tested.sample.is_defective for tested in found.tested])
    good = np.sort(scores[~defective])
    threshold = good[len(good) - 1 - int(MOST_FALSE_POSITIVES * len(good) + 1e-9)]
    history = getattr(model.fitted, "history", {})
    return {
        "n_steps": model.fitted.provenance.get("n_steps"),
        "crop": history.get("crop"),
        "network_hw": list(model.fitted.geometry.network_hw),
        "n_good": len(good),
        "n_calibration": model.calibration.n,
        "fit_s": wall,
        "cpu_s": cpu,
        **{name: found.metrics[name] for name in SHOWN if name in found.metrics},
        "oracle": float((scores[defective] <= threshold).mean()),
        "predict_ms": found.timings["predict_ms"],
        "scores": [round(float(score), 5) for score in scores],
        "defective": defective.tolist(),
        "calibration": [round(float(score), 5) for score in model.calibration.scores],
    }


def models(asked, name, budget, rows):
    """Return the detector of a variant; None for `recipe` before the budget's own row is there."""
    efficientad = {"early_stop": False, "seed": asked.seed, "threads": asked.threads}
    if name == "PatchCore":
        return Patchcore(threads=asked.threads)
    kind, _, side = name.partition(":")
    if kind == "EfficientAD":
        if side:
            efficientad["image_size"] = int(side)
        if budget.endswith(" steps"):
            return EfficientAd(max_steps=int(budget.partition(" ")[0]), crop=CROP, **efficientad)
        return EfficientAd(budget=budget, **efficientad)
    like = rows.get(("EfficientAD", budget))
    if like is None:
        return None
    return EfficientAd(max_steps=like["n_steps"], crop=like["crop"], **RECIPE, **efficientad)


def rates(row):
    """Return the shares of false positives and of missed defects of a row at a stated 2 %."""
    tail = SCORE_TAIL if row["variant"] == "PatchCore" else PLAIN
    called = np.array(row["scores"]) > Calibration.from_scores(row["calibration"], RATE, "tail", tail).threshold
    defective = np.array(row["defective"])
    return float(called[~defective].mean()), float((~called[defective]).mean())


def tables(rows):
    """Return the table of all runs, and that of means by variant and budget."""
    shown, means = [], {}
    for row in rows:
        false_positives, missed = rates(row)
        found = {
            "image AUROC": row["image_AUROC"],
            "AUPRO": row.get("AUPRO"),
            "missed": missed,
            "oracle misses": row["oracle"],
            "false positives": false_positives,
        }
        run = {"set": Path(row["set"]).name, "model": row["variant"], "budget": row["budget"] or ""}
        shown.append(run | {"steps": row["n_steps"], "processor s": row["cpu_s"], **found})
        means.setdefault((row["variant"], row["budget"] or ""), []).append((row, found))
    summary = []
    for (variant, budget), pairs in means.items():
        n = np.array([row["n_good"] for row, _ in pairs])
        called = np.array([found["false positives"] for _, found in pairs])
        mean = {}
        for name in ("image AUROC", "AUPRO", "missed", "oracle misses"):
            values = [found[name] for _, found in pairs if found[name] is not None]
            mean[name] = float(np.mean(values)) if values else None
        worst = min(found["image AUROC"] for _, found in pairs)
        together = {"lowest AUROC": worst, "false positives, all sets together": float((n * called).sum() / n.sum())}
        summary.append({"model": variant, "budget": budget, "sets": len(pairs), **mean, **together})
    share, number = ["%"], [".3f"]
    formats = dict.fromkeys(("missed", "oracle misses", "false positives", "false positives, all sets together"), share)
    formats |= dict.fromkeys(("image AUROC", "AUPRO", "lowest AUROC"), number)
    formats |= {"steps": [",d"], "processor s": [".0f"]}
    return [
        table("EfficientAD by budget, means", summary, formats=formats),
        table("EfficientAD by budget, each set", sorted(shown, key=lambda row: row["set"]), formats=formats),
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", default=SETS, help="folders under the root")
    parser.add_argument("--budgets", nargs="+", default=["10m"], help="such as 5m 10m 30m, or '60 steps'")
    parser.add_argument(
        "--variants", nargs="+", default=["PatchCore", "EfficientAD", "recipe"], help="or EfficientAD:SIDE"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="a folder for EfficientAD's models, for efficientad_scores.py")
    add_json_option(parser, __file__)
    asked = parser.parse_args()
    for category in asked.sets:
        for budget in asked.budgets:
            for name in asked.variants:
                rows = load_data(asked.json) or []
                own = {(row["variant"], row["budget"]): row for row in rows if row["set"] == category}
                limit = None if name == "PatchCore" else budget
                model = None if (name, limit) in own else models(asked, name, limit, own)
                if model is None:
                    continue
                path = Path(category)
                row = one(model, MVTecAD(asked.root / path.parent, path.name))
                if asked.keep is not None and name.startswith("EfficientAD"):
                    model.save(asked.keep / path.name)
                rows = [*(load_data(asked.json) or []), {"set": category, "variant": name, "budget": limit, **row}]
                write(asked.json, tables(rows), rows)
                line = "  ".join(f"{name} {row[name]:.3f}" for name in (*SHOWN, "oracle") if name in row)
                print(
                    f"{category:18} {name:12} {limit}  {row['n_steps']} steps  {row['cpu_s']:.0f} cpu s  {line}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
