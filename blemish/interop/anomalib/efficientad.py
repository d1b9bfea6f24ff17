"""EfficientAD from and to a Lightning checkpoint of anomalib."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray

from blemish._graphs.resize import insert_resize
from blemish._graphs.safety import check_network
from blemish.detectors.efficientad import version_1
from blemish.detectors.efficientad.detector import EfficientAd
from blemish.detectors.efficientad.graph import Networks, efficientad_graph, parameters
from blemish.detectors.efficientad.maps import Maps, Quantiles, open_maps
from blemish.detectors.efficientad.pdn import IMAGENET_MEAN, IMAGENET_STD, Size, arrange, arrange_autoencoder
from blemish.detectors.efficientad.settings import EfficientAdSettings
from blemish.detectors.efficientad.state import EfficientAdState
from blemish.errors import InputError, ModelFileError, message
from blemish.imaging.decode import read_image
from blemish.imaging.geometry import MapRule
from blemish.interop.anomalib.checkpoint_writer import lightning_checkpoint
from blemish.interop.anomalib.processors import Preparation, post_processor_state, pre_processor_config, preparation
from blemish.interop.anomalib.releases import EFFICIENTAD, Line, check_kind, hyper_parameters, release_line
from blemish.modelfolder.folder import MAX_SIDE_PX

if TYPE_CHECKING:
    from blemish.interop.anomalib.source import Source

    Arrays = dict[str, NDArray[Any]]

MEAN, STD = "model.mean_std.mean", "model.mean_std.std"
UNCHANGED = ((0.0,) * 3, (1.0,) * 3)


def import_efficientad(source: Source) -> EfficientAd:
    """Return the detector in a checkpoint of anomalib's EfficientAD; torch is not needed.

    Its quantiles are kept: anomalib takes them on the test set's good images, padding included.
    """
    state, line = source.tree["state_dict"], release_line(source.tree, source.where)
    check_kind(state, EFFICIENTAD, source.where)
    prepared = _prepared(source.tree, line, source.where)
    settings = _settings(source, prepared)
    maps = _maps(state, settings, prepared, source.threads, source.where)
    images = source.images() if source.good else None
    if images is None:
        scores, maxima = ([threshold] for threshold in source.thresholds(line))
    else:
        scores = maxima = []
        for done, item in enumerate(images.items, start=1):
            scores.append(float(maps.joined(*maps.raw(maps.geometry.prepare(read_image(item, None)))).max()))
            source.progress("calibrating", done, len(images))
    common = source.common("EfficientAD", maps.geometry, images, scores, maxima)
    detector: EfficientAd = EfficientAd.from_state(settings, EfficientAdState(maps=maps, **common))
    return detector


def _settings(source: Source, prepared: Preparation) -> EfficientAdSettings:
    """Return the settings of the detector that gives the same maps."""
    checkpoint, where = source.tree, source.where
    state, arguments = checkpoint["state_dict"], hyper_parameters(checkpoint, EFFICIENTAD, where)
    std = np.asarray(state.get(STD, 0.0))
    if not (std.ndim == 4 and (std > 0).all()):
        got = "none" if STD not in state else "zeros: the model was not trained"
        expected = "the standard deviation of each of the teacher's outputs"
        raise ModelFileError(message("mean_std", expected, got, where=where))
    return EfficientAdSettings(
        model_size="medium" if "model.teacher.conv5.weight" in state else "small",
        teacher="",
        teacher_out_channels=std.size,
        image_size=prepared.resize_hw,
        center_crop=prepared.crop_hw,
        lr=float(arguments.get("lr", 1e-4)),
        weight_decay=float(arguments.get("weight_decay", 1e-5)),
        padding=bool(arguments["padding"]),
        pad_maps=bool(arguments["pad_maps"]),
        border="zero",
        early_stop=False,
        solve_last=False,
        top_share=0.0,
        position_sigma=None,
        false_positive_rate=source.false_positive_rate,
        calibration=source.rule,
    )


def _prepared(checkpoint: Mapping[str, Any], line: Line, where: object) -> Preparation:
    """Return the preparation of images; by default 256 px without normalisation, in anomalib 2.0 to 2.6."""
    default = Preparation((256, 256), None, *UNCHANGED)
    prepared = preparation(checkpoint, line, default=lambda: default, where=where)
    # The default of anomalib 1.0 normalises twice: in the transform and in the networks.
    if line != "1.x" and (prepared.mean, prepared.std) != UNCHANGED:
        todo = "EfficientAD normalises inside its networks; anomalib refuses it too."
        raise ModelFileError(message("pre_processor", "no Normalize", "one", where=where, todo=todo))
    return prepared


def _normalise_twice(graph: onnx.ModelProto, prepared: Preparation) -> None:
    """Compose the transform's normalisation with that of the networks, in place."""
    if (prepared.mean, prepared.std) == UNCHANGED:
        return
    (mean, std), (inner_mean, inner_std) = (prepared.mean, prepared.std), (IMAGENET_MEAN, IMAGENET_STD)
    values = {
        "image.mean": 255 * (np.array(mean) + np.multiply(std, inner_mean)),
        "image.std": 255 * np.multiply(std, inner_std),
    }
    for tensor in graph.graph.initializer:
        if tensor.name in values:
            made = values[tensor.name].astype(np.float32).reshape(1, 3, 1, 1)
            tensor.CopyFrom(onnx.numpy_helper.from_array(made, tensor.name))


