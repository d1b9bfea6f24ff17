"""PatchCore of anomalib and of Blemish on several sets: the same images, network, weights and size of the memory bank.

    python benchmarks/anomalib_sets.py --root DATA --categories wood_boards kolektor_sdd --json OUT

Each side runs in a process of its own, as `blemish compare` has it. anomalib's coreset takes hours where there are
hundreds of images: some of its picks are timed, its fit is extrapolated from them, and both then use our coreset. It
reads only sets with masks. Sets that the JSON has are not run again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ablation import Places
from results import add_json_option, load_data, show, table, write

from blemish.interop.anomalib.compare import NAMES, compare
from blemish.interop.anomalib.engine import Settings

ACCURACY = {"image_AUROC": "image AUROC", "AUPRO": "AUPRO"}
COST = {"fit_cpu_s": "fit, processor s", "predict_cpu_ms": "prediction, processor ms", "model_mb": "model, MB"}


def tables(rows):
    """Return the tables of accuracy and of cost: a row a set, a column each side."""
    made = []
    for title, figures in (("Accuracy", ACCURACY), ("Cost", COST)):
        shown = [
            {"set": row["set"]}
            | {f"{text}: {NAMES[side]}": numbers.get(key) for key, text in figures.items()
               for side, numbers in row["sides"].items()}
            for row in rows
        ]  # fmt: skip
        means = {}
        for name in shown[0]:
            values = [row[name] for row in shown]
            means[name] = None if None in values else "mean" if name == "set" else sum(values) / len(values)
        form = [".3f"] if figures is ACCURACY else [".0f"]
        formats = {name: form for name in shown[0] if name != "set"}
        made.append(table(f"{title} of anomalib's PatchCore and of Blemish's", [*shown, means], formats=formats))
    return made


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, action=Places)
    parser.add_argument("--categories", nargs="+", dest="places", action=Places, required=True)
    parser.add_argument("--coreset-ratio", type=float, default=0.01)
    parser.add_argument("--timed-picks", type=int, default=60)
    parser.add_argument("--threads", type=int, default=1)
    add_json_option(parser, __file__)
    asked = parser.parse_args()
    settings = Settings(
        coreset_sampling_ratio=asked.coreset_ratio, timed_picks=asked.timed_picks, threads=asked.threads
    )
    for root, category in asked.places:
        rows = load_data(asked.json) or []
        if category in {row["set"] for row in rows}:
            continue
        found = compare(root, [category], settings=settings, say=lambda line: print(line, flush=True))
        if category in found.failed:
            print(category, found.failed[category])
            continue
        rows.append({"set": category, "sides": {side: found.numbers(category, side) for side in NAMES}})
        write(asked.json, tables(rows), rows)
    if rows := load_data(asked.json):
        show(tables(rows))


if __name__ == "__main__":
    main()
