"""Memory and time that fitting PatchCore takes, estimated before the run."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from blemish._validation.checks import check_whole
from blemish.data.training_images import TrainingImages
from blemish.detectors.backbone_settings import BASE_BYTES, LEAST_TIMED, MAX_CALIBRATION
from blemish.detectors.fusion import multi_scale_bytes
from blemish.detectors.patchcore.fit import first_pass, raw_extractor
from blemish.detectors.patchcore.memory_bank import collection_bytes
from blemish.detectors.patchcore.position import N_JUDGED
from blemish.errors import DataError
from blemish.ops.merge_reduce import CHUNK_ROWS, chunk_bytes, compared_pairs, kept_rows
from blemish.ops.neighbors import MemoryIndex
from blemish.types import no_progress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from blemish.backbones.backbone import Backbone
    from blemish.detectors.patchcore.settings import PatchcoreSettings
    from blemish.types import Float32, ImageInput

PILOT_IMAGES = 8
# Share of the pilot's patches that its coreset keeps.
PILOT_SHARE = 0.04


def estimated_bytes(settings: PatchcoreSettings, backbone: Backbone, n_images: int) -> int:
    """Return about how much memory fitting on so many images takes at its peak, in bytes.

    Raises:
        InputError: if `n_images` is no whole number, or below 1.
    """
    check_whole("n_images", n_images, 1, 10**9)
    area = settings.area_px(backbone)
    n_rows = n_patches(settings, backbone, n_images)
    patches = collection_bytes(settings, n_rows, sum(backbone.channels))
    multi_scale = multi_scale_bytes(backbone, min(n_images, MAX_CALIBRATION), area) if settings.score_fusion else 0
    return BASE_BYTES + patches + multi_scale


def n_patches(settings: PatchcoreSettings, backbone: Backbone, n_images: int) -> int:
    """Return about how many patches so many images have."""
    return n_images * settings.area_px(backbone) // backbone.strides[0] ** 2


def estimated_chunk_bytes(settings: PatchcoreSettings, backbone: Backbone, n_images: int) -> int:
    """Return about how much memory a pass over a chunk of so many images takes at its peak, in bytes."""
    n_rows, n_features = n_patches(settings, backbone, n_images), sum(backbone.channels)
    n_select = settings.bank_rows(n_rows)
    n_keep = -(-kept_rows(n_rows, n_select, settings.max_rows) * CHUNK_ROWS // n_rows)
    chunk = chunk_bytes(CHUNK_ROWS + n_patches(settings, backbone, 1), n_features, n_keep)
    # The search holds the memory bank, and its index about as much again.
    return BASE_BYTES + max(chunk, 3 * 4 * n_select * n_features)


def estimated_seconds(
    settings: PatchcoreSettings, backbone: Backbone, samples: Sequence[ImageInput], *, least: int = LEAST_TIMED
) -> float | None:
    """Return about how long fitting on these images takes here, in seconds; None for fewer than `least`.

    Reads a few of the images, reduces their patches and searches among them, and scales the time of each by the cost of
    the whole: images, pairs of patches. Takes a second.

    Raises:
        InputError: if the network does not take images of this size.
    """
    if len(samples) < least:
        return None
    few = [samples[i] for i in np.linspace(0, len(samples) - 1, PILOT_IMAGES).astype(int)]
    held = replace(settings, coreset_size=None, coreset_sampling_ratio=PILOT_SHARE, max_rows=10**8)
    try:
        images = TrainingImages(few, bit_depth=settings.bit_depth, threads=settings.n_threads)
        geometry = settings.geometry(images.sizes_hw, backbone)
        raw = raw_extractor(settings, backbone)
        raw.features(np.zeros((*geometry.network_hw, 3), np.uint8))  # the first run is slower
        start = time.perf_counter()
        patches = first_pass(held, images, raw, geometry, no_progress).patches
    except DataError:
        return None
    image_s = (time.perf_counter() - start) / len(images)
    start = time.perf_counter()
    patches.memory_bank(no_progress)
    bank_s = time.perf_counter() - start
    maps = patches.maps(range(len(images)), stage="", progress=no_progress)
    assert maps is not None, "all patches of the pilot are held"
    search_s, n_each = _search_s([features for _, features in maps])
    n_rows, n_pilot = len(samples) * n_each, len(images) * n_each
    n_bank, n_calibrated = settings.bank_rows(n_rows), min(len(samples), MAX_CALIBRATION)
    n_judged = N_JUDGED if settings.score_fusion else 0
    n_again = n_judged + (n_calibrated if n_rows > settings.max_rows else 0)
    share = compared_pairs(n_rows, n_bank, settings.max_rows) / compared_pairs(n_pilot, held.bank_rows(n_pilot), 10**8)
    return image_s * (len(samples) + n_again) + bank_s * share + search_s * n_bank * (n_calibrated + n_judged)


def _search_s(maps: Sequence[Float32]) -> tuple[float, int]:
    """Return the seconds that the search of an image's patches takes for each row of the bank, and their number."""
    queries, *others = (features.reshape(-1, features.shape[-1]) for features in maps)
    index = MemoryIndex(np.concatenate(others))
    index.search(queries[:32])
    start = time.perf_counter()
    index.search(queries)
    return (time.perf_counter() - start) / index.n_rows, len(queries)
