"""Test PatchCore with one setting changed at a time: the table that the defaults were chosen from.

    python benchmarks/ablation.py --root DATA/mvtec --categories bottle grid --root DATA --categories magnetic_tile
    python benchmarks/ablation.py --root DATA/mvtec --categories grid --backbone resnet50 --only default scaling

Every row is the default with the changes named, fitted and tested through the classes that users have. Rows are
written to --json one by one; rows that an interrupted run of the same network and data left there are not run again.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from kept import keep
from results import add_json_option, load_data, table, write

from blemish import Engine, MVTecAD, Patchcore

FIGURES = ("image_AUROC", "AUPRO", "false_positive_rate", "miss_rate", "predict_ms")
# Which layers, which are a backbone's own; their stride is 8 up to blocks.4 and 16 up to blocks.10.
LITE = {
    "layers 4": {"layers": ("blocks.4",)},
    "layers 4, 7": {"layers": ("blocks.4", "blocks.7")},
    "layers 4, 7, pooling 3": {"layers": ("blocks.4", "blocks.7"), "pooling": 3},
    "layers 4, 10": {"layers": ("blocks.4", "blocks.10")},
    "layers 7, 10": {"layers": ("blocks.7", "blocks.10")},
    "layers 4, 10, 14": {"layers": ("blocks.4", "blocks.10", "blocks.14")},
}
RESNET = {"layers 1, 2": {"layers": ("layer1", "layer2")}, "layer 2": {"layers": ("layer2",)}}
# 0.1.0 measured shrinkage (.01 and 1), score_sigma (1) and map_sigma_px (2 and 8) inert, and they became constants; the
# figures stay in results/ablation.json.
OTHERS = {
    "position: plain distances": {"position_sigma": None},
    "position: no smoothing": {"position_sigma": 0.0},
    "position: smoothing 2": {"position_sigma": 2.0},
    "scaling none": {"scaling": "none"},
    "scaling standard": {"scaling": "standard"},
    "size 224": {"image_size": 224},
    "size 256": {"image_size": 256},
    "size 384": {"image_size": 384},
    "pooling 3": {"pooling": 3},
    "coreset .5 %": {"coreset_sampling_ratio": 0.005},
    "coreset 1 %": {"coreset_sampling_ratio": 0.01},
    "coreset 5 %": {"coreset_sampling_ratio": 0.05},
    "coreset 10 %, at most 20,000": {"coreset_sampling_ratio": 0.1},
    "patches alone": {"score_fusion": False},
    "neighbours 9": {"num_neighbors": 9},
    # What the reference implementation does, as near as these settings come to it.
    "as in the paper": {
        "position_sigma": None,
        "score_fusion": False,
        "scaling": "none",
        "num_neighbors": 9,
        "pooling": 3,
        "image_size": 256,
        "coreset_sampling_ratio": 0.1,
    },
}


def variants(backbone, layers):
    """Return the changes of every row, by name."""
    base = {"backbone": backbone} | ({"layers": layers} if layers else {})
    changed = (RESNET if "resnet" in backbone else LITE) | OTHERS
    return {"default": base} | {name: base | change for name, change in changed.items()}


def one_row(settings, places):
    rows = {}
    for root, category in places:
        data, model, engine = MVTecAD(root, category), Patchcore(**settings), Engine()
        engine.fit(model, data)
        report = engine.evaluate(model, data)
        rows[category] = {**report.metrics, **report.timings}
        rows[category]["by_defect"] = {
            name: row["image_AUROC"] for name, row in report.by_defect.items() if "image_AUROC" in row
        }
    return {"categories": rows, "average": mean_of(rows)}


def mean_of(rows):
    shared = [name for name in FIGURES if all(name in row for row in rows.values())]
    return {name: sum(row[name] for row in rows.values()) / len(rows) for name in shared}


def show(name, row, width):
    cells = []
    for measured in row["categories"].values():
        figures = [f"{measured.get(figure, float('nan')):.3f}" for figure in FIGURES[:2]]
        rates = [f"{100 * measured.get(figure, float('nan')):3.0f}%" for figure in FIGURES[2:4]]
        cells.append(" ".join([*figures, *rates]))
    print(f"{name:{width}}  " + "   ".join(cells) + f"   {row['average']['image_AUROC']:.3f}", flush=True)


def table_of(known, backbone):
    """Return the rows as a table for the documentation."""
    rows, formats = [], {"mean image AUROC": [".3f"]}
    for name, row in known.items():
        cells = {
            f"{category}: image AUROC, AUPRO, missed": [
                measured.get(key) for key in ("image_AUROC", "AUPRO", "miss_rate")
            ]
            for category, measured in row["categories"].items()
        }
        formats |= {key: [".3f", ".3f", "%"] for key in cells}
        rows.append({"change from the default": name, **cells, "mean image AUROC": row["average"]["image_AUROC"]})
    return table(f"One change at a time, {backbone}", rows, formats=formats)


class Places(argparse.Action):
    """`--root A --categories a b --root B --categories c`: each category belongs to the root before it."""

    def __call__(self, parser, namespace, values, option=None):
        """Remember the root, or the categories with their root."""
        if option == "--root":
            namespace.root = values
        elif namespace.root is None:
            parser.error("--categories needs a --root before it")
        else:
            namespace.places = [*(namespace.places or []), *((namespace.root, name) for name in values)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, action=Places)
    parser.add_argument("--categories", nargs="+", dest="places", action=Places, required=True)
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--layers", nargs="+", help="instead of the backbone's usual ones, in every row but its own")
    parser.add_argument("--only", nargs="+", help="rows whose name contains one of these")
    add_json_option(parser, __file__)
    parser.add_argument("--keep", type=Path, help="a folder for what rows share; many gigabytes, delete it afterwards")
    asked = parser.parse_args()
    if asked.keep is not None:
        keep(asked.keep)
    run = {"backbone": asked.backbone, "layers": asked.layers, "places": [f"{r}/{name}" for r, name in asked.places]}
    kept = load_data(asked.json) or {}
    known = kept["rows"] if run.items() <= kept.items() else {}
    chosen = {
        name: settings
        for name, settings in variants(asked.backbone, asked.layers).items()
        if not asked.only or any(part in name for part in asked.only)
    }
    width = max(len(name) for name in chosen)
    print(" " * width + "  " + "   ".join(f"{category:22.22}" for _, category in asked.places) + "   mean")
    print(" " * width + "  " + "   ".join("AUROC AUPRO alarm miss" for _ in asked.places) + "   AUROC")
    for name, settings in chosen.items():
        start = time.perf_counter()
        if name not in known:
            known[name] = one_row(settings, asked.places)
            known[name]["took_s"] = time.perf_counter() - start
        write(asked.json, [table_of(known, asked.backbone)], {**run, "rows": known})
        show(name, known[name], width)


if __name__ == "__main__":
    main()
