"""anomalib's PatchCore checkpoints: to a model folder that gives the same scores, and back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from blemish._validation.checks import describe
from blemish._version import __version__
from blemish.backbones.architectures import build_graph
from blemish.backbones.backbone import Backbone
from blemish.backbones.embedding import Extractor, embedding_graph
from blemish.data.training_images import TrainingImages
from blemish.detectors.patchcore.detector import Patchcore
from blemish.detectors.patchcore.fit import calibrate
from blemish.detectors.patchcore.scoring import Scorer
from blemish.detectors.patchcore.settings import PatchcoreSettings
from blemish.detectors.patchcore.state import UNKNOWN, PatchcoreState
from blemish.errors import ModelFileError, message
from blemish.imaging.geometry import MapRule
from blemish.interop.anomalib.preprocessing import Preparation, preparation
from blemish.interop.anomalib.timm_names import Network, network, renormalised, to_ours
from blemish.modelfolder.header import Training
from blemish.ops.conformal import Calibration
from blemish.ops.neighbors import MemoryIndex
from blemish.types import Progress, no_progress

if TYPE_CHECKING:
    import os

    from numpy.typing import NDArray

    from blemish.imaging.geometry import Geometry
    from blemish.types import Float32, ImageInput

FEATURES = "model.feature_extractor.feature_extractor."
MEMORY_BANK = "model.memory_bank"
# A patch this near to a bank row, in the row's length, is where the row was taken from: the same patch by another
# program differs by 1e-6, and another patch that is as near is as good an answer.
SAME = 1e-3
MAP_SIGMA_PX = 4.0  # anomalib 2.7, patchcore/anomaly_map.py


class Imported(NamedTuple):
    """What a checkpoint holds, in our terms.

    Attributes:
        settings: of the detector that gives the same scores.
        geometry: how images are prepared.
        network: the bytes of the graph, `image` to `features`.
        memory_bank: (n, D) float32.
        image_threshold: anomalib's, on raw scores; NaN if it was never validated.
        pixel_threshold: likewise, of the map.
    """

    settings: PatchcoreSettings
    geometry: Geometry
    network: bytes
    memory_bank: Float32
    image_threshold: float
    pixel_threshold: float


def import_patchcore(
    checkpoint: Mapping[str, Any],
    *,
    where: str | os.PathLike[str],
    sha256: str,
    good: Sequence[ImageInput] = (),
    false_positive_rate: float = 0.01,
    threads: int,
    progress: Progress = no_progress,
) -> Patchcore:
    """Return the detector in a checkpoint of anomalib's PatchCore.

    Args:
        checkpoint: as `torchfile.load_checkpoint` gives it, unknown classes allowed.
        where: its file, for errors and for the record.
        sha256: of the file.
        good: good images to calibrate thresholds on, the training images or others; a bank row that lies in one of
            them does not count for it. Without them the checkpoint's own thresholds are kept, which promise nothing.
        false_positive_rate: share of good images that may be called defective.
        threads: for decoding and for the network.
        progress: called now and then as progress(stage, done, total).

    Raises:
        DataError: if fewer than two of the good images can be read.
        InputError: if the backbone is none that we have.
        ModelFileError: if the checkpoint is another model's, not fitted, or says what a model folder can't express.
    """
    found = read_patchcore(checkpoint, false_positive_rate=false_positive_rate, threads=threads, where=where)
    extractor = _extractor(found, threads, where)
    source = np.full((len(found.memory_bank), 3), UNKNOWN, np.int32)
    training = Training()
    if good:
        images = TrainingImages(list(good), bit_depth=None, threads=threads)

        def maps(stage: str) -> Iterator[tuple[int, Float32]]:
            everything = range(len(images))
            return images.feature_maps(extractor.features, found.geometry, everything, stage=stage, progress=progress)

        index = MemoryIndex(found.memory_bank)
        source, kept = _sources(index, maps("finding patches"))
        images.keep(kept)
        scorer, scores, maxima = calibrate(
            found.settings, found.geometry, found.memory_bank, source, maps("calibrating")
        )
        training = Training(tuple(images.names), tuple(images.sizes_hw))
    else:
        scorer = Scorer(MemoryIndex(found.memory_bank), found.settings.num_neighbors, None)
        scores, maxima = _own_thresholds(found, where)
    provenance: dict[str, str | int | float] = {
        "library_version": __version__,
        "imported_from": f"anomalib PatchCore, {where}",
        "imported_sha256": sha256,
        "backbone": str(found.settings.backbone),
        "n_training_files": len(training.paths),
        "thresholds_from": f"{len(scores)} good images" if good else "the checkpoint",
    }
    state = PatchcoreState(
        geometry=found.geometry,
        image_calibration=Calibration.from_scores(scores, false_positive_rate),
        pixel_calibration=Calibration.from_scores(maxima, false_positive_rate),
        training=training,
        provenance=provenance,
        extractor=extractor,
        scorer=scorer,
        source=source,
    )
    return cast("Patchcore", Patchcore.from_state(found.settings, state))


def _own_thresholds(found: Imported, where: object) -> tuple[list[float], list[float]]:
    """Return the checkpoint's own thresholds as the scores that they follow from."""
    if not np.isfinite([found.image_threshold, found.pixel_threshold]).all():
        todo = "Give good images to set them by: --good FOLDER."
        raise ModelFileError(message("thresholds", "numbers", "none yet", where=where, todo=todo))
    return [found.image_threshold], [found.pixel_threshold]


