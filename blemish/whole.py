"""The image score of worst patch and whole picture together: how surprising both are, added up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from blemish.gaussian import PictureGaussian, distances_of_good
from blemish.surprise import Tail, surprises_of_good

if TYPE_CHECKING:
    from blemish.embedding import Moments
    from blemish.records import Float32, Float64


@dataclass(frozen=True)
class WholePicture:
    """What good pictures are like as a whole, and how their worst patches and they themselves score.

    Attributes:
        gaussian: of good pictures' summaries.
        good_scores: (2, n) float64: score of the worst patch, and distance of the whole, of each good picture.
        patch: the tail of the first row.
        picture: the tail of the second.
    """

    gaussian: PictureGaussian
    good_scores: Float64
    patch: Tail
    picture: Tail

    @classmethod
    def of(cls, gaussian: PictureGaussian, good_scores: Float64) -> WholePicture:
        """Return it with the tails of the good pictures' scores.

        Raises:
            InputError: if the scores are not finite.
        """
        patch, picture = (Tail.from_scores(np.ascontiguousarray(row)) for row in good_scores)
        return cls(gaussian, good_scores, patch, picture)

    @classmethod
    def fitted(cls, moments: Moments, summaries: Float32, patch_scores: Float64) -> tuple[WholePicture, Float64]:
        """Return it, and the image score of each good picture judged by the others.

        Args:
            moments: of all good pictures' summaries.
            summaries: (n, S) float32, those of the pictures that thresholds are calibrated on.
            patch_scores: (n,) float64, the score of the worst patch of each of these.
        """
        good = np.stack([patch_scores, distances_of_good(moments, summaries)])
        scores = sum(surprises_of_good(row) for row in good)
        return cls.of(PictureGaussian.from_moments(moments), good), np.asarray(scores)

    def surprises(self, patch_score: float, summary: Float32) -> tuple[float, float]:
        """Return how surprising the worst patch and the whole are; their sum is the image score.

        Args:
            patch_score: of the worst patch.
            summary: (S,) float32, of the picture.
        """
        return self.patch.surprise(patch_score), self.picture.surprise(self.gaussian.distance(summary))
