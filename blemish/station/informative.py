"""Order of a review queue: most informative first, from scores and from the looks of what was reviewed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from blemish.types import Bool, Float32, Float64

Reason = Literal["near the threshold", "novel", "unlike its neighbors"]
# Measured in benchmarks/review_order.py: each is near the best of a coarse grid, which is flat.
NOVELTY_WEIGHT, DISAGREEMENT_WEIGHT = 0.3, 1.0
N_NEIGHBORS, SHARPNESS = 5, 10.0
# A neighbor at this cosine weighs as much as the model's own opinion.
EVEN_SIMILARITY = 0.4


class Priorities(NamedTuple):
    """How much the review of each waiting inspection would tell.

    Attributes:
        near: (n,) float64, 1 / (1 + margin): 1 at the threshold.
        novelty: (n,) float64, 0 to 1: 1 - cosine of the most similar reviewed inspection.
        disagreement: (n,) float64, 0 to 1: share of the similar reviewed inspections of which people said the opposite.
    """

    near: Float64
    novelty: Float64
    disagreement: Float64

    @property
    def total(self) -> Float64:
        """(n,) float64, the order: highest first."""
        return self.near + NOVELTY_WEIGHT * self.novelty + DISAGREEMENT_WEIGHT * self.disagreement

    def reason(self, index: int) -> Reason:
        """Return the largest of the three terms of an inspection."""
        terms: dict[Reason, float] = {
            "near the threshold": float(self.near[index]),
            "novel": NOVELTY_WEIGHT * float(self.novelty[index]),
            "unlike its neighbors": DISAGREEMENT_WEIGHT * float(self.disagreement[index]),
        }
        return max(terms, key=lambda name: terms[name])


def priorities(
    margins: Float64, labels: Bool, looks: Float32, reviewed_looks: Float32, reviewed_defective: Bool
) -> Priorities:
    """Return how much the review of each waiting inspection would tell.

    Args:
        margins: (n,) distance of each score from the threshold, as a multiple of a typical good image's.
        labels: (n,) whether the model calls each defective.
        looks: (n, D) unit vectors of their most anomalous regions; a row of zeros for one that is not known.
        reviewed_looks: (m, D) unit vectors of reviewed inspections.
        reviewed_defective: (m,) whether a person called each defective.
    """
    near = 1.0 / (1.0 + np.asarray(margins, np.float64))
    novelty, disagreement = np.zeros(len(near)), np.zeros(len(near))
    known = np.flatnonzero(looks.any(axis=1))
    if len(reviewed_looks) and len(known):
        similarity = np.asarray(looks[known] @ reviewed_looks.T, np.float64)
        novelty[known] = 1.0 - np.clip(similarity.max(axis=1), 0.0, 1.0)
        nearest = np.argsort(-similarity, axis=1, kind="stable")[:, :N_NEIGHBORS]
        weights = np.exp(SHARPNESS * (np.take_along_axis(similarity, nearest, axis=1) - EVEN_SIMILARITY))
        opposite = reviewed_defective[nearest] != labels[known, None]
        disagreement[known] = (weights * opposite).sum(axis=1) / (weights.sum(axis=1) + 1.0)
    return Priorities(near, novelty, disagreement)
