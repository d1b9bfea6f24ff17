"""EfficientAD: a student that imitates a teacher on good images alone, and an autoencoder (Batzner et al. 2024)."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blemish._validation.anomalib_arguments import OF_DETECTORS, refuses
from blemish._validation.checks import check_whole
from blemish.data.training_images import TrainingImages, path_of, read_image
from blemish.detectors.efficientad.devices import training_device
from blemish.detectors.efficientad.fit import EfficientAdState, Run, fit
from blemish.detectors.efficientad.pdn import import_torch, output_hw
from blemish.detectors.efficientad.settings import (
    LEAST_IMAGES,
    MAX_STEPS,
    Border,
    EfficientAdSettings,
    check_budget,
    check_model_size,
)
from blemish.detectors.efficientad.state import from_folder, header_of
from blemish.detectors.efficientad.teacher import Teacher, load_teacher
from blemish.detectors.efficientad.training import CACHE_BYTES
from blemish.detectors.prediction import checked_threads, prediction, predictions
from blemish.errors import InputError, NotFittedError, message
from blemish.modelfolder.folder import load_model, save_model
from blemish.ops.conformal import Calibration
from blemish.types import ImageInput, Progress, no_progress

# Measured: interpreter, torch, networks with their gradients and moments; and what a step holds for each output.
BASE_BYTES = 900 * 2**20
STEP_BYTES = 400 * 2**10
HINT = (
    "EfficientAD costs 38 billion multiplications an image, and its usual 70,000 steps take more than half a day on a "
    "processor: PatchCore is the default there. Set a time with --budget, such as --budget 10m."
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from blemish.modelfolder.folder import ModelFolder
    from blemish.types import Prediction, Problem, UInt8


class EfficientAd:
    """EfficientAD: trains a student and an autoencoder on good images, predicts a score and a map.

    On a processor `Patchcore` is the better first choice: an image of 256 x 256 costs EfficientAD 38 billion
    multiplications and training thousands of images' worth of them, where PatchCore fits in seconds. EfficientAD is
    for those who have a GPU or ten minutes, and for defects that are wrong combinations of right parts. Fitting needs
    torch (`pip install 'blemish[train]'`); predicting does not.

    Args:
        model_size: "small" (PDN-S) or "medium" (PDN-M).
        teacher: weights in this package's, nelson1425's or anomalib's layout; None for the ones in the package.
        teacher_out_channels: outputs of the teacher.
        image_size: the network's input: (height, width), or one number for a square. The whole image is resized.
        center_crop: (height, width) or one number: the centre of that which the network sees; None for all of it.
        lr: Adam's learning rate; a tenth of it for the last twentieth of the training.
        weight_decay: Adam's.
        padding: whether teacher and student pad with zeros. Slower, and maps then see the image's frame.
        pad_maps: whether maps are laid where their cells lie; False stretches them over the image.
        border: what lies around them then: "edge" goes on with the outermost cell; "zero" and "normal" do as anomalib's
            and nelson1425's programs do, which are blind there.
        map_sigma_px: smoothing of the map before its maximum becomes the score, in pixels of the network's input; the
            paper has none.
        imagenet_dir: folder of photographs of other things, which the student is kept from imitating; None draws some.
        max_steps: at most so many steps.
        max_epochs: at most so many times each image; None for no limit. `Engine(max_epochs=...)` sets it too.
        budget: at most so long, as seconds or "90s", "10m", "1.5h", all of `fit` taken together; then as many steps as
            fit in, on parts of images where whole ones would allow only a few.
        batch_size: good images a step.
        crop: rows and columns of outputs that a step looks at in each image; None for all. With `budget`, None leaves
            it to that.
        holdout: share of good images that is not learnt from: a quarter decides quantiles and when to stop, the rest
            the threshold. Of 209 images 32 set it, which promises 3 % of false positives at best: for 1 %, give 660.
        early_stop: whether training ends when the held-out loss no longer falls.
        solve_last: whether the student's last layer is at last solved for by least squares, which short trainings need;
            the paper ends with the last step.
        false_positive_rate: share of good images that may be called defective.
        bit_depth: how many bits 16-bit images really use (12 for most industrial cameras); None for all 16.
        seed: of every random choice. The same seed, images, threads and torch give the same weights.
        checkpoint: a file for the state of the training, written every minute and when it is interrupted; where it is
            there, training goes on from it. None for none.
        device: where to train: "cpu", "cuda", ...; None for a GPU where torch has one.
        threads: for decoding, training and the network; None for one per core.

    Raises:
        InputError: if a setting is out of range.
        ModelFileError: if the teacher is absent, damaged or of another size.

    Attributes:
        problems: the training and penalty images that the last fit left out, and why.
        warning: what went wrong in the last fit's training, "" if nothing did.
    """

    @refuses("EfficientAd", OF_DETECTORS)
    def __init__(
        self,
        *,
        model_size: str = "small",
        teacher: str | os.PathLike[str] | None = None,
        teacher_out_channels: int = 384,
        image_size: int | tuple[int, int] = 256,
        center_crop: int | tuple[int, int] | None = None,
        lr: float = 1e-4,
        weight_decay: float = 1e-5,
        padding: bool = False,
        pad_maps: bool = True,
        border: Border = "edge",
        map_sigma_px: float = 4.0,
        imagenet_dir: str | os.PathLike[str] | None = None,
        max_steps: int = MAX_STEPS,
        max_epochs: int | None = None,
        budget: float | str | None = None,
        batch_size: int = 1,
        crop: int | None = None,
        holdout: float = 0.2,
        early_stop: bool = True,
        solve_last: bool = True,
        false_positive_rate: float = 0.01,
        bit_depth: int | None = None,
        seed: int = 0,
        checkpoint: str | os.PathLike[str] | None = None,
        device: str | None = None,
        threads: int | None = None,
    ) -> None:
        self.settings = EfficientAdSettings(
            model_size=check_model_size(model_size),
            teacher="" if teacher is None else os.fspath(teacher),
            teacher_out_channels=teacher_out_channels,
            image_size=image_size,
            center_crop=center_crop,
            lr=lr,
            weight_decay=weight_decay,
            padding=padding,
            pad_maps=pad_maps,
            border=border,
            map_sigma_px=map_sigma_px,
            imagenet_dir=None if imagenet_dir is None else os.fspath(imagenet_dir),
            max_steps=max_steps,
            max_epochs=max_epochs,
            budget_s=check_budget(budget),
            batch_size=batch_size,
            crop=crop,
            holdout=holdout,
            early_stop=early_stop,
            solve_last=solve_last,
            false_positive_rate=Calibration.from_scores([0.0], false_positive_rate).false_positive_rate,
            bit_depth=bit_depth,
            seed=seed,
        )
        self._teacher: Teacher | None = _load_teacher(self.settings)
        self.checkpoint = checkpoint
        self.device = device
        self.threads = checked_threads(threads)
        self.problems: tuple[Problem, ...] = ()
        self.warning = ""
        self._fitted: EfficientAdState | None = None

    def fit(self, samples: Iterable[ImageInput], *, progress: Progress | None = None) -> EfficientAd:
        """Train on good images: samples, paths or arrays, uint8 (H, W, 3) RGB or (H, W) grey; return self.

        Broken images are left out and listed in `problems`. What was fitted before is kept until all is done.

        Args:
            samples: the good images, at least four.
            progress: called now and then as progress(stage, done, total).

        Raises:
            DataError: if fewer than four can be read, or the penalty folder has no image that can.
            InputError: if torch or the device is missing, an array is no image, or the checkpoint has other settings.
            ModelFileError: if the checkpoint is damaged.
            SaveError: if the checkpoint can't be written.

        Cost: benchmarks/efficientad_speed.py; memory: 0.2 MB an image at 256 px, and 1 GB of the teacher's outputs.
        """
        import_torch()
        if self._teacher is None:
            self._teacher = _load_teacher(self.settings)
            known = self.fitted.provenance.get("backbone_sha256")
            if self._teacher.sha256 != known:
                todo = "Make a new EfficientAd with teacher= of that file."
                wanted, got = f"that of the model, SHA-256 {known!s:.16}...", f"{self._teacher.sha256:.16}..."
                raise InputError(message("teacher", wanted, got, todo=todo))
        settings, device = self.settings, training_device(self.device)
        images = TrainingImages(list(samples), bit_depth=settings.bit_depth, threads=self.threads, least=LEAST_IMAGES)
        run = Run(self.threads, device, self.checkpoint, progress or no_progress)
        self._fitted, problems, self.warning = fit(settings, self._teacher, images, run)
        self.problems = (*images.problems, *problems)
        return self

    def limit(self, *, max_epochs: int | None = None, max_steps: int | None = None) -> None:
        """Set how much the next fit trains at most; None leaves a limit as it is.

        Raises:
            InputError: if a number is out of range.
        """
        epochs = self.settings.max_epochs if max_epochs is None else max_epochs
        steps = self.settings.max_steps if max_steps is None else max_steps
        self.settings = replace(self.settings, max_epochs=epochs, max_steps=steps)

    def estimated_bytes(self, n_images: int) -> int:
        """Return about how much memory `fit` on so many images takes at its peak, in bytes."""
        check_whole("n_images", n_images, 1, 10**9)
        settings = self.settings
        height, width = settings.geometry().network_hw
        rows, columns = output_hw(settings.model_size, (height, width), padding=settings.padding)
        targets = min(CACHE_BYTES, n_images * rows * columns * settings.teacher_out_channels * 2)
        seen = settings.batch_size * rows * columns
        if settings.crop is not None:
            seen = min(seen, settings.batch_size * settings.crop**2)
        return BASE_BYTES + n_images * height * width * 3 + targets + STEP_BYTES * seen

    @property
    def hint(self) -> str:
        """What to tell a user before training on a processor; "" where there is a GPU, or a budget was set."""
        if training_device(self.device) != "cpu" or self.settings.budget_s is not None:
            return ""
        return HINT

    @property
    def summary(self) -> str:
        """What the last training did, in a sentence; "" before there was one."""
        if self._fitted is None:
            return ""
        history, provenance = self.fitted.history, self.fitted.provenance
        part = "" if history.get("crop") is None else f" on parts of {history['crop']} x {history['crop']} outputs"
        told = f"Trained {provenance['n_steps']} steps{part} in {float(provenance['training_s']):.0f} s."
        return f"{told} {self.warning}".strip()

    @property
    def is_fitted(self) -> bool:
        """Whether it can predict."""
        return self._fitted is not None

    @property
    def fitted(self) -> EfficientAdState:
        """What fitting ended in: network, quantiles, calibration.

        Raises:
            NotFittedError: before `fit` or `load`.
        """
        if self._fitted is None:
            todo = "Call fit() with good images, or load() a model folder."
            raise NotFittedError(message("EfficientAd", "a fitted detector", "one that was never fitted", todo=todo))
        return self._fitted

    @property
    def calibration(self) -> Calibration:
        """Held-out good images' scores and the threshold that they give."""
        return self.fitted.calibration

    @property
    def threshold(self) -> float:
        """The image threshold: scores above it are called defective."""
        return self.fitted.calibration.threshold

    @property
    def pixel_threshold(self) -> float:
        """The threshold of the anomaly map: the same, since an image's score is the highest value of its map."""
        return self.fitted.calibration.threshold

    @property
    def false_positive_rate(self) -> float:
        """Share of good images that may be called defective, as it was asked for."""
        return self.settings.false_positive_rate

    @property
    def bit_depth(self) -> int | None:
        """How many bits 16-bit images really use; None for all."""
        return self.settings.bit_depth

    def set_false_positive_rate(self, false_positive_rate: float) -> None:
        """Move the threshold to another false positive rate, from the calibration scores that the model holds.

        Raises:
            InputError: if the rate is not between 0 and 1.
        """
        calibration = self.fitted.calibration.with_rate(false_positive_rate)
        self._fitted = replace(self.fitted, calibration=calibration)
        self.settings = replace(self.settings, false_positive_rate=calibration.false_positive_rate)

    def predict(self, image: ImageInput) -> Prediction:
        """Return what the detector says of one image: a path, a sample or an array; no file is written.

        Raises:
            ImageError: if the file can't be read.
            InputError: if the array is no image.
            NotFittedError: before `fit` or `load`.
        """
        fitted = self.fitted
        return _predict(read_image(image, self.settings.bit_depth), path_of(image), fitted)

    def predict_many(self, images: Iterable[ImageInput]) -> Iterator[Prediction | Problem]:
        """Yield the prediction of each image in order, or what is wrong with it; the next ones are decoded meanwhile.

        Raises:
            InputError: if an array is no image.
            NotFittedError: before `fit` or `load`.
        """
        fitted = self.fitted
        return predictions(
            lambda image, path: _predict(image, path, fitted),
            images,
            bit_depth=self.settings.bit_depth,
            threads=self.threads,
        )

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the model folder; a kill at any moment leaves the old one or the new one.

        Raises:
            NotFittedError: before `fit` or `load`.
            SaveError: if it can't be written; what was there is still there.
        """
        fitted = self.fitted
        return save_model(folder, header=header_of(self.settings, fitted), network=fitted.maps.model)

    @classmethod
    def load(cls, folder: str | os.PathLike[str], *, threads: int | None = None) -> EfficientAd:
        """Return the detector in a model folder; nothing in the folder is executed.

        Raises:
            InputError: if `threads` is out of range.
            ModelFileError: if it is absent, damaged, unsafe, from a newer version or of another detector.
        """
        return cls.from_model(load_model(folder), threads=threads)

    @classmethod
    def from_model(cls, model: ModelFolder, *, threads: int | None = None) -> EfficientAd:
        """Return the detector in a model folder that was read.

        Raises:
            InputError: if `threads` is out of range.
            ModelFileError: if it is of another detector, or its parts do not fit each other.
        """
        detector = cls.__new__(cls)
        detector.threads = checked_threads(threads)
        detector.settings, detector._fitted = from_folder(model, threads=detector.threads)
        detector._teacher = None
        detector.checkpoint = detector.device = None
        detector.problems, detector.warning = (), ""
        return detector

    def header(self) -> dict[str, Any]:
        """Return what `model.json` says of this detector: settings, input, thresholds, provenance."""
        return header_of(self.settings, self.fitted)


def _predict(image: UInt8, path: Path | None, fitted: EfficientAdState) -> Prediction:
    score, anomaly_map = fitted.maps.score_and_map(image)
    return prediction(score, anomaly_map, image=fitted.calibration, pixel=fitted.calibration, path=path)


def _load_teacher(settings: EfficientAdSettings) -> Teacher:
    """Return the teacher that the settings name, if it has as many outputs as they say."""
    teacher = load_teacher(settings.model_size, settings.teacher or None)
    n = len(list(teacher.state.values())[-1])
    if n != settings.teacher_out_channels:
        where = settings.teacher or None
        raise InputError(
            message("teacher_out_channels", f"{n} as the teacher has", str(settings.teacher_out_channels), where=where)
        )
    return teacher
