"""The image score of worst patch, worst part and whole image together: how surprising they are, added up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from blemish.backbones.embedding import PARTS_SCALE
from blemish.ops.gaussian import Gaussian, fit_gaussian
from blemish.ops.position_gaussian import N_FEATURES, PositionGaussians
from blemish.ops.statistics import Affine, Moments
from blemish.ops.tail_probability import Tail, leave_one_out_neg_log_p

if TYPE_CHECKING:
    from collections.abc import Sequence

    from blemish.backbones.backbone import Backbone
    from blemish.backbones.embedding import Extractor
    from blemish.types import Float32, Float64, UInt8

# What each counts. Patch and part are two views of the same places and count once together; .5 and .5 measured nearly
# alike, and 1 and 1 worse: what both see would count twice.
WEIGHTS = {"patch": 0.4, "part": 0.6, "image": 1.0}


@dataclass(frozen=True)
class ScoreFusion:
    """What good images are like from further away, in parts and as a whole, and how they score in all three ways.

    Attributes:
        parts: of good images' parts.
        gaussian: of good images' summaries.
        good_scores: (3, n) float64: score of the worst patch, of the worst part, and distance of the whole, of each
            good image judged by the others.
        tails: of each row of these.
    """

    parts: PositionGaussians
    gaussian: Gaussian
    good_scores: Float64
    tails: tuple[Tail, ...]

    @classmethod
    def of(cls, parts: PositionGaussians, gaussian: Gaussian, good_scores: Float64) -> ScoreFusion:
        """Return it with the tails of the good images' scores.

        Raises:
            InputError: if the scores are not finite.
        """
        return cls(parts, gaussian, good_scores, tuple(Tail.from_scores(np.ascontiguousarray(r)) for r in good_scores))

    @classmethod
    def fitted(
        cls, moments: Moments, summaries: Float32, parts: Float32, patch_scores: Float64
    ) -> tuple[ScoreFusion, Float64]:
        """Return it, and the image score of each good image judged by the others.

        Args:
            moments: of all good images' summaries.
            summaries: (n, S) float32, those of the images that thresholds are calibrated on.
            parts: (n, h, w, K) float32, their parts.
            patch_scores: (n,) float64, the score of the worst patch of each of these.
        """
        part_gaussians, part_scores = PositionGaussians.fit(parts)
        gaussian, distances = fit_gaussian(moments, summaries)
        good = np.stack([patch_scores, part_scores, distances])
        scores = sum(weight * leave_one_out_neg_log_p(row) for weight, row in zip(WEIGHTS.values(), good, strict=True))
        return cls.of(part_gaussians, gaussian, good), np.asarray(scores)

    def components(self, patch_score: float, parts: Float32, summary: Float32) -> dict[str, float]:
        """Return what the image score is the sum of, by name.

        Args:
            patch_score: of the worst patch.
            parts: (h, w, K) float32, of the image.
            summary: (S,) float32, of the image.
        """
        scores = patch_score, self.parts.score(parts), self.gaussian.mahalanobis(summary)
        return {
            name: weight * tail.neg_log_p(score)
            for (name, weight), tail, score in zip(WEIGHTS.items(), self.tails, scores, strict=True)
        }


class MultiScaleFeatures:
    """What good images look like from further away, collected image by image."""

    def __init__(self) -> None:
        self._summary_moments, self._part_moments = Moments(), Moments()
        self._summaries: list[Float32] = []
        self._parts: list[Float32] = []

    def add(self, raw: Extractor, image: UInt8, *, keep: bool) -> None:
        """Look at an image.

        Args:
            raw: gives parts that are not turned to their axes yet.
            image: the network's input, uint8 (h, w, 3).
            keep: whether its image score will be asked for.
        """
        summary = raw.summary(image)
        self._summary_moments.add(summary[None])
        if keep:
            parts = raw.parts(image)
            self._part_moments.add(parts.reshape(-1, parts.shape[-1]))
            self._summaries.append(summary)
            self._parts.append(parts)

    def part_axes(self) -> Affine:
        """Return the map from raw parts to their most varied features."""
        return self._part_moments.principal_axes(N_FEATURES)

    def fitted(self, patch_scores: Sequence[float]) -> tuple[ScoreFusion, list[float]]:
        """Return what good images are like, and the image score of each that was kept, judged by the others.

        Args:
            patch_scores: of the worst patch of each that was kept.
        """
        axes = self.part_axes()
        parts = np.stack([parts @ axes.weight.T + axes.bias for parts in self._parts])
        summaries = np.stack(self._summaries)
        whole, scores = ScoreFusion.fitted(self._summary_moments, summaries, parts, np.array(patch_scores))
        return whole, scores.tolist()


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
