"""The template of every detector: fit, predict, calibration, save and load, once for all."""

from __future__ import annotations

import os
import re
import textwrap
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeAlias, TypeVar

import numpy as np

from blemish._io.prefetch import prefetch
from blemish.data.training_images import TrainingImages
from blemish.detectors.pickling import Origin, digest_of, reduced
from blemish.detectors.settings import Settings, describe_settings
from blemish.detectors.suspects import find_suspects, indices_of, notes_of, warnings_of
from blemish.detectors.update import learnt_images, marked, new_images
from blemish.errors import ImageError, InputError, ModelFileError, NotFittedError, message
from blemish.imaging.anomaly_map import peak, regions
from blemish.imaging.decode import path_of, read_image
from blemish.modelfolder.folder import CARRIED, ModelFolder, load_model, write_model
from blemish.modelfolder.header import (
    CONFIRMED,
    Training,
    read_calibration,
    read_fitted,
    read_geometry,
    read_good_range,
    read_pixel_share,
    read_training,
    tail_fields,
)
from blemish.ops.near_duplicates import merged
from blemish.types import GoodPatch, Prediction, Problem, Suspect, no_progress

if TYPE_CHECKING:
    from blemish.imaging.drift import GoodRange
    from blemish.imaging.geometry import Geometry
    from blemish.ops.conformal import Calibration
    from blemish.types import Float32, Float64, ImageInput, Progress, UInt8

SettingsT = TypeVar("SettingsT", bound=Settings)
StateT = TypeVar("StateT", bound="DetectorState")
AnyDetector: TypeAlias = "Detector[Any, Any]"
Own = TypeVar("Own", bound="Detector[Any, Any]")
# Of the highest value of an image's map: lower values beside a strong defect are its blur. With a pixel share of 1 %,
# the F1 of all pixels of six development sets was .41 without it, and .43 to .45 from .3 to .5.
PEAK_SHARE = 0.35
# Images that are predicted at a time: what one leaves idle of the cores, another uses; each takes memory.
MAX_AT_ONCE = 4


