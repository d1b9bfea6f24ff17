"""What an anomalous region looks like, as one vector, and how a whole image looks, as another.

Chosen in benchmarks/retrieval.py, one for all kinds of part. A region's vector has two parts:

- what is wrong there: features of a middle and a deep layer of the embedded network, averaged with the anomaly map's
  fourth power as weight, less their average over the whole image, whitened with the covariance of good images;
- how much is wrong: features of a shallow layer averaged over the whole image, whitened likewise. It counts only as
  far as it exceeds what good images differ by among themselves (positive-part James-Stein shrinkage): a speck on a
  textured ground leaves nothing of it.

Where an image has several regions, each cell of the grid counts for the one that is nearest to it.

The network is the package's own and not the detector's, so that the vectors of any detector have one length.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

import cv2
import numpy as np

from blemish import backbones, runtime
from blemish.data.training_images import path_of, read_image
from blemish.detectors.patchcore.detector import Patchcore
from blemish.errors import InputError, message
from blemish.imaging.anomaly_map import regions as regions_above
from blemish.imaging.decode import read_facts
from blemish.search.normal_statistics import LAYERS, MIDDLE_DEEP, SHALLOW, NormalStatistics
from blemish.search.records import IMAGE, REGION
from blemish.types import GoodPatch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from blemish.detectors.registry import Detector
    from blemish.types import Bool, Float32, ImageInput, Prediction, Progress, Region, UInt8

NAME = "efficientnet_lite0 blocks 2, 4, 14; version 1"
# Exponent of the anomaly map as weight, and how much the second part counts: measured in benchmarks/retrieval.py.
POWER, AMOUNT = 4.0, 2.0
# What is described of an image in which nothing is above the threshold: all above this share of its highest value.
FORCED_SHARE = 0.7
# Bank rows that are looked through for k different training images.
GOOD_ROWS = 256
DIMS = {REGION: 24 + 40 + 192, IMAGE: 24 + 40 + 192}


class DescribedRegion(NamedTuple):
    """One anomalous region, ready to be stored or asked about.

    Attributes:
        region: where it is.
        vector: (D,) float32 of unit length.
        sha256: of the image that it is in.
        forced: True if it is not above the threshold.
    """

    region: Region
    vector: Float32
    sha256: str
    forced: bool


class Described(NamedTuple):
    """One image, ready to be stored or asked about.

    Attributes:
        path: the image's file; None if it came as an array.
        sha256: of the file, or of the array's bytes.
        prediction: what the detector says of it.
        regions: most anomalous first; empty if nothing is above the threshold, unless that was forced.
        vector: (P,) float32 of unit length, of the whole image.
    """

    path: Path | None
    sha256: str
    prediction: Prediction
    regions: tuple[DescribedRegion, ...]
    vector: Float32


class RegionEncoder:
    """Describes images by a fitted detector's maps and the embedded network's features.

    Args:
        model: the detector.

    Attributes:
        model_id: of the detector: what it was fitted on and how, without its thresholds.
        good: what good images look like; None until `learn` or until it is set.

    Raises:
        ModelFileError: if the embedded network's weights are not here.
    """

    def __init__(self, model: Detector) -> None:
        self.model = model
        self.model_id = model_id(model)
        self.good: NormalStatistics | None = None
        network = backbones.build(backbones.DEFAULT, layers=LAYERS)
        self._session = runtime.load(network.model, threads=getattr(model, "threads", None))

    def learn(
        self, images: Sequence[ImageInput] | None = None, *, progress: Progress | None = None
    ) -> NormalStatistics:
        """Learn what good images look like, from these or from those that the detector was fitted on.

        Raises:
            DataError: if fewer than two can be read: the text says what to give.
        """
        known = [str(one["path"]) for one in self.model.header().get("training", [])]
        chosen = list(images) if images is not None else [path for path in known if Path(path).is_file()]
        self.good = NormalStatistics.of(chosen, self._layers, bit_depth=self.model.bit_depth, progress=progress)
        return self.good

    def describe(self, image: ImageInput, *, force: bool = False) -> Described:
        """Return what is anomalous in one image, a path, sample or array; `learn` comes first.

        Args:
            image: it.
            force: describe the most anomalous place also where nothing is above the threshold.

        Raises:
            ImageError: if the file can't be read.
            InputError: if the array is no image.
        """
        assert self.good is not None, "learn() comes first"
        path = path_of(image)
        pixels = read_image(image, self.model.bit_depth)
        digest = hashlib.sha256(pixels.tobytes()).hexdigest() if path is None else read_facts(path)[1]
        found = self.model.predict(pixels)
        chosen, forced = found.regions, False
        if not chosen and force:
            top = float(found.anomaly_map.max())
            forced, chosen = True, regions_above(found.anomaly_map, FORCED_SHARE * top)[:1]
        layers = self._layers(self.good.geometry.prepare(pixels))
        vectors = region_vectors(layers, found.anomaly_map, chosen, self.good)
        described = (DescribedRegion(one, vector, digest, forced) for one, vector in zip(chosen, vectors, strict=True))
        return Described(path, digest, found, tuple(described), image_vector(layers, self.good))

    def good_patches(self, image: ImageInput, k: int) -> tuple[GoodPatch, ...]:
        """Return the good patches nearest to the most anomalous one, nearest first, each of another training image.

        A detector without a memory bank knows at most the one that its prediction names.

        Raises:
            ImageError: if the file can't be read.
            InputError: if the array is no image.
        """
        if not isinstance(self.model, Patchcore):
            nearest = self.model.predict(image).nearest_good
            return () if nearest is None else (nearest,)
        fitted = self.model.fitted
        _, features = self.model.predict_with_features(image)
        found = fitted.scorer.distances(features)
        row, column = np.unravel_index(int(fitted.scorer.patch_map(found.distances).argmax()), found.distances.shape)
        index = fitted.scorer.index
        near = index.search(features[row, column][None], min(index.n_rows, GOOD_ROWS))
        patches: dict[int, GoodPatch] = {}
        for bank_row, distance in zip(near.indices[0].tolist(), near.distances[0].tolist(), strict=True):
            source, at_row, at_column = fitted.source[bank_row].tolist()
            if source not in patches and len(patches) < k:
                grid_hw = features.shape[0], features.shape[1]
                box = fitted.geometry.patch_box(at_row, at_column, grid_hw, fitted.sizes_hw[source])
                patches[source] = GoodPatch(fitted.names[source], box, distance)
        return tuple(patches.values())

    def _layers(self, network_input: UInt8) -> dict[str, Float32]:
        """Return each layer's (D, h, w) float32 features."""
        return {name: maps[0] for name, maps in self._session.run(network_input[None]).items()}


