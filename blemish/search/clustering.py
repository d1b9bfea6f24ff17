"""Average-linkage clustering of unit vectors by cosine similarity."""

from __future__ import annotations

import numpy as np

from blemish._validation.checks import blocks, check_array
from blemish.errors import InputError, message
from blemish.types import Float32, Int64

# The similarities of all pairs of 10,000 vectors take 400 MB.
MAX_PAIRWISE = 10_000


def cluster(vectors: Float32, least_similarity: float, *, max_pairwise: int = MAX_PAIRWISE) -> Int64:
    """Return the average-linkage cluster of each vector.

    Args:
        vectors: (n, D) float32 of unit length.
        least_similarity: two clusters merge while the mean cosine of their members is at least this.
        max_pairwise: number of vectors that are clustered; each further one joins the cluster of the most similar of
            these if that is similar enough, else it is a cluster of its own.

    Returns:
        (n,) int64 from 0, in order of first appearance.

    Raises:
        InputError: if `vectors` is not finite float32 (n, D), or `least_similarity` is not a finite number.

    Cost: max_pairwise^2 similarities in memory.
    """
    check_array("vectors", vectors, dtype=np.float32, shape=("n", "D"))
    if not np.isfinite(least_similarity):
        raise InputError(message("least_similarity", "a number", repr(least_similarity)))
    core, rest = vectors[:max_pairwise], vectors[max_pairwise:]
    clusters = _average_linkage(core @ core.T, least_similarity)
    clusters = np.concatenate([clusters, _nearest_cluster(core, clusters, rest, least_similarity)])
    _, first, inverse = np.unique(clusters, return_index=True, return_inverse=True)
    order = np.empty(len(first), np.int64)
    order[np.argsort(first)] = np.arange(len(first))
    return order[inverse]


def _average_linkage(similarity: Float32, least: float) -> Int64:
    """Return the cluster of each row of a similarity matrix, which is overwritten.

    Source: the nearest-neighbor chain of Müllner 2011 (arXiv 1109.2378), figure 6; average linkage is reducible, so
        the merges above a height do not depend on their order.
    """
    n = len(similarity)
    np.fill_diagonal(similarity, -np.inf)
    size = np.ones(n, np.int64)
    parent = np.arange(n)
    active = np.ones(n, np.bool_)
    chain: list[int] = []
    while True:
        if not chain:
            remaining = np.flatnonzero(active)
            if not len(remaining):
                return _roots(parent)
            chain.append(int(remaining[0]))
        top = chain[-1]
        nearest = int(similarity[top].argmax())
        if len(chain) > 1 and similarity[top, chain[-2]] >= similarity[top, nearest]:
            nearest = chain[-2]
        if similarity[top, nearest] < least:
            # No other cluster will come nearer: a merge only averages similarities that are too low already.
            active[top] = False
            chain.pop()
            continue
        if len(chain) == 1 or nearest != chain[-2]:
            chain.append(nearest)
            continue
        chain = chain[:-2]
        merged = (size[top] * similarity[top] + size[nearest] * similarity[nearest]) / (size[top] + size[nearest])
        similarity[nearest], similarity[:, nearest] = merged, merged
        similarity[nearest, nearest] = -np.inf
        similarity[top], similarity[:, top] = -np.inf, -np.inf
        size[nearest] += size[top]
        parent[top], active[top] = nearest, False


def _roots(parent: Int64) -> Int64:
    """Return the root of each node of a forest."""
    while True:
        grandparent = parent[parent]
        if (grandparent == parent).all():
            return parent
        parent = grandparent


def _nearest_cluster(core: Float32, clusters: Int64, rest: Float32, least: float) -> Int64:
    """Return the cluster of each row of `rest`: that of the most similar core row, or a new one."""
    result = np.arange(len(rest)) + len(core)
    for block in blocks(len(rest), 4096):
        similarity = rest[block] @ core.T
        best = similarity.argmax(axis=1)
        near = similarity[np.arange(len(best)), best] >= least
        result[block][near] = clusters[best[near]]
    return result
