"""Memory and time that fitting PatchCore takes, estimated before the run."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from blemish._validation.checks import check_whole
from blemish.data.training_images import TrainingImages
from blemish.detectors.backbone_settings import BASE_BYTES, LEAST_TIMED, MAX_CALIBRATION
from blemish.detectors.fusion import multi_scale_bytes
from blemish.detectors.patchcore.features import N_LEARNT, extractor_of, learnt_scaling
from blemish.detectors.patchcore.fit import LocalPasses, first_pass
from blemish.detectors.patchcore.memory_bank import collection_bytes
from blemish.detectors.patchcore.position import judged_rows
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
# Learning the scaling from an image takes about as long as so many first passes over it: it runs the network twice, and
# draws a defect.
LEARNING_PASSES = 2
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
    patches = collection_bytes(settings, n_rows, settings.n_features(backbone, n_images))
    multi_scale = multi_scale_bytes(backbone, min(n_images, MAX_CALIBRATION), area) if settings.score_fusion else 0
    return BASE_BYTES + patches + multi_scale


def n_patches(settings: PatchcoreSettings, backbone: Backbone, n_images: int) -> int:
    """Return about how many patches so many images have."""
    return n_images * settings.area_px(backbone) // backbone.strides[0] ** 2


def estimated_chunk_bytes(settings: PatchcoreSettings, backbone: Backbone, n_images: int) -> int:
    """Return about how much memory a pass over a chunk of so many images takes at its peak, in bytes."""
    n_rows, n_features = n_patches(settings, backbone, n_images), settings.n_features(backbone, n_images)
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
    try:
        pilot = Pilot.run(settings, backbone, few, n_images=len(samples))
    except DataError:
        return None
    n_rows, n_calibrated = len(samples) * pilot.n_patches, min(len(samples), MAX_CALIBRATION)
    n_judged = len(judged_rows(n_calibrated)) if settings.score_fusion else 0
    n_again = n_judged + (n_calibrated if n_rows > settings.max_rows else 0)
    pairs = compared_pairs(n_rows, settings.bank_rows(n_rows), settings.max_rows)
    n_first = len(samples) + LEARNING_PASSES * min(len(samples), N_LEARNT)
    passes_s = pilot.first_s * n_first + pilot.again_s * n_again
    return passes_s + pilot.pair_s * pairs + pilot.search_s * (n_calibrated + n_judged)


class Pilot(NamedTuple):
    """Seconds that the stages of a fit take on a few images.

    Attributes:
        n_patches: of one image.
        first_s: to read an image and compute all its features.
        again_s: to read it again and compute the features of its patches.
        pair_s: to compare a pair of patches on the way to the memory bank.
        search_s: to search an image's patches in a memory bank of the size that all images give.
    """

    n_patches: int
    first_s: float
    again_s: float
    pair_s: float
    search_s: float

    @classmethod
    def run(cls, settings: PatchcoreSettings, backbone: Backbone, few: Sequence[ImageInput], *, n_images: int) -> Pilot:
        """Measure on a few of `n_images`.

        Raises:
            DataError: if fewer than two can be decoded.
            InputError: if the network does not take images of this size.
        """
        held = replace(settings, coreset_size=None, coreset_sampling_ratio=PILOT_SHARE, max_rows=10**8)
        images = TrainingImages(few, bit_depth=settings.bit_depth, threads=settings.n_threads)
        geometry = settings.geometry(images.sizes_hw, backbone)
        inputs = LocalPasses(settings, images, no_progress).inputs(geometry, range(len(images)))
        scaling = learnt_scaling(settings, backbone, inputs, no_progress, least=1)
        extractor = extractor_of(settings, backbone, scaling)
        extractor.features(np.zeros((*geometry.network_hw, 3), np.uint8))  # the first run is slower
        clock = _Clock()
        patches = first_pass(held, images, extractor, geometry, no_progress).patches
        first_s, every = clock.lap() / len(images), range(len(images))
        again = images.feature_maps(extractor.features, geometry, every, stage="", progress=no_progress)
        (n_each,) = {features[..., 0].size for _, features in again}
        again_s, n_pilot = clock.lap() / len(images), len(images) * n_each
        patches.memory_bank(no_progress)
        pair_s = clock.lap() / compared_pairs(n_pilot, held.bank_rows(n_pilot), held.max_rows)
        maps = patches.maps(every, stage="", progress=no_progress)
        assert maps is not None, "all patches of the pilot are held"
        n_bank = settings.bank_rows(n_images * n_each)
        return cls(n_each, first_s, again_s, pair_s, _search_s([features for _, features in maps], n_bank))


class _Clock:
    """Measures one stage after the other."""

    def __init__(self) -> None:
        self._last = time.perf_counter()

    def lap(self) -> float:
        """Return the seconds since the last lap."""
        last, self._last = self._last, time.perf_counter()
        return self._last - last


def _search_s(maps: Sequence[Float32], n_bank: int) -> float:
    """Return the seconds that the search of an image's patches takes in a bank of so many rows.

    A bank that is smaller than asked for counts in proportion: its cost per row is that of a large one.
    """
    queries, *others = (features.reshape(-1, features.shape[-1]) for features in maps)
    rows = np.concatenate(others)
    index = MemoryIndex(rows[:: max(1, len(rows) // n_bank)][:n_bank])
    index.search(queries)  # the first search of an index allocates its workspace
    start = time.perf_counter()
    index.search(queries)
    return (time.perf_counter() - start) * n_bank / index.n_rows