def worst_region(described: Described) -> DescribedRegion:
    """Return the most anomalous region of a described image.

    Raises:
        InputError: if there is none.
    """
    if not described.regions:
        found = described.prediction
        got = f"none: its highest value is {found.anomaly_map.max():.3g} of {found.pixel_threshold:.3g}"
        todo = "Take its most anomalous place all the same with force=True (--force)."
        raise InputError(message("image", "an anomalous region", got, where=described.path, todo=todo))
    return described.regions[0]


def model_id(model: Detector) -> str:
    """Return 16 hex digits for what a detector was fitted on and how; a second fit of the same gives the same."""
    header = model.header()
    left_out = {"false_positive_rate", "fit_s"}
    said = {
        part: {name: value for name, value in header.get(part, {}).items() if name not in left_out}
        for part in ("settings", "provenance", "input")
    }
    said["detector"] = header["detector"]
    return hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()[:16]


def region_vectors(
    layers: Mapping[str, Float32], anomaly_map: Float32, chosen: Sequence[Region], good: NormalStatistics
) -> list[Float32]:
    """Return the vector of each region of an image, (D,) float32 of unit length.

    Args:
        layers: name to (D, h, w) float32 features.
        anomaly_map: (H, W) float32 at the image's size.
        chosen: the regions.
        good: what good images look like.
    """
    owners = {name: _owners(anomaly_map.shape, chosen, layers[name].shape[1:]) for name in MIDDLE_DEEP}
    whole = good.scaling[SHALLOW].weight @ layers[SHALLOW].mean(axis=(1, 2)) + good.scaling[SHALLOW].bias
    shrunk = max(0.0, 1 - good.usual_square / max(float(whole @ whole), 1e-12))
    amount = np.float32(AMOUNT * shrunk) * unit(whole)
    vectors = []
    for i in range(len(chosen)):
        parts = []
        for name in MIDDLE_DEEP:
            features = layers[name]
            weight = _strength(anomaly_map, features.shape[1:]) * owners[name][i]
            there = np.tensordot(features, weight, 2) / weight.sum() - features.mean(axis=(1, 2))
            parts.append(unit(good.scaling[name].weight @ there) / np.float32(np.sqrt(len(MIDDLE_DEEP))))
        vectors.append(unit(np.concatenate([*parts, amount])))
    return vectors


def image_vector(layers: Mapping[str, Float32], good: NormalStatistics) -> Float32:
    """Return the vector of a whole image, (P,) float32 of unit length: its mean features less those of good ones."""
    scaled = (good.scaling[name].weight @ layers[name].mean(axis=(1, 2)) + good.scaling[name].bias for name in LAYERS)
    return unit(np.concatenate([unit(one) for one in scaled]))


def unit(vector: Float32) -> Float32:
    """Return the vector at length 1; one of length 0 as it is."""
    length = float(np.linalg.norm(vector))
    return np.asarray(vector / length if length > 0 else vector, np.float32)


def _strength(anomaly_map: Float32, grid_hw: Sequence[int]) -> Float32:
    """Return the weight of each cell of a grid: the map's mean there, to the fourth power, at most 1."""
    coarse = np.maximum(cv2.resize(anomaly_map, (grid_hw[1], grid_hw[0]), interpolation=cv2.INTER_AREA), 0)
    return np.asarray((coarse / max(float(coarse.max()), 1e-12)) ** POWER + 1e-12, np.float32)


def _owners(image_hw: Sequence[int], chosen: Sequence[Region], grid_hw: Sequence[int]) -> Bool:
    """Return (n, h, w) bool: which cells of a grid are nearer to each region than to the others."""
    if len(chosen) < 2:
        return np.ones((len(chosen), grid_hw[0], grid_hw[1]), np.bool_)
    away = np.stack([_distance(image_hw, one, grid_hw) for one in chosen])
    owners = away.argmin(axis=0) == np.arange(len(chosen))[:, None, None]
    for i, distance in enumerate(away):
        # A speck between larger regions may be nearest to no cell's centre.
        owners[i].reshape(-1)[distance.argmin()] = True
    return cast("Bool", owners)


def _distance(image_hw: Sequence[int], region: Region, grid_hw: Sequence[int]) -> Float32:
    """Return how far the centre of each cell is from a region, in pixels; 0 inside."""
    outside = np.ones(tuple(image_hw), np.uint8)
    cv2.drawContours(outside, [region.contour], -1, 0, cv2.FILLED)
    away = cv2.distanceTransform(outside, cv2.DIST_L2, 3)
    rows, columns = (((np.arange(n) + 0.5) * of / n).astype(int) for n, of in zip(grid_hw, image_hw, strict=True))
    return np.asarray(away[np.ix_(rows, columns)], np.float32)
