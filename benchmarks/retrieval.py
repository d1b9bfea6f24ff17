"""Retrieval precision@5 of defect types, by which the store's vectors were chosen.

    python benchmarks/retrieval.py --root DATA --categories mvtec/bottle mvtec/grid magnetic_tile --json out.json

The detector is fitted on each category's good images. Every defective test image is a query for its five nearest among
all other defective test images of its category; a hit is one of the same defect folder, whose name is used for nothing
else. In magnetic_tile most tiles were photographed several times, in another light: `--several-of-one-part
magnetic_tile` prints the figures without those, too.

The last rows query `DefectStore`, with Qdrant in process: the same with shuffled labels, confidence and accuracy of
`suggest`, its novelty rate for a type that is not in the store, and purity of `groups`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
from results import add_json_option, table, write

from blemish import DefectStore, MVTecAD, Patchcore, backbones, runtime
from blemish.imaging.decode import load
from blemish.search import RegionEncoder
from blemish.search.voting import SHARPNESS

LAYERS = ("blocks.2", "blocks.4", "blocks.10", "blocks.14", "head")
WEIGHTS = ("whole image", "above threshold", "hottest region", "map", "map^2", "map^4")
# By eye: above it pairs of magnetic tiles are the same tile in another light, below it hardly any are.
SAME_PART = 0.5
BASELINE = "whole image: the detector's layers, plain (the tutorial's)"
OWN = "DefectStore: map^4 of 4+14 less image, whitened; amount in 2"
ALONE = "the same, most anomalous regions alone"
# Of the candidates, those that the documentation shows, and what it calls them.
SHOWN = {
    BASELINE: "the whole image, plain features",
    "map^4: detector's features, whitened": "the detector's features, weighted by the anomaly map",
    "map^4: residual to the nearest good patch": "their residual to the nearest good patch",
    "map^4: 4+14 less image, whitened": "two layers less the image's mean, whitened",
    ALONE: "these, and the residual of the image: most anomalous region",
    "store": "DefectStore: the same, all regions",
    "store, labels shuffled": "the same with labels shuffled",
}


def weight_of(anomaly_map, threshold, grid_hw, kind):
    """Return the weight of each cell of a grid; of an image with nothing above, what is above 70 % of its highest."""
    if kind == "whole image":
        return np.ones(grid_hw)
    coarse = cv2.resize(anomaly_map, grid_hw[::-1], interpolation=cv2.INTER_AREA)
    if kind.startswith("map"):
        return np.maximum(coarse / max(coarse.max(), 1e-12), 0) ** (int(kind[4:]) if "^" in kind else 1) + 1e-12
    limit = threshold if (anomaly_map > threshold).any() else 0.7 * anomaly_map.max()
    mask = (anomaly_map > limit).astype(np.uint8)
    if kind == "hottest region":
        _, labels = cv2.connectedComponents(mask, connectivity=8)
        mask = (labels == labels.reshape(-1)[anomaly_map.argmax()]).astype(np.uint8)
    return cv2.resize(mask.astype(np.float32), grid_hw[::-1], interpolation=cv2.INTER_AREA) + 1e-9


def pooled(features, weight):
    return (np.tensordot(features, weight, 2) / weight.sum()).astype(np.float32)


class Images:
    """The defective images of one category with all vectors that are compared, or two of them (`short`)."""

    def __init__(self, root, category, short):
        """Fit, predict, and pool the features of all layers with all weights."""
        self.short = short
        place = Path(root) / category
        data = MVTecAD(place.parent, place.name)
        self.model = Patchcore().fit(data.train)
        self.encoder = RegionEncoder(self.model)
        self.encoder.fit(data.train)
        samples = [one for one in data.test if one.is_defective]
        self.labels = np.array([one.defect for one in samples])
        self.encoded = [self.encoder.encode(one, force=True) for one in samples]
        self.forced = float(np.mean([one.regions[0].forced for one in self.encoded]))
        settings = self.model.settings
        plain = backbones.build(settings.backbone, layers=settings.layers)
        self.sessions = {
            "plain": runtime.load(plain.model),
            "layers": runtime.load(backbones.build(layers=LAYERS).model),
        }
        self.vectors = {}
        for sample, encoded in zip(samples, self.encoded, strict=True):
            for name, vector in self._of(load(sample.path), encoded).items():
                self.vectors.setdefault(name, []).append(vector)
        self.vectors = {name: np.stack(rows) for name, rows in self.vectors.items()}
        self.good = None if short else self._good_moments(data.train[:: max(1, len(data.train) // 60)])

    def _of(self, image, encoded):
        fitted, found = self.model.fitted, encoded.prediction
        prepared = fitted.geometry.prepare(image)
        raw = self.sessions["plain"].run(prepared[None]).values()
        baseline = {BASELINE: np.concatenate([array[0].mean(axis=(1, 2)) for array in raw])}
        if self.short:
            return baseline
        features = fitted.extractor.features(prepared)
        nearest = fitted.scorer.distances(features).rows
        residual = features - fitted.scorer.index.memory_bank[nearest]
        maps = {"detector": features.transpose(2, 0, 1), "residual": residual.transpose(2, 0, 1)}
        own = self.encoder.normal.geometry.prepare(image)
        maps |= {name: array[0] for name, array in self.sessions["layers"].run(own[None]).items()}
        made = baseline | {
            (name, kind): pooled(array, weight_of(found.anomaly_map, found.pixel_threshold, array.shape[1:], kind))
            for name, array in maps.items()
            for kind in WEIGHTS
        }
        region = encoded.regions[0].region
        area = np.log((found.anomaly_map > 0.5 * found.anomaly_map.max()).mean())
        long = np.log(max(region.box[2:]) / min(region.box[2:]))
        made["shape"] = np.array([np.cos(0.3 * area), np.sin(0.3 * area), np.cos(long), np.sin(long)], np.float32) / 2
        return made

    def _good_moments(self, samples):
        """Return each layer's mean and covariance over good images' patches."""
        sums = {}
        for sample in samples:
            own = self.encoder.normal.geometry.prepare(load(sample.path))
            for name, array in self.sessions["layers"].run(own[None]).items():
                rows = array[0].reshape(array.shape[1], -1).T.astype(np.float64)
                n, total, squares = sums.get(name, (0, 0, 0))
                sums[name] = n + len(rows), total + rows.sum(axis=0), squares + rows.T @ rows
        return {
            name: (total / n, squares / n - np.outer(total / n, total / n))
            for name, (n, total, squares) in sums.items()
        }

    def layer(self, names, kind, *, less=None, whiten=False):
        """Return (n, D): layers pooled with one weight, less the image's or good images' mean, whitened or not."""
        parts = []
        for name in names:
            rows = self.vectors[name, kind].astype(np.float64)
            mean, covariance = self.good[name]
            rows = rows - (self.vectors[name, "whole image"] if less == "image" else mean if less else 0)
            if whiten:
                values, axes = np.linalg.eigh(covariance)
                rows = rows @ (axes / np.sqrt(np.maximum(values, 0) + 0.1 * values.mean()))
            parts.append(normed(rows))
        return np.concatenate(parts, axis=1)


def normed(rows):
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def candidates(one):
    """Yield the name and the (n, D) vectors of each representation that is compared."""
    yield BASELINE, one.vectors[BASELINE]
    own = np.stack([encoded.regions[0].vector for encoded in one.encoded])
    yield ALONE, own
    if one.short:
        return
    for kind in WEIGHTS:
        yield f"{kind}: detector's features, whitened", one.vectors["detector", kind]
    for kind in WEIGHTS[1:]:
        yield f"{kind}: residual to the nearest good patch", one.vectors["residual", kind]
        both = [normed(one.vectors[name, kind]) for name in ("detector", "residual")]
        yield f"{kind}: features and residual", np.concatenate(both, axis=1)
    for name in LAYERS:
        yield f"map^4: {name}, plain", one.layer([name], "map^4")
        yield f"map^4: {name}, less good, whitened", one.layer([name], "map^4", less="good", whiten=True)
    pair = ("blocks.4", "blocks.14")
    for kind in WEIGHTS[1:]:
        yield f"{kind}: 4+14 less image, whitened", one.layer(pair, kind, less="image", whiten=True)
    yield "map^4: 4+14 plain", one.layer(pair, "map^4")
    yield "map^4: 4+14 less image, not whitened", one.layer(pair, "map^4", less="image")
    yield "map^4: 4+14 less good, whitened", one.layer(pair, "map^4", less="good", whiten=True)
    deep = one.layer(pair, "map^4", less="image", whiten=True)
    yield "map^4: 4+14 less image, whitened; shape", np.concatenate([normed(deep), one.vectors["shape"]], axis=1)
    shallow = one.layer(["blocks.2"], "whole image", less="good", whiten=True)
    yield "whole image: 2 less good, whitened", shallow
    yield "the two last joined, without shrinkage", np.concatenate([normed(deep), 2 * shallow], axis=1)


def precision(vectors, labels, k=5, apart=None):
    """Return mean precision@k and top-1 accuracy; `apart` (n, n) bool says which pairs may match."""
    rows = normed(np.asarray(vectors, np.float64))
    similarity = rows @ rows.T
    np.fill_diagonal(similarity, -np.inf)
    if apart is not None:
        similarity[~apart] = -np.inf
    hits = labels[np.argsort(-similarity, axis=1)[:, :k]] == labels[:, None]
    return float(hits.mean()), float(hits[:, 0].mean())


def different_parts(images):
    """Return (n, n) bool: False for two images of one part in another light, whose fine structure correlates."""
    rows = []
    for image in images:
        small = cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (64, 64), interpolation=cv2.INTER_AREA)
        fine = small.astype(np.float32) - cv2.GaussianBlur(small.astype(np.float32), (0, 0), 4)
        rows.append(fine.reshape(-1) - fine.mean())
    rows = normed(np.stack(rows))
    return rows @ rows.T < SAME_PART


def without_the_same_part(one):
    """Return the figures without images of the query's own part, and the share of images that have another one."""
    apart = different_parts([load(encoded.path) for encoded in one.encoded])
    found = dict(candidates(one))
    figures = {name: precision(found[name], one.labels, apart=apart) for name in (BASELINE, ALONE)}
    return {"have it": float(((~apart).sum(axis=1) > 1).mean()), **figures}


