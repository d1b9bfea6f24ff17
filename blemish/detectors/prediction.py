"""What predicting is for every detector: from a score and a map to a `Prediction`, and many images in order."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from blemish._io.prefetch import prefetch
from blemish._validation.checks import check_whole
from blemish.data.training_images import path_of, read_image
from blemish.errors import ImageError
from blemish.imaging.anomaly_map import peak, regions
from blemish.types import Float32, GoodPatch, ImageInput, Prediction, Problem, UInt8

if TYPE_CHECKING:
    from blemish.ops.conformal import Calibration

MAX_THREADS = 256


def prediction(
    score: float,
    anomaly_map: Float32,
    *,
    image: Calibration,
    pixel: Calibration,
    nearest_good: GoodPatch | None = None,
    path: Path | None = None,
    score_components: Mapping[str, float] | None = None,
) -> Prediction:
    """Return what is said of one image.

    Args:
        score: of the image.
        anomaly_map: (H, W) float32 at the image's size.
        image: calibration of scores.
        pixel: calibration of maps.
        nearest_good: the good patch that the worst one was compared with.
        path: the image's file.
        evidence: what the score is the sum of, by name.
    """
    limit = pixel.threshold
    return Prediction(
        score=score,
        label=score > image.threshold,
        threshold=image.threshold,
        p_value=image.p_value(score),
        anomaly_map=anomaly_map,
        mask=anomaly_map > np.float32(limit),
        pixel_threshold=limit,
        regions=regions(anomaly_map, limit),
        peak_xy=peak(anomaly_map),
        nearest_good=nearest_good,
        path=path,
        score_components=score_components or {},
    )


def predictions(
    predict: Callable[[UInt8, Path | None], Prediction],
    images: Iterable[ImageInput],
    *,
    bit_depth: int | None,
    threads: int,
) -> Iterator[Prediction | Problem]:
    """Yield what `predict` says of each image in order, or what is wrong with it; the next are decoded meanwhile.

    Raises:
        InputError: if an array is no image.
    """

    def read(item: ImageInput) -> tuple[Path | None, UInt8 | ImageError]:
        path = path_of(item)
        try:
            return path, read_image(item, bit_depth, release_gil=True)
        except ImageError as error:
            return path, error

    return (
        Problem(path or Path(), "unreadable", str(image)) if isinstance(image, ImageError) else predict(image, path)
        for path, image in prefetch(read, images, threads=threads)
    )


def checked_threads(threads: int | None) -> int:
    """Return how many threads to use: those asked for, or one per core.

    Raises:
        InputError: if the number is out of range.
    """
    return (os.cpu_count() or 1) if threads is None else check_whole("threads", threads, 1, MAX_THREADS)
