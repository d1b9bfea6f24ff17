"""PatchCore with other networks and input sizes, on whole sets: does a larger one find more?

    python benchmarks/backbones.py --keep FOLDER --root DATA/mvtec --categories bottle grid --root DATA --categories ...
    python benchmarks/backbones.py --keep FOLDER ... --candidates efficientnet_lite0 efficientnet_lite0:448 resnet50

A candidate is a backbone's name or an ONNX file, with `:SIZE` behind it where the input is not the default's, and
`@LAYERS` where the layers are not. Everything else is PatchCore's default. Times are processor seconds of fit and of a
test image. Figures are kept in FOLDER, so that a stopped run goes on.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
from ablation import Places
from defaults import METRICS
from results import add_json_option, show, table, write

from blemish import Engine, MVTecAD, Patchcore

CANDIDATES = ["efficientnet_lite0", "efficientnet_lite0:448", "efficientnet_lite2", "resnet50"]
FIGURES = {"AUROC": [".3f"], "AUPRO": [".3f"], "missed": [".1%"], "false positives": [".1%"]}
FORMATS = FIGURES | {"ms per image": [".0f"], "fit s": [".0f"], "mean AUROC": [".3f"]}


def settings_of(candidate):
    """Return the arguments of PatchCore that NAME[:SIZE][@LAYER,...] stands for."""
    candidate, _, layers = candidate.partition("@")
    name, _, size = candidate.partition(":")
    return (
        {"backbone": name}
        | ({"image_size": int(size)} if size else {})
        | ({"layers": layers.split(",")} if layers else {})
    )


def measured(data, candidate):
    """Return the figures of a detector with this network on a set."""
    model, start = Patchcore(**settings_of(candidate)), time.process_time()
    model.fit(data.train)
    fitted = time.process_time()
    metrics = Engine().evaluate(model, data).metrics
    tested = time.process_time()
    return {
        **{title: metrics.get(key) for title, key in METRICS.items() if title in FIGURES},
        "ms per image": 1000 * (tested - fitted) / len(data.test),
        "fit s": fitted - start,
    }


def rows_of(found, candidates, sets):
    """Return a row for each set, of each candidate's figures, and the means."""
    for figure in FIGURES:
        rows = []
        for name in sets:
            cells = {candidate: found[candidate, name][figure] for candidate in candidates}
            if None not in cells.values():
                rows.append({"set": name, **cells})
        means = {candidate: float(np.mean([row[candidate] for row in rows])) for candidate in candidates}
        yield figure, [*rows, {"set": "mean", **means}]


def table_of_costs(found, candidates, sets):
    for candidate in candidates:
        costs = [found[candidate, name] for name in sets]
        yield {
            "network": candidate,
            **{title: float(np.mean([cost[title] for cost in costs])) for title in ("fit s", "ms per image")},
        }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, action=Places)
    parser.add_argument("--categories", nargs="+", dest="places", action=Places, required=True)
    parser.add_argument("--keep", type=Path, required=True, help="a folder for the figures")
    parser.add_argument("--candidates", nargs="+", default=CANDIDATES)
    add_json_option(parser, __file__)
    asked = parser.parse_args()
    asked.keep.mkdir(parents=True, exist_ok=True)
    sets = {category: MVTecAD(root, category) for root, category in asked.places}
    kept = asked.keep / "backbones.json"
    found = {(c, s): row for c, s, row in json.loads(kept.read_text())} if kept.exists() else {}
    for candidate in asked.candidates:
        for name, data in sets.items():
            if (candidate, name) not in found:
                found[candidate, name] = measured(data, candidate)
                kept.write_text(json.dumps([[*key, row] for key, row in found.items()], indent=1))
                print(candidate, name, found[candidate, name], flush=True)
    tables = []
    for figure, rows in rows_of(found, asked.candidates, sets):
        tables.append(table(figure, rows, formats=dict.fromkeys(asked.candidates, FIGURES[figure])))
    tables.append(table("Cost", list(table_of_costs(found, asked.candidates, sets)), formats=FORMATS))
    show(tables)
    write(asked.json, tables)


if __name__ == "__main__":
    main()
