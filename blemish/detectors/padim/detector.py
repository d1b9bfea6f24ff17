"""PaDiM: Mahalanobis distances of patches from one Gaussian at each position (Defard et al. 2021)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from blemish.detectors.base import Detector, Scored
from blemish.detectors.constructor import constructor
from blemish.detectors.padim.fit import estimated_bytes, estimated_seconds, fit
from blemish.detectors.padim.settings import PadimSettings
from blemish.detectors.padim.state import PadimState, read_state
from blemish.types import ImageInput, Progress, UInt8

if TYPE_CHECKING:
    from blemish.data.training_images import TrainingImages
    from blemish.modelfolder.folder import ModelFolder


class Padim(Detector[PadimSettings, PadimState]):
    """PaDiM: fits a Gaussian of patch features at each position, predicts a score and a map.

    For parts that lie alike in every image. The image score is the highest value of the anomaly map.

    Args:
        {settings}

    Raises:
        InputError: if a setting is out of range, or the backbone or a layer has no such name.
        ModelFileError: if the backbone's weights are absent (it says how to get them) or damaged.

    Attributes:
        settings: the settings, frozen.
        problems: the training images that the last fit left out, and why.

    Source: Defard et al. 2021, "PaDiM: a Patch Distribution Modeling Framework for Anomaly Detection and Localization".

    Differs: images are resized whole to about 320 x 320 pixels, where the paper cuts out the centre of 224; thresholds
        come from the leave-one-out scores of good images.
    """

    name: ClassVar[str] = "padim"
    settings_type = PadimSettings

    __init__ = constructor(PadimSettings)

    def _fit(self, images: TrainingImages, progress: Progress) -> PadimState:
        return fit(self.settings, self.pretrained, images, progress=progress)

    def estimated_bytes(self, n_images: int) -> int:
        """Return the peak memory of fitting on so many images, estimated, in bytes."""
        return estimated_bytes(self.settings, self.pretrained, n_images)

    def estimated_seconds(self, samples: Sequence[ImageInput]) -> float | None:
        """Return the time of fitting on these images here, estimated, in seconds; None for fewer than 100."""
        return estimated_seconds(self.settings, self.pretrained, samples)

    @classmethod
    def _read(cls, model: ModelFolder, settings: PadimSettings, common: Mapping[str, Any]) -> PadimState:
        return read_state(model, settings, common)

    def _score(self, image: UInt8, network_input: UInt8, state: PadimState) -> Scored:
        network_map = state.geometry.network_map(state.gaussians.distances(network_input))
        return Scored(float(network_map.max()), state.geometry.to_image(network_map, (image.shape[0], image.shape[1])))
