"""Weighted nearest-neighbor vote and conformal novelty detection on cosine similarities.

A distance is 1 - cosine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from blemish.types import Float64

# A defect is novel at a p-value of at most 1 in 20; with fewer reference distances no p-value is that low.
NOVELTY_LEVEL = 0.05
MIN_REFERENCES = 19
# Decay of a vote with distance, and number of votes: measured in benchmarks/retrieval.py.
SHARPNESS, N_VOTERS = 20.0, 10


def novelty_p_value(distance: float, references: Float64) -> float | None:
    """Return the conformal p-value of a nearest-neighbor distance.

    Args:
        distance: of a defect to its nearest stored neighbor.
        references: (n,) distances of stored defects to their nearest neighbor on another image.

    Returns:
        (1 + number of references at least as large) / (n + 1); None below 19 references. A defect exchangeable with
        the stored ones has a p-value of at most a with probability at most a: were it stored too, the references could
        only shrink, so this is never below the p-value of full conformal prediction.

    Source: Vovk et al. 2005, "Algorithmic learning in a random world", section 2.2, with the nearest-neighbor score.

    >>> novelty_p_value(0.5, np.linspace(0.01, 0.2, 99))
    0.01
    """
    if len(references) < MIN_REFERENCES:
        return None
    return float((1 + np.count_nonzero(references >= distance)) / (len(references) + 1))


def weighted_votes(
    labels: Sequence[str], similarities: Sequence[float], sharpness: float = SHARPNESS
) -> dict[str, float]:
    """Return the share of the neighbors' votes of each label, highest first, ties by name.

    Args:
        labels: of the neighbors, nearest first.
        similarities: cosines of the same neighbors.
        sharpness: the weight of a vote is exp(sharpness * (similarity - highest similarity)).

    >>> weighted_votes(["crack", "dent", "crack"], [0.9, 0.8, 0.8], 0.0)
    {'crack': 0.6666666666666666, 'dent': 0.3333333333333333}
    """
    if not labels:
        return {}
    cosines = np.asarray(similarities, np.float64)
    weights = np.exp(sharpness * (cosines - cosines.max()))
    sums: dict[str, float] = {}
    for label, weight in zip(labels, weights.tolist(), strict=True):
        sums[label] = sums.get(label, 0.0) + weight
    total = sum(sums.values())
    return {label: weight / total for label, weight in sorted(sums.items(), key=lambda item: (-item[1], item[0]))}


def label_counts(labels: Sequence[str | None]) -> dict[str, int]:
    """Return the number of times that each label occurs, most frequent first, ties by name; None does not count."""
    counts = Counter(label for label in labels if label is not None)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
