"""The slow, obvious twin of `greedy_coreset`: one pass over all rows for each pick, directly in float64."""

import numpy as np


def reference_coreset(features, n_select, *, seed=0):
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
