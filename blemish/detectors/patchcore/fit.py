"""Fitting PatchCore: good images in; bank, levels and calibrated thresholds out."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from blemish.backbones.embedding import Extractor, embedding_graph
from blemish.detectors.backbone_settings import MAX_CALIBRATION, provenance_of
from blemish.detectors.fusion import MultiScaleFeatures
from blemish.detectors.patchcore.memory_bank import PatchCollection
from blemish.detectors.patchcore.position import PositionJudge
from blemish.detectors.patchcore.scoring import Scorer
from blemish.detectors.patchcore.state import PatchcoreState
from blemish.errors import InputError, message
from blemish.modelfolder.header import Training
from blemish.ops.conformal import Calibration
from blemish.ops.distance_statistics import fit_distance_statistics
from blemish.ops.neighbors import MemoryIndex
from blemish.types import Float32, Float64

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from blemish.backbones.backbone import Backbone
    from blemish.data.training_images import TrainingImages
    from blemish.detectors.patchcore.settings import PatchcoreSettings
    from blemish.imaging.geometry import Geometry
    from blemish.types import Bool, Int64, Progress

FeatureMaps = Iterable[tuple[int, Float32]]


def fit(
    settings: PatchcoreSettings, backbone: Backbone, images: TrainingImages, *, progress: Progress
) -> PatchcoreState:
    """Return PatchCore fitted on good images: whitening, memory bank, distance statistics and calibrations.

    Raises:
        DataError: if fewer than two images can be decoded.
        InputError: if the network does not take images of this size, or the bank is too small to calibrate with.
    """
    start = time.perf_counter()
    geometry = settings.geometry(images.sizes_hw, backbone)
    raw = raw_extractor(settings, backbone)
    first = first_pass(settings, images, raw, geometry, progress)
    bank = first.patches.memory_bank(progress)
    linear = None if settings.scaling == "none" else bank.scaling
    part_axes = None if first.multi_scale is None else first.multi_scale.part_axes()
    graph = embedding_graph(backbone, pooling=settings.pooling, scaling=linear, part_axes=part_axes)
    extractor = Extractor(graph.SerializeToString(), threads=settings.n_threads)
    maps = first.patches.maps(first.chosen, stage="calibrating", progress=progress)
    if maps is None:
        maps = images.feature_maps(extractor.features, geometry, first.chosen, stage="calibrating", progress=progress)
    calibrated = calibrate(settings, geometry, bank.features, bank.source, maps, groups=images.groups)
    fusion, scores = None, np.array(calibrated.scores)
    if first.multi_scale is not None:
        judge = PositionJudge(images, first.chosen, geometry, extractor, calibrated.scorer, bank.source, settings.seed)
        judged = judge.choose(first.multi_scale, calibrated.scores, progress)
        fusion = first.multi_scale.fitted(calibrated.scores, judged)
        scores = fusion.leave_one_out_scores()
    rate, rule = settings.false_positive_rate, settings.calibration
    return PatchcoreState(
        geometry=geometry,
        extractor=extractor,
        scorer=calibrated.scorer,
        source=bank.source,
        fusion=fusion,
        image_calibration=Calibration.from_scores(scores, rate, rule),
        pixel_calibration=Calibration.from_scores(calibrated.map_levels, rate, rule),
        pixel_share=settings.top_share,
        training=_training(images, first, scores, calibrated.map_levels),
        provenance={
            **provenance_of(settings, backbone, images, time.perf_counter() - start),
            "covering_radius": round(bank.radius, 4),
        },
    )


def _training(images: TrainingImages, first: FirstPass, scores: Float64, levels: list[float]) -> Training:
    """Return the training images, those of the calibration set with their scores."""
    rarities = () if first.multi_scale is None else first.multi_scale.rarities()
    names, sizes_hw, chosen = images.names, images.sizes_hw, first.chosen
    return Training.calibrated(names, sizes_hw, chosen=chosen, scores=scores, map_peaks=levels, rarities=rarities)


def raw_extractor(settings: PatchcoreSettings, backbone: Backbone) -> Extractor:
    """Return the extractor of features that are not scaled yet."""
    return Extractor(
        embedding_graph(backbone, pooling=settings.pooling).SerializeToString(), threads=settings.n_threads
    )


@dataclass
class FirstPass:
    """Results of the first pass over the images.

    Attributes:
        patches: patch features of all images, or a coreset of them.
        chosen: the images that thresholds are calibrated on, one of each part.
        multi_scale: multi-scale features for score fusion; None where the worst patch alone makes the score.
    """

    patches: PatchCollection
    chosen: list[int]
    multi_scale: MultiScaleFeatures | None


def first_pass(
    settings: PatchcoreSettings, images: TrainingImages, raw: Extractor, geometry: Geometry, progress: Progress
) -> FirstPass:
    """Read every image; those that can't be decoded are left out of `images` from here on."""
    patches = PatchCollection(settings, len(images))
    multi_scale = MultiScaleFeatures() if settings.score_fusion else None
    good: list[int] = []
    chosen: list[int] = []
    share = min(1.0, MAX_CALIBRATION / len(images))

    seen = images.prepared(geometry, range(len(images)), stage="reading images", progress=progress)
    for i, image in seen:
        patches.add(raw.features(image))
        is_chosen = len(chosen) < share * (len(good) + 1)
        if multi_scale is not None:
            multi_scale.add(raw, image, keep=is_chosen)
        if is_chosen:
            chosen.append(len(good))
        good.append(i)
    images.keep(good)
    chosen = images.representatives(chosen)
    if multi_scale is not None:
        multi_scale.choose(images.groups, chosen)
    return FirstPass(patches, chosen, multi_scale)


