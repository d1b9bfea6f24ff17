"""Whether the position of a patch counts: judged from good images alone, by synthetic defects on some of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from blemish.data.synthetic.defects import synthetic_defects
from blemish.detectors.fusion import JudgedParts
from blemish.metrics.classification import auroc

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from blemish.backbones.embedding import Extractor
    from blemish.data.training_images import TrainingImages
    from blemish.detectors.fusion import MultiScaleFeatures, PartStatistics
    from blemish.detectors.patchcore.scoring import Scorer
    from blemish.imaging.geometry import Geometry
    from blemish.types import Progress

N_JUDGED = 96
# With fewer good images the covariance at each position is mostly its prior.
LEAST_IMAGES = 50
# Weight of the per-position Gaussian where position counts. It falls to 0 as it finds less of the synthetic defects
# than the patches do, in AUROC: from a little less, as it sees other defects, to much less, as where parts turn. Chosen
# by leave-one-set-out over the development sets (benchmarks/defaults.py).
WEIGHT = 0.4
LITTLE_LESS, MUCH_LESS = 0.05, 0.2
# A lower weight changes hardly a verdict, and costs a pass of the network.
LEAST_WEIGHT = 0.04


def part_weight(less: float) -> float:
    """Return the weight of the per-position Gaussian whose AUROC of synthetic defects is `less` below the patches'.

    >>> part_weight(0.02), part_weight(0.125), part_weight(0.3)
    (0.4, 0.2, 0.0)
    """
    weight = round(WEIGHT * min(max((MUCH_LESS - less) / (MUCH_LESS - LITTLE_LESS), 0.0), 1.0), 2)
    return weight if weight >= LEAST_WEIGHT else 0.0


def judged_rows(n_chosen: int) -> range:
    """Return which of so many calibration images get a synthetic defect: at most `N_JUDGED`, evenly.

    >>> judged_rows(300)
    range(0, 300, 4)
    """
    return range(0, n_chosen if n_chosen >= LEAST_IMAGES else 0, -(-n_chosen // N_JUDGED))


@dataclass(frozen=True)
class PositionJudge:
    """Decides whether the per-position Gaussian (Defard et al. 2021) joins the image score.

    Parts that turn freely, or have no fixed place, make every position of a good image unusual; parts that are aligned
    do not. Synthetic defects on good images tell the two apart.

    Attributes:
        images: the training images.
        chosen: indices of the calibration images.
        geometry: from an image to the network's input.
        extractor: gives features and parts.
        scorer: of patches.
        source: (n, 3) int32: image, row and column of each bank row.
        seed: of the synthetic defects.
    """

    images: TrainingImages
    chosen: Sequence[int]
    geometry: Geometry
    extractor: Extractor
    scorer: Scorer
    source: NDArray[np.int32]
    seed: int

    def choose(self, multi_scale: MultiScaleFeatures, patch_scores: Sequence[float], progress: Progress) -> JudgedParts:
        """Return the per-position Gaussian with its weight, and the reason as a sentence.

        Args:
            multi_scale: coarse features of the calibration images.
            patch_scores: of these.
            progress: called as progress(stage, done, total).
        """
        if len(self.chosen) < LEAST_IMAGES:
            return JudgedParts(None, 0.0, f"Position is not used: that takes {LEAST_IMAGES} good images or more.")
        parts = multi_scale.parts()
        of_patches, of_parts = self._synthetic_scores(parts, progress)
        patch_auroc, part_auroc = _auroc(patch_scores, of_patches), _auroc(parts.good_scores, of_parts)
        weight = part_weight(patch_auroc - part_auroc)
        seen = f"AUROC of synthetic defects {part_auroc:.3f} by position, {patch_auroc:.3f} by patches"
        if weight == 0:
            return JudgedParts(None, 0.0, f"Position is not used: the parts turn, shift or vary ({seen}).")
        if weight < WEIGHT:
            return JudgedParts(parts, weight, f"Position counts less: the parts vary somewhat in place ({seen}).")
        return JudgedParts(parts, weight, f"Position is used: the parts are aligned ({seen}).")

    def _synthetic_scores(self, parts: PartStatistics, progress: Progress) -> tuple[list[float], list[float]]:
        """Return the patch and the part score of synthetic defects, each image without its own bank rows."""
        judged = {self.chosen[row]: row for row in judged_rows(len(self.chosen))}
        of_patches, of_parts = [], []
        inputs = list(self.images.prepared(self.geometry, list(judged), stage="judging position", progress=progress))
        groups = self.images.groups
        for defect in synthetic_defects([image for _, image in inputs], len(inputs), seed=self.seed):
            i = inputs[defect.image_index][0]
            own = np.isin(self.source[:, 0], np.flatnonzero(groups == groups[i]))
            nearest = self.scorer.distances(self.extractor.features(defect.image), exclude=own)
            of_patches.append(self.scorer.image_score(self.scorer.patch_map(nearest.distances), nearest.weight))
            of_parts.append(parts.score_without(self.extractor.parts(defect.image), judged[i]))
        return of_patches, of_parts


def _auroc(good: Sequence[float] | NDArray[np.float64], defective: Sequence[float]) -> float:
    return auroc(np.r_[good, defective], np.r_[np.zeros(len(good), bool), np.ones(len(defective), bool)])
