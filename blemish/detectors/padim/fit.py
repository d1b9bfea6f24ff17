"""Fitting PaDiM: a Gaussian of patch features at each position, and leave-one-out calibration."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from blemish._validation.checks import check_whole
from blemish.backbones.embedding import Extractor, embedding_graph
from blemish.data.training_images import TrainingImages
from blemish.detectors.backbone_settings import BASE_BYTES, LEAST_TIMED, MAX_CALIBRATION, provenance_of
from blemish.detectors.padim.state import PadimState, PositionGaussians
from blemish.errors import DataError
from blemish.modelfolder.header import Training
from blemish.ops.conformal import Calibration
from blemish.ops.statistics import Affine
from blemish.types import Float32, Float64, Progress, no_progress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from blemish.backbones.backbone import Backbone
    from blemish.detectors.padim.settings import PadimSettings
    from blemish.imaging.geometry import Geometry
    from blemish.types import ImageInput

EPSILON = 0.01  # added to the diagonal of each covariance: Defard et al. 2021, section 3.2
# Images of the two pilot fits.
PILOT_IMAGES = (4, 12)


def fit(settings: PadimSettings, backbone: Backbone, images: TrainingImages, *, progress: Progress) -> PadimState:
    """Return PaDiM fitted on good images.

    Images are read twice: for the moments of each position, and for the leave-one-out scores.

    Cost: memory of 24 K^2 bytes per position, whatever the number of images; one Cholesky factor per position.
    """
    start = time.perf_counter()
    geometry = settings.geometry(images.sizes_hw, backbone)
    graph = embedding_graph(backbone, pooling=1, scaling=chosen_features(backbone, settings))
    extractor = Extractor(graph.SerializeToString(), threads=settings.n_threads)
    mean, whitening = _gaussians(images, extractor, geometry, progress)
    gaussians = PositionGaussians(extractor, mean, whitening)
    independent = images.representatives(range(len(images)))
    chosen = [independent[k] for k in calibration_images(len(independent))]
    inputs = images.prepared(geometry, chosen, stage="calibrating", progress=progress)
    maps = (leave_one_out(gaussians.distances(network_input), len(independent)) for _, network_input in inputs)
    maxima = [float(geometry.network_map(distances).max()) for distances in maps]
    calibration = Calibration.from_scores(maxima, settings.false_positive_rate, settings.calibration)
    return PadimState(
        geometry=geometry,
        image_calibration=calibration,
        pixel_calibration=calibration,
        training=Training.calibrated(images.names, images.sizes_hw, chosen=chosen, scores=maxima, map_peaks=maxima),
        gaussians=gaussians,
        provenance=provenance_of(settings, backbone, images, time.perf_counter() - start),
    )


def _gaussians(
    images: TrainingImages, extractor: Extractor, geometry: Geometry, progress: Progress
) -> tuple[Float32, Float32]:
    """Return mean and whitening of each position, of one image of each part.

    Images that can't be decoded are left out from here on.
    """
    moments, decoded, groups = PositionMoments(), [], set()
    everything = range(len(images))
    maps = images.feature_maps(extractor.features, geometry, everything, stage="reading images", progress=progress)
    for i, features in maps:
        decoded.append(i)
        if images.groups[i] not in groups:
            groups.add(images.groups[i])
            moments.add(features)
    images.keep(decoded)
    return moments.gaussians(EPSILON)


def calibration_images(n_images: int) -> range:
    """Return which of so many images are the calibration set."""
    return range(0, n_images, -(-n_images // MAX_CALIBRATION))


def chosen_features(backbone: Backbone, settings: PadimSettings) -> Affine:
    """Return the projection of joined layers on a random choice of their channels (Defard et al. 2021, section 3.1)."""
    n_channels = sum(backbone.channels)
    rng = np.random.default_rng([settings.seed, 3])
    channels = np.sort(rng.permutation(n_channels)[: settings.n_features])
    return Affine(np.eye(n_channels, dtype=np.float32)[channels], np.zeros(len(channels), np.float32))


class PositionMoments:
    """Sums of features and of their products at each position, less the first image's features."""

    def __init__(self) -> None:
        self.n = 0
        self._shift: Float32 | None = None
        self._sum: Float64 = np.zeros(0)
        self._products: Float64 = np.zeros(0)

    def add(self, features: Float32) -> None:
        """Add the (h, w, K) float32 features of one image."""
        if self._shift is None:
            self._shift = features
            self._sum = np.zeros(features.shape)
            self._products = np.zeros((*features.shape, features.shape[2]))
        centred = (features - self._shift).astype(np.float64)
        self.n += 1
        self._sum += centred
        self._products += centred[..., :, None] * centred[..., None, :]

    def gaussians(self, epsilon: float) -> tuple[Float32, Float32]:
        """Return mean, (h, w, K), and inverse Cholesky factor, (h, w, K, K) float32, of each position's Gaussian.

        Args:
            epsilon: what is added to the diagonal of each sample covariance, above 0.
        """
        assert self._shift is not None, "add images first"
        mean = self._sum / self.n
        size = mean.shape[2]
        whitening = np.empty(self._products.shape, np.float32)
        for row, column in np.ndindex(mean.shape[:2]):
            here = mean[row, column]
            covariance = (self._products[row, column] - self.n * np.outer(here, here)) / (self.n - 1)
            factor = np.linalg.cholesky(covariance + epsilon * np.eye(size))
            whitening[row, column] = np.linalg.inv(factor)
        return (self._shift + mean).astype(np.float32), whitening