def chance(labels):
    counts = np.unique(labels, return_counts=True)[1]
    return float((counts * (counts - 1)).sum() / (len(labels) * (len(labels) - 1)))


def store_figures(one, labels):
    """Return precision@5 and top-1 of the store, accuracy and confidence of `suggest`, and purity of `groups`."""
    with DefectStore(":memory:", model=one.encoder) as store:
        for encoded, label in zip(one.encoded, labels, strict=True):
            store.add_encoded(encoded, label=str(label))
        hits, confidence, right, novel = [], [], [], []
        for encoded, label in zip(one.encoded, labels, strict=True):
            matches = store.similar(encoded.regions[0], k=5)
            hits.append([match.defect.label == label for match in matches])
            suggestion = store.suggest(encoded.regions[0])
            novel.append(suggestion.is_novel)
            best = next(iter(suggestion.votes))
            confidence.append(suggestion.votes[best])
            right.append(best == label)
        groups = store.groups()
        biggest = sum(max(group.labels.values()) for group in groups)
        regions = sum(len(group.members) for group in groups)
    hits = np.array(hits)
    return {
        "precision@5": float(hits.mean()),
        "top-1": float(hits[:, 0].mean()),
        "suggested right": float(np.mean(right)),
        "mean confidence": float(np.mean(confidence)),
        "confidence error": calibration_error(np.array(confidence), np.array(right)),
        "novel though its type is stored": float(np.mean(novel)),
        "groups": len(groups),
        "regions": regions,
        "purity": biggest / regions,
    }


