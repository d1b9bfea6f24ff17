"""PatchCore: a memory bank of good patches, and how far each patch of a new image is from it (Roth et al. 2022)."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blemish import backbones
from blemish._validation.anomalib_arguments import OF_DETECTORS, refuses
from blemish.data.training_images import TrainingImages, path_of, read_image
from blemish.detectors.patchcore.fit import PatchcoreState, estimated_bytes, fit
from blemish.detectors.patchcore.settings import Arithmetic, PatchcoreSettings
from blemish.detectors.patchcore.state import UNKNOWN, from_folder, to_folder
from blemish.detectors.prediction import checked_threads, prediction, predictions
from blemish.errors import InputError, NotFittedError, message
from blemish.modelfolder.folder import load_model, save_model
from blemish.ops.conformal import Calibration
from blemish.types import Float32, GoodPatch, ImageInput, Prediction, Problem, Progress, UInt8, no_progress

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from blemish.backbones.embedding import Extractor
    from blemish.detectors.patchcore.scoring import PatchDistances
    from blemish.modelfolder.folder import ModelFolder
    from blemish.ops.statistics import Scaling


class Patchcore:
    """PatchCore: fits on good images without training, predicts a score and a map.

    Args:
        backbone: a name out of `blemish backbones`, or an ONNX file.
        layers: layers of it, finest first; None for its usual ones.
        weights: a weight file for a named backbone, instead of the installed or fetched one.
        pre_trained: True; PatchCore has nothing to say with random weights.
        image_size: the network's input: (height, width), or one number n for about n * n pixels in the images' own
            aspect if they share one, else square. The whole image is resized, antialiased.
        center_crop: (height, width) or one number: the centre of that which the network sees; None for all of it.
        coreset_sampling_ratio: share of good patches that the bank keeps, at most 20,000 patches in all.
        coreset_size: number of patches that the bank keeps, instead.
        num_neighbors: bank rows that re-weight the image score (Roth et al. 2022, equation 7); 1 for the plain maximum.
        pooling: neighbourhood that each patch feature is averaged over, in cells of its layer.
        scaling: "standard" divides each channel by its deviation in good images, "whiten" also removes
            correlations, "none" leaves features as they are.
        shrinkage: with "whiten": how far weak directions are kept from being blown up.
        position_sigma: smoothing, in cells, of the usual distance and its deviation at each position, which scores are
            relative to; None for plain distances.
        score_sigma: smoothing of the patch map, in cells, before its maximum becomes the image score.
        score_fusion: whether the image score also says how unusual the image is from further away, in its parts
            (Defard et al. 2021) and as a whole (Rippel et al. 2021); False for the worst patch alone.
        map_sigma_px: smoothing of the anomaly map, in pixels of the network's input.
        false_positive_rate: share of good images that may be called defective.
        bit_depth: how many bits 16-bit images really use (12 for most industrial cameras); None for all 16.
        max_rows: patches held in memory while fitting; beyond it, images are read again for each pass and the coreset
            is taken in two levels.
        seed: of the first pick of the coreset.
        arithmetic: "anomalib" to agree with it to four digits of a score, which `blemish import` and `blemish compare`
            use: the network resizes in float32, pooling counts the frame, each patch is a square of the map, and the
            worst patch alone makes the score.
        threads: for decoding and for the network; None for one per core.

    Raises:
        InputError: if a setting is out of range, or the backbone or a layer has no such name.
        ModelFileError: if the backbone's weights are absent (it says how to get them) or damaged.

    Attributes:
        problems: the training images that the last fit left out, and why.
    """

    @refuses("Patchcore", OF_DETECTORS)
    def __init__(
        self,
        *,
        backbone: str | os.PathLike[str] = backbones.DEFAULT,
        layers: Sequence[str] | None = None,
        weights: str | os.PathLike[str] | None = None,
        pre_trained: bool = True,
        image_size: int | tuple[int, int] = 320,
        center_crop: int | tuple[int, int] | None = None,
        coreset_sampling_ratio: float = 0.02,
        coreset_size: int | None = None,
        num_neighbors: int = 1,
        pooling: int = 1,
        scaling: Scaling = "whiten",
        shrinkage: float = 0.1,
        position_sigma: float | None = 1.0,
        score_sigma: float = 0.0,
        score_fusion: bool = True,
        map_sigma_px: float = 4.0,
        false_positive_rate: float = 0.01,
        bit_depth: int | None = None,
        max_rows: int = 500_000,
        seed: int = 0,
        arithmetic: Arithmetic = "blemish",
        threads: int | None = None,
    ) -> None:
        if not pre_trained:
            todo = "Leave it out; for weights of your own give weights=, or an ONNX file as backbone=."
            raise InputError(message("pre_trained", "True", "False", todo=todo))
        self._backbone: backbones.Backbone | None = backbones.build(backbone, layers=layers, weights=weights)
        self.settings = PatchcoreSettings(
            backbone=os.fspath(backbone),
            layers=self._backbone.layers,
            image_size=image_size,
            center_crop=center_crop,
            coreset_sampling_ratio=coreset_sampling_ratio,
            coreset_size=coreset_size,
            num_neighbors=num_neighbors,
            pooling=pooling,
            scaling=scaling,
            shrinkage=shrinkage,
            position_sigma=position_sigma,
            score_sigma=score_sigma,
            score_fusion=score_fusion if arithmetic == "blemish" else False,
            map_sigma_px=map_sigma_px,
            false_positive_rate=Calibration.from_scores([0.0], false_positive_rate).false_positive_rate,
            bit_depth=bit_depth,
            max_rows=max_rows,
            seed=seed,
            arithmetic=arithmetic,
        )
        self.threads = checked_threads(threads)
        self.problems: tuple[Problem, ...] = ()
        self._fitted: PatchcoreState | None = None

    def fit(self, samples: Iterable[ImageInput], *, progress: Progress | None = None) -> Patchcore:
        """Fit on good images: samples, paths or arrays, uint8 (H, W, 3) RGB or (H, W) grey; return self.

        Broken images are left out and listed in `problems`. What was fitted before is kept until all is done.

        Args:
            samples: the good images, at least two; 100 or more for a false positive rate of 1 %.
            progress: called now and then as progress(stage, done, total).

        Raises:
            DataError: if fewer than two can be read.
            InputError: if an array is no image, or a loaded detector's backbone has other weights here.
            ModelFileError: if a loaded detector's backbone is not here.

        Cost: network and coreset; 264 images of 1024 x 1024 in benchmarks/fit_predict.py.
        """
        backbone = self._network()
        images = TrainingImages(list(samples), bit_depth=self.settings.bit_depth, threads=self.threads)
        self._fitted = fit(self.settings, backbone, images, threads=self.threads, progress=progress or no_progress)
        self.problems = tuple(images.problems)
        return self

    def estimated_bytes(self, n_images: int) -> int:
        """Return about how much memory `fit` on so many images takes at its peak, in bytes."""
        return estimated_bytes(self.settings, self._network(), n_images)

    @property
    def is_fitted(self) -> bool:
        """Whether it can predict."""
        return self._fitted is not None

    @property
    def fitted(self) -> PatchcoreState:
        """What fitting ended in: bank, levels, calibrations.

        Raises:
            NotFittedError: before `fit` or `load`.
        """
        if self._fitted is None:
            todo = "Call fit() with good images, or load() a model folder."
            raise NotFittedError(message("Patchcore", "a fitted detector", "one that was never fitted", todo=todo))
        return self._fitted

    @property
    def calibration(self) -> Calibration:
        """Good images' scores and the image threshold that they give."""
        return self.fitted.image_calibration

    @property
    def threshold(self) -> float:
        """The image threshold: scores above it are called defective."""
        return self.fitted.image_calibration.threshold

    @property
    def false_positive_rate(self) -> float:
        """Share of good images that may be called defective, as it was asked for."""
        return self.settings.false_positive_rate

    @property
    def bit_depth(self) -> int | None:
        """How many bits 16-bit images really use; None for all."""
        return self.settings.bit_depth

    @property
    def pixel_threshold(self) -> float:
        """The threshold of the anomaly map: no more good images than stated have any pixel above it."""
        return self.fitted.pixel_calibration.threshold

    def set_false_positive_rate(self, false_positive_rate: float) -> None:
        """Move both thresholds to another false positive rate, from the calibration scores that the model holds.

        Raises:
            InputError: if the rate is not between 0 and 1.
        """
        image = self.fitted.image_calibration.with_rate(false_positive_rate)
        pixel = self.fitted.pixel_calibration.with_rate(false_positive_rate)
        self._fitted = replace(self.fitted, image_calibration=image, pixel_calibration=pixel)
        self.settings = replace(self.settings, false_positive_rate=image.false_positive_rate)

    def predict(self, image: ImageInput) -> Prediction:
        """Return what the detector says of one image: a path, a sample or an array; no file is written.

        Raises:
            ImageError: if the file can't be read.
            InputError: if the array is no image.
            NotFittedError: before `fit` or `load`.
        """
        fitted = self.fitted
        return self._judged(read_image(image, self.settings.bit_depth), path_of(image), fitted)[0]

    def predict_with_features(self, image: ImageInput) -> tuple[Prediction, Float32]:
        """Return what `predict` does, and the (h, w, D) float32 patch features that it was judged by.

        Raises:
            ImageError: if the file can't be read.
            InputError: if the array is no image.
            NotFittedError: before `fit` or `load`.
        """
        fitted = self.fitted
        return self._judged(read_image(image, self.settings.bit_depth), path_of(image), fitted)

    def predict_many(self, images: Iterable[ImageInput]) -> Iterator[Prediction | Problem]:
        """Yield the prediction of each image in order, or what is wrong with it; the next ones are decoded meanwhile.

        Raises:
            InputError: if an array is no image.
            NotFittedError: before `fit` or `load`.
        """
        fitted = self.fitted
        return predictions(
            lambda image, path: self._judged(image, path, fitted)[0],
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
        header, tensors = to_folder(self.settings, fitted)
        return save_model(folder, header=header, network=fitted.extractor.model, tensors=tensors)

    @classmethod
    def load(cls, folder: str | os.PathLike[str], *, threads: int | None = None) -> Patchcore:
        """Return the detector in a model folder; nothing in the folder is executed.

        Raises:
            InputError: if `threads` is out of range.
            ModelFileError: if it is absent, damaged, unsafe, from a newer version or of another detector.
        """
        return cls.from_model(load_model(folder), threads=threads)

    @classmethod
    def from_model(cls, model: ModelFolder, *, threads: int | None = None) -> Patchcore:
        """Return the detector in a model folder that was read.

        Raises:
            InputError: if `threads` is out of range.
            ModelFileError: if it is of another detector, or its parts do not fit each other.
        """
        detector = cls.__new__(cls)
        detector.threads = checked_threads(threads)
        detector.settings, detector._fitted = from_folder(model, threads=detector.threads)
        detector._backbone = None
        detector.problems = ()
        return detector

    def header(self) -> dict[str, Any]:
        """Return what `model.json` says of this detector: settings, input, thresholds, provenance."""
        return to_folder(self.settings, self.fitted)[0]

    def _network(self) -> backbones.Backbone:
        """Return the backbone; that of a loaded detector is built when it is first needed."""
        if self._backbone is None:
            built = backbones.build(self.settings.backbone, layers=self.settings.layers)
            known = self.fitted.provenance.get("backbone_sha256")
            if built.weights_sha256 != known:
                todo = "Make a new Patchcore with weights= of that file."
                wanted, got = f"those of the model, SHA-256 {known!s:.16}...", f"{built.weights_sha256:.16}..."
                raise InputError(message("weights", wanted, got, todo=todo))
            self._backbone = built
        return self._backbone

    def _judged(self, image: UInt8, path: Path | None, fitted: PatchcoreState) -> tuple[Prediction, Float32]:
        seen = fitted.geometry.prepare(image)
        multi_scale = None
        with ThreadPoolExecutor(1) as beside:
            if fitted.whole is not None and self.threads > 1:
                # Network and search leave the cores idle for moments: a tenth of the time is saved beside them.
                multi_scale = beside.submit(_multi_scale, fitted.extractor, seen)
            features = fitted.extractor.features(seen)
            found = fitted.scorer.distances(features)
        patch_map = fitted.scorer.patch_map(found.distances)
        score = fitted.scorer.image_score(patch_map, found.weight)
        score_components = {}
        if fitted.whole is not None:
            views = _multi_scale(fitted.extractor, seen) if multi_scale is None else multi_scale.result()
            score_components = fitted.whole.score_components(score, *views)
            score = sum(score_components.values())
        anomaly_map = fitted.geometry.restore(patch_map, (image.shape[0], image.shape[1]), self.settings.map_sigma_px)
        judged = prediction(
            score,
            anomaly_map,
            image=fitted.image_calibration,
            pixel=fitted.pixel_calibration,
            nearest_good=_nearest_good(fitted, found, int(patch_map.argmax())),
            path=path,
            score_components=score_components,
        )
        return judged, features


def _multi_scale(extractor: Extractor, seen: UInt8) -> tuple[Float32, Float32]:
    """Return an image's parts, (h, w, K), and its summary, (S,)."""
    return extractor.parts(seen), extractor.summary(seen)


def _nearest_good(fitted: PatchcoreState, found: PatchDistances, worst: int) -> GoodPatch | None:
    """Return the good patch that the most anomalous patch was compared with; None if an import does not say which."""
    grid_hw = found.distances.shape[0], found.distances.shape[1]
    image, row, column = fitted.source[found.rows.reshape(-1)[worst]].tolist()
    if image == UNKNOWN:
        return None
    box = fitted.geometry.patch_box(row, column, grid_hw, fitted.sizes_hw[image])
    return GoodPatch(fitted.names[image], box, float(found.distances.reshape(-1)[worst]))