class Calibrated(NamedTuple):
    """Scores of the calibration images, each without its own rows of the memory bank.

    Attributes:
        scorer: of new images.
        scores: the image score of each.
        map_levels: the value that `top_share` of the pixels of each one's map exceed; the highest for none.
    """

    scorer: Scorer
    scores: list[float]
    map_levels: list[float]


def calibrate(
    settings: PatchcoreSettings,
    geometry: Geometry,
    bank: Float32,
    source: NDArray[np.int32],
    maps: FeatureMaps,
    *,
    groups: Int64,
) -> Calibrated:
    """Return leave-own-part-out scores of good images, and the scorer of new ones.

    Args:
        settings: of the detector.
        geometry: from the patch grid to the network's input.
        bank: (n, D) float32, the memory bank.
        source: (n, 3) int32: image, row and column of each bank row.
        maps: index and (h, w, D) feature map of each image, one of each group.
        groups: (n,) int64, the group of each image: those of one show the same part.

    Raises:
        InputError: if too few bank rows are from other images.
    """
    index = MemoryIndex(bank)
    plain = Scorer(index, settings.num_neighbors, None, top_share=settings.top_share)
    nearest = [plain.distances(features, exclude=_own_rows(settings, source, groups, i)) for i, features in maps]
    stacked = np.stack([found.distances for found in nearest])
    if settings.position_sigma is None:
        statistics, patch_maps = None, stacked
    else:
        statistics, patch_maps = fit_distance_statistics(stacked, settings.position_sigma, border=True)
    scorer = Scorer(index, settings.num_neighbors, statistics, top_share=settings.top_share)
    scores = [scorer.image_score(m, found.weight) for m, found in zip(patch_maps, nearest, strict=True)]
    levels = [float(np.quantile(geometry.network_map(m), 1 - settings.top_share)) for m in patch_maps]
    return Calibrated(scorer, scores, levels)


def _own_rows(settings: PatchcoreSettings, source: NDArray[np.int32], groups: Int64, image: int) -> Bool:
    """Return which bank rows are of an image's part, (n,) bool; enough must be left for a search.

    Raises:
        InputError: if too few are.
    """
    own: Bool = np.isin(source[:, 0], np.flatnonzero(groups == groups[image]))
    if len(own) - int(own.sum()) < settings.num_neighbors:
        todo = "Raise coreset_sampling_ratio or coreset_size, or give more good images."
        got = f"{len(own)} rows, {int(own.sum())} of them from one image"
        raise InputError(message("memory_bank", f"{settings.num_neighbors} rows from other images", got, todo=todo))
    return own
