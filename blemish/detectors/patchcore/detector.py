"""PatchCore: distances of an image's patches to a memory bank of good patches (Roth et al. 2022)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, ClassVar

from blemish.detectors.base import Detector, Scored
from blemish.detectors.constructor import constructor
from blemish.detectors.patchcore.cost import estimated_bytes, estimated_seconds
from blemish.detectors.patchcore.drop import without_images
from blemish.detectors.patchcore.fit import fit
from blemish.detectors.patchcore.settings import PatchcoreSettings
from blemish.detectors.patchcore.state import UNKNOWN, PatchcoreState, read_state
from blemish.detectors.suspects import indices_of
from blemish.imaging.decode import read_image
from blemish.types import GoodPatch

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping, Sequence

    from blemish.data.training_images import TrainingImages
    from blemish.detectors.patchcore.scoring import PatchDistances
    from blemish.modelfolder.folder import ModelFolder
    from blemish.types import Float32, ImageInput, Progress, UInt8


# Nearest bank rows among which those of other images are looked for.
GOOD_ROWS = 256


class Patchcore(Detector[PatchcoreSettings, PatchcoreState]):
    """PatchCore: fits on good images without training, predicts a score and a map.

    Args:
        {settings}

    Raises:
        InputError: if a setting is out of range, or the backbone or a layer has no such name.
        ModelFileError: if the backbone's weights are absent (it says how to get them) or damaged.

    Attributes:
        settings: the settings, frozen.
        problems: the training images that the last fit left out, and why.

    Source: Roth et al. 2022, "Towards Total Recall in Industrial Anomaly Detection".
    """

    name: ClassVar[str] = "patchcore"
    settings_type = PatchcoreSettings

    __init__ = constructor(PatchcoreSettings)

    def _fit(self, images: TrainingImages, progress: Progress) -> PatchcoreState:
        return fit(self.settings, self.pretrained, images, progress=progress)

    def estimated_bytes(self, n_images: int) -> int:
        """Return the peak memory of fitting on so many images, estimated, in bytes."""
        return estimated_bytes(self.settings, self.pretrained, n_images)

    def estimated_seconds(self, samples: Sequence[ImageInput]) -> float | None:
        """Return the time of fitting on these images here, estimated, in seconds; None for fewer than 100."""
        return estimated_seconds(self.settings, self.pretrained, samples)

    @classmethod
    def _read(cls, model: ModelFolder, settings: PatchcoreSettings, common: Mapping[str, Any]) -> PatchcoreState:
        return read_state(model, settings, common)

    def _score(self, image: UInt8, network_input: UInt8, state: PatchcoreState) -> Scored:
        views = None
        with ThreadPoolExecutor(1) as pool:
            if state.fusion is not None and self.threads > 1:
                # Network and search leave the cores idle for moments: a tenth of the time is saved beside them.
                views = pool.submit(_multi_scale, state, network_input)
            nearest = state.scorer.distances(state.extractor.features(network_input))
        patch_map = state.scorer.patch_map(nearest.distances)
        score = state.scorer.image_score(patch_map, nearest.weight)
        components: Mapping[str, float] = {}
        if state.fusion is not None:
            parts, summary = _multi_scale(state, network_input) if views is None else views.result()
            components = state.fusion.components(score, parts, summary)
            score = sum(components.values())
        anomaly_map = state.geometry.restore(patch_map, (image.shape[0], image.shape[1]))
        return Scored(score, anomaly_map, _nearest_good(state, nearest, int(patch_map.argmax())), components)

    def without(self, paths: Iterable[str | os.PathLike[str]]) -> Patchcore:
        """Return the detector without some training images: their bank rows and calibration scores.

        What all images have in common stays: the network's whitening, and the statistics of distances, positions and
        global descriptors.

        Raises:
            InputError: if a path is of no training image, the bank does not know its images, or too little would be
                left.
        """
        state = self.fitted
        dropped = indices_of(state.training, paths)
        return self.from_state(self.settings, without_images(state, self.settings, dropped))

    def nearest_good_patches(self, image: ImageInput, k: int) -> tuple[GoodPatch, ...]:
        """Return the good patches nearest to the most anomalous one, each of another training image."""
        state = self.fitted
        features = state.extractor.features(state.geometry.prepare(read_image(image, self.bit_depth)))
        patch_map = state.scorer.patch_map(state.scorer.distances(features).distances)
        query = features.reshape(-1, features.shape[-1])[[patch_map.argmax()]]
        rows = state.scorer.index.search(query, min(state.scorer.index.n_rows, GOOD_ROWS))
        patches: dict[int, GoodPatch] = {}
        for bank_row, distance in zip(rows.indices[0].tolist(), rows.distances[0].tolist(), strict=True):
            source = int(state.source[bank_row][0])
            patch = None if source in patches else _good_patch(state, bank_row, patch_map.shape[:2], distance)
            if patch is not None:
                patches[source] = patch
            if len(patches) == k:
                break
        return tuple(patches.values())


def _multi_scale(state: PatchcoreState, network_input: UInt8) -> tuple[Float32 | None, Float32]:
    """Return an image's coarse patch features, (h, w, K), where they count, and its global descriptor, (S,)."""
    has_parts = state.fusion is not None and state.fusion.parts is not None
    parts = state.extractor.parts(network_input) if has_parts else None
    return parts, state.extractor.summary(network_input)


def _nearest_good(state: PatchcoreState, nearest: PatchDistances, worst: int) -> GoodPatch | None:
    """Return the good patch that patch number `worst` was compared with."""
    grid_hw = nearest.distances.shape[0], nearest.distances.shape[1]
    bank_row, distance = nearest.rows.reshape(-1)[worst], nearest.distances.reshape(-1)[worst]
    return _good_patch(state, int(bank_row), grid_hw, float(distance))


def _good_patch(state: PatchcoreState, bank_row: int, grid_hw: tuple[int, ...], distance: float) -> GoodPatch | None:
    """Return the patch of a training image that a bank row is; None if an imported model does not say which."""
    image, row, column = state.source[bank_row].tolist()
    if image == UNKNOWN:
        return None
    box = state.geometry.patch_box(row, column, (grid_hw[0], grid_hw[1]), state.training.sizes_hw[image])
    training = state.training
    return GoodPatch(training.paths[image], box, distance, training.sha256s[image], training.root)
