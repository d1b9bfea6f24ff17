"""EfficientAD: a student that imitates a teacher on good images alone, and an autoencoder (Batzner et al. 2024)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from blemish._validation.checks import check_whole
from blemish.detectors.base import Detector, Scored
from blemish.detectors.constructor import constructor
from blemish.detectors.efficientad.devices import training_device
from blemish.detectors.efficientad.fit import Run, fit
from blemish.detectors.efficientad.pdn import output_hw
from blemish.detectors.efficientad.settings import LEAST_IMAGES, EfficientAdSettings
from blemish.detectors.efficientad.state import EfficientAdState, read_state
from blemish.detectors.efficientad.training import CACHE_BYTES
from blemish.types import ImageInput, Progress, UInt8

if TYPE_CHECKING:
    from blemish.data.training_images import TrainingImages
    from blemish.modelfolder.folder import ModelFolder

# Measured: interpreter, torch, networks with their gradients and moments; and memory of a step for each output.
BASE_BYTES = 900 * 2**20
STEP_BYTES = 400 * 2**10
LITTLE = 2.0  # per cent that the held-out loss falls in the last third of a training: below, more would bring little
HINT = (
    "EfficientAD costs 38 billion multiplications an image of 256 x 256, and its usual 70,000 steps take more than "
    "half a day on a processor: PatchCore is the default there. Set a time with --budget, such as --budget 10m."
)


class EfficientAd(Detector[EfficientAdSettings, EfficientAdState]):
    """EfficientAD: trains a student and an autoencoder on good images, predicts a score and a map.

    On a processor `Patchcore` is the better first choice: an image of 256 x 256 costs EfficientAD 38 billion
    multiplications and training thousands of images' worth of them, where PatchCore fits in seconds. EfficientAD is
    for those who have a GPU or ten minutes, and for defects that are wrong combinations of right parts. Fitting needs
    torch (`pip install 'blemish[train]'`); predicting does not. The same seed, images, threads and torch give the same
    weights. Memory: 0.2 MB an image at 256 px, and 1 GB of the teacher's outputs.

    Args:
        {settings}

    Raises:
        InputError: if a setting is out of range.
        ModelFileError: if the teacher is absent, damaged or of another size.

    Attributes:
        settings: the settings, frozen.
        problems: the training and penalty images that the last fit left out, and why.
        warning: a fault of the last fit's training, "" if there was none.

    Source: Batzner et al. 2024, "EfficientAD: Accurate Visual Anomaly Detection at Millisecond-Level Latencies".
    """

    name: ClassVar[str] = "efficientad"
    settings_type = EfficientAdSettings
    least_images: ClassVar[int] = LEAST_IMAGES
    warning: str = ""

    __init__ = constructor(EfficientAdSettings)

    def fit(self, samples: Iterable[ImageInput], *, progress: Progress | None = None) -> EfficientAd:
        """Fit on good images, as `Detector.fit` says; without torch or the device, no image is read.

        Raises:
            InputError: if torch or the device is missing; and as `Detector.fit`.
        """
        training_device(self.settings.device)
        return super().fit(samples, progress=progress)

    def _fit(self, images: TrainingImages, progress: Progress) -> EfficientAdState:
        run = Run(self.threads, training_device(self.settings.device), self.settings.checkpoint, progress)
        state, problems, self.warning = fit(self.settings, self.pretrained, images, run)
        images.problems += problems
        return state

    def limit(self, *, max_epochs: int | None = None, max_steps: int | None = None) -> None:
        """Limit the training of the next fit; None leaves a limit as it is.

        Raises:
            InputError: if a number is out of range.
        """
        epochs = self.settings.max_epochs if max_epochs is None else max_epochs
        steps = self.settings.max_steps if max_steps is None else max_steps
        self.settings = replace(self.settings, max_epochs=epochs, max_steps=steps)

    def estimated_bytes(self, n_images: int) -> int:
        """Return the peak memory of fitting on so many images, estimated, in bytes."""
        check_whole("n_images", n_images, 1, 10**9)
        settings = self.settings
        height, width = settings.geometry().network_hw
        rows, columns = output_hw(settings.model_size, (height, width), padding=settings.padding)
        targets = min(CACHE_BYTES, n_images * rows * columns * settings.teacher_out_channels * 2)
        outputs = settings.batch_size * (rows * columns if settings.crop is None else settings.crop**2)
        return BASE_BYTES + n_images * height * width * 3 + targets + STEP_BYTES * outputs

    def estimated_seconds(self, samples: Sequence[ImageInput]) -> float | None:  # noqa: ARG002
        """Return the budget in seconds, whatever the images; None without one."""
        budget = self.settings.budget
        return None if budget is None else float(budget)

    @property
    def hint(self) -> str:
        """Advice to a user before training on a processor; "" where there is a GPU, or a budget is set."""
        if training_device(self.settings.device) != "cpu" or self.settings.budget is not None:
            return ""
        return HINT

    @property
    def summary(self) -> str:
        """A sentence about the last training; "" before there was one."""
        if self._state is None:
            return ""
        history, provenance = self._state.history, self._state.provenance
        part = "" if history.get("crop") is None else f" on crops of {history['crop']} x {history['crop']} outputs"
        trained = f"Trained {provenance['n_steps']} steps{part} in {float(provenance['training_s']):.0f} s."
        return " ".join(filter(None, (trained, _of_last_third(history.get("late_losses")), self.warning)))

    @classmethod
    def _read(cls, model: ModelFolder, settings: EfficientAdSettings, common: Mapping[str, Any]) -> EfficientAdState:
        return read_state(model, settings, common)

    def _score(self, image: UInt8, network_input: UInt8, state: EfficientAdState) -> Scored:
        pair = state.maps.raw(network_input)
        network_map = state.maps.anomaly_map(*pair)
        hw = (image.shape[0], image.shape[1])
        return Scored(state.maps.score(*pair), state.geometry.to_image(network_map, hw))


def _of_last_third(losses: Sequence[float | None] | None) -> str:
    """Return a sentence on what the last third of the training brought, and whether more would help.

    >>> _of_last_third([0.5, 0.4])
    "In its last third the student's loss on held-out images fell by 20 %: more time would help."
    >>> _of_last_third([0.5, 0.499])
    "In its last third the student's loss on held-out images changed by -0.2 %: more time would bring little."
    """
    before, after = losses or (None, None)
    if before is None or after is None or before <= 0:
        return ""
    fall = 100 * (1 - after / before)
    changed = f"fell by {fall:.0f} %" if fall >= 1 else f"changed by {-fall:+.1f} %"
    more = "would help" if fall > LITTLE else "would bring little"
    return f"In its last third the student's loss on held-out images {changed}: more time {more}."
