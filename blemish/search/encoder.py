"""Encoder of anomalous regions and whole images as vectors for similarity search.

Chosen in benchmarks/retrieval.py, one for all categories. A region's vector has two parts:

- the defect: features of a middle and a deep layer, averaged with the fourth power of the anomaly map as weight, minus
  their mean over the image, whitened with the covariance of good images;
- its extent: mean features of a shallow layer over the image, whitened likewise, shrunk by how much good images differ
  among themselves (positive-part James-Stein estimator): a speck on a textured ground leaves nothing of it.

Where an image has several regions, each cell of the feature grid counts for the nearest one.

The network is the package's embedded one and not the detector's, so that all detectors' vectors have the same length.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

import cv2
import numpy as np

from blemish import backbones, runtime
from blemish.detectors.base import Detector
from blemish.errors import DataError, InputError, message
from blemish.imaging.anomaly_map import regions as regions_above
from blemish.imaging.decode import path_of, read_facts, read_image
from blemish.search.backends.interface import IMAGE, REGION
from blemish.search.model_id import model_id, model_ids_0_1
from blemish.search.normal_statistics import CHANNELS, LAYERS, MIDDLE_DEEP, SHALLOW, STATISTICS, NormalStatistics
from blemish.types import Bool, Float32, ImageInput, Prediction, Progress, Region, UInt8

if TYPE_CHECKING:
    from blemish.detectors.base import AnyDetector
    from blemish.detectors.predictor import Predictor

NAME = "efficientnet_lite0 blocks 2, 4, 14; version 1"
# Exponent of the anomaly map, and weight of the second part: measured in benchmarks/retrieval.py.
MAP_POWER, EXTENT_WEIGHT = 4.0, 2.0
# With nothing above the threshold, a forced region is all above this share of the map's highest value.
FORCED_SHARE = 0.7
DIMS = {REGION: sum(CHANNELS.values()), IMAGE: sum(CHANNELS.values())}


class EncodedRegion(NamedTuple):
    """One anomalous region with its vector.

    Attributes:
        region: box, contour and score.
        vector: (D,) float32 of unit length.
        sha256: of its image.
        forced: True if it is not above the threshold.
    """

    region: Region
    vector: Float32
    sha256: str
    forced: bool


class EncodedImage(NamedTuple):
    """One image with its vectors.

    Attributes:
        path: the image's file; None for an array.
        sha256: of the file, or of the array's bytes.
        regions: most anomalous first; empty if nothing is above the threshold and none was forced.
        vector: (D,) float32 of unit length, of the whole image.
    """

    path: Path | None
    sha256: str
    prediction: Prediction
    regions: tuple[EncodedRegion, ...]
    vector: Float32


def prepare_defect_search(
    model: AnyDetector, good: Sequence[ImageInput] | None = None, *, progress: Progress | None = None
) -> bool:
    """Put the statistics into a fitted detector that its defects are encoded by, so that its folder alone suffices.

    Args:
        model: the detector.
        good: good images, of which at most 100 are read; its training images by default.
        progress: called as progress(stage, done, total).

    Returns:
        Whether it was done: not without two training images that are still there. The model is as good without; good
        images are then asked for when its first defect is stored.

    Raises:
        DataError: if fewer than two of the images in `good` can be read.
        NotFittedError: before `fit` or `load`.
    """
    try:
        normal = RegionEncoder(model).fit(good, progress=progress)
    except DataError:
        if good is not None:
            raise
        return False  # nobody loses an hour's fit for it
    model.carry(STATISTICS, normal.to_tensors())
    return True


class RegionEncoder:
    """Encodes the regions that a fitted detector finds, by features of the embedded network.

    Attributes:
        ids: the detector's `model_id`, and the ids that 0.1.0 gave to it.
        normal: statistics of good images; None until `fit` or until it is set.

    Raises:
        ModelFileError: if the embedded network's weights are not here.
    """

    def __init__(self, model: Predictor) -> None:
        self.model = model
        self.ids = (model_id(model), *model_ids_0_1(model))
        self.normal: NormalStatistics | None = None
        network = backbones.build(backbones.DEFAULT, layers=LAYERS)
        self._session = runtime.load(network.model, threads=getattr(model, "threads", None))

    @property
    def model_id(self) -> str:
        """Hash of what the detector computes, without its thresholds."""
        return self.ids[0]

    def fit(self, images: Sequence[ImageInput] | None = None, *, progress: Progress | None = None) -> NormalStatistics:
        """Return and keep the statistics of these good images; by default those that the detector carries, else of its
        training images. DataError if fewer than two can be read; the text says how to give others.
        """
        if images is None and isinstance(self.model, Detector) and STATISTICS in self.model.fitted.carried:
            carried = self.model.fitted.carried[STATISTICS]
            self.normal = NormalStatistics.from_tensors(carried, where=self.model.name)
            return self.normal
        chosen = list(images) if images is not None else self._training_files()
        self.normal = NormalStatistics.fit(chosen, self.features, bit_depth=self.model.bit_depth, progress=progress)
        return self.normal

    def _training_files(self) -> list[Path]:
        """Return the training images that are still there, known by their content."""
        if isinstance(self.model, Detector):
            state = self.model.fitted
            return [*filter(None, state.training.files(str(state.provenance.get("training_sha256", ""))))]
        training = (Path(str(image["path"])) for image in self.model.header().get("training", []))
        return [path for path in training if path.is_file()]

    def encode(self, image: ImageInput, *, force: bool = False) -> EncodedImage:
        """Return the anomalous regions of an image with their vectors; `fit` comes first.

        Args:
            force: where nothing is above the threshold, encode the most anomalous region below it.

        Raises:
            ImageError: if the file can't be read.
            InputError: if the array is no image.
        """
        assert self.normal is not None, "fit() comes first"
        path = path_of(image)
        pixels = read_image(image, self.model.bit_depth)
        sha256 = hashlib.sha256(pixels.tobytes()).hexdigest() if path is None else read_facts(path)[1]
        prediction = self.model.predict(pixels)
        regions, forced = prediction.regions, False
        if not regions and force:
            limit = FORCED_SHARE * float(prediction.anomaly_map.max())
            regions, forced = regions_above(prediction.anomaly_map, limit)[:1], True
        features = self.features(self.normal.geometry.prepare(pixels))
        vectors = region_vectors(features, prediction.anomaly_map, regions, self.normal)
        encoded = (EncodedRegion(*pair, sha256, forced) for pair in zip(regions, vectors, strict=True))
        return EncodedImage(path, sha256, prediction, tuple(encoded), image_vector(features, self.normal))

    def features(self, network_input: UInt8) -> dict[str, Float32]:
        """Return the (D, h, w) float32 features of each layer of an (H, W, 3) uint8 RGB network input."""
        return {name: maps[0] for name, maps in self._session.run(network_input[None]).items()}


def most_anomalous_region(encoded: EncodedImage) -> EncodedRegion:
    """Return the most anomalous region of an encoded image, or raise InputError if it has none."""
    if not encoded.regions:
        prediction = encoded.prediction
        highest, limit = float(prediction.anomaly_map.max()), prediction.pixel_threshold
        got = f"none: its highest value is {highest:.3g} of {limit:.3g}" if highest <= limit else "a good image"
        todo = "Take its most anomalous region below the threshold with force=True (--force)."
        raise InputError(message("image", "an anomalous region", got, where=encoded.path, todo=todo))
    return encoded.regions[0]


def region_vectors(
    features: Mapping[str, Float32], anomaly_map: Float32, regions: Sequence[Region], normal: NormalStatistics
) -> list[Float32]:
    """Return the vector of each region of an image, (D,) float32 of unit length.

    Args:
        features: layer to (D, h, w) float32.
        anomaly_map: (H, W) float32 at the image's size.
    """
    cells = {name: _nearest_cells(anomaly_map.shape, regions, features[name].shape[1:]) for name in MIDDLE_DEEP}
    extent = _whitened(features[SHALLOW].mean(axis=(1, 2)), normal, SHALLOW)
    shrinkage = max(0.0, 1 - normal.mean_squared_norm / max(float(extent @ extent), 1e-12))
    extent = np.float32(EXTENT_WEIGHT * shrinkage) * normalized(extent)
    vectors = []
    for i in range(len(regions)):
        parts = []
        for name in MIDDLE_DEEP:
            weight = _cell_weights(anomaly_map, features[name].shape[1:]) * cells[name][i]
            pooled = np.tensordot(features[name], weight, 2) / weight.sum() - features[name].mean(axis=(1, 2))
            parts.append(normalized(normal.whitening[name].weight @ pooled) / np.float32(np.sqrt(len(MIDDLE_DEEP))))
        vectors.append(normalized(np.concatenate([*parts, extent])))
    return vectors


def image_vector(features: Mapping[str, Float32], normal: NormalStatistics) -> Float32:
    """Return the vector of a whole image, (D,) float32 of unit length: whitened mean features of all layers."""
    means = {name: features[name].mean(axis=(1, 2)) for name in LAYERS}
    return normalized(np.concatenate([normalized(_whitened(mean, normal, name)) for name, mean in means.items()]))


def normalized(vector: Float32) -> Float32:
    """Return the vector at length 1; a zero vector as it is."""
    length = float(np.linalg.norm(vector))
    return np.asarray(vector / length if length > 0 else vector, np.float32)


def _whitened(vector: Float32, normal: NormalStatistics, name: str) -> Float32:
    return normal.whitening[name].weight @ vector + normal.whitening[name].bias


def _cell_weights(anomaly_map: Float32, grid_hw: Sequence[int]) -> Float32:
    """Return the (h, w) weights of a feature grid's cells: the map's mean there to the fourth power, at most 1."""
    coarse = np.maximum(cv2.resize(anomaly_map, (grid_hw[1], grid_hw[0]), interpolation=cv2.INTER_AREA), 0)
    return np.asarray((coarse / max(float(coarse.max()), 1e-12)) ** MAP_POWER + 1e-12, np.float32)


def _nearest_cells(image_hw: Sequence[int], regions: Sequence[Region], grid_hw: Sequence[int]) -> Bool:
    """Return (n, h, w) bool: the grid cells that are nearer to each region than to the others."""
    if len(regions) < 2:
        return np.ones((len(regions), grid_hw[0], grid_hw[1]), np.bool_)
    distances = np.stack([_distance(image_hw, region, grid_hw) for region in regions])
    nearest = distances.argmin(axis=0) == np.arange(len(regions))[:, None, None]
    for i, distance in enumerate(distances):
        # A speck between larger regions may be nearest to no cell's center.
        nearest[i].reshape(-1)[distance.argmin()] = True
    return cast("Bool", nearest)


def _distance(image_hw: Sequence[int], region: Region, grid_hw: Sequence[int]) -> Float32:
    """Return the distance of each grid cell's center to a region in pixels; 0 inside."""
    outside = np.ones(tuple(image_hw), np.uint8)
    cv2.drawContours(outside, [region.contour], -1, 0, cv2.FILLED)
    distance = cv2.distanceTransform(outside, cv2.DIST_L2, 3)
    rows, columns = (((np.arange(n) + 0.5) * size / n).astype(int) for n, size in zip(grid_hw, image_hw, strict=True))
    return np.asarray(distance[np.ix_(rows, columns)], np.float32)
