"""The documentation's tables of what `blemish compare` measured: anomalib and Blemish on the same images and weights.

    blemish compare --root DATA/mvtec --categories grid --coreset-ratio 0.1 --timed-picks 40 --threads 1 --json GRID
    blemish compare --root DATA/mvtec --categories bottle --coreset-ratio 0.01 --threads 1 --json BOTTLE
    python benchmarks/compare.py GRID BOTTLE

Each side ran in a process of its own, one after the other.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from results import add_json_option, show, table, write

SIDES = {"anomalib": "anomalib", "same": "Blemish, same settings", "defaults": "Blemish, defaults"}
METRICS = {"image_AUROC": "image AUROC", "pixel_AUROC": "pixel AUROC", "AUPRO": "AUPRO"}
COSTS = {
    "fit_cpu_s": ("fit, processor time", "{:,.0f} s"),
    "predict_cpu_ms": ("predict, processor time", "{:,.0f} ms"),
    "peak_mb": ("peak memory", "{:,.0f} MB"),
    "model_mb": ("saved model", "{:,.0f} MB"),
}
SHARED = {"import_s": ("import", "{:.1f} s"), "install_mb": ("installed", "{:,.0f} MB")}
NOTES = {
    "timed": (
        "anomalib {version} and the same settings: the same EfficientNet-Lite0 weights, layers, images and size of "
        "256 px, one thread. {timed} of {n_bank:,.0f} picks of anomalib's coreset were timed and its fit extrapolated; "
        "it then used our coreset."
    ),
    "whole": (
        "As above, but anomalib {version} chose all of its {n_bank:,.0f} patches. At this size a prediction is mostly "
        "the network, which both must run."
    ),
}


def with_ratio(value, base, form):
    """Return a figure, and how many times less than anomalib's it is."""
    text = form.format(value)
    return text if value is base else f"{text} ({base / value:.{0 if base / value >= 10 else 1}f} times less)"


def of_category(name, document):
    """Return the table of one category: a row for each figure, a column for each side."""
    sides, settings = document["categories"][name], document["settings"]
    rows = [
        {"figure": title} | {SIDES[side]: f"{sides[side]['metrics'][key]:.3f}" for side in SIDES}
        for key, title in METRICS.items()
    ]
    for key, (title, form) in COSTS.items():
        base = sides["anomalib"][key]
        rows.append({"figure": title} | {SIDES[side]: with_ratio(sides[side][key], base, form) for side in SIDES})
    timed = settings["timed_picks"]
    facts = {"version": document["environment"]["anomalib"], "n_bank": sides["anomalib"]["n_bank"], "timed": timed}
    notes = NOTES["whole" if timed is None else "timed"].format(**facts)
    return table(f"{name}, coreset of {100 * settings['coreset_sampling_ratio']:g} %", rows, notes=notes)


def of_install(shared):
    """Return the table of what does not depend on the images."""
    rows = []
    for key, (title, form) in SHARED.items():
        base = shared["anomalib"][key]
        rows.append(
            {"figure": title}
            | {SIDES["anomalib"]: form.format(base), "Blemish": with_ratio(shared["same"][key], base, form)}
        )
    return table("Import and installed size, with a CPU build of torch", rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparisons", nargs="+", type=Path, help="JSON files of `blemish compare`")
    add_json_option(parser, __file__)
    arguments = parser.parse_args()
    documents = [json.loads(path.read_text(encoding="utf-8")) for path in arguments.comparisons]
    tables = [of_category(name, document) for document in documents for name in document["categories"]]
    tables.append(of_install(documents[0]["shared"]))
    show(tables)
    for side in (side for d in documents for one in d["categories"].values() for side in one.values()):
        side.pop("scores", None)
    write(arguments.json, tables, {"comparisons": documents})


if __name__ == "__main__":
    main()