def _extractor(found: Imported, threads: int, where: object) -> Extractor:
    """Return the network, if its features are those of the memory bank."""
    extractor = Extractor(found.network, threads=threads)
    n_features = extractor.features(np.zeros((*found.geometry.network_hw, 3), np.uint8)).shape[2]
    if found.memory_bank.shape[1] != n_features:
        got = str(found.memory_bank.shape)
        raise ModelFileError(message("memory_bank", f"(n, {n_features}) as the network gives", got, where=where))
    return extractor


def read_patchcore(
    checkpoint: Mapping[str, Any], *, false_positive_rate: float, threads: int | None = None, where: object
) -> Imported:
    """Return what a PatchCore checkpoint holds.

    Raises:
        InputError: if the backbone is none that we have.
        ModelFileError: if it is not fitted, or says what a model folder can't express.
    """
    state, told = checkpoint["state_dict"], checkpoint.get("hyper_parameters") or {}
    bank = _bank(state, where)
    name = told.get("backbone", "wide_resnet50_2")
    if not isinstance(name, str):
        todo = "Fit with Blemish instead, with that network as an ONNX file."
        raise ModelFileError(message("backbone", "a name of timm's", "a network of the user's", where=where, todo=todo))
    known = network(name)
    layers = _layers(known, told.get("layers", ("layer2", "layer3")), where)
    prepared = preparation(checkpoint, normalised=True, where=where)
    neighbors = told.get("num_neighbors", 9)
    settings = PatchcoreSettings(
        backbone=known.name,
        layers=layers,
        image_size=prepared.resize_hw,
        center_crop=prepared.crop_hw,
        coreset_sampling_ratio=float(told.get("coreset_sampling_ratio", 0.1)),
        num_neighbors=min(neighbors, len(bank)) if isinstance(neighbors, int) else neighbors,
        pooling=3,
        scaling="none",
        position_sigma=None,
        score_fusion=False,
        false_positive_rate=false_positive_rate,
        threads=threads,
    )
    geometry = replace(
        settings.geometry([(1, 1)], None), resize_in_graph=True, map_rule=MapRule("nearest", MAP_SIGMA_PX)
    )
    weights = {key[len(FEATURES) :]: value for key, value in state.items() if key.startswith(FEATURES)}
    backbone = _backbone(known, layers, weights, prepared)
    graph = embedding_graph(backbone, pooling=3, resized=geometry, count_padding=True)
    thresholds = (float(state.get(f"post_processor._{kind}_threshold", np.nan)) for kind in ("image", "pixel"))
    return Imported(settings, geometry, graph.SerializeToString(), bank, *thresholds)


def _bank(state: Mapping[str, Any], where: object) -> Float32:
    bank = np.ascontiguousarray(state[MEMORY_BANK], np.float32)
    if bank.ndim != 2 or not len(bank):
        todo = "Fit the model, then save the checkpoint."
        raise ModelFileError(
            message("memory_bank", "float32 (n, D), n above 0", describe(bank), where=where, todo=todo)
        )
    return bank


def _layers(known: Network, layers: Any, where: object) -> tuple[str, ...]:
    """Return our names of a checkpoint's layers; anomalib passes over names that it does not know."""
    order = list(known.layers)
    named = [layer for layer in layers if layer in order] if isinstance(layers, (list, tuple)) else []
    if not named or named != sorted(set(named), key=order.index):
        expected = f"some of {', '.join(order)}, finest first"
        raise ModelFileError(message("layers", expected, str(layers)[:80], where=where))
    return tuple(known.layers[layer] for layer in named)


def _backbone(known: Network, layers: tuple[str, ...], weights: Mapping[str, Any], prepared: Preparation) -> Backbone:
    model = build_graph(known.build, to_ours(known, weights), layers)
    # What a checkpoint takes off the pixels need not be what our graph does.
    mean, std = (tuple(255 * number for number in numbers) for numbers in (prepared.mean, prepared.std))
    if not np.allclose([mean, std], [known.mean, known.std], rtol=1e-6):
        renormalised(model, known, mean, std)
    return Backbone(known.name, layers, (), (), "", model)


def _sources(index: MemoryIndex, maps: Iterable[tuple[int, Float32]]) -> tuple[NDArray[np.int32], list[int]]:
    """Return the image, row and column of the patch that each bank row equals, and which images could be read."""
    source = np.full((index.n_rows, 3), UNKNOWN, np.int32)
    nearest = SAME * np.linalg.norm(index.memory_bank, axis=1)
    kept = []
    for i, features in maps:
        kept.append(i)
        found = index.search(features.reshape(-1, features.shape[-1]), 1)
        for patch in np.flatnonzero(found.distances[:, 0] <= nearest[found.indices[:, 0]]):
            row = found.indices[patch, 0]
            if found.distances[patch, 0] <= nearest[row]:
                nearest[row] = found.distances[patch, 0]
                source[row] = len(kept) - 1, *divmod(int(patch), features.shape[1])
    return source, kept
