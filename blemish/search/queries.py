"""The questions that a store of defects answers, asked of any backend."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from blemish.search.records import REGION, Filter, Group, Match, Query, StoredDefect, Suggestion
from blemish.search.voting import NEVER_SEEN, groups_of, novelty_p_value, shares, votes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from blemish.search.records import Backend, Found
    from blemish.types import Float32, Float64, Int64

# Stored defects whose distance to their own nearest says what is far: more do not move a limit of 1 in 20.
CALIBRATION = 400
# How a neighbour's vote fades, and how many vote: measured in benchmarks/retrieval.py.
SHARPNESS, VOTERS = 20.0, 10
# Regions that one answer is picked from at most.
MOST_ASKED = 10_000


def nearest(backend: Backend, using: str, vector: Float32, k: int, where: Filter) -> tuple[Match, ...]:
    """Return the k stored points that are most similar, nearest first, and at most one of each image.

    An image with many regions would fill an answer alone; so more than k are asked for until k images are there.
    """
    asked = 2 * k
    while True:
        found = backend.search(using, [Query(vector, asked, where)])[0]
        first: dict[str, Found] = {}
        for one in found:
            first.setdefault(str(one.payload["sha256"]), one)
        if len(first) >= k or len(found) < asked or asked >= MOST_ASKED:
            chosen = list(first.values())[:k]
            return tuple(Match(StoredDefect.from_payload(one), one.similarity) for one in chosen)
        asked *= 4


def suggestion(backend: Backend, vector: Float32, k: int, where: Filter, known: Float64) -> Suggestion:
    """Return what the labelled neighbours call it, or that it was never seen.

    Args:
        backend: the store.
        vector: (D,) float32, of the region in question.
        k: how many labelled neighbours vote.
        where: which stored regions count.
        known: what `known_distances` returns.
    """
    closest = nearest(backend, REGION, vector, 1, where)
    p_value = novelty_p_value(1 - closest[0].similarity, known) if closest else None
    voters = nearest(backend, REGION, vector, k, replace(where, filled=(*where.filled, "label")))
    share = votes([str(one.defect.label) for one in voters], [one.similarity for one in voters], SHARPNESS)
    never_seen = not closest or (p_value is not None and p_value <= NEVER_SEEN)
    label = None if never_seen else next(iter(share), None)
    return Suggestion(label, share[label] if label is not None else 0.0, share, never_seen, p_value, voters)


def known_distances(backend: Backend, where: Filter) -> Float64:
    """Return how far stored images' most anomalous regions are from the nearest region of another image.

    Of a large store the first 400 images that are met in order of id: ids are hashes, so these are a random sample.

    Returns:
        (n,) float64 distances, 1 - cosine.
    """
    worst: dict[str, Found] = {}
    for one in backend.scan(where, using=REGION):
        image = str(one.payload["sha256"])
        if image not in worst and len(worst) == CALIBRATION:
            break
        if image not in worst or one.payload["score"] > worst[image].payload["score"]:
            worst[image] = one
    asked = [
        Query(one.vector, 1, replace(where, differs={"sha256": image}))
        for image, one in worst.items()
        if one.vector is not None
    ]
    answers = backend.search(REGION, asked)
    return np.array([1 - found[0].similarity for found in answers if found], np.float64)


def grouped(backend: Backend, where: Filter, least_similarity: float | None, known: Float64) -> list[Group]:
    """Return the stored regions in groups that look alike, the largest first.

    Args:
        backend: the store.
        where: which regions count.
        least_similarity: mean cosine between two groups from which on they are one; None for the similarity that 19 of
            20 stored images have with their nearest: what is less similar counts as never seen.
        known: what `known_distances` returns.
    """
    found = list(backend.scan(where, using=REGION))
    if not found:
        return []
    vectors = np.stack([one.vector for one in found if one.vector is not None])
    if least_similarity is None:
        least_similarity = float(1 - np.quantile(known, 1 - NEVER_SEEN)) if len(known) else 1.0
    numbers = groups_of(vectors, least_similarity)
    order = np.argsort(numbers, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1)
    made = [_group([found[i] for i in part], vectors[part]) for part in parts]
    return sorted(made, key=lambda one: -len(one.members))


def _group(found: Sequence[Found], vectors: Float32) -> Group:
    total = vectors.sum(axis=0, dtype=np.float64)
    n = len(found)
    # The sum over all pairs is the squared length of the sum, less each with itself.
    similarity = (float(total @ total) - n) / (n * (n - 1)) if n > 1 else 1.0
    order: Int64 = np.argsort(-(vectors @ total), kind="stable")
    members = tuple(StoredDefect.from_payload(found[i]) for i in order)
    labels = shares([one.label for one in members])
    return Group(next(iter(labels), None), members, labels, similarity)
