"""Choose how many axes of the patch features PatchCore keeps, and their weights, by leave-one-set-out.

    python benchmarks/axes.py --keep FOLDER --root DATA/mvtec --categories bottle grid --root DATA --categories ...

Of each set up to 100 good images are fitted, and up to 100 good and 100 defective ones tested. Features as they come
from the network are kept in FOLDER, so that a candidate costs seconds. A candidate is a number of axes, the prior that
is added to the signal along each, and the signal's limit; "whitening" keeps all axes without weights. The choice for a
set is the candidate with the highest mean, over the *other* sets, of the image AUROC of patches and global descriptor
and of half the AUPRO of the patch map, where there are masks.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import cv2
import numpy as np
from ablation import Places
from defaults import neg_log_p, representatives, top_mean
from results import add_json_option, show, table, write

from blemish import MVTecAD, Patchcore
from blemish.data.masks import load_union
from blemish.data.synthetic.defects import synthetic_defects
from blemish.data.training_images import TrainingImages
from blemish.detectors.patchcore import features
from blemish.detectors.patchcore.fit import first_pass
from blemish.imaging.decode import read_image
from blemish.metrics.classification import auroc
from blemish.metrics.segmentation import PixelCounts
from blemish.ops import oriented_axes
from blemish.ops.distance_statistics import fit_distance_statistics
from blemish.ops.gaussian import fit_gaussian
from blemish.ops.merge_reduce import coreset
from blemish.ops.neighbors import MemoryIndex
from blemish.ops.statistics import Moments
from blemish.types import no_progress

MOST = 100
SHARE = 0.02
TOP = 16  # of 1,600 patches
CANDIDATES = {
    "whitening": (0, 0, 0),
    "64 axes, 3, 8": (64, 3, 8),
    "96 axes, 3, 8": (96, 3, 8),
    "128 axes, 1, 8": (128, 1, 8),
    "128 axes, 3, 4": (128, 3, 4),
    "128 axes, 3, 8": (128, 3, 8),
    "128 axes, 3, any": (128, 3, 1e9),
    "128 axes, 10, any": (128, 10, 1e9),
    "160 axes, 3, 8": (160, 3, 8),
    "232 axes, 3, 8": (232, 3, 8),
}


def some(items, n, name):
    """Return up to n of the items, the same at each call."""
    return items if len(items) <= n else [items[i] for i in sorted(random.Random(name).sample(range(len(items)), n))]


def kept_features(folder, data):
    """Return features of a set as they come from the network, from the folder or computed."""
    path = folder / f"{data.name}.npz"
    if not path.exists():
        np.savez(path, **features_of(data))
    return dict(np.load(path))


def tested(data):
    """Return the test images, good ones first."""
    good, bad = (
        some([s for s in data.test if s.is_defective == defective], MOST, data.name) for defective in (False, True)
    )
    return good + bad


def features_of(data):
    """Return raw features and descriptors of good and test images, and the differences that synthetic defects make."""
    model = Patchcore(scaling="none", max_rows=10**8)
    settings, backbone = model.settings, model.pretrained
    images = TrainingImages(some(list(data.train), MOST, data.name), bit_depth=None, threads=settings.n_threads)
    geometry = settings.geometry(images.sizes_hw, backbone)
    extractor = features.extractor_of(settings, backbone, None)
    learnt = [
        geometry.prepare(read_image(images.items[i], None))
        for i in features.learnt_order(len(images))[: features.N_LEARNT]
    ]
    defects = synthetic_defects(learnt, len(learnt), seed=1)
    _, differences = features.patch_statistics(extractor, learnt, defects, no_progress)
    first = first_pass(settings, images, extractor, geometry, no_progress)
    maps = [found for _, found in first.patches.maps(range(len(images)), stage="", progress=no_progress)]
    inputs = [geometry.prepare(read_image(sample, None)) for sample in tested(data)]
    return {
        "good": np.stack(maps),
        "groups": images.groups,
        "differences": differences,
        "summaries": np.stack(first.multi_scale._summaries),
        "test": np.stack([extractor.features(image) for image in inputs]),
        "test_summaries": np.stack([extractor.summary(image) for image in inputs]),
    }


def scaling_of(kept, candidate):
    """Return the linear map of a candidate."""
    n_axes, oriented_axes.PRIOR, oriented_axes.MOST_SIGNAL = candidate
    moments = Moments()
    learnt = features.learnt_order(len(kept["good"]))[: features.N_LEARNT]
    moments.add(kept["good"][learnt].reshape(-1, kept["good"].shape[-1]))
    whitening = moments.scaling("whiten", features.SHRINKAGE)
    return oriented_axes.oriented_axes(whitening, kept["differences"], n_axes) if n_axes else whitening


def distances_of(kept, scaling):
    """Return patch distances of good images, one of each part and without its rows, and of test images."""
    shape, groups = kept["good"].shape[1:3], kept["groups"]
    good, test = (kept[name] @ scaling.weight.T + scaling.bias for name in ("good", "test"))
    rows = good.reshape(-1, good.shape[-1])
    chosen = coreset(rows, max(1, int(SHARE * len(rows)))).indices
    index, image = MemoryIndex(rows[chosen]), chosen // (shape[0] * shape[1])
    found = []
    for i in representatives(groups):
        own = np.isin(image, np.flatnonzero(groups == groups[i]))
        found.append(index.search(good[i].reshape(len(good[i]) * shape[1], -1), 1, exclude=own).distances)
    of_test = [index.search(maps.reshape(shape[0] * shape[1], -1)).distances for maps in test]
    return np.stack(found).reshape(-1, *shape), np.stack(of_test).reshape(-1, *shape)


def descriptor_scores(kept):
    """Return the scores of the global descriptor: of good images, each without its part, and of test images."""
    chosen, summaries, moments = representatives(kept["groups"]), kept["summaries"], Moments()
    moments.add(summaries)
    left_out = [summaries[kept["groups"] == kept["groups"][i]] for i in chosen]
    gaussian, good = fit_gaussian(moments, summaries[chosen], left_out=left_out)
    return good, np.array([gaussian.mahalanobis(summary) for summary in kept["test_summaries"]])


def figures(kept, candidate, masks, defective):
    """Return image AUROC of patches alone and with the descriptor, and AUPRO of the patch map, or None."""
    good, test = distances_of(kept, scaling_of(kept, candidate))
    statistics, good_maps = fit_distance_statistics(good, 1.0, border=True)
    maps = np.stack([statistics.z_scores(distances) for distances in test])
    scores = top_mean(good_maps, TOP), top_mean(maps, TOP)
    fused = neg_log_p(*scores)[1] + neg_log_p(*descriptor_scores(kept))[1]
    counts = PixelCounts()
    for patch_map, mask, is_defective in zip(maps, masks, defective, strict=True):
        if mask is not None or not is_defective:
            size = patch_map.shape[::-1] if mask is None else mask.shape[::-1]
            counts.add(cv2.resize(patch_map, size, interpolation=cv2.INTER_LINEAR), mask)
    aupro = counts.aupro() if counts.n_regions else None
    return {"patches": auroc(scores[1], defective), "AUROC": auroc(fused, defective), "AUPRO": aupro}


def rows_of(found, figure):
    """Return a row for each set of a figure of each candidate, with the choice without the set, and the means."""
    sets = [name for name in dict.fromkeys(name for name, _ in found) if found[name, "whitening"][figure] is not None]
    rows = []
    for name in sets:
        best = chosen(found, [other for other in dict.fromkeys(n for n, _ in found) if other != name])
        row = {"set": name, "chosen without the set": best, "so chosen": found[name, best][figure]}
        rows.append(row | {candidate: found[name, candidate][figure] for candidate in CANDIDATES})
    means = {key: float(np.mean([row[key] for row in rows])) for key in ("so chosen", *CANDIDATES)}
    return [*rows, {"set": "mean", **means}]


def chosen(found, sets):
    """Return the candidate that is best on these sets."""

    def merit(candidate):
        rows = [found[name, candidate] for name in sets]
        masked = [row["AUPRO"] for row in rows if row["AUPRO"] is not None]
        return np.mean([row["AUROC"] for row in rows]) + 0.5 * np.mean(masked)

    return max(CANDIDATES, key=merit)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, action=Places)
    parser.add_argument("--categories", nargs="+", dest="places", action=Places, required=True)
    parser.add_argument("--keep", type=Path, required=True, help="a folder for features; some gigabytes")
    add_json_option(parser, __file__)
    asked = parser.parse_args()
    asked.keep.mkdir(parents=True, exist_ok=True)
    found = {}
    for root, category in asked.places:
        data = MVTecAD(root, category)
        kept, samples = kept_features(asked.keep, data), tested(data)
        defective = np.array([sample.is_defective for sample in samples])
        masks = [load_union(sample.mask_paths) if sample.mask_paths else None for sample in samples]
        for name, candidate in CANDIDATES.items():
            found[category, name] = figures(kept, candidate, masks, defective)
            print(category, name, found[category, name], flush=True)
    formats = {key: [".3f"] for key in ("so chosen", *CANDIDATES)}
    titles = {"AUROC": "Image AUROC of patches and global descriptor", "patches": "Image AUROC of patches alone"}
    tables = [
        table(f"{title}, by axes, prior, limit", rows_of(found, figure), formats=formats)
        for figure, title in {**titles, "AUPRO": "AUPRO of the patch map"}.items()
    ]
    show(tables)
    write(asked.json, tables)


if __name__ == "__main__":
    main()