@dataclass(frozen=True, kw_only=True)
class DetectorState(ABC):
    """A fitted detector: all that predicting needs.

    Attributes:
        geometry: from an image to the network's input, and from the patch grid back to the image.
        image_calibration: of image scores.
        pixel_calibration: of the value of each calibration image's map that `pixel_share` of its pixels exceed.
        carried: arrays of the `CARRIED` files of the model folder: file name to tensor name to array.
        pixel_share: 0 for the highest value. Above 0 a good image has pixels above the threshold: images that are
            called good have no mask then (`PEAK_SHARE`).
        training: path and size of each training image.
        provenance: seed, hashes, counts and times, for `model.json`.
        good_range: of the training images' statistics; None if an earlier version or another program fitted it.
    """

    geometry: Geometry
    image_calibration: Calibration
    pixel_calibration: Calibration
    training: Training
    provenance: Mapping[str, str | int | float] = field(repr=False)
    good_range: GoodRange | None = None
    pixel_share: float = 0.0
    carried: Mapping[str, Mapping[str, np.ndarray[Any, Any]]] = field(default_factory=dict, repr=False)

    @property
    @abstractmethod
    def network(self) -> bytes:
        """The ONNX graph that predicting runs."""

    @abstractmethod
    def tensors(self) -> dict[str, dict[str, np.ndarray[Any, Any]]]:
        """Return the arrays that a model folder holds: file name to tensor name to array."""

    def files(self) -> dict[str, Mapping[str, np.ndarray[Any, Any]]]:
        """Return the arrays of all safetensors files, with those that only travel along."""
        return {**self.tensors(), **self.carried}

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences for the user on choices that the fit made."""
        return ()

    def header(self) -> dict[str, Any]:
        """Return the fields of `model.json` that only this detector has."""
        return {}

    @property
    def scores(self) -> Float64:
        """One score of each calibration image, before any score fusion; empty if they are not known."""
        return np.array([score for score in self.training.scores if score is not None], np.float64)


@dataclass(frozen=True)
class Scored:
    """A detector's result for one image, before thresholds.

    Attributes:
        score: of the image.
        anomaly_map: (H, W) float32 at the size of the image.
        nearest_good: the good patch that the most anomalous patch was compared with.
        components: summands of the score, by name.
    """

    score: float
    anomaly_map: Float32
    nearest_good: GoodPatch | None = None
    components: Mapping[str, float] = field(default_factory=dict)


class Detector(ABC, Generic[SettingsT, StateT]):
    """Template of a detector: it adds settings, a state, how to fit it and how to score an image.

    Attributes:
        settings: the settings, frozen.
        problems: the training images that the last fit left out, and why.
    """

    name: ClassVar[str]
    settings_type: ClassVar[type[Settings]]
    least_images: ClassVar[int] = 2

    settings: SettingsT
    problems: tuple[Problem, ...] = ()
    _state: StateT | None = None
    _pretrained: Any = None
    _origin: Origin | None = None

    def __init_subclass__(cls, **given: Any) -> None:
        """Document the settings as the arguments of the constructor."""
        super().__init_subclass__(**given)
        # Python 3.13 takes the indentation of the class off.
        place = re.search(r"^( *){settings}$", cls.__doc__ or "", re.MULTILINE)
        if cls.__doc__ and place:
            lines = [f"{row.name}: {row.help}" for row in describe_settings(cls.settings_type)]
            listed = "\n".join(
                textwrap.indent(textwrap.fill(x, 108, subsequent_indent="    "), place[1]) for x in lines
            )
            cls.__doc__ = cls.__doc__.replace(place[0], listed)

    @abstractmethod
    def _fit(self, images: TrainingImages, progress: Progress) -> StateT:
        """Return the state fitted on images; those that can't be decoded join `images.problems`."""

    @abstractmethod
    def _score(self, image: UInt8, network_input: UInt8, state: StateT) -> Scored:
        """Return score and map of an image, uint8 (H, W, 3) RGB, and the network's input that was prepared from it."""

    @classmethod
    @abstractmethod
    def _read(cls, model: ModelFolder, settings: Any, common: Mapping[str, Any]) -> StateT:
        """Return the state in a model folder; any error is one of the folder.

        Args:
            model: the folder, its files verified.
            settings: the settings in it.
            common: the attributes of `DetectorState`.
        """

    @abstractmethod
    def estimated_bytes(self, n_images: int) -> int:
        """Return the peak memory of fitting on so many images, estimated, in bytes."""

    @abstractmethod
    def estimated_seconds(self, samples: Sequence[ImageInput]) -> float | None:
        """Return the time of fitting on these images here, estimated, in seconds; None if it is not known before.

        It tries a few of the images, and takes seconds. For fewer images than it is worth its while it is None, too.
        """

    def _configure(self, settings: SettingsT) -> None:
        self._pretrained = settings.load_pretrained()
        self.settings = settings.completed(self._pretrained)

    @property
    def pretrained(self) -> Any:
        """The pretrained weights; those of a loaded detector are read at their first use.

        Raises:
            InputError: if a loaded detector's weights differ from those of this machine.
            ModelFileError: if they are not on this machine.
        """
        if self._pretrained is None:
            pretrained, known = self.settings.load_pretrained(), self.fitted.provenance.get("backbone_sha256")
            if pretrained is not None and pretrained.weights_sha256 != known:
                argument = self.settings.weights_argument
                todo = f"Make a new detector with {argument}= of that file."
                wanted, got = f"those of the model, SHA-256 {known!s:.16}...", f"{pretrained.weights_sha256:.16}..."
                raise InputError(message(argument, wanted, got, todo=todo))
            self._pretrained = pretrained
        return self._pretrained

    def fit(self: Own, samples: Iterable[ImageInput], *, progress: Progress | None = None) -> Own:
        """Fit on good images: samples, paths or arrays, uint8 (H, W, 3) RGB or (H, W) grey; return self.

        Broken images are left out and listed in `problems`. The fitted state is replaced only when all is done.

        Args:
            samples: the good images; 100 or more for a false positive rate of 1 %.
            progress: called as progress(stage, done, total).

        Raises:
            DataError: if too few can be read.
            InputError: if an array is no image, or a loaded detector's weights differ from those of this machine.
            ModelFileError: if a loaded detector's weights are not on this machine.
        """
        if self.is_fitted:
            _ = self.pretrained  # an error before an image is read
        settings = self.settings
        images = TrainingImages(
            list(samples), bit_depth=settings.bit_depth, threads=settings.n_threads, least=self.least_images
        )
        return self.accept(images, self._fit(images, progress or no_progress))

    def accept(self: Own, images: TrainingImages, state: StateT) -> Own:
        """Take the state that was fitted on images, here or elsewhere; return self."""
        groups = tuple(merged(np.arange(len(images)), [*enumerate(images.found_groups.tolist())]).tolist())
        training = replace(state.training, sha256s=images.digests, groups=groups, root=os.path.realpath(os.curdir))
        self._state = replace(state, training=training, good_range=images.good_range())
        self.problems = tuple(images.problems)
        return self

    def predict(self, image: ImageInput) -> Prediction:
        """Return the prediction of one image, a path, a sample or an array; no file is written.

        Raises:
            ImageError: if the file can't be read.
            InputError: if the array is no image.
            NotFittedError: before `fit` or `load`.
        """
        state = self.fitted
        return self._predict(read_image(image, self.bit_depth), state, path_of(image))

    def predict_many(self, images: Iterable[ImageInput]) -> Iterator[Prediction | Problem]:
        """Yield the prediction of each image in order, or its problem; a few images are predicted at a time.

        Raises:
            InputError: if an array is no image.
            NotFittedError: before `fit` or `load`.
        """
        state = self.fitted

        def predict(item: ImageInput) -> Prediction | Problem:
            path = path_of(item)
            try:
                image = read_image(item, self.bit_depth)
            except ImageError as error:
                text = str(error)
            except MemoryError:
                text = message("image", "an image", "one that does not fit into memory", where=path)
            else:
                return self._predict(image, state, path)
            return Problem(path or Path(), "unreadable", text)

        at_once = min(self.threads, MAX_AT_ONCE)
        return prefetch(predict, images, threads=at_once, ahead=at_once)

    def _predict(self, image: UInt8, state: StateT, path: Path | None) -> Prediction:
        network_input = state.geometry.prepare(image)
        scored = self._score(image, network_input, state)
        shapes = state.training.shape_range
        drift = "" if shapes is None else shapes.drift((image.shape[0], image.shape[1]))
        if not drift and state.good_range is not None:
            drift = state.good_range.drift(network_input)
        return replace(_prediction(scored, state, path), drift=drift)

    def nearest_good_patches(self, image: ImageInput, k: int) -> tuple[GoodPatch, ...]:
        """Return the good patches nearest to the most anomalous one, nearest first, each of another training image.

        A detector without a memory bank knows none.

        Args:
            image: a path, a sample or an array.
            k: how many, at most.

        Raises:
            ImageError: if the file can't be read.
            InputError: if the array is no image.
            NotFittedError: before `fit` or `load`.
        """
        nearest = self.predict(image).nearest_good
        return () if nearest is None else (nearest,)[:k]

    @property
    def is_fitted(self) -> bool:
        """Whether it can predict."""
        return self._state is not None

    @property
    def fitted(self) -> StateT:
        """The fitted state.

        Raises:
            NotFittedError: before `fit` or `load`.
        """
        if self._state is None:
            todo = "Call fit() with good images, or load() a model folder."
            raise NotFittedError(message(type(self).__name__, "a fitted detector", "one never fitted", todo=todo))
        return self._state

    @property
    def calibration(self) -> Calibration:
        """Scores of good images and the image threshold that follows from them."""
        return self.fitted.image_calibration

    @property
    def suspects(self) -> tuple[Suspect, ...]:
        """The training images that look defective and were not reviewed, the least probable first.

        Images outside the calibration set (of more than 1,000 good images, or those that EfficientAD trains on) are not
        known.
        """
        return find_suspects(self.fitted.training, self.calibration)

    @property
    def training_warnings(self) -> tuple[str, ...]:
        """Sentences on training images that no threshold should rest on: all the same, or many of them defective."""
        return warnings_of(self.fitted.training, self.calibration, self.fitted.scores)

    def confirmed(self: Own, paths: Iterable[str | os.PathLike[str]]) -> Own:
        """Return the detector with training images, and those of the same parts, confirmed as good: no suspects.

        Raises:
            InputError: if a path is of no training image.
        """
        state = self.fitted
        training = state.training.reviewed(state.training.alike(indices_of(state.training, paths)), CONFIRMED)
        return self.from_state(self.settings, replace(state, training=training))

    def without(self: Own, paths: Iterable[str | os.PathLike[str]]) -> Own:
        """Return the detector without some training images, and with the thresholds of the others; `Patchcore` only.

        It takes no files and a second, but what all images have in common stays; `update` with `without` fits again.

        Raises:
            InputError: if a path is of no training image, the detector can't forget one, or too little would be left.
        """
        indices_of(self.fitted.training, paths)
        todo = "Fit again without them: detector.update(without=paths)."
        raise InputError(
            message("without", "a PatchCore model, whose memory bank knows its images", self.name, todo=todo)
        )

    def update(
        self: Own,
        good: Iterable[ImageInput] = (),
        *,
        without: Iterable[str | os.PathLike[str]] = (),
        progress: Progress | None = None,
    ) -> Own:
        """Return the detector fitted again, with more good images or without some; this one stays as it is.

        Images that people looked at and found good, whatever the detector had called them, become confirmed training
        images. Each image is scored without its own part, and the thresholds follow. Dropped images stay out.
        Give all reviewed good images, not only those called defective: they stand for the parts to come, and
        thresholds rest on them.

        Args:
            good: samples, paths or arrays.
            without: paths of training images that are not learnt from any more, nor others of the same part.
            progress: called as progress(stage, done, total).

        Raises:
            DataError: if too few can be read.
            InputError: if the files of the training images are absent or others now, there is no new image, or a path
                is of no training image.
            ModelFileError: if the detector's weights are not on this machine.
        """
        before, good = self.fitted, list(good)
        left_out = before.training.alike(indices_of(before.training, without))
        known = learnt_images(before.training, before.provenance, left_out)
        new = new_images(before.training, good, self.bit_depth) if good or not left_out else []
        updated = copy(self)
        updated.fit([*known, *new], progress=progress)
        state = updated.fitted
        origin = self._origin
        parent = origin.digest if origin is not None and origin.state is before else ""
        provenance = {**state.provenance, "parent": parent, "n_reviewed": len(new)}
        training = marked(state.training, before.training, known, new)
        updated._state = replace(state, training=training, provenance=provenance)
        return updated

    @property
    def threshold(self) -> float:
        """The image threshold: an image with a higher score is called defective."""
        return self.fitted.image_calibration.threshold

    @property
    def pixel_threshold(self) -> float:
        """The threshold of the anomaly map: no more good images than stated have more than `pixel_share` above it."""
        return self.fitted.pixel_calibration.threshold

    @property
    def false_positive_rate(self) -> float:
        """Share of good images that may be called defective, as it was asked for."""
        return self.settings.false_positive_rate

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences for the user on choices that the fit made."""
        return (*notes_of(self.fitted.training), *self.fitted.notes)

    @property
    def bit_depth(self) -> int | None:
        """Bits that 16-bit images really use; None for all."""
        return self.settings.bit_depth

    @property
    def threads(self) -> int:
        """Threads for decoding and for the network."""
        return self.settings.n_threads

    def set_false_positive_rate(self, false_positive_rate: float) -> None:
        """Move both thresholds to another false positive rate, by the calibration scores that the model holds.

        Raises:
            InputError: if the rate is not between 0 and 1.
        """
        state = self.fitted
        image = state.image_calibration.with_rate(false_positive_rate)
        pixel = state.pixel_calibration.with_rate(false_positive_rate)
        self._state = replace(state, image_calibration=image, pixel_calibration=pixel)
        self.settings = replace(self.settings, false_positive_rate=image.false_positive_rate)

    def header(self) -> dict[str, Any]:
        """Return the content of `model.json`: settings, input, thresholds, provenance and training images."""
        state = self.fitted
        geometry, image, pixel = state.geometry, state.image_calibration, state.pixel_calibration
        return {
            "detector": self.name,
            "settings": self.settings.to_dict(),
            "input": {
                "resize_hw": geometry.resize_hw,
                "crop_hw": geometry.crop_hw,
                "resize_in_graph": geometry.resize_in_graph,
            },
            "anomaly_map": geometry.map_rule._asdict(),
            "thresholds": {
                "false_positive_rate": image.false_positive_rate,
                "image": image.threshold,
                "pixel": pixel.threshold,
                "image_scores": image.scores,
                "pixel_scores": pixel.scores,
                **tail_fields(image.options, pixel.options),
                "pixel_share": state.pixel_share,
            },
            "provenance": dict(state.provenance),
            "training": state.training.to_json(),
            **({} if state.good_range is None else {"good_range": dict(state.good_range.limits)}),
            **state.header(),
        }

    def carry(self, name: str, tensors: Mapping[str, np.ndarray[Any, Any]]) -> None:
        """Put a file into the model that travels with it and does not change what it computes.

        Args:
            name: one of `CARRIED`.
            tensors: its content.
        """
        self._state = replace(self.fitted, carried={**self.fitted.carried, name: dict(tensors)})

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the model folder; a kill at any moment leaves the old one or the new one.

        Raises:
            NotFittedError: before `fit` or `load`.
            SaveError: if it can't be written; the folder is then as it was.
        """
        state = self.fitted
        digest = write_model(folder, header=self.header(), network=state.network, tensors=state.files())
        self._origin = Origin(os.path.realpath(folder), digest, state, self.settings)
        return Path(folder)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """Pickle by model folder, or by its content; see `blemish.detectors.pickling`."""
        return reduced(self)

    def __copy__(self: Own) -> Own:
        copied = type(self).__new__(type(self))
        vars(copied).update(vars(self))
        return copied

    @classmethod
    def load(cls: type[Own], folder: str | os.PathLike[str], *, threads: int | None = None) -> Own:
        """Return the detector in a model folder; nothing in the folder is executed.

        Raises:
            InputError: if `threads` is out of range.
            ModelFileError: if it is absent, damaged, unsafe, from a newer version or of another detector.
        """
        return cls.from_model(load_model(folder), threads=threads)

    @classmethod
    def from_model(cls: type[Own], model: ModelFolder, *, threads: int | None = None) -> Own:
        """Return the detector in a model folder that was read.

        Raises:
            InputError: if `threads` is out of range.
            ModelFileError: if it is of another detector, or its parts do not fit each other.
        """
        Settings(threads=threads)  # a wrong number is the caller's error, not one of the folder
        detector = cls.from_state(*read_fitted(model, cls.name, lambda: cls._restored(model, threads)))
        for name in CARRIED:
            if name in model.tensors:
                detector.carry(name, model.tensors[name])
        folder = os.path.realpath(model.path)
        detector._origin = Origin(folder, digest_of(model), detector._state, detector.settings)
        return detector

    @classmethod
    def from_state(cls: type[Own], settings: Any, state: Any) -> Own:
        """Return the detector with these settings and this fitted state."""
        detector = cls.__new__(cls)
        detector.settings, detector._state = settings, state
        return detector

    @classmethod
    def _restored(cls, model: ModelFolder, threads: int | None) -> tuple[Any, Any]:
        header = model.header
        settings = cls.settings_type.from_dict(header["settings"], threads=threads)
        common = {
            "geometry": read_geometry(header),
            "image_calibration": read_calibration(header, "image"),
            "pixel_calibration": read_calibration(header, "pixel"),
            "pixel_share": read_pixel_share(header),
            "training": replace(read_training(header), root=os.path.realpath(model.path)),
            "good_range": read_good_range(header),
            "provenance": dict(header["provenance"]),
        }
        return settings, cls._read(model, settings, common)


