"""Fitting PatchCore: good images in; bank, levels and calibrated thresholds out."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from blemish._validation.checks import check_whole
from blemish.backbones.embedding import Extractor, embedding_graph
from blemish.detectors.fusion import MultiScaleFeatures, ScoreFusion, multi_scale_bytes
from blemish.detectors.patchcore.scoring import Scorer
from blemish.errors import InputError, message
from blemish.ops.conformal import Calibration
from blemish.ops.coreset import StreamingCoreset, coreset_bytes
from blemish.ops.distance_statistics import fit_distance_statistics
from blemish.ops.neighbors import MemoryIndex
from blemish.ops.statistics import Affine, Moments
from blemish.types import Float32

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from blemish.backbones.backbone import Backbone
    from blemish.data.training_images import TrainingImages
    from blemish.detectors.patchcore.settings import PatchcoreSettings
    from blemish.imaging.geometry import Geometry
    from blemish.types import Progress

# More scores would not move the threshold at a false positive rate of 1 %, and each costs a search.
MAX_CALIBRATION = 1000
# Measured: interpreter, libraries, the embedded network and the images decoded ahead.
BASE_BYTES = 300 * 2**20

FeatureMaps = Iterable[tuple[int, Float32]]


@dataclass(frozen=True)
class PatchcoreState:
    """What fitting ends in, and all that predicting needs.

    Attributes:
        geometry: how an image becomes the network's input.
        extractor: the network, `image` to scaled `features`.
        scorer: bank, levels, and how they make a score.
        source: (n, 3) int32: training image, row and column of each bank row.
        image_calibration: of image scores.
        pixel_calibration: of the highest value of each good image's map.
        names: how each training image is called.
        sizes_hw: (height, width) of each.
        provenance: where the model comes from, for `model.json`.
        whole: what good images are like in parts and as a whole; None where patches alone make the score.
    """

    geometry: Geometry
    extractor: Extractor
    scorer: Scorer
    source: NDArray[np.int32]
    image_calibration: Calibration
    pixel_calibration: Calibration
    names: tuple[str, ...]
    sizes_hw: tuple[tuple[int, int], ...]
    provenance: dict[str, str | int | float] = field(repr=False)
    whole: ScoreFusion | None = None


def fit(
    settings: PatchcoreSettings, backbone: Backbone, images: TrainingImages, *, threads: int, progress: Progress
) -> PatchcoreState:
    """Return the fitted detector.

    Raises:
        DataError: if fewer than two images can be decoded.
        InputError: if the network does not take images of this size, or the bank is too small to judge by.
    """
    start = time.perf_counter()
    geometry = settings.geometry(images.sizes_hw, backbone.image_hw)
    inside = geometry if geometry.like_anomalib else None
    plain = embedding_graph(backbone, pooling=settings.pooling, like_anomalib=inside)
    raw = Extractor(plain.SerializeToString(), threads=threads)
    first = _first_pass(settings, images, raw, geometry, progress)
    kept = first.kept
    linear = None if settings.scaling == "none" else first.scaling
    part_axes = None if first.multi_scale is None else first.multi_scale.part_axes()
    scaled = embedding_graph(
        backbone, pooling=settings.pooling, scaling=linear, part_axes=part_axes, like_anomalib=inside
    )
    extractor = Extractor(scaled.SerializeToString(), threads=threads)

    def maps(chosen: list[int], stage: str) -> FeatureMaps:
        if kept is None:
            return images.feature_maps(extractor.features, geometry, chosen, stage=stage, progress=progress)
        return _counted(((i, kept[i]) for i in chosen), len(chosen), stage, progress)

    everything = list(range(len(images)))
    bank, source = _bank(settings, maps(everything, "collecting patches"), len(images), progress)
    scorer, scores, peaks = calibrated(settings, geometry, bank, source, maps(first.chosen, "calibrating"))
    whole = None
    if first.multi_scale is not None:
        whole, scores = first.multi_scale.fitted(scores)
    return PatchcoreState(
        geometry,
        extractor,
        scorer,
        source,
        Calibration.from_scores(scores, settings.false_positive_rate),
        Calibration.from_scores(peaks, settings.false_positive_rate),
        tuple(images.names),
        tuple(images.sizes_hw),
        {**_provenance(settings, backbone, images), "fit_s": round(time.perf_counter() - start, 3)},
        whole,
    )


def _provenance(settings: PatchcoreSettings, backbone: Backbone, images: TrainingImages) -> dict[str, str | int]:
    return {
        "seed": settings.seed,
        "backbone": backbone.name,
        "backbone_sha256": backbone.weights_sha256,
        "n_training_files": len(images),
        "training_sha256": images.sha256,
    }


def estimated_bytes(settings: PatchcoreSettings, backbone: Backbone, n_images: int) -> int:
    """Return about how much memory fitting on so many images takes at its peak, in bytes.

    Raises:
        InputError: if `n_images` is no whole number, or below 1.
    """
    check_whole("n_images", n_images, 1, 10**9)
    size = backbone.image_hw or settings.center_crop or settings.image_size
    area = size[0] * size[1] if isinstance(size, tuple) else size * size
    n_rows = n_images * area // backbone.strides[0] ** 2
    n_features = sum(backbone.channels)
    n_select = settings.bank_rows(n_rows)
    cached = 4 * n_rows * n_features if n_rows <= settings.max_rows else 0
    multi_scale = multi_scale_bytes(backbone, min(n_images, MAX_CALIBRATION), area) if settings.score_fusion else 0
    return BASE_BYTES + cached + multi_scale + coreset_bytes(n_rows, n_features, n_select, max_rows=settings.max_rows)


@dataclass
class _FirstPass:
    """What reading every image once gives.

    Attributes:
        scaling: of features.
        kept: all scaled feature maps, if they fit into `max_rows`.
        chosen: the images that thresholds are calibrated on.
        further_away: what was seen from further away; None if patches alone make the score.
    """

    scaling: Affine
    kept: list[Float32] | None
    chosen: list[int]
    multi_scale: MultiScaleFeatures | None


def _first_pass(
    settings: PatchcoreSettings, images: TrainingImages, raw: Extractor, geometry: Geometry, progress: Progress
) -> _FirstPass:
    """Read every image; those that can't be decoded are left out of `images` from here on."""
    moments = Moments()
    multi_scale = MultiScaleFeatures() if settings.score_fusion else None
    kept: list[Float32] | None = []
    good: list[int] = []
    chosen: list[int] = []
    share = min(1.0, MAX_CALIBRATION / len(images))

    seen = images.prepared(geometry, range(len(images)), stage="reading images", progress=progress)
    for i, image in seen:
        features = raw.features(image)
        rows = features.reshape(-1, features.shape[-1])
        moments.add(rows)
        is_chosen = len(chosen) < share * (len(good) + 1)
        if multi_scale is not None:
            multi_scale.add(raw, image, keep=is_chosen)
        if is_chosen:
            chosen.append(len(good))
        good.append(i)
        if kept is not None:
            kept.append(features)
            if len(images) * len(rows) > settings.max_rows:
                kept = None
    images.keep(good)
    scaling = moments.scaling(settings.scaling, settings.shrinkage)
    for features in kept or ():
        rows = features.reshape(-1, features.shape[-1])
        rows[:] = rows @ scaling.weight.T + scaling.bias
    return _FirstPass(scaling, kept, chosen, multi_scale)


