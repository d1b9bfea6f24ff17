"""Bad images among the good ones: are they listed, and how many more defects are missed?

    python benchmarks/contamination.py --root DATA/mvtec --categories bottle --root DATA --categories casting

Of each set some good images are drawn for fitting, and some good and defective ones for testing. Then a share of the
good images is replaced: by images with a black or grey lower half, as truncated JPEGs have; by images of another set;
by defective ones of the same set, which are not among those tested. "Missed" is measured at the threshold as it was
fitted, and "dropped" after `without(suspects)`. The first table has the means over the sets, the second the misses of
each set. The rows of the last table are sets that no threshold should rest on.
"""

from __future__ import annotations

import argparse
import random

import numpy as np
from ablation import Places
from results import add_json_option, table, write

from blemish import MVTecAD, Patchcore
from blemish.imaging.decode import load

KINDS = ("clean", "black half", "grey half", "foreign", "defective")


def halved(image, value):
    """Return the image with its lower half of one value."""
    image = image.copy()
    image[len(image) // 2 :] = value
    return image


def missed(model, tested):
    return float(np.mean([not model.predict(image).label for image in tested]))


def bad_images(kind, good, foreign, defective, n_bad):
    """Return so many bad images of a kind."""
    if kind == "black half":
        return [halved(image, 0) for image in good[:n_bad]]
    if kind == "grey half":
        return [halved(image, 128) for image in good[:n_bad]]
    return {"foreign": foreign, "defective": defective, "clean": []}[kind][:n_bad]


def of_set(name, parts, foreign, shares):
    """Return the rows of a data set, one of each kind and share of bad images."""
    rows, tested = [], parts["defective"]
    for kind in KINDS:
        for share in shares if kind != "clean" else (0.0,):
            n_bad = 0 if kind == "clean" else max(1, round(share * len(parts["train"])))
            bad = bad_images(kind, parts["train"], foreign, parts["spare"], n_bad)
            model = Patchcore().fit([*bad, *parts["train"][len(bad) :]])
            listed = [int(suspect.path.split()[-1]) for suspect in model.suspects]
            left = model.without([suspect.path for suspect in model.suspects])
            row = {
                "set": name,
                "bad images": kind,
                "stated share": share,
                "n bad": len(bad),
                "bad listed": sum(i < len(bad) for i in listed),
                "good listed": sum(i >= len(bad) for i in listed),
                "missed": missed(model, tested),
                "missed, dropped": missed(left, tested),
                "false positives": 1 - missed(model, parts["good"]),
                "warning": "yes" if model.training_warnings else "",
            }
            rows.append(row)
            print(*row.values(), sep="   ", flush=True)
    return rows


def hopeless(name, parts, n_sets):
    """Return the rows of training sets that no threshold should rest on."""
    train = parts["train"]
    third = [*parts["spare"][: len(train) // 3], *train[len(train) // 3 :]]
    sets = {
        "a third defective": third,
        "ten good images": train[:10],
        "one hundred copies": train[:1] * 100,
        "all black": [np.zeros_like(train[0])] * 30,
    }
    rows = []
    for kind, images in list(sets.items())[:n_sets]:
        model = Patchcore().fit(images)
        said = [model.calibration.warning, *model.training_warnings]
        rows.append({"set": name, "good images": kind, "answer": " ".join(text for text in said if text) or "none"})
        print(*rows[-1].values(), sep="   ", flush=True)
    return rows


def drawn(data, n_train, n_test, seed):
    """Return images of a data set: for training, good and defective ones for testing, and spare defective ones."""
    draw = random.Random(seed)
    good = [sample for sample in data.test if not sample.is_defective]
    bad = [sample for sample in data.test if sample.is_defective]
    draw.shuffle(bad)
    spare = bad[: min(n_train // 3, len(bad) // 2)]
    tested = bad[len(spare) :][: n_test // 2]
    chosen = {
        "train": draw.sample(data.train, min(n_train, len(data.train))),
        "good": draw.sample(good, min(n_test // 2, len(good))),
        "spare": spare,
        "defective": tested,
    }
    return {part: [load(sample.path) for sample in samples] for part, samples in chosen.items()}


SHARES = ("missed", "missed, dropped", "false positives")


def kind_of(row):
    """Return the kind and the share of bad images in words."""
    return row["bad images"] if row["bad images"] == "clean" else f"{row['bad images']}, {row['stated share']:.1%}"


def by_kind(rows):
    """Return the means over the sets, a row for each kind and share of bad images."""
    kinds = {}
    for row in rows:
        kinds.setdefault(kind_of(row), []).append(row)
    return [
        {
            "bad images": kind,
            "bad listed": f"{sum(row['bad listed'] for row in of)} of {sum(row['n bad'] for row in of)}",
            "good listed": sum(row["good listed"] for row in of),
            **{column: float(np.mean([row[column] for row in of])) for column in SHARES},
            "warned": f"{sum(row['warning'] == 'yes' for row in of)} of {len(of)}",
        }
        for kind, of in kinds.items()
    ]


def by_set(rows):
    """Return the misses of each set by kind and share of bad images."""
    sets = {}
    for row in rows:
        sets.setdefault(row["set"], {"set": row["set"]})[kind_of(row)] = row["missed"]
    return list(sets.values())


def save(asked, rows, answers):
    """Write the results so far."""
    notes = f"At most {asked.train} good images and {asked.test} test images of each set, seed {asked.seed}."
    kinds, sets = by_kind(rows), by_set(rows)
    missed_formats = {kind["bad images"]: ["%"] for kind in kinds}
    tables = [
        table("Bad images among the good ones", kinds, formats={column: ["%"] for column in SHARES}, notes=notes),
        table("Missed by set", sets, formats=missed_formats, notes=notes),
        table("Training sets that no threshold should rest on", answers, notes=notes),
    ]
    write(asked.json, tables, {"rows": rows, "answers": answers})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", action=Places)
    parser.add_argument("--categories", nargs="+", dest="places", action=Places)
    parser.add_argument("--train", type=int, default=40)
    parser.add_argument("--test", type=int, default=30)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.025, 0.05, 0.1])
    parser.add_argument("--seed", type=int, default=0)
    add_json_option(parser, __file__)
    asked = parser.parse_args()
    if not asked.places:
        parser.error("nothing to measure: give --root and --categories")
    sets = {name: drawn(MVTecAD(root, name), asked.train, asked.test, asked.seed) for root, name in asked.places}
    names = list(sets)
    rows, answers = [], []
    for i, (name, parts) in enumerate(sets.items()):
        rows += of_set(name, parts, sets[names[(i + 1) % len(names)]]["train"], asked.shares)
        answers += hopeless(name, parts, 4 if i == 0 else 1)  # copies of any image are alike
        save(asked, rows, answers)


if __name__ == "__main__":
    main()
