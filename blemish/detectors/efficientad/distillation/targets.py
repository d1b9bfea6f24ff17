"""Training pairs of a distillation: crops of natural images, and a pretrained network's features at those places.

Crops and targets are computed once and kept in two memory-mapped files, so that a killed run continues and no training
step waits for the pretrained network.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from blemish import backbones, runtime
from blemish._graphs.receptive_field import graph_fields
from blemish._io.files import atomic_write, save_error
from blemish._validation.checks import check_number
from blemish.data.discovery import IMAGE_ENDINGS, list_images, no_images
from blemish.detectors.efficientad.pdn import N_FEATURES, layers, output_hw
from blemish.errors import DataError, ImageError, InputError, ModelFileError, message
from blemish.imaging.decode import load, resize
from blemish.ops.receptive_field import receptive_field
from blemish.ops.statistics import Moments
from blemish.types import Float32, Progress, UInt8, no_progress

if TYPE_CHECKING:
    from blemish.backbones.backbone import Backbone

FINER = 2  # the pretrained network's input over the student's: Batzner et al. 2024, appendix A: 512 and 256
GREY_SHARE = 0.1  # of images made grey: Batzner et al. 2024, algorithm 3
STATISTICS_IMAGES = 64  # for the channels' means and standard deviations
MIN_IMAGES = 8
SAVE_IMAGES = 50  # between two writes of the progress
ALIGNED = 32  # pixels: twice that is what the pretrained networks' strides divide
PREPARED = "prepared.json"


@dataclass(frozen=True)
class TargetSettings:
    """Settings of crops and targets, which stay the same until a run is finished.

    Attributes:
        backbone: the pretrained network.
        layers: whose features are the targets.
        image_px: shorter side of the resized images.
        max_images: most images, the first by name; None for all.
    """

    backbone: str = "efficientnet_lite2"
    layers: tuple[str, ...] = ("blocks.6", "blocks.14")
    image_px: int = 256
    crop_px: int = 97
    crops_per_image: int = 8
    max_images: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_number("image_px", self.image_px, low=64, high=4096)
        if self.image_px % ALIGNED:
            raise InputError(message("image_px", f"a multiple of {ALIGNED}", str(self.image_px)))
        check_number("crop_px", self.crop_px, low=33, high=self.image_px)
        check_number("crops_per_image", self.crops_per_image, low=1, high=1024)
        check_number("max_images", 1 if self.max_images is None else self.max_images, low=1, high=1e9)


@dataclass(frozen=True)
class Targets:
    """Training pairs on disk.

    Attributes:
        crops: (N, crop_px, crop_px, 3) uint8 RGB, memory-mapped.
        features: (N, h, w, C) float16, memory-mapped: channels of mean 0 and variance 1 over natural images; where
            there are more than 384, projected to 384 at random, orthogonally.
        valid: (M,) indices of the crops whose image could be read.
        facts: for the card: images, SHA-256 of their bytes, the network's weights.
    """

    crops: NDArray[np.uint8]
    features: NDArray[np.float16]
    valid: NDArray[np.int64]
    problems: tuple[str, ...]
    facts: dict[str, Any]


class Source:
    """A pretrained network, whose layers are interpolated at the outputs of a PDN."""

    def __init__(self, settings: TargetSettings, *, threads: int | None = None) -> None:
        self.backbone: Backbone = backbones.build(settings.backbone, layers=settings.layers)
        self.session = runtime.load(self.backbone.model, threads=threads)
        fields = graph_fields(self.backbone.model, self.backbone.layers)
        # In pixels of the smaller image: pixel u of the finer one has its middle at (u + 0.5) / FINER - 0.5.
        self.places = [((f.centre + 0.5) / FINER - 0.5, f.stride / FINER) for f in fields.values()]
        self.n_channels = sum(self.backbone.channels)
        self.step = max(f.stride for f in fields.values())

    def features(self, image: UInt8, hw: tuple[int, int]) -> Float32:
        """Return the network's features of an image at the centres of a PDN's outputs.

        Returns:
            (h, w, C) float32, the layers' channels one after another.
        """
        finer = resize(image, (FINER * hw[0], FINER * hw[1]))
        maps = self.session.run(finer[None])
        field = receptive_field(layers())
        at = [field.centre + field.stride * np.arange(n) for n in output_hw("small", hw)]
        parts = []
        for name, (first, stride) in zip(self.backbone.layers, self.places, strict=True):
            features = maps[name][0]
            for axis in (0, 1):
                features = _linear(features, (at[axis] - first) / stride, axis + 1)
            parts.append(features)
        joined: Float32 = np.concatenate(parts).transpose(1, 2, 0)
        return joined


def _linear(array: Float32, at: NDArray[np.floating[Any]], axis: int) -> Float32:
    """Return the linear interpolation of an array along an axis, clamped at its ends."""
    at = np.clip(at, 0, array.shape[axis] - 1)
    low = np.minimum(at.astype(np.int64), max(array.shape[axis] - 2, 0))
    high = np.minimum(low + 1, array.shape[axis] - 1)
    shape = [-1 if n == axis else 1 for n in range(array.ndim)]
    weight = (at - low).astype(np.float32).reshape(shape)
    mixed: Float32 = np.take(array, low, axis) * (1 - weight) + np.take(array, high, axis) * weight
    return mixed


def projection(n_channels: int, seed: int) -> Float32:
    """Return a random orthogonal projection of a network's normalised channels to a teacher's 384 features.

    Distances between patches are preserved: exactly up to 384 channels, in expectation beyond. Differs: the reference
    program pools adjacent channels adaptively, and repeats them where there are too few.

    Returns:
        (C, 384) float32 with orthonormal rows if C <= 384, else orthonormal columns, scaled so that features have
        variance 1 on average.
    """
    rng = np.random.default_rng((seed, 384))
    tall = rng.normal(size=(max(n_channels, N_FEATURES), min(n_channels, N_FEATURES)))
    q = np.linalg.qr(tall)[0]
    matrix = q.T * np.sqrt(N_FEATURES / n_channels) if n_channels <= N_FEATURES else q
    return np.ascontiguousarray(matrix, dtype=np.float32)


def prepare(
    images: str | os.PathLike[str],
    folder: Path,
    settings: TargetSettings,
    *,
    threads: int | None = None,
    progress: Progress = no_progress,
) -> Targets:
    """Return the training pairs of a folder of images, computing those that are missing.

    Raises:
        DataError: if there are fewer than 8 images that can be read.
        InputError: if `folder` holds targets of other settings or images.
        ModelFileError: if the network's weights are not there.
    """
    paths, _ = list_images(Path(images), IMAGE_ENDINGS)
    if not paths:
        raise no_images("images", [Path(images)], IMAGE_ENDINGS)
    paths = paths[: settings.max_images]
    if len(paths) < MIN_IMAGES:
        got, todo = str(len(paths)), "A teacher needs some thousands; a good one, many more."
        raise DataError(message("images", f"at least {MIN_IMAGES}", got, where=images, todo=todo))
    source = Source(settings, threads=threads)
    identity = _identity(settings, paths, Path(images), source)
    done = _open(folder, identity)
    if done is None:
        rng = np.random.default_rng((settings.seed, 1))
        sample = [paths[i] for i in rng.permutation(len(paths))[:STATISTICS_IMAGES]]
        mean, deviation = _statistics(source, sample, settings)
        done = {"identity": identity, "images": 0, "left_out": {}, "mean": mean.tolist(), "std": deviation.tolist()}
    mapped = _mapped(
        folder, done["images"] > 0, len(paths) * settings.crops_per_image, settings, min(source.n_channels, N_FEATURES)
    )
    _fill(source, paths, mapped, done, settings=settings, folder=folder, progress=progress)
    left_out = done["left_out"]
    each = settings.crops_per_image
    valid = [i * each + n for i in range(len(paths)) if str(i) not in left_out for n in range(each)]
    if len(valid) < MIN_IMAGES * each:
        problem = next(iter(left_out.values()))
        raise DataError(message("images", f"at least {MIN_IMAGES} that can be read", problem, where=images))
    facts = {
        "images": len(valid) // each,
        "images_sha256": identity["images_sha256"],
        "weights_sha256": source.backbone.weights_sha256,
        "channels": source.n_channels,
    }
    return Targets(*mapped, np.array(valid, np.int64), tuple(left_out.values()), facts)


def _identity(settings: TargetSettings, paths: Sequence[Path], root: Path, source: Source) -> dict[str, Any]:
    """Return the identity of the prepared files: settings, images, weights."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            size = path.stat().st_size
        except OSError:
            size = -1
        digest.update(f"{path.relative_to(root).as_posix()} {size}\n".encode())
    document = {**asdict(settings), "layers": list(settings.layers)}
    return {**document, "images_sha256": digest.hexdigest(), "weights_sha256": source.backbone.weights_sha256}


