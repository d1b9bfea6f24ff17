"""Slow, obvious twins of the fast algorithms: one pick, one query, one threshold or one pair at a time."""

from __future__ import annotations

import numpy as np
from scipy import ndimage


def greedy_coreset(features, n_select, *, seed=0):
    """Return the picks of greedy k-center by one pass over all rows for each, directly in float64."""
    rows = features.astype(np.float64)
    picks = [int(np.random.default_rng(seed).integers(len(rows)))]
    distance = np.full(len(rows), np.inf)
    while len(picks) < n_select:
        distance = np.minimum(distance, ((rows - rows[picks[-1]]) ** 2).sum(axis=1))
        distance[picks] = -1
        picks.append(int(distance.argmax()))
    return np.array(picks)


def covering_radius(features, subset):
    """Return the largest distance of a row of `features` to the nearest row of `subset`, in float64."""
    rows, centres = features.astype(np.float64), subset.astype(np.float64)
    return max(np.sqrt(((centres - row) ** 2).sum(axis=1)).min() for row in rows)


def nearest_neighbors(queries, bank, n_neighbors, exclude=None):
    """Return float32 distances and int64 indices by brute force in float64, nearest first, ties by index."""
    distances = np.empty((len(queries), n_neighbors), np.float32)
    indices = np.empty((len(queries), n_neighbors), np.int64)
    for i, query in enumerate(queries):
        difference = bank.astype(np.float64) - query.astype(np.float64)
        distance = np.sqrt((difference**2).sum(axis=1)).astype(np.float32)
        if exclude is not None:
            distance[exclude] = np.inf
        indices[i] = np.argsort(distance, kind="stable")[:n_neighbors]
        distances[i] = distance[indices[i]]
    return distances, indices


def auroc(scores, labels) -> float:
    """Return the share of pairs of a good and a defective image in which the defective one scores higher."""
    good, bad = ([s for s, label in zip(scores, labels, strict=True) if label == kind] for kind in (False, True))
    won = sum(1.0 if b > g else 0.5 if b == g else 0.0 for b in bad for g in good)
    return won / len(good) / len(bad)


def f1_max(scores, labels) -> float:
    """Return the highest F1 over the thresholds at each score."""
    best = 0.0
    for threshold in scores:
        positive = scores >= threshold
        best = max(best, 2 * (positive & labels).sum() / (positive.sum() + labels.sum()))
    return best


def pro_curve(maps, masks) -> tuple[np.ndarray, np.ndarray]:
    """Return false positive rates and overlaps at every distinct value, by a loop over thresholds and regions."""
    regions = []
    for image, mask in enumerate(masks):
        labels, n = ndimage.label(mask, structure=np.ones((3, 3)))
        regions += [(image, labels == label) for label in range(1, n + 1)]
    fprs, pros = [0.0], [0.0]
    n_good = sum(int((~mask).sum()) for mask in masks)
    for threshold in np.unique(np.concatenate([m.ravel() for m in maps]))[::-1]:
        positive = [m >= threshold for m in maps]
        fprs.append(sum(int((p & ~mask).sum()) for p, mask in zip(positive, masks, strict=True)) / n_good)
        pros.append(float(np.mean([positive[image][region].mean() for image, region in regions])))
    return np.array(fprs), np.array(pros)


def aupro(maps, masks, fpr_limit) -> float:
    """Return the area under `pro_curve` up to the limit, one trapezium at a time."""
    fprs, pros = pro_curve(maps, masks)
    area = 0.0
    for x0, x1, y0, y1 in zip(fprs[:-1], fprs[1:], pros[:-1], pros[1:], strict=True):
        if x0 >= fpr_limit:
            break
        if x1 > fpr_limit:
            y1 = y0 + (y1 - y0) * (fpr_limit - x0) / (x1 - x0)  # noqa: PLW2901
            x1 = fpr_limit  # noqa: PLW2901
        area += (x1 - x0) * (y0 + y1) / 2
    return area / fpr_limit


def p_value(calibration, score) -> float:
    """Return the conformal p-value by counting."""
    return (1 + sum(1 for other in calibration if other >= score)) / (len(calibration) + 1)
