"""Removal of training images from a fitted PatchCore, without a new fit."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from blemish.detectors.fusion import ScoreFusion
from blemish.detectors.patchcore.scoring import Scorer
from blemish.detectors.patchcore.state import UNKNOWN, PatchcoreState
from blemish.errors import InputError, message
from blemish.modelfolder.header import DROPPED
from blemish.ops.neighbors import MemoryIndex

if TYPE_CHECKING:
    from collections.abc import Sequence

    from blemish.detectors.patchcore.settings import PatchcoreSettings

# A score of the fusion is the tail probability among the others.
LEAST_CALIBRATION = 2


def without_images(state: PatchcoreState, settings: PatchcoreSettings, dropped: Sequence[int]) -> PatchcoreState:
    """Return the state without the bank rows and calibration scores of some training images, thresholds recomputed.

    Args:
        state: the fitted state.
        settings: of the detector.
        dropped: indices of training images; they and those of the same parts stay in the list, marked as dropped.

    Raises:
        InputError: if the bank or the scores do not say which image they are of, or too little would be left.
    """
    before = state.training.chosen
    if (state.source[:, 0] == UNKNOWN).any() or not before:
        got = "a model that does not know its images: one of an earlier version, or imported"
        raise InputError(
            message("without", "a model fitted by this version", got, todo="Fit again without these images.")
        )
    dropped = state.training.alike(dropped)
    training = state.training.reviewed(dropped, DROPPED)
    kept_rows = ~np.isin(state.source[:, 0], dropped)
    kept = np.isin(before, training.chosen)
    if kept.sum() < LEAST_CALIBRATION or kept_rows.sum() < settings.num_neighbors:
        expected = f"at least {LEAST_CALIBRATION} calibration images and {settings.num_neighbors} bank rows"
        got = f"{int(kept.sum())} and {int(kept_rows.sum())}"
        raise InputError(message("without", expected, got, todo="Drop fewer images, or fit again."))
    fusion, scores = state.fusion, [score for score in training.scores if score is not None]
    if fusion is not None:
        good_scores = np.ascontiguousarray(fusion.good_scores[:, kept])
        parts, censored, reason = fusion.parts, fusion.censored, fusion.reason
        fusion = ScoreFusion.of(fusion.gaussian, parts, fusion.weights, good_scores, censored=censored, reason=reason)
        scores = fusion.leave_one_out_scores().tolist()
        by_index = dict(zip(training.chosen, scores, strict=True))
        training = replace(training, scores=tuple(by_index.get(i) for i in range(len(training.paths))))
    peaks = [peak for peak in training.map_peaks if peak is not None]
    index = MemoryIndex(state.scorer.index.memory_bank[kept_rows])
    return replace(
        state,
        scorer=Scorer(index, settings.num_neighbors, state.scorer.statistics, top_share=settings.top_share),
        source=state.source[kept_rows],
        fusion=fusion,
        image_calibration=state.image_calibration.with_scores(scores),
        pixel_calibration=state.pixel_calibration.with_scores(peaks),
        training=training,
    )
