"""anomalib's EfficientAD checkpoints: to a model folder that gives the same maps."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from blemish._graphs.resize import insert_resize
from blemish._version import __version__
from blemish.data.training_images import TrainingImages
from blemish.detectors.efficientad.detector import EfficientAd
from blemish.detectors.efficientad.graph import Networks, efficientad_graph
from blemish.detectors.efficientad.maps import Maps, Quantiles, open_maps
from blemish.detectors.efficientad.pdn import arrange, arrange_autoencoder
from blemish.detectors.efficientad.settings import EfficientAdSettings
from blemish.detectors.efficientad.state import EfficientAdState
from blemish.errors import ModelFileError, message
from blemish.imaging.decode import read_image
from blemish.imaging.geometry import MapRule
from blemish.interop.anomalib.preprocessing import Preparation, preparation
from blemish.modelfolder.header import Training
from blemish.ops.conformal import Calibration
from blemish.types import Progress, no_progress

if TYPE_CHECKING:
    from blemish.types import ImageInput

MEAN, STD = "model.mean_std.mean", "model.mean_std.std"
THRESHOLD = "post_processor._image_threshold"


def import_efficientad(
    checkpoint: Mapping[str, Any],
    *,
    where: str | os.PathLike[str],
    sha256: str,
    good: Sequence[ImageInput] = (),
    false_positive_rate: float = 0.01,
    threads: int,
    progress: Progress = no_progress,
) -> EfficientAd:
    """Return the detector in a checkpoint of anomalib's EfficientAD; torch is not needed.

    Its quantiles are kept as they are: anomalib takes them on the test set's good images, padding included.

    Args:
        checkpoint: as `torchfile.load_checkpoint` gives it, unknown classes allowed.
        where: its file, for errors and for the record.
        sha256: of the file.
        good: good images to calibrate the threshold on, others than it was trained on: those score lower. Without
            them the checkpoint's own threshold is kept, which promises nothing.
        false_positive_rate: share of good images that may be called defective.
        threads: for decoding and for the network.
        progress: called now and then as progress(stage, done, total).

    Raises:
        DataError: if fewer than two of the good images can be read.
        ModelFileError: if the checkpoint is not trained, or says what a model folder can't express.
    """
    settings = _settings(checkpoint, false_positive_rate, where)
    maps = _maps(checkpoint["state_dict"], settings, threads, where)
    threshold = float(checkpoint["state_dict"].get(THRESHOLD, np.nan))
    scores = [threshold]
    training = Training()
    if good:
        images = TrainingImages(list(good), bit_depth=None, threads=threads)
        scores = []
        for done, item in enumerate(images.items, start=1):
            scores.append(maps.score_and_map(read_image(item, None))[0])
            progress("calibrating", done, len(images))
        training = Training(tuple(images.names), tuple(images.sizes_hw))
    elif not np.isfinite(threshold):
        todo = "Give good images to set it by: --good FOLDER."
        raise ModelFileError(message("thresholds", "numbers", "none yet", where=where, todo=todo))
    provenance: dict[str, str | int | float] = {
        "library_version": __version__,
        "imported_from": f"anomalib EfficientAD, {where}",
        "imported_sha256": sha256,
        "n_training_files": len(training.paths),
        "thresholds_from": f"{len(scores)} good images" if good else "the checkpoint",
    }
    calibration = Calibration.from_scores(scores, false_positive_rate)
    state = EfficientAdState(
        geometry=maps.geometry,
        image_calibration=calibration,
        pixel_calibration=calibration,
        training=training,
        provenance=provenance,
        maps=maps,
    )
    detector: EfficientAd = EfficientAd.from_state(settings, state)
    return detector


def _settings(checkpoint: Mapping[str, Any], false_positive_rate: float, where: object) -> EfficientAdSettings:
    """Return the settings of the detector that gives the same maps."""
    state, told = checkpoint["state_dict"], checkpoint.get("hyper_parameters") or {}
    deviation = np.asarray(state.get(STD, 0.0))
    if not (deviation.ndim == 4 and (deviation > 0).all()):
        got = "none" if STD not in state else "zeros: the model was not trained"
        raise ModelFileError(message("mean_std", "the deviation of each of the teacher's outputs", got, where=where))
    prepared = _prepared(checkpoint, where)
    return EfficientAdSettings(
        model_size="medium" if "model.teacher.conv5.weight" in state else "small",
        teacher="",
        teacher_out_channels=deviation.size,
        image_size=prepared.resize_hw,
        center_crop=prepared.crop_hw,
        lr=float(told.get("lr", 1e-4)),
        weight_decay=float(told.get("weight_decay", 1e-5)),
        padding=bool(told.get("padding", False)),
        pad_maps=bool(told.get("pad_maps", True)),
        border="zero",
        early_stop=False,
        solve_last=False,
        false_positive_rate=false_positive_rate,
    )


def _prepared(checkpoint: Mapping[str, Any], where: object) -> Preparation:
    prepared = preparation(checkpoint, normalised=False, where=where)
    if (prepared.mean, prepared.std) != ((0.0,) * 3, (1.0,) * 3):
        todo = "EfficientAD normalises inside its networks; anomalib refuses it too."
        raise ModelFileError(message("pre_processor", "no Normalize", "one", where=where, todo=todo))
    return prepared


def _maps(state: Mapping[str, Any], settings: EfficientAdSettings, threads: int, where: object) -> Maps:
    """Return the checkpoint's network as ours, with its quantiles."""
    n = settings.teacher_out_channels
    size = settings.model_size
    geometry = replace(settings.geometry(), resize_in_graph=True, map_rule=MapRule(sigma_px=0.0))
    networks = Networks(
        teacher=arrange(state, size, n_outputs=n, part="teacher", where=where),
        student=arrange(state, size, n_outputs=2 * n, part="student", where=where),
        autoencoder=arrange_autoencoder(state, n_outputs=n, where=where),
        mean=np.asarray(state[MEAN], np.float32).reshape(-1),
        std=np.asarray(state[STD], np.float32).reshape(-1),
        size=size,
        padding=settings.padding,
    )
    graph = onnx.load_from_string(efficientad_graph(networks, geometry.network_hw))
    graph = insert_resize(graph, geometry.resize_hw, geometry.crop_hw)
    student, autoencoder = (
        Quantiles(*(float(state[f"model.quantiles.q{end}_{kind}"]) for end in "ab")) for kind in ("st", "ae")
    )
    for quantiles in (student, autoencoder):
        if not quantiles.low < quantiles.high:
            todo = "Train it to the end of an epoch: anomalib takes them in its validation."
            got = f"{quantiles.low} and {quantiles.high}"
            raise ModelFileError(message("quantiles", "two rising numbers", got, where=where, todo=todo))
    return open_maps(
        graph.SerializeToString(),
        geometry,
        padding=settings.padding,
        pad_maps=settings.pad_maps,
        border=settings.border,
        threads=threads,
        student=student,
        autoencoder=autoencoder,
    )
