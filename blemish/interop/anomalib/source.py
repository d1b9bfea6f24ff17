"""The source of an imported detector: a checkpoint of anomalib, and good images to calibrate the detector on."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from blemish._version import __version__
from blemish.data.training_images import TrainingImages
from blemish.errors import ModelFileError, message
from blemish.interop.anomalib.thresholds import thresholds
from blemish.modelfolder.header import Training
from blemish.ops.conformal import Calibration, Rule
from blemish.types import ImageInput, Progress, no_progress

if TYPE_CHECKING:
    from blemish.imaging.geometry import Geometry
    from blemish.interop.anomalib.releases import Line


def _training(images: TrainingImages) -> Training:
    root = os.path.realpath(os.curdir)
    return Training(tuple(images.names), tuple(images.sizes_hw), sha256s=images.digests, root=root)


class Source(NamedTuple):
    """A checkpoint of anomalib, and what its detector is calibrated with.

    Attributes:
        tree: the content, as `torch_file.read_checkpoint` returns it with unknown classes allowed.
        good: good images for the calibration of thresholds; without them the checkpoint's thresholds are kept, which
            promise no false positive rate. EfficientAD's training images score lower than others.
        release: version of anomalib that wrote the checkpoint, as the user stated it; None if not.
    """

    tree: Mapping[str, Any]
    where: str | os.PathLike[str]
    sha256: str
    threads: int
    good: Sequence[ImageInput] = ()
    false_positive_rate: float = 0.02
    progress: Progress = no_progress
    release: str | None = None

    @property
    def rule(self) -> Rule:
        """The rule of the thresholds; those of the checkpoint are kept as they are."""
        return "tail" if self.good else "conformal"

    def images(self) -> TrainingImages:
        """Return the good images."""
        return TrainingImages(list(self.good), bit_depth=None, threads=self.threads)

    def thresholds(self, line: Line) -> tuple[float, float]:
        """Return the checkpoint's thresholds of scores and maps; ModelFileError if it has none on raw scores."""
        image, pixel, missing = thresholds(self.tree, line)
        if not np.isfinite([image, pixel]).all():
            todo = "Give good images to set them by: --good FOLDER."
            raise ModelFileError(message("thresholds", "numbers", missing, where=self.where, todo=todo))
        return image, pixel

    def common(
        self,
        detector: str,
        geometry: Geometry,
        images: TrainingImages | None,
        scores: Sequence[float],
        maxima: Sequence[float],
    ) -> dict[str, Any]:
        """Return the attributes of `DetectorState`; scores and maxima are those of the images, or the thresholds."""
        training = Training() if images is None else _training(images)
        provenance = {
            "library_version": __version__,
            "imported_from": f"anomalib {detector}, {self.where}",
            "imported_sha256": self.sha256,
            "n_training_files": len(training.paths),
            "thresholds_from": "the checkpoint" if images is None else f"{len(scores)} good images",
        }
        return {
            "geometry": geometry,
            "image_calibration": Calibration.from_scores(scores, self.false_positive_rate, self.rule),
            "pixel_calibration": Calibration.from_scores(maxima, self.false_positive_rate, self.rule),
            "training": training,
            "provenance": provenance,
        }
