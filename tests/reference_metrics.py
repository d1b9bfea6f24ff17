"""Slow, obvious twins of the metrics: one threshold or one pair at a time."""

from __future__ import annotations

import numpy as np
from scipy import ndimage


def auroc(scores, labels) -> float:
    good, bad = ([s for s, label in zip(scores, labels, strict=True) if label == kind] for kind in (False, True))
    won = sum(1.0 if b > g else 0.5 if b == g else 0.0 for b in bad for g in good)
    return won / len(good) / len(bad)


def f1_max(scores, labels) -> float:
    best = 0.0
    for threshold in scores:
        called = scores >= threshold
        best = max(best, 2 * (called & labels).sum() / (called.sum() + labels.sum()))
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
        called = [m >= threshold for m in maps]
        fprs.append(sum(int((c & ~mask).sum()) for c, mask in zip(called, masks, strict=True)) / n_good)
        pros.append(float(np.mean([called[image][region].mean() for image, region in regions])))
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
    return (1 + sum(1 for other in calibration if other >= score)) / (len(calibration) + 1)
