"""How do changes of light, focus and place change the verdicts, and which of them does the detector report?

    python benchmarks/robustness.py --root DATA/mvtec --categories bottle grid --root DATA --categories magnetic_tile
    python benchmarks/robustness.py --normalize --root DATA/mvtec --categories bottle grid      # tries a remedy too

A detector with its defaults is fitted on at most 100 good images; at most 20 good and 20 defective test images, drawn
at random, are predicted as they are and changed. The network's input, about 320 x 320 pixels, is what is changed. Data
sets that an interrupted run left in --json are not run again.
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path

import cv2
import numpy as np
from ablation import Places
from results import add_json_option, load_data, table, write

from blemish import MVTecAD, Patchcore
from blemish.imaging.decode import read_image
from blemish.imaging.geometry import choose_geometry
from blemish.metrics.classification import auroc

N_TRAIN, N_TEST = 100, 20


def scaled(image, brightness=1.0, contrast=1.0):
    """Return the image with its grey levels times `brightness`, their deviations from the mean times `contrast`."""
    levels = image.astype(np.float32)
    mean = levels.mean()
    return rounded((mean + (levels - mean) * contrast) * brightness)


def rounded(levels):
    return np.clip(np.rint(levels), 0, 255).astype(np.uint8)


def noisy(image):
    return rounded(image + 5 * np.random.default_rng(0).standard_normal(image.shape))


def compressed(image):
    return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 70])[1], cv2.IMREAD_COLOR)


def moved(image, degrees=0, right_px=0):
    """Return the image turned around its centre and moved, its border replicated."""
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1)
    matrix[0, 2] += right_px
    return cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)


CHANGES = {
    "as it is": lambda image: image,
    "brighter 20 %": lambda image: scaled(image, brightness=1.2),
    "darker 20 %": lambda image: scaled(image, brightness=0.8),
    "contrast +20 %": lambda image: scaled(image, contrast=1.2),
    "contrast -20 %": lambda image: scaled(image, contrast=0.8),
    "blur 1 px": lambda image: cv2.GaussianBlur(image, (0, 0), 1),
    "noise 5 levels": noisy,
    "JPEG 70": compressed,
    "shift 5 px": lambda image: moved(image, right_px=5),
    "rotation 5°": lambda image: moved(image, degrees=5),
}


def drawn(samples, n, seed):
    return random.Random(seed).sample(samples, min(n, len(samples)))


def one_set(data, seed):
    """Return the rates of each change, and the processor's seconds."""
    start = time.process_time()
    train = drawn(data.train, N_TRAIN, seed)
    model = Patchcore(threads=1).fit(train)
    prepare = model.fitted.geometry.prepare
    good = [sample for sample in data.test if not sample.is_defective]
    held_out = [sample for sample in (*data.train, *good) if sample not in train]
    drift = model.fitted.good_range.drift  # of the network's input: `predict` would report its size as well
    drifts = [drift(prepare(read_image(sample, None))) for sample in held_out]
    good = drawn(good, N_TEST, seed)
    defective = drawn([sample for sample in data.test if sample.is_defective], N_TEST, seed)
    inputs = [[prepare(read_image(sample, None)) for sample in samples] for samples in (good, defective)]
    rows = {}
    for name, change in CHANGES.items():
        on_good, on_defective = ([model.predict(change(image)) for image in images] for images in inputs)
        rows[name] = {
            "false positives": share(one.label for one in on_good),
            "missed": share(not one.label for one in on_defective),
            "drift": share(bool(drift(change(image))) for image in inputs[0]),
            "AUROC": auroc(
                [one.score for one in on_good + on_defective], [False] * len(good) + [True] * len(defective)
            ),
        }
    return {
        "rows": rows,
        "n": [len(train), len(good), len(defective)],
        "held_out": [sum(map(bool, drifts)), len(drifts)],
        "cpu_s": time.process_time() - start,
    }