def _open(folder: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    """Return the state of the prepared files, or None if there are none."""
    path = folder / PREPARED
    if not path.exists():
        return None
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        saved = dict(state["identity"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(path, repr(str(error)[:80])) from None
    other = [name for name in identity if saved.get(name) != identity[name]]
    if other:
        got = f"{other[0]} {saved.get(other[0])!r:.60}"
        todo = f"Give the settings of before, or delete {folder} to begin anew."
        expected = f"{other[0]} {identity[other[0]]!r:.60}"
        raise InputError(message("prepared crops", expected, got, where=folder, todo=todo))
    return dict(state)


def _mapped(
    folder: Path, again: bool, n_crops: int, settings: TargetSettings, n_channels: int
) -> tuple[NDArray[np.uint8], NDArray[np.float16]]:
    hw = output_hw("small", (settings.crop_px, settings.crop_px))
    folder.mkdir(parents=True, exist_ok=True)
    arrays = []
    for name, dtype, shape in (
        ("crops.npy", np.uint8, (n_crops, settings.crop_px, settings.crop_px, 3)),
        ("targets.npy", np.float16, (n_crops, *hw, n_channels)),
    ):
        path = folder / name
        mode: Literal["r+", "w+"] = "r+" if again else "w+"
        try:
            array = np.lib.format.open_memmap(path, mode=mode, dtype=dtype, shape=shape)
        except (OSError, ValueError) as error:
            raise save_error(name, path, error) if isinstance(error, OSError) else _damaged(path, str(error)) from error
        if array.shape != shape or array.dtype != dtype:
            raise _damaged(path, f"{array.dtype} {array.shape}")
        arrays.append(array)
    return arrays[0], arrays[1]


def _damaged(path: Path, got: str) -> ModelFileError:
    todo = f"Delete {path.parent} to begin anew."
    return ModelFileError(message(path.name, "a file of distill", got[:120], where=path.parent, todo=todo))


def _statistics(
    source: Source, paths: Sequence[Path], settings: TargetSettings
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and standard deviation of each channel over some images."""
    moments = Moments()
    for path in paths:
        try:
            image = load(path)
        except ImageError:
            continue
        moments.add(source.features(image, _small_hw(image, settings)).reshape(-1, source.n_channels))
    if not moments.n:
        raise DataError(message("images", "some that can be read", f"none of {len(paths)} tried"))
    mean, covariance = moments.mean_and_covariance()
    return mean, np.sqrt(np.maximum(np.diag(covariance), 1e-12))


def _small_hw(image: UInt8, settings: TargetSettings) -> tuple[int, int]:
    """Return the size of the PDN's input: a multiple of 32 pixels, which the network's strides divide."""
    height, width = image.shape[:2]
    scale = settings.image_px / min(height, width)
    # At most 3 to 1: a panorama would only cost more.
    longer = [
        min(max(settings.image_px, round(side * scale / ALIGNED) * ALIGNED), 3 * settings.image_px)
        for side in (height, width)
    ]
    return longer[0], longer[1]


def _fill(
    source: Source,
    paths: Sequence[Path],
    mapped: tuple[NDArray[np.uint8], NDArray[np.float16]],
    done: dict[str, Any],
    *,
    settings: TargetSettings,
    folder: Path,
    progress: Progress,
) -> None:
    mean, deviation = (np.array(done[name], np.float32) for name in ("mean", "std"))
    to_384 = projection(source.n_channels, settings.seed) if source.n_channels > N_FEATURES else None
    each = settings.crops_per_image
    for i in range(done["images"], len(paths)):
        rng = np.random.default_rng((settings.seed, 2, i))
        try:
            crops, features = _crops(source, load(paths[i]), settings, rng)
        except ImageError as error:
            done["left_out"][str(i)] = str(error)
        else:
            features = (features - mean) / deviation
            mapped[0][i * each : (i + 1) * each] = crops
            mapped[1][i * each : (i + 1) * each] = features if to_384 is None else features @ to_384
        done["images"] = i + 1
        if (i + 1) % SAVE_IMAGES == 0 or i + 1 == len(paths):
            for array in mapped:
                getattr(array, "flush", lambda: None)()
            atomic_write(folder / PREPARED, json.dumps(done).encode(), name="prepared crops")
        progress("preparing crops", i + 1, len(paths))


def _crops(source: Source, image: UInt8, settings: TargetSettings, rng: np.random.Generator) -> tuple[UInt8, Float32]:
    """Return crops of an image, at random flipped or grey, and their targets, (n, crop_px, ...) and (n, h, w, C)."""
    if rng.random() < 0.5:
        image = np.ascontiguousarray(image[:, ::-1])
    if rng.random() < GREY_SHARE:
        grey = image @ np.array([0.299, 0.587, 0.114], np.float32)
        image = np.repeat(np.rint(grey)[..., None], 3, axis=2).astype(np.uint8)
    hw = _small_hw(image, settings)
    small, features = resize(image, hw), source.features(image, hw)
    step = receptive_field(layers()).stride
    side = settings.crop_px
    n = output_hw("small", (side, side))[0]
    crops, targets = [], []
    for _ in range(settings.crops_per_image):
        # At a multiple of the stride, a crop's outputs are the whole image's.
        row, column = (int(rng.integers(0, (pixels - side) // step + 1)) for pixels in hw)
        crops.append(small[row * step : row * step + side, column * step : column * step + side])
        targets.append(features[row : row + n, column : column + n])
    return np.stack(crops), np.stack(targets)