def _maps(
    state: Mapping[str, Any], settings: EfficientAdSettings, prepared: Preparation, threads: int, where: object
) -> Maps:
    """Return the checkpoint's network and quantiles."""
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
    _normalise_twice(graph, prepared)
    graph = insert_resize(graph, geometry.resize_hw, geometry.crop_hw)
    student, autoencoder = (
        Quantiles(*(float(state[f"model.quantiles.q{end}_{kind}"]) for end in "ab")) for kind in ("st", "ae")
    )
    for quantiles in (student, autoencoder):
        if not quantiles.low < quantiles.high:
            todo = "Train it to the end of an epoch: anomalib takes them in its validation."
            got = f"{quantiles.low} and {quantiles.high}"
            raise ModelFileError(message("quantiles", "two rising numbers", got, where=where, todo=todo))
    whole = (MAX_SIDE_PX, MAX_SIDE_PX)  # images come as they are: the network resizes them
    model = check_network(graph.SerializeToString(), name="network", where=where, image_hw=whole)
    return open_maps(model, geometry, settings, threads=threads, student=student, autoencoder=autoencoder)


def efficientad_checkpoint(model: EfficientAd) -> dict[str, Any]:
    """Return the content of a checkpoint that gives the same maps in anomalib."""
    fitted, settings = model.fitted, model.settings
    if settings.border != "zero" and settings.pad_maps and not settings.padding:
        todo = 'Fit with border="zero", which is blind at the frame as anomalib is.'
        raise InputError(message("border", "zero, as anomalib has it", settings.border, todo=todo))
    if settings.top_share:
        todo = "Fit with top_share=0: the score is then the highest value of the map, as in anomalib."
        raise InputError(message("top_share", "0, as anomalib has it", str(settings.top_share), todo=todo))
    _check_normalisation(fitted.maps.model)
    quantiles = {
        f"model.quantiles.q{end}_{kind}": np.array(value, np.float32)
        for kind, pair in (("st", fitted.maps.student), ("ae", fitted.maps.autoencoder))
        for end, value in zip("ab", pair, strict=True)
    }
    state: Arrays = {
        **_parameters(fitted.maps.model, settings.model_size, settings.teacher_out_channels),
        **quantiles,
        **post_processor_state(fitted.image_calibration, fitted.pixel_calibration),
    }
    arguments = {
        name: getattr(settings, name) for name in ("teacher_out_channels", "lr", "weight_decay", "padding", "pad_maps")
    }
    return lightning_checkpoint(
        {name: np.array(array, np.float32) for name, array in state.items()},
        {**arguments, "model_size": settings.model_size},
        pre_processor_config(fitted.geometry),
    )


def _check_normalisation(model: bytes) -> None:
    """Raise InputError if the graph normalises images otherwise than anomalib's networks do."""
    for tensor in onnx.load_from_string(model).graph.initializer:
        expected = {"image.mean": IMAGENET_MEAN, "image.std": IMAGENET_STD}.get(tensor.name)
        if expected is not None and not np.allclose(
            onnx.numpy_helper.to_array(tensor).reshape(-1), np.multiply(255, expected)
        ):
            todo = "It was imported from anomalib 1.0, which normalises twice: later releases can't express it."
            raise InputError(message("normalisation", "ImageNet's, as anomalib has it", "another", todo=todo))


def _parameters(model: bytes, size: Size, n: int) -> Arrays:
    """Return the parameters of a network by anomalib's names."""
    arrays = parameters(model) or version_1.parameters(model, size, n)
    names = {"teacher.mean": MEAN, "teacher.std": STD}
    return {names.get(name, f"model.{name.replace('autoencoder.', 'ae.')}"): array for name, array in arrays.items()}