def calibration_error(confidence, right, bins=5):
    """Return the expected calibration error over bins of equal counts."""
    parts = [part for part in np.array_split(np.argsort(confidence), bins) if len(part)]
    errors = [len(part) * abs(confidence[part].mean() - right[part].mean()) for part in parts]
    return float(sum(errors) / len(confidence))


def novelty_rates(one, labels):
    """Return the share of defects that are novel when their type is not in the store, by type."""
    rates = {}
    for left_out in np.unique(labels):
        with DefectStore(":memory:", model=one.encoder) as store:
            for encoded, label in zip(one.encoded, labels, strict=True):
                if label != left_out:
                    store.add_encoded(encoded, label=str(label))
            queries = [d for d, label in zip(one.encoded, labels, strict=True) if label == left_out]
            rates[str(left_out)] = float(np.mean([store.suggest(d.regions[0]).is_novel for d in queries]))
    return rates


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--categories", nargs="+", required=True, help="folders below the root")
    parser.add_argument(
        "--several-of-one-part",
        nargs="*",
        default=[],
        help="categories in which a part was photographed several times: also without a query's own part",
    )
    parser.add_argument("--short", action="store_true", help="only the whole image and the store's own vectors")
    add_json_option(parser, __file__)
    arguments = parser.parse_args()
    results = {}
    for category in arguments.categories:
        one = Images(arguments.root, category, arguments.short)
        results[category] = {
            "n": len(one.labels),
            "chance": chance(one.labels),
            "nothing above the threshold": one.forced,
            "rows": {name: precision(vectors, one.labels) for name, vectors in candidates(one)},
        }
        if category in arguments.several_of_one_part:
            results[category]["without the same part"] = without_the_same_part(one)
        if not arguments.short:
            shuffled = np.random.default_rng(0).permutation(one.labels)
            results[category]["store"] = store_figures(one, one.labels)
            results[category]["store, labels shuffled"] = store_figures(one, shuffled)
            results[category]["novel, of types left out"] = novelty_rates(one, one.labels)
        print(
            f"{category}: {len(one.labels)} defects, {100 * one.forced:.0f} % with nothing above the threshold",
            flush=True,
        )
    show(results)
    write(arguments.json, tables(results), {"sharpness": SHARPNESS, "sets": results})


