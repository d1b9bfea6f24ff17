"""How good EfficientAD is after so much training: AUROC and AUPRO against steps and time.

    python benchmarks/efficientad_curve.py --root DATA/mvtec --categories bottle grid --budgets 2m 10m 60m --json OUT
    python benchmarks/efficientad_curve.py --root DATA --categories magnetic_tile --steps 100 400 1600 --json OUT

Each row is a training of its own, as `blemish fit --model efficientad --budget ...` or `--max-steps ...` does it: other
options change one thing (--lr, --crop, --penalty for photographs instead of drawn images, ...). Rows that the JSON
already has are not run again, and a row that was interrupted goes on from its checkpoint, so that the command can be
given again after a kill. `cpu_s` is processor time of all threads: on a shared machine it says more than the wall's.
"""

from __future__ import annotations

import argparse
import json
import time
import zlib
from pathlib import Path

from results import add_json_option, load_data, table, write

from blemish import EfficientAd, Engine, MVTecAD
from blemish.detectors.registry import load

SHOWN = ("image_AUROC", "AUPRO", "pixel_AUROC", "false_positive_rate", "miss_rate")


def one(asked, category, limits, checkpoint):
    """Fit, test through a saved model folder, and return the row."""
    data = MVTecAD(asked.root, category)
    options = {name: getattr(asked, name) for name in ("lr", "crop", "batch_size") if getattr(asked, name) is not None}
    model = EfficientAd(
        teacher=asked.teacher,
        imagenet_dir=asked.penalty,
        early_stop=False,
        seed=asked.seed,
        threads=asked.threads,
        checkpoint=checkpoint,
        **options,
        **limits,
    )
    engine = Engine()
    wall, cpu = time.perf_counter(), time.process_time()
    engine.fit(model, data)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    folder = model.save(checkpoint.with_suffix(".model"))
    found = engine.evaluate(load(folder, threads=asked.threads), data)
    history = model.fitted.history
    return {
        "category": category,
        "n_steps": model.fitted.provenance["n_steps"],
        "crop": history["crop"],
        "training_s": model.fitted.provenance["training_s"],
        "fit_s": wall,
        "cpu_s": cpu,
        **{name: found.metrics[name] for name in SHOWN if name in found.metrics},
        "last_losses": history["losses"][-1:],
        "false_positive_rate_promised": model.calibration.false_positive_rate_promised,
        "predict_ms": found.timings["predict_ms"],
    }


def table_of(rows):
    """Return the rows as a table for the documentation."""
    names = {"image_AUROC": "image AUROC", "AUPRO": "AUPRO", "miss_rate": "missed"}
    shown = [
        {"set": row["category"], "limit": str(row.get("budget", row.get("max_steps"))), "steps": row["n_steps"]}
        | {title: row.get(name) for name, title in names.items()}
        for row in rows
    ]
    formats = {"steps": [",d"], "image AUROC": [".3f"], "AUPRO": [".3f"], "missed": ["%"]}
    return table("EfficientAD by training time", shown, formats=formats)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--categories", nargs="+", required=True)
    parser.add_argument("--budgets", nargs="*", default=[], help="times, such as 2m 10m 60m")
    parser.add_argument("--steps", nargs="*", type=int, default=[], help="numbers of steps")
    parser.add_argument("--lr", type=float)
    parser.add_argument("--crop", type=int)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--penalty", type=Path)
    parser.add_argument("--teacher", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int)
    add_json_option(parser, __file__)
    asked = parser.parse_args()
    rows = load_data(asked.json) or []
    done = {row["key"] for row in rows}
    limits = [{"budget": budget} for budget in asked.budgets] + [{"max_steps": n} for n in asked.steps]
    told = {name: str(getattr(asked, name)) for name in ("lr", "crop", "batch_size", "penalty", "teacher", "seed")}
    for limit in limits:
        for category in asked.categories:
            key = json.dumps([category, limit, told])
            if key in done:
                continue
            name = (
                f"{category}-{'-'.join(str(value) for value in limit.values())}-{zlib.crc32(json.dumps(told).encode())}"
            )
            row = one(asked, category, limit, asked.json.with_name(f".{asked.json.stem}-{name}.state"))
            rows.append({"key": key, **limit, "options": told, **row})
            write(asked.json, [table_of(rows)], rows)
            line = "  ".join(f"{name} {row[name]:.3f}" for name in SHOWN if name in row)
            print(f"{category:14} {limit}  {row['n_steps']} steps  {row['cpu_s']:.0f} cpu s  {line}", flush=True)


if __name__ == "__main__":
    main()