def _prediction(scored: Scored, state: DetectorState, path: Path | None) -> Prediction:
    """Return score and map of an image with the thresholds applied.

    With a pixel share, an image that is called good has no mask and no regions, and in others they are what is above
    the pixel threshold and above `PEAK_SHARE` of the highest value.

    Raises:
        ModelFileError: if score or map is not finite: NaN is above no threshold, and would be good.
    """
    if not (np.isfinite(scored.score) and np.isfinite(scored.anomaly_map).all()):
        todo = "The model is damaged, or made to mislead: fit again."
        raise ModelFileError(message("score", "a finite score and map", repr(scored.score), todo=todo))
    image, pixel = state.image_calibration, state.pixel_calibration
    label = scored.score > image.threshold
    limit = pixel.threshold
    if state.pixel_share:
        limit = max(limit, float(np.float32(PEAK_SHARE) * scored.anomaly_map.max())) if label else float("inf")
    return Prediction(
        score=scored.score,
        label=label,
        threshold=image.threshold,
        p_value=image.p_value(scored.score),
        anomaly_map=scored.anomaly_map,
        mask=scored.anomaly_map > np.float32(limit),
        pixel_threshold=pixel.threshold,
        regions=regions(scored.anomaly_map, limit) if np.isfinite(limit) else (),
        peak_xy=peak(scored.anomaly_map),
        nearest_good=scored.nearest_good,
        path=path,
        score_components=scored.components,
        good_peak=float(pixel.scores[(pixel.n - 1) // 4]),
        upper_threshold=image.upper_threshold if image.rule == "tail" else None,
    )