def one_normalized(data, seed):
    """Return the figures with each network input scaled to the median, over the training images, of its mean level."""
    train = [read_image(sample, None) for sample in drawn(data.train, N_TRAIN, seed)]
    geometry = choose_geometry([image.shape[:2] for image in train], 320, None)
    inputs = [geometry.prepare(image) for image in train]
    target = float(np.median([image.mean() for image in inputs]))

    def normalized(image):
        return scaled(image, brightness=target / max(image.mean(), 1))

    model = Patchcore(threads=1).fit([normalized(image) for image in inputs])
    chosen = ([sample for sample in data.test if sample.is_defective is defective] for defective in (False, True))
    good, defective = (
        [geometry.prepare(read_image(one, None)) for one in drawn(samples, N_TEST, seed)] for samples in chosen
    )
    found = [model.predict(normalized(image)) for image in good + defective]
    row = {
        "AUROC": auroc([one.score for one in found], [False] * len(good) + [True] * len(defective)),
        "as it is": share(one.label for one in found[: len(good)]),
    }
    for name in NORMALIZED_CHANGES:
        changed = (normalized(CHANGES[name](image)) for image in good[: N_TEST // 2])
        row[name] = share(model.predict(image).label for image in changed)
    return row


def share(labels):
    return float(np.mean(list(labels)))


TITLES = {
    "false positives": "False positives by change of the image",
    "missed": "Missed defects by change of the image",
    "AUROC": "Image AUROC by change of the image",
    "drift": "Good images that drift, by change of the image",
}
NORMALIZED_CHANGES = ("brighter 20 %", "darker 20 %")
HELD_OUT = "held-out good images: drift, of"


def tables_of(found):
    """Return a table of each figure: a row for each data set, a column for each change."""
    tables = []
    counts = [one["held_out"] for one in found.values()]
    for figure, title in TITLES.items():
        form = ".3f" if figure == "AUROC" else "%"
        rows = [
            {"set": name, **{change: row[figure] for change, row in one["rows"].items()}} for name, one in found.items()
        ]
        rows.append({"set": "mean", **{change: float(np.mean([row[change] for row in rows])) for change in CHANGES}})
        formats = {change: [form] for change in CHANGES}
        if figure == "drift":
            formats[HELD_OUT] = ["d", "d"]
            for row, count in zip(rows, [*counts, np.sum(counts, axis=0).tolist()], strict=True):
                row[HELD_OUT] = count
        tables.append(table(title, rows, formats=formats))
    tried = {name: one for name, one in found.items() if "normalized" in one}
    if tried:
        tables.append(normalized_table(tried))
    return tables


def normalized_table(found):
    """Return the table of the remedy: figures without and with it."""
    rows = []
    for name, one in found.items():
        plain, row = one["rows"], one["normalized"]
        pairs = {"AUROC": [plain["as it is"]["AUROC"], row["AUROC"]]}
        pairs |= {name: [plain[name]["false positives"], row[name]] for name in ("as it is", *NORMALIZED_CHANGES)}
        rows.append({"set": name, **pairs})
    figures = [name for name in rows[0] if name != "set"]
    rows.append({"set": "mean", **{name: np.mean([row[name] for row in rows], axis=0).tolist() for name in figures}})
    formats = {name: [".3f", ".3f"] if name == "AUROC" else ["%", "%"] for name in figures}
    return table("Brightness normalized: image AUROC, and false positives, without and with", rows, formats=formats)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, action=Places)
    parser.add_argument("--categories", nargs="+", dest="places", action=Places, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--normalize", action="store_true", help="also with the mean level of each image normalized")
    add_json_option(parser, __file__)
    asked = parser.parse_args()
    kept = load_data(asked.json) or {}
    found = kept["sets"] if kept.get("seed") == asked.seed else {}
    for root, category in asked.places:
        if category not in found:
            found[category] = one_set(MVTecAD(root, category), asked.seed)
        if asked.normalize and "normalized" not in found[category]:
            found[category]["normalized"] = one_normalized(MVTecAD(root, category), asked.seed)
        write(asked.json, tables_of(found), {"seed": asked.seed, "sets": found})
        print(f"{category:16} {found[category]['cpu_s']:4.0f} s", flush=True)
        for change, row in found[category]["rows"].items():
            print(f"    {change:16}" + "   ".join(f"{figure} {value:.3f}" for figure, value in row.items()), flush=True)


if __name__ == "__main__":
    main()