def tables(results):
    """Return the rows that the documentation shows, of all that `show` prints."""
    found = {name: {**one["rows"], **stored(one)} for name, one in results.items()}
    rows = [{"described by": "chance"} | {name: [one["chance"]] for name, one in results.items()}]
    for row, title in SHOWN.items():
        if all(row in pairs for pairs in found.values()):
            rows.append({"described by": title} | {name: list(pairs[row]) for name, pairs in found.items()})
    formats = {name: [".2f", ".2f"] for name in results}
    made = [table("Precision@5 and precision@1 of similar defects", rows, formats=formats, notes=notes(results))]
    if all("store" in pairs for pairs in found.values()):
        said = ("suggested right", "mean confidence", "novel though its type is stored", "purity")
        rows = [{"figure": row} | {name: one["store"][row] for name, one in results.items()} for row in said]
        made.append(table("The suggested label", rows, formats=dict.fromkeys(results, "%"), notes=of_types(results)))
    return made


def stored(one):
    """Return precision@5 and precision@1 of the store, where it was asked."""
    names = [name for name in ("store", "store, labels shuffled") if name in one]
    return {name: (one[name]["precision@5"], one[name]["top-1"]) for name in names}


def notes(results):
    """Return what was asked, in how many images nothing was above the threshold, and the figures without one's part."""
    forced = ", ".join(f"{100 * one['nothing above the threshold']:.0f} % ({name})" for name, one in results.items())
    text = (
        "Every defective test image asks for the five most similar of all others. One description was chosen for all "
        "sets by figures of these very images: expect a little less of other ones. Nothing was above the threshold in "
        f"{forced} of the images, and the most anomalous place was taken."
    )
    for name, one in results.items():
        if "without the same part" in one:
            share = one["without the same part"]["have it"]
            pairs = [(row, *one["without the same part"][row]) for row in (ALONE, BASELINE)]
            told = ", ".join(f"{SHOWN[row]} {five:.2f} and {first:.2f}" for row, five, first in pairs)
            text += (
                f" {100 * share:.0f} % of {name} were photographed several times; without the query's own part, {told}."
            )
    return text


def of_types(results):
    """Return how often a defect is called novel when its type is not in the store."""
    told = []
    for name, one in results.items():
        rates = ", ".join(f"{kind} {100 * rate:.0f} %" for kind, rate in one["novel, of types left out"].items())
        told.append(f"{name}: {rates}")
    return "Called novel when their type is not in the store: " + "; ".join(told) + "."


def show(results):
    names = list(next(iter(results.values()))["rows"])
    width = max(map(len, [*names, OWN])) + 2
    print(f"\n{'mean precision@5 / top-1':{width}}" + "".join(f"{name:>16}" for name in results))
    print(f"{'chance':{width}}" + "".join(f"{one['chance']:16.3f}" for one in results.values()))
    for name in names:
        print(f"{name:{width}}" + "".join("{:>10.3f} {:.3f}".format(*one["rows"][name]) for one in results.values()))
    for name, one in results.items():
        if "without the same part" in one:
            said = dict(one["without the same part"])
            share = said.pop("have it")
            print(f"{name}: {100 * share:.0f} % of the images have another one of the same part; without those:")
            for row, pair in said.items():
                print("  {:{}}{:.3f} {:.3f}".format(row, width, *pair))
    if "store" in next(iter(results.values())):
        show_store(results, width)


def show_store(results, width):
    for row in ("store", "store, labels shuffled"):
        pairs = [(one[row]["precision@5"], one[row]["top-1"]) for one in results.values()]
        print(f"{OWN if row == 'store' else row:{width}}" + "".join("{:>10.3f} {:.3f}".format(*pair) for pair in pairs))
    gains = [one["store"]["precision@5"] - one["rows"][BASELINE][0] for one in results.values()]
    print(f"{'gain over the whole image':{width}}" + "".join(f"{gain:+16.3f}" for gain in gains))
    for figure in next(iter(results.values()))["store"]:
        if figure not in {"precision@5", "top-1"}:
            print(f"{figure:{width}}" + "".join(f"{one['store'][figure]:16.3f}" for one in results.values()))
    for name, one in results.items():
        rates = ", ".join(f"{k} {100 * v:.0f} %" for k, v in one["novel, of types left out"].items())
        print(f"{name}: novel when its type is not in the store: {rates}")


if __name__ == "__main__":
    main()
