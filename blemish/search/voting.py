"""What neighbours say: how far is too far, which label, and who belongs together. Pure functions of numbers.

Similarities are cosines, distances are 1 - cosine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from blemish._validation.checks import check_array
from blemish.errors import InputError, message

if TYPE_CHECKING:
    from blemish.types import Float32, Float64, Int64

# Fewer cannot say "in 1 of 20" at all.
FEWEST_TO_JUDGE = 19
NEVER_SEEN = 0.05
# The distances between all pairs of so many take 400 MB; more are put to the nearest group of these.
MOST_PAIRED = 10_000


def novelty_p_value(distance: float, known: Float64) -> float | None:
    """Return the share of known defects that are at least as far from their own nearest as this one is.

    Args:
        distance: of the defect to its nearest stored neighbour.
        known: (n,) distances of stored defects to their own nearest, each without itself and its image.

    Returns:
        (1 + how many are at least as far) / (n + 1), the conformal p-value; None if n is too small to ever be low.
        A defect drawn like the stored ones has a p-value of at most a with probability at most a: with it in the store
        too, the known distances could only shrink, so this is never below the exact p-value of full conformal
        prediction.

    Source: Vovk et al. 2005, "Algorithmic learning in a random world", section 2.2, with the nearest-neighbour score.

    >>> novelty_p_value(0.5, np.linspace(0.01, 0.2, 99))
    0.01
    """
    if len(known) < FEWEST_TO_JUDGE:
        return None
    return float((1 + np.count_nonzero(known >= distance)) / (len(known) + 1))


def votes(labels: Sequence[str], similarities: Sequence[float], sharpness: float) -> dict[str, float]:
    """Return each label's share of the neighbours' votes, highest first; equal ones by name.

    Args:
        labels: of the neighbours, nearest first.
        similarities: of the same.
        sharpness: how fast a vote fades with distance: exp(sharpness * (similarity - highest similarity)).

    >>> votes(["crack", "dent", "crack"], [0.9, 0.8, 0.8], 0.0)
    {'crack': 0.6666666666666666, 'dent': 0.3333333333333333}
    """
    if not labels:
        return {}
    values = np.asarray(similarities, np.float64)
    weights = np.exp(sharpness * (values - values.max()))
    total: dict[str, float] = {}
    for label, weight in zip(labels, weights.tolist(), strict=True):
        total[label] = total.get(label, 0.0) + weight
    whole = sum(total.values())
    return {label: share / whole for label, share in sorted(total.items(), key=lambda item: (-item[1], item[0]))}


def groups_of(vectors: Float32, least_similarity: float) -> Int64:
    """Return the group of each vector: average-linkage clusters whose members' mean similarity is high enough.

    Args:
        vectors: (n, D) float32 of unit length.
        least_similarity: two groups join while the mean cosine between their members is at least this.

    Returns:
        (n,) int64 from 0, in order of first appearance.

    Raises:
        InputError: if `vectors` is not finite float32 (n, D).

    Cost: n^2 distances for the first 10,000; the others are put to the group of the most similar of these if they are
        near enough to it, else each to its own.
    """
    check_array("vectors", vectors, dtype=np.float32, shape=("n", "D"))
    if not np.isfinite(least_similarity):
        raise InputError(message("least_similarity", "a number", repr(least_similarity)))
    core = vectors[:MOST_PAIRED]
    found = _average_linkage(core @ core.T, least_similarity)
    rest = vectors[MOST_PAIRED:]
    if len(rest):
        found = np.concatenate([found, _nearest_group(core, found, rest, least_similarity)])
    _, first, inverse = np.unique(found, return_index=True, return_inverse=True)
    order = np.empty(len(first), np.int64)
    order[np.argsort(first)] = np.arange(len(first))
    return order[inverse]


def _average_linkage(similarity: Float32, least: float) -> Int64:
    """Return a group number for each row: merge the two most similar groups until none are similar enough.

    Source: the nearest-neighbour chain of Müllner 2011 (arXiv 1109.2378), figure 6; average linkage is reducible, so
        merges above a height are the same in whatever order they are found.
    """
    n = len(similarity)
    similarity = similarity.astype(np.float32, copy=True)
    np.fill_diagonal(similarity, -np.inf)
    size = np.ones(n, np.int64)
    parent = np.arange(n)
    alive = np.ones(n, np.bool_)
    chain: list[int] = []
    while True:
        if not chain:
            left = np.flatnonzero(alive)
            if not len(left):
                break
            chain.append(int(left[0]))
        at = chain[-1]
        nearest = int(similarity[at].argmax())
        if len(chain) > 1 and similarity[at, chain[-2]] >= similarity[at, nearest]:
            nearest = chain[-2]
        if similarity[at, nearest] < least:
            # Nobody will come nearer: joining others only averages what is already too low.
            alive[at] = False
            chain.pop()
            continue
        if len(chain) == 1 or nearest != chain[-2]:
            chain.append(nearest)
            continue
        chain = chain[:-2]
        mixed = (size[at] * similarity[at] + size[nearest] * similarity[nearest]) / (size[at] + size[nearest])
        similarity[nearest], similarity[:, nearest] = mixed, mixed
        similarity[nearest, nearest] = -np.inf
        similarity[at], similarity[:, at] = -np.inf, -np.inf
        size[nearest] += size[at]
        parent[at], alive[at] = nearest, False
    return _roots(parent)


def _roots(parent: Int64) -> Int64:
    while True:
        above = parent[parent]
        if (above == parent).all():
            return parent
        parent = above


def _nearest_group(core: Float32, found: Int64, rest: Float32, least: float) -> Int64:
    """Return the group of each of the rest: that of its most similar core member, or one of its own."""
    result = np.arange(len(rest)) + len(core)
    for first in range(0, len(rest), 4096):
        similarity = rest[first : first + 4096] @ core.T
        best = similarity.argmax(axis=1)
        near = similarity[np.arange(len(best)), best] >= least
        result[first : first + 4096][near] = found[best[near]]
    return result


def shares(labels: Sequence[str | None]) -> Mapping[str, int]:
    """Return how often each label occurs, most frequent first, equal ones by name; None does not count."""
    named = [label for label in labels if label is not None]
    counts = {label: named.count(label) for label in dict.fromkeys(named)}
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