def leave_one_out(distances: Float32, n: int) -> Float32:
    """Return Mahalanobis distances of one of `n` images from the Gaussian of the others, by its own in all.

    The covariance without one image differs by an outer product of its features (Sherman and Morrison 1950); the
    epsilon on the diagonal is taken to scale with (n - 1) / (n - 2), which changes it by less than its own choice.

    Args:
        distances: float32, from the Gaussian that the image is part of.
    """
    squared = distances.astype(np.float64) ** 2
    share = n / (n - 1) ** 2
    left = np.maximum(1 - share * squared, np.finfo(np.float32).eps)
    freedom = max(n - 2, 1) / (n - 1)
    out: Float32 = np.sqrt((n / (n - 1)) ** 2 * freedom * squared / left).astype(np.float32)
    return out


def estimated_bytes(settings: PadimSettings, backbone: Backbone, n_images: int) -> int:
    """Return the peak memory of fitting, estimated, in bytes: it does not grow with the number of images."""
    check_whole("n_images", n_images, 1, 10**9)
    area = settings.area_px(backbone)
    n_features = min(settings.n_features, sum(backbone.channels))
    return BASE_BYTES + 24 * (area // backbone.strides[0] ** 2) * n_features**2


def estimated_seconds(
    settings: PadimSettings, backbone: Backbone, samples: Sequence[ImageInput], *, least: int = LEAST_TIMED
) -> float | None:
    """Return about how long fitting on these images takes here, in seconds; None for fewer than `least`.

    Two fits, on four and on twelve images, tell the time of an image and that of the rest.

    Raises:
        InputError: if the network does not take images of this size.
    """
    if len(samples) < least:
        return None
    seconds = []
    for n_images in PILOT_IMAGES:
        few = [samples[i] for i in np.linspace(0, len(samples) - 1, n_images).astype(int)]
        start = time.perf_counter()
        try:
            images = TrainingImages(few, bit_depth=settings.bit_depth, threads=settings.n_threads)
            fit(settings, backbone, images, progress=no_progress)
        except DataError:
            return None
        seconds.append(time.perf_counter() - start)
    few_n, more_n = PILOT_IMAGES
    image_s = max(seconds[1] - seconds[0], 0.0) / (more_n - few_n)
    return seconds[1] + image_s * (len(samples) - more_n)
