"""Queries of a store of defects: nearest neighbors, label suggestion with novelty detection, groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from blemish.search.backends.interface import REGION, Filter, Query
from blemish.search.clustering import cluster
from blemish.search.records import Group, Match, StoredDefect, Suggestion
from blemish.search.voting import NOVELTY_LEVEL, label_counts, novelty_p_value, weighted_votes
from blemish.types import Float32, Float64

if TYPE_CHECKING:
    from blemish.search.backends.interface import Backend, StoredPoint

# Stored defects that are sampled for reference distances: more do not move a quantile of 1 in 20.
N_REFERENCES = 400
# Points that are read for one answer at most.
MAX_POINTS = 10_000


def nearest(backend: Backend, using: str, vector: Float32, k: int, where: Filter) -> tuple[Match, ...]:
    """Return the k nearest stored points, nearest first, at most one of each image.

    More than k points are read, until they are of k images: one image with many regions would fill the answer alone.
    """
    limit = 2 * k
    while True:
        points = backend.search(using, [Query(vector, limit, where)])[0]
        best_of_image: dict[str, StoredPoint] = {}
        for point in points:
            best_of_image.setdefault(str(point.payload["sha256"]), point)
        if len(best_of_image) >= k or len(points) < limit or limit >= MAX_POINTS:
            chosen = list(best_of_image.values())[:k]
            return tuple(Match(StoredDefect.from_point(point), point.similarity) for point in chosen)
        limit *= 4


def suggest(backend: Backend, vector: Float32, k: int, where: Filter, references: Float64) -> Suggestion:
    """Return the label with most of the neighbors' votes, or that the region is novel.

    Args:
        k: number of labelled neighbors that vote.
    """
    closest = nearest(backend, REGION, vector, 1, where)
    p_value = novelty_p_value(1 - closest[0].similarity, references) if closest else None
    is_novel = not closest or (p_value is not None and p_value <= NOVELTY_LEVEL)
    voters = nearest(backend, REGION, vector, k, replace(where, filled=(*where.filled, "label")))
    votes = weighted_votes([str(match.defect.label) for match in voters], [match.similarity for match in voters])
    label = None if is_novel else next(iter(votes), None)
    return Suggestion(label, votes[label] if label is not None else 0.0, votes, is_novel, p_value, voters)


def reference_distances(backend: Backend, where: Filter, *, n_images: int = N_REFERENCES) -> Float64:
    """Return the nearest-neighbor distance of each image's most anomalous region to the regions of other images.

    Args:
        n_images: images in the sample, the first in order of id: ids are hashes, so it is a random one.

    Returns:
        (n,) float64 distances, 1 - cosine.
    """
    worst: dict[str, StoredPoint] = {}
    for point in backend.scan(where, using=REGION):
        image = str(point.payload["sha256"])
        if image not in worst and len(worst) == n_images:
            break
        if image not in worst or point.payload["score"] > worst[image].payload["score"]:
            worst[image] = point
    queries = [
        Query(point.vector, 1, replace(where, differs={"sha256": image}))
        for image, point in worst.items()
        if point.vector is not None
    ]
    return np.array([1 - points[0].similarity for points in backend.search(REGION, queries) if points], np.float64)


def groups(backend: Backend, where: Filter, least_similarity: float | None, references: Float64) -> list[Group]:
    """Return the average-linkage clusters of the stored regions, the largest first.

    Args:
        least_similarity: clusters merge while their mean cosine is at least this; None for the similarity below which
            a defect is novel.
    """
    points = list(backend.scan(where, using=REGION))
    if not points:
        return []
    vectors = np.stack([point.vector for point in points if point.vector is not None])
    if least_similarity is None:
        least_similarity = float(1 - np.quantile(references, 1 - NOVELTY_LEVEL)) if len(references) else 1.0
    clusters = cluster(vectors, least_similarity)
    order = np.argsort(clusters, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(clusters[order])) + 1)
    found = [_group([points[i] for i in rows], vectors[rows]) for rows in members]
    return sorted(found, key=lambda group: -len(group.members))


def _group(points: Sequence[StoredPoint], vectors: Float32) -> Group:
    total = vectors.sum(axis=0, dtype=np.float64)
    n = len(points)
    # The squared norm of the sum is the sum of all n^2 cosines, of which n are of a vector with itself.
    similarity = (float(total @ total) - n) / (n * (n - 1)) if n > 1 else 1.0
    order = np.argsort(-(vectors @ total), kind="stable")
    members = tuple(StoredDefect.from_point(points[i]) for i in order)
    labels = label_counts([defect.label for defect in members])
    return Group(next(iter(labels), None), members, labels, similarity)