def _counted(maps: Iterator[tuple[int, Float32]], total: int, stage: str, progress: Progress) -> FeatureMaps:
    for done, item in enumerate(maps, start=1):
        yield item
        progress(stage, done, total)


def _bank(
    settings: PatchcoreSettings, maps: FeatureMaps, n_images: int, progress: Progress
) -> tuple[Float32, NDArray[np.int32]]:
    """Return the memory bank, (n, D) float32, and the image, row and column of each of its rows, (n, 3) int32."""
    coreset: StreamingCoreset | None = None
    for i, features in maps:
        height, width, n_features = features.shape
        if coreset is None:
            n_rows = n_images * height * width
            most = settings.bank_rows(n_rows)
            coreset = StreamingCoreset(most, n_rows=n_rows, max_rows=settings.max_rows, seed=settings.seed)
        rows, columns = np.mgrid[:height, :width].reshape(2, -1)
        source = np.column_stack([np.full(rows.shape, i), rows, columns]).astype(np.int32)
        coreset.add(features.reshape(-1, n_features), source)
    assert coreset is not None, "there are at least two images"
    n_select = min(coreset.n_select, settings.bank_rows(coreset.n_seen))
    selected = coreset.finish(n_select, progress=lambda done, total: progress("coreset", done, total))
    return selected.features, selected.source


def calibrated(
    settings: PatchcoreSettings, geometry: Geometry, bank: Float32, source: NDArray[np.int32], maps: FeatureMaps
) -> tuple[Scorer, list[float], list[float]]:
    """Return the scorer, and the image score and highest map value of each image, judged by the others alone.

    Args:
        settings: of the detector.
        geometry: how images become the network's input, and maps come back.
        bank: (n, D) float32, the memory bank.
        source: (n, 3) int32: image, row and column of each bank row.
        maps: index and (h, w, D) feature map of each image.

    Raises:
        InputError: if too few bank rows are from other images.
    """
    index = MemoryIndex(bank)
    distances, weights = [], []
    plain = Scorer(index, settings.num_neighbors, None, settings.score_sigma)
    for i, features in maps:
        own = source[:, 0] == i
        if index.n_rows - int(own.sum()) < settings.num_neighbors:
            todo = "Raise coreset_sampling_ratio or coreset_size, or give more good images."
            got = f"{index.n_rows} rows, {int(own.sum())} of them from one image"
            raise InputError(message("memory_bank", f"{settings.num_neighbors} rows from other images", got, todo=todo))
        found = plain.distances(features, exclude=own)
        distances.append(found.distances)
        weights.append(found.weight)
    stacked = np.stack(distances)
    if settings.position_sigma is None:
        level, parts = None, stacked
    else:
        level, parts = fit_distance_statistics(stacked, settings.position_sigma)
    scorer = Scorer(index, settings.num_neighbors, level, settings.score_sigma)
    scores = [scorer.image_score(part, weight) for part, weight in zip(parts, weights, strict=True)]
    peaks = [float(geometry.network_map(part, settings.map_sigma_px).max()) for part in parts]
    return scorer, scores, peaks
