"""The comparison of an exported model with the detector that it was made of, image by image."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from blemish.errors import DataError, ImageError, message
from blemish.exporters.graph import INT8
from blemish.imaging.decode import path_of, read_image
from blemish.types import Problem

if TYPE_CHECKING:
    from pathlib import Path

    from blemish.detectors.base import AnyDetector
    from blemish.runtime import Session
    from blemish.types import ImageInput, Prediction, Progress

# Largest relative difference of float32 results. ONNX Runtime and OpenVINO were measured at 1e-7 to 1e-5.
FLOAT_BOUND = 1e-4
# With the integer search the nearest row may be missed, so that a distance comes out a little larger.
INT8_BOUND = 1e-3
# A score that is smaller than this share of the threshold is compared as if it were that: a relative difference of
# scores about 0 says nothing.
LEAST_SHARE = 0.01


@dataclass(frozen=True)
class Verification:
    """How an exported model's predictions differ from those of the model folder.

    Attributes:
        path: the exported model's file.
        n_images: images that were compared.
        score_difference: the largest relative difference of two scores.
        map_difference: the largest difference of two map values, relative to the highest value of the map.
        labels_differ: the images, by number, whose labels differ.
        bound: the largest relative difference that is allowed, of scores and of maps.
        problems: images that could not be read.
    """

    path: Path
    n_images: int
    score_difference: float
    map_difference: float
    labels_differ: tuple[int, ...] = ()
    bound: float = FLOAT_BOUND
    problems: tuple[Problem, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether all labels are the same, and scores and maps within the bound."""
        return not self.labels_differ and max(self.score_difference, self.map_difference) <= self.bound

    def __str__(self) -> str:
        n_differ = len(self.labels_differ)
        labels = "all labels are the same" if n_differ == 0 else f"{n_differ} labels differ"
        return (
            f"{self.n_images} images: scores differ by at most {self.score_difference:.1e}, maps by "
            f"{self.map_difference:.1e} (allowed {self.bound:.0e}, relative), {labels}."
        )


def compare(
    session: Session, detector: AnyDetector, images: Iterable[ImageInput], path: Path, progress: Progress
) -> Verification:
    """Return how a session's outputs differ from the predictions of a detector.

    Raises:
        DataError: if no image can be read.
        InputError: if the session does not take the images.
    """
    items, problems, differences, differ = list(images), [], [], []
    for i, item in enumerate(items):
        progress("comparing", i, len(items))
        try:
            image = read_image(item, detector.bit_depth)
        except ImageError as error:
            problems.append(Problem(path_of(item) or path, "unreadable", str(error)))
            continue
        outputs = {name: values[0] for name, values in session.run(image[None]).items()}
        prediction = detector.predict(image)
        differences.append(_differences(prediction, outputs["score"], outputs["anomaly_map"]))
        if bool(outputs["label"]) != prediction.label:
            differ.append(i)
    progress("comparing", len(items), len(items))
    if not differences:
        raise DataError(message("images", "images to compare predictions of", "none that can be read"))
    score, maps = np.max(differences, axis=0).tolist()
    bound = INT8_BOUND if session.metadata.get("precision") == INT8 else FLOAT_BOUND
    return Verification(path, len(differences), score, maps, tuple(differ), bound, tuple(problems))


def _differences(prediction: Prediction, score: np.float32, anomaly_map: np.ndarray) -> tuple[float, float]:
    """Return the relative differences of score and map; infinite where an output is no number or of another size."""
    expected = prediction.anomaly_map
    if not np.isfinite(score) or anomaly_map.shape != expected.shape or not np.isfinite(anomaly_map).all():
        return float("inf"), float("inf")
    scale = max(abs(prediction.score), LEAST_SHARE * abs(prediction.threshold), np.finfo(np.float32).tiny)
    peak = max(float(np.abs(expected).max()), LEAST_SHARE * abs(prediction.pixel_threshold))
    of_map = float(np.abs(anomaly_map - expected).max()) / max(peak, float(np.finfo(np.float32).tiny))
    return abs(float(score) - prediction.score) / float(scale), of_map
