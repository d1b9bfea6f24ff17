"""What an anomalous region looks like, as one vector, and how a whole picture looks, as another."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

from blemish.images import read_facts
from blemish.maps import regions as regions_above
from blemish.records import GoodPatch
from blemish.search_records import PICTURE, REGION
from blemish.training import path_of, read_picture

if TYPE_CHECKING:
    from collections.abc import Mapping

    from blemish.patchcore import Patchcore
    from blemish.records import Float32, Prediction, Region
    from blemish.training import Picture

NAME = "map-weighted patch features, 1"
# Exponent of the anomaly map as weight: measured in benchmarks/retrieval.py.
POWER = 2.0
# What is described of a picture in which nothing is above the threshold: all above this share of its highest value.
FORCED_SHARE = 0.7
# Bank rows that are looked through for k different training pictures.
GOOD_ROWS = 256


class DescribedRegion(NamedTuple):
    """One anomalous region, ready to be stored or asked about.

    Attributes:
        region: where it is.
        vector: (D,) float32 of unit length.
        sha256: of the picture that it is in.
        forced: True if it is not above the threshold.
    """

    region: Region
    vector: Float32
    sha256: str
    forced: bool


class Described(NamedTuple):
    """One picture, ready to be stored or asked about.

    Attributes:
        path: the picture's file; None if it came as an array.
        sha256: of the file, or of the array's bytes.
        prediction: what the detector says of it.
        regions: most anomalous first; empty if nothing is above the threshold, unless that was forced.
        vector: (P,) float32 of unit length, of the whole picture.
    """

    path: Path | None
    sha256: str
    prediction: Prediction
    regions: tuple[DescribedRegion, ...]
    vector: Float32


class Describer:
    """Describes pictures with a fitted detector.

    Args:
        model: it.

    Attributes:
        model_id: of the detector: what it was fitted on and how, without its thresholds.
    """

    def __init__(self, model: Patchcore) -> None:
        self.model = model
        self.model_id = _model_id(model)

    @property
    def dims(self) -> Mapping[str, int]:
        """Name of each vector to its length."""
        size = self.model.fitted.scorer.index.dim
        return {REGION: size, PICTURE: size}

    def describe(self, picture: Picture, *, force: bool = False) -> Described:
        """Return what is anomalous in one picture, a path, sample or array.

        Args:
            picture: it.
            force: describe the most anomalous place also where nothing is above the threshold.

        Raises:
            ImageError: if the file can't be read.
            InputError: if the array is no picture.
        """
        path = path_of(picture)
        pixels = read_picture(picture, self.model.bit_depth)
        digest = hashlib.sha256(pixels.tobytes()).hexdigest() if path is None else read_facts(path)[1]
        found, features = self.model.predict_with_features(pixels)
        chosen, forced = found.regions, False
        if not chosen and force:
            top = float(found.anomaly_map.max())
            forced, chosen = True, regions_above(found.anomaly_map, FORCED_SHARE * top)[:1]
        vectors = self._region_vectors(features, found.anomaly_map, chosen)
        described = (
            DescribedRegion(region, vector, digest, forced) for region, vector in zip(chosen, vectors, strict=True)
        )
        return Described(path, digest, found, tuple(described), _unit(features.mean(axis=(0, 1))))

    def good_patches(self, picture: Picture, k: int) -> tuple[GoodPatch, ...]:
        """Return the good patches nearest to the most anomalous one, nearest first, each of another training picture.

        Raises:
            ImageError: if the file can't be read.
            InputError: if the array is no picture.
        """
        fitted = self.model.fitted
        _, features = self.model.predict_with_features(picture)
        found = fitted.scorer.distances(features)
        row, column = np.unravel_index(int(fitted.scorer.patch_map(found.distances).argmax()), found.distances.shape)
        index = fitted.scorer.index
        near = index.search(features[row, column][None], min(index.n_rows, GOOD_ROWS))
        patches: dict[int, GoodPatch] = {}
        for bank_row, distance in zip(near.indices[0].tolist(), near.distances[0].tolist(), strict=True):
            source, at_row, at_column = fitted.source[bank_row].tolist()
            if source not in patches and len(patches) < k:
                box = fitted.geometry.patch_box(at_row, at_column, features.shape[:2], fitted.sizes_hw[source])
                patches[source] = GoodPatch(fitted.names[source], box, distance)
        return tuple(patches.values())

    def _region_vectors(self, features: Float32, anomaly_map: Float32, chosen: tuple[Region, ...]) -> list[Float32]:
        weights = _weights(anomaly_map, chosen, (features.shape[0], features.shape[1]))
        return [_unit(np.tensordot(weight, features, 2) / weight.sum()) for weight in weights]


def _weights(anomaly_map: Float32, chosen: tuple[Region, ...], grid_hw: tuple[int, int]) -> list[Float32]:
    """Return how much each cell of the grid counts for each region: the map there, cut between regions half way."""
    height, width = grid_hw
    coarse = cv2.resize(anomaly_map, (width, height), interpolation=cv2.INTER_AREA)
    strength = np.maximum(coarse, 0) ** POWER + np.float32(1e-12)
    if len(chosen) < 2:
        return [strength] * len(chosen)
    away = np.stack([_distance(anomaly_map.shape, region, grid_hw) for region in chosen])
    nearest = away.argmin(axis=0)
    weights = []
    for i in range(len(chosen)):
        own = nearest == i
        own.reshape(-1)[away[i].argmin()] = True  # a speck between larger ones may be nearest to no cell's centre
        weights.append(np.where(own, strength, np.float32(0)))
    return weights


def _distance(picture_hw: tuple[int, ...], region: Region, grid_hw: tuple[int, int]) -> Float32:
    """Return how far the centre of each cell is from a region, in pixels; 0 inside."""
    outside = np.ones(picture_hw, np.uint8)
    cv2.drawContours(outside, [region.contour], -1, 0, cv2.FILLED)
    away = cv2.distanceTransform(outside, cv2.DIST_L2, 3)
    rows, columns = (((np.arange(n) + 0.5) * of / n).astype(int) for n, of in zip(grid_hw, picture_hw, strict=True))
    return np.asarray(away[np.ix_(rows, columns)], np.float32)


def _model_id(model: Patchcore) -> str:
    """Return what vectors depend on as 16 hex digits: settings but for the false-alarm rate, the bank, the network."""
    fitted = model.fitted
    settings = {name: value for name, value in model.settings.to_dict().items() if name != "false_alarm_rate"}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    digest.update(fitted.extractor.model)
    digest.update(np.ascontiguousarray(fitted.scorer.index.memory_bank).tobytes())
    return digest.hexdigest()[:16]


def _unit(vector: Float32) -> Float32:
    length = float(np.linalg.norm(vector))
    return np.asarray(vector / length if length > 0 else np.eye(1, len(vector))[0], np.float32)
