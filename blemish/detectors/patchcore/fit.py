"""Fitting PatchCore: good images in; bank, levels and calibrated thresholds out."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from blemish.data.training_images import network_inputs
from blemish.detectors.backbone_settings import MAX_CALIBRATION, provenance_of
from blemish.detectors.fusion import SCORE_TAIL, MultiScaleFeatures
from blemish.detectors.patchcore.features import extractor_of, learnt_order, learnt_scaling
from blemish.detectors.patchcore.memory_bank import PatchCollection
from blemish.detectors.patchcore.position import PositionJudge
from blemish.detectors.patchcore.scoring import Scorer
from blemish.detectors.patchcore.state import PatchcoreState
from blemish.errors import ImageError, InputError, message
from blemish.modelfolder.header import Training
from blemish.ops.conformal import PLAIN, Calibration
from blemish.ops.distance_statistics import fit_distance_statistics
from blemish.ops.neighbors import MemoryIndex

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from blemish.backbones.backbone import Backbone
    from blemish.backbones.embedding import Extractor
    from blemish.data.training_images import TrainingImages
    from blemish.detectors.patchcore.scoring import PatchDistances
    from blemish.detectors.patchcore.settings import PatchcoreSettings
    from blemish.imaging.geometry import Geometry
    from blemish.types import Bool, Float32, Float64, Int64, Progress, UInt8


class Passes(Protocol):
    """The passes over the images, on this machine or on others, with the same results."""

    def inputs(self, geometry: Geometry, chosen: Sequence[int]) -> Iterator[UInt8 | ImageError]:
        """Yield the network input of each chosen image, or why it can't be decoded."""

    def first(self, extractor: Extractor, geometry: Geometry) -> FirstPass:
        """Read every image; those that can't be decoded are left out of the images from here on."""

    def nearest(
        self, extractor: Extractor, geometry: Geometry, first: FirstPass, search: GoodSearch
    ) -> list[PatchDistances]:
        """Return the distances of the patches of each chosen image to the memory bank without its own part's rows."""


