"""Score fusion: the image score as a sum of -log p of patches, per-position Gaussian and global descriptor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from blemish.backbones.embedding import PARTS_SCALE
from blemish.errors import ModelFileError, message
from blemish.ops.conformal import TailOptions
from blemish.ops.gaussian import Gaussian, fit_gaussian
from blemish.ops.outliers import ALIKE_SHARE, kth_neighbor_distances
from blemish.ops.position_gaussian import N_FEATURES, PositionGaussians
from blemish.ops.statistics import Affine, Moments
from blemish.ops.tail_probability import Prior, Tail, leave_one_out_neg_log_p

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from blemish.backbones.backbone import Backbone
    from blemish.types import Float32, Float64, Int64

COMPONENTS = ("patch", "part", "image")
# Chosen by leave-one-set-out over the development sets (benchmarks/defaults.py).
WEIGHTS = {"patch": 1.0, "image": 1.0}
# Share of the scores above the median that are censored in each component's tail: .1 to .4 rank alike, and the lower,
# the more a defective image among the good ones hides others (benchmarks/contamination.py).
CENSORED = 0.2
# Of image scores: sums of -log p are alike from part to part, so that other parts' good images say more of the tail
# than twenty of this one do. Chosen by leave-one-set-out (benchmarks/defaults.py).
SCORE_TAIL = TailOptions(prior=Prior(1.55, 40))


def weights_with_part(part: float) -> dict[str, float]:
    """Return the weights with the per-position Gaussian: two views of the same places, they count once together.

    >>> weights_with_part(0.25)
    {'patch': 0.75, 'part': 0.25, 'image': 1.0}
    """
    return {"patch": WEIGHTS["patch"] - part, "part": part, "image": WEIGHTS["image"]}


@dataclass(frozen=True)
class ScoreFusion:
    """Global descriptor and per-position Gaussian of good images, and the scores of good images that make p-values.

    Attributes:
        gaussian: of good images' global descriptors.
        parts: of good images' coarse features at each position; None where position says nothing.
        weights: of each component that counts, in the order of `COMPONENTS` and of `good_scores`.
        good_scores: (k, n) float64: each component of each good image, scored by the others.
        censored: share of the highest scores that are censored in the tails.
        tails: of each row of `good_scores`.
        reason: a sentence for the user: why these components.
    """

    gaussian: Gaussian
    parts: PositionGaussians | None
    weights: Mapping[str, float]
    good_scores: Float64
    censored: float
    tails: tuple[Tail, ...]
    reason: str = ""

    @classmethod
    def of(
        cls,
        gaussian: Gaussian,
        parts: PositionGaussians | None,
        weights: Mapping[str, float],
        good_scores: Float64,
        *,
        censored: float = CENSORED,
        reason: str = "",
    ) -> ScoreFusion:
        """Return it with the tails of the good images' scores.

        Raises:
            InputError: if the scores are not finite.
        """
        ordered = {name: weights[name] for name in COMPONENTS if name in weights}
        rows = (np.ascontiguousarray(row) for row in good_scores)
        tails = tuple(Tail.from_scores(row, censored=censored) for row in rows)
        return cls(gaussian, parts, ordered, good_scores, censored, tails, reason)

    def leave_one_out_scores(self) -> Float64:
        """Return the (n,) float64 image scores of the good images, each by the tails of the others."""
        rows = (leave_one_out_neg_log_p(row, censored=self.censored) for row in self.good_scores)
        return np.asarray(sum(weight * row for weight, row in zip(self.weights.values(), rows, strict=True)))

    def components(self, patch_score: float, parts: Float32 | None, summary: Float32) -> dict[str, float]:
        """Return the terms of the image score by name.

        Args:
            patch_score: of the image's patches.
            parts: (h, w, K) float32, coarse features of the image; None if `parts` is.
            summary: (S,) float32, its global descriptor.
        """
        scores = {"patch": patch_score, "image": self.gaussian.mahalanobis(summary)}
        if self.parts is not None and parts is not None:
            scores["part"] = self.parts.score(parts)
        for name, score in scores.items():
            # NaN is above no good score, and would count as an ordinary one.
            if not np.isfinite(score):
                todo = "The model is damaged, or made to mislead: fit again."
                raise ModelFileError(message(f"{name} score", "a finite number", repr(score), todo=todo))
        return {
            name: weight * tail.neg_log_p(scores[name])
            for (name, weight), tail in zip(self.weights.items(), self.tails, strict=True)
        }

    def header(self) -> dict[str, Any]:
        """Return the fields of `model.json`."""
        return {"weights": dict(self.weights), "censored": self.censored, "reason": self.reason}


class PartStatistics(NamedTuple):
    """The per-position Gaussian of good images' coarse features.

    Attributes:
        gaussians: of all of them.
        good_scores: (m,) float64, of each chosen image, by the images of other parts.
        features: (n, h, w, K) float32, the features of all images that were kept.
        left_out: of each chosen image, the rows of `features` that show its part.
    """

    gaussians: PositionGaussians
    good_scores: Float64
    features: Float32
    left_out: Sequence[Sequence[int]]

    def score_without(self, features: Float32, i: int) -> float:
        """Return the part score of (h, w, K) float32 features by the Gaussians without the part of chosen image `i`."""
        out = self.features[list(self.left_out[i])]
        distances = self.gaussians.mahalanobis_without(features, out, len(self.features))
        return float(self.gaussians.statistics.z_scores(distances).max())


class JudgedParts(NamedTuple):
    """Whether the per-position Gaussian counts.

    Attributes:
        parts: its statistics; None if it does not count.
        weight: of its score, of which `patch` has the rest.
        reason: a sentence for the user.
    """

    parts: PartStatistics | None
    weight: float
    reason: str


class MultiScaleFeatures:
    """Coarse features and global descriptors of good images, collected image by image."""

    def __init__(self) -> None:
        self._part_moments = Moments()
        self._summaries: list[Float32] = []
        self._parts: dict[int, Float32] = {}
        self._groups: Int64 = np.arange(0)
        self._chosen: list[int] = []

    def add(self, summary: Float32, parts: Float32 | None) -> None:
        """Add an image.

        Args:
            summary: (S,) float32, its global descriptor.
            parts: (h, w, K) float32, its coarse features, not projected on their axes yet; None unless its score may be
                asked for.
        """
        if parts is not None:
            self._part_moments.add(parts.reshape(-1, parts.shape[-1]))
            self._parts[len(self._summaries)] = parts
        self._summaries.append(summary)

    def choose(self, groups: Int64, chosen: Sequence[int]) -> None:
        """Choose the images, among those kept, whose scores are asked for, each by the images of other groups."""
        self._groups, self._chosen = groups, list(chosen)

    def part_axes(self) -> Affine:
        """Return the map from raw parts to their most varied features."""
        return self._part_moments.principal_axes(N_FEATURES)

    def parts(self) -> PartStatistics:
        """Return the per-position Gaussian of the coarse features that were kept."""
        axes = self.part_axes()
        features = np.stack([parts @ axes.weight.T + axes.bias for parts in self._parts.values()])
        rows = {image: row for row, image in enumerate(self._parts)}
        alike = [[i, *(j for j in self._alike(i) if j != i and j in rows)] for i in self._chosen]
        left_out = [[rows[j] for j in images] for images in alike]
        fitted = PositionGaussians.fit(features, None if self._is_independent() else left_out)
        return PartStatistics(*fitted, features, left_out)

    def rarities(self) -> Float64:
        """Return the rarity, (n,) float64, of each chosen image; empty for too few images."""
        return kth_neighbor_distances(self._chosen_summaries(), ALIKE_SHARE)

    def fitted(self, patch_scores: Sequence[float], judged: JudgedParts) -> ScoreFusion:
        """Return the fusion of the components' scores, `patch_scores` of each chosen image by the others."""
        moments = Moments()
        summaries = np.stack(self._summaries)
        moments.add(summaries)
        left_out = None if self._is_independent() else [summaries[self._alike(i)] for i in self._chosen]
        gaussian, distances = fit_gaussian(moments, self._chosen_summaries(), left_out=left_out)
        rows = {"patch": np.array(patch_scores), "image": distances}
        weights, gaussians = WEIGHTS, None
        if judged.parts is not None:
            rows["part"] = judged.parts.good_scores
            weights, gaussians = weights_with_part(judged.weight), judged.parts.gaussians
        good_scores = np.stack([rows[name] for name in weights])
        return ScoreFusion.of(gaussian, gaussians, weights, good_scores, reason=judged.reason)

    def _chosen_summaries(self) -> Float32:
        """Return the (n, S) float32 global descriptors of the chosen images."""
        return np.stack([self._summaries[i] for i in self._chosen])

    def _alike(self, i: int) -> list[int]:
        """Return the images of the same group, in order."""
        same: list[int] = np.flatnonzero(self._groups == self._groups[i]).tolist()
        return same

    def _is_independent(self) -> bool:
        """Return whether each image shows a part of its own, and all that were kept are scored."""
        return len(np.unique(self._groups)) == len(self._groups)


def multi_scale_bytes(backbone: Backbone, n_kept: int, area_px: int) -> int:
    """Return about how much memory `MultiScaleFeatures` takes.

    Args:
        backbone: the network.
        n_kept: images that are kept.
        area_px: of the network's input.
    """
    channels = dict(zip(backbone.layers, backbone.channels, strict=True))
    n_coarse = sum(channels[layer] for layer in backbone.coarsest)
    n_places = int(area_px * PARTS_SCALE**2) // max(backbone.strides) ** 2
    n_summary = 2 * max(n_coarse, sum(backbone.channels))
    of_parts = n_places * (n_kept * (n_coarse + N_FEATURES) + N_FEATURES**2)
    return 4 * (of_parts + n_kept * n_summary) + 8 * 4 * n_summary**2