def fit(
    settings: PatchcoreSettings,
    backbone: Backbone,
    images: TrainingImages,
    *,
    progress: Progress,
    passes: Passes | None = None,
) -> PatchcoreState:
    """Return PatchCore fitted on good images: scaling of features, memory bank, distance statistics and calibrations.

    Args:
        settings: of the detector.
        backbone: the pretrained network.
        images: the good images; those that can't be decoded are left out.
        progress: called as progress(stage, done, total).
        passes: how the images are read; here, one after the other, by default.

    Raises:
        DataError: if fewer than two images can be decoded.
        InputError: if the network does not take images of this size, or the bank is too small to calibrate with.
    """
    start = time.perf_counter()
    geometry = settings.geometry(images.sizes_hw, backbone)
    passes = passes or LocalPasses(settings, images, progress)
    scaling = learnt_scaling(settings, backbone, passes.inputs(geometry, learnt_order(len(images))), progress)
    first = passes.first(extractor_of(settings, backbone, scaling), geometry)
    bank = first.patches.memory_bank(progress)
    part_axes = None if first.multi_scale is None else first.multi_scale.part_axes()
    extractor = extractor_of(settings, backbone, scaling, part_axes)
    search = GoodSearch(settings, bank.features, bank.source, images.groups)
    nearest = passes.nearest(extractor, geometry, first, search)
    calibrated = calibrate(settings, geometry, search.index, nearest)
    fusion, scores, tail = None, np.array(calibrated.scores), PLAIN
    if first.multi_scale is not None:
        judge = PositionJudge(images, first.chosen, geometry, extractor, calibrated.scorer, bank.source, settings.seed)
        judged = judge.choose(first.multi_scale, calibrated.scores, progress)
        fusion = first.multi_scale.fitted(calibrated.scores, judged)
        scores, tail = fusion.leave_one_out_scores(), SCORE_TAIL
    rate, rule = settings.false_positive_rate, settings.calibration
    return PatchcoreState(
        geometry=geometry,
        extractor=extractor,
        scorer=calibrated.scorer,
        source=bank.source,
        fusion=fusion,
        image_calibration=Calibration.from_scores(scores, rate, rule, tail),
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


class CalibrationChoice:
    """Chooses the images that thresholds are calibrated on, evenly among those that can be decoded, as they come.

    Args:
        n_images: expected images; fewer may come.

    Attributes:
        good: the images that came.
        chosen: positions in `good`.
    """

    def __init__(self, n_images: int) -> None:
        self._share = min(1.0, MAX_CALIBRATION / n_images)
        self.good: list[int] = []
        self.chosen: list[int] = []

    def add(self, i: int) -> bool:
        """Add an image; return whether it is chosen."""
        is_chosen = len(self.chosen) < self._share * (len(self.good) + 1)
        if is_chosen:
            self.chosen.append(len(self.good))
        self.good.append(i)
        return is_chosen


def first_pass(
    settings: PatchcoreSettings, images: TrainingImages, extractor: Extractor, geometry: Geometry, progress: Progress
) -> FirstPass:
    """Read every image; those that can't be decoded are left out of `images` from here on."""
    patches, choice = PatchCollection(settings, len(images)), CalibrationChoice(len(images))
    multi_scale = MultiScaleFeatures() if settings.score_fusion else None
    seen = images.prepared(geometry, range(len(images)), stage="reading images", progress=progress)
    for i, image in seen:
        patches.add(extractor.features(image))
        is_chosen = choice.add(i)
        if multi_scale is not None:
            multi_scale.add(extractor.summary(image), extractor.parts(image) if is_chosen else None)
    return first_of(images, choice, patches, multi_scale)


def first_of(
    images: TrainingImages, choice: CalibrationChoice, patches: PatchCollection, multi_scale: MultiScaleFeatures | None
) -> FirstPass:
    """Return the results of the first pass; images that can't be decoded are left out of `images` from here on."""
    images.keep(choice.good)
    chosen = images.representatives(choice.chosen)
    if multi_scale is not None:
        multi_scale.choose(images.groups, chosen)
    return FirstPass(patches, chosen, multi_scale)


@dataclass(frozen=True)
class LocalPasses:
    """The passes on this machine, image by image."""

    settings: PatchcoreSettings
    images: TrainingImages
    progress: Progress

    def inputs(self, geometry: Geometry, chosen: Sequence[int]) -> Iterator[UInt8 | ImageError]:
        """Yield the network input of each chosen image, or why it can't be decoded."""
        items = (self.images.items[i] for i in chosen)
        return network_inputs(items, geometry, self.settings.bit_depth, threads=self.settings.n_threads)

    def first(self, extractor: Extractor, geometry: Geometry) -> FirstPass:
        """Read every image; those that can't be decoded are left out of the images from here on."""
        return first_pass(self.settings, self.images, extractor, geometry, self.progress)

    def nearest(
        self, extractor: Extractor, geometry: Geometry, first: FirstPass, search: GoodSearch
    ) -> list[PatchDistances]:
        """Return the distances of each chosen image, which is read again where its features are not held."""
        progress, stage = self.progress, "calibrating"
        maps = first.patches.maps(first.chosen, stage=stage, progress=progress)
        if maps is None:
            maps = self.images.feature_maps(extractor.features, geometry, first.chosen, stage=stage, progress=progress)
        return [search.distances(i, features) for i, features in maps]


class GoodSearch:
    """Search of good images' patches in the memory bank, each image without the rows of its own part.

    Args:
        settings: of the detector.
        bank: (n, D) float32, the memory bank.
        source: (n, 3) int32: image, row and column of each bank row.
        groups: the group of each image, int64: those of one show the same part.

    Attributes:
        index: of the memory bank.
    """

    def __init__(self, settings: PatchcoreSettings, bank: Float32, source: NDArray[np.int32], groups: Int64) -> None:
        self.index = MemoryIndex(bank)
        self.source, self.groups = source, groups
        self._settings = settings
        self._plain = Scorer(self.index, settings.num_neighbors, None, top_share=settings.top_share)

    def distances(self, i: int, features: Float32) -> PatchDistances:
        """Return the distances of image `i`, whose patch features are (h, w, D) float32.

        Raises:
            InputError: if too few bank rows are of other parts.
        """
        own: Bool = np.isin(self.source[:, 0], np.flatnonzero(self.groups == self.groups[i]))
        least = self._settings.num_neighbors
        if len(own) - int(own.sum()) < least:
            todo = "Raise coreset_sampling_ratio or coreset_size, or give more good images."
            got = f"{len(own)} rows, {int(own.sum())} of them from one image"
            raise InputError(message("memory_bank", f"{least} rows from other images", got, todo=todo))
        return self._plain.distances(features, exclude=own)


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
    settings: PatchcoreSettings, geometry: Geometry, index: MemoryIndex, nearest: Sequence[PatchDistances]
) -> Calibrated:
    """Return leave-own-part-out scores of good images, and the scorer of new ones.

    Args:
        settings: of the detector.
        geometry: from the patch grid to the network's input.
        index: of the memory bank.
        nearest: of each image, one of each group, without its own part's rows.
    """
    stacked = np.stack([found.distances for found in nearest])
    if settings.position_sigma is None:
        statistics, patch_maps = None, stacked
    else:
        statistics, patch_maps = fit_distance_statistics(stacked, settings.position_sigma, border=True)
    scorer = Scorer(index, settings.num_neighbors, statistics, top_share=settings.top_share)
    scores = [scorer.image_score(m, found.weight) for m, found in zip(patch_maps, nearest, strict=True)]
    levels = [float(np.quantile(geometry.network_map(m), 1 - settings.top_share)) for m in patch_maps]
    return Calibrated(scorer, scores, levels)
