"""PatchCore from and to a Lightning checkpoint of anomalib."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import cv2
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from blemish._graphs.safety import check_network
from blemish._validation.checks import describe
from blemish.backbones.architectures import build_graph
from blemish.backbones.backbone import Backbone
from blemish.backbones.embedding import Extractor, embedding_graph
from blemish.detectors.patchcore.detector import Patchcore
from blemish.detectors.patchcore.fit import GoodSearch, calibrate
from blemish.detectors.patchcore.scoring import Scorer
from blemish.detectors.patchcore.settings import PatchcoreSettings
from blemish.detectors.patchcore.state import UNKNOWN, PatchcoreState
from blemish.errors import InputError, ModelFileError, message
from blemish.imaging.geometry import MapRule
from blemish.interop.anomalib.checkpoint_writer import lightning_checkpoint
from blemish.interop.anomalib.processors import (
    IMAGENET,
    Preparation,
    post_processor_state,
    pre_processor_config,
    preparation,
)
from blemish.interop.anomalib.releases import (
    PATCHCORE,
    Line,
    check_kind,
    default_side_px,
    hyper_parameters,
    release_line,
)
from blemish.interop.anomalib.timm_names import Network, from_timm, set_normalisation, timm_name, timm_network
from blemish.modelfolder.folder import MAX_SIDE_PX
from blemish.ops.neighbors import MemoryIndex
from blemish.types import Float32

if TYPE_CHECKING:
    from blemish.imaging.geometry import Geometry
    from blemish.interop.anomalib.source import Source

FEATURES = "model.feature_extractor.feature_extractor."
MEMORY_BANK = "model.memory_bank"
# Largest distance, relative to the row's length, of a bank row from its source patch: features computed by another
# program differ by 1e-6, and any other patch within this distance is as good a source.
SAME_PATCH = 1e-3
MAP_SIGMA_PX = 4.0  # anomalib 2.7, patchcore/anomaly_map.py
# Settings that anomalib's PatchCore always has.
ANOMALIB_SETTINGS: dict[str, Any] = {
    "pooling": 3,
    "scaling": "none",
    "position_sigma": None,
    "score_fusion": False,
    "top_share": 0.0,
}


class Imported(NamedTuple):
    """Content of a checkpoint: settings of the same scores, preparation of images, graph and memory bank."""

    settings: PatchcoreSettings
    geometry: Geometry
    network: bytes
    memory_bank: Float32
    line: Line


def import_patchcore(source: Source) -> Patchcore:
    """Return the detector in a checkpoint of anomalib's PatchCore; a good image is scored without its own bank rows."""
    imported = _read(source)
    settings, geometry, bank = imported.settings, imported.geometry, imported.memory_bank
    extractor = _extractor(imported, source)
    rows = np.full((len(bank), 3), UNKNOWN, np.int32)
    images = source.images() if source.good else None
    if images is not None:

        def maps(stage: str) -> Iterator[tuple[int, Float32]]:
            everything, progress = range(len(images)), source.progress
            return images.feature_maps(extractor.features, geometry, everything, stage=stage, progress=progress)

        rows, kept = _sources(MemoryIndex(bank), maps("finding patches"))
        images.keep(kept)
        search = GoodSearch(settings, bank, rows, images.groups)
        nearest = [search.distances(i, features) for i, features in maps("calibrating")]
        scorer, scores, maxima = calibrate(settings, geometry, search.index, nearest)
    else:
        scorer = Scorer(MemoryIndex(bank), settings.num_neighbors, None)
        scores, maxima = ([threshold] for threshold in source.thresholds(imported.line))
    common = source.common("PatchCore", geometry, images, scores, maxima)
    common["provenance"]["backbone"] = str(settings.backbone)
    state = PatchcoreState(extractor=extractor, scorer=scorer, source=rows, **common)
    return cast("Patchcore", Patchcore.from_state(settings, state))


def _extractor(imported: Imported, source: Source) -> Extractor:
    """Return the network, checked against the width of the memory bank."""
    whole = (MAX_SIDE_PX, MAX_SIDE_PX)  # images come as they are: the network resizes them
    checked = check_network(imported.network, name="network", where=source.where, image_hw=whole)
    extractor = Extractor(checked, threads=source.threads)
    n_features = extractor.features(np.zeros((*imported.geometry.network_hw, 3), np.uint8)).shape[2]
    if imported.memory_bank.shape[1] != n_features:
        got, where = str(imported.memory_bank.shape), source.where
        raise ModelFileError(message("memory_bank", f"(n, {n_features}) as the network gives", got, where=where))
    return extractor


def _read(source: Source) -> Imported:
    """Return settings, network and memory bank of a PatchCore checkpoint."""
    checkpoint, where = source.tree, source.where
    state = checkpoint["state_dict"]
    check_kind(state, PATCHCORE, where)
    bank, line = _bank(state, where), release_line(checkpoint, where)
    arguments = hyper_parameters(checkpoint, PATCHCORE, where)
    name = arguments["backbone"]
    if not isinstance(name, str):
        todo = "Fit with Blemish instead, with that network as an ONNX file."
        raise ModelFileError(message("backbone", "a name of timm's", "a network of the user's", where=where, todo=todo))
    network = timm_network(name)
    layers = _layers(network, arguments["layers"], where)

    def default() -> Preparation:
        finest = next(network.stride(layer) for layer, name in network.layers.items() if name in layers)
        side = default_side_px(arguments, len(bank), finest, source.release, where)
        return Preparation((256, 256), (side, side) if side < 256 else None, *IMAGENET)

    prepared = preparation(checkpoint, line, default=default, where=where)
    neighbors = arguments["num_neighbors"]
    settings = PatchcoreSettings(
        backbone=network.name,
        layers=layers,
        image_size=prepared.resize_hw,
        center_crop=prepared.crop_hw,
        coreset_sampling_ratio=float(arguments.get("coreset_sampling_ratio", 0.1)),
        num_neighbors=min(neighbors, len(bank)) if isinstance(neighbors, int) else neighbors,
        false_positive_rate=source.false_positive_rate,
        calibration=source.rule,
        threads=source.threads,
        **ANOMALIB_SETTINGS,
    )
    rule = MapRule("nearest", MAP_SIGMA_PX)
    geometry = replace(settings.geometry([(1, 1)], None), resize_in_graph=True, map_rule=rule)
    weights = {key[len(FEATURES) :]: value for key, value in state.items() if key.startswith(FEATURES)}
    backbone = _backbone(network, layers, weights, prepared)
    graph = embedding_graph(backbone, pooling=3, resized=geometry, count_padding=True)
    return Imported(settings, geometry, graph.SerializeToString(), bank, line)


def _bank(state: Mapping[str, Any], where: object) -> Float32:
    if state[MEMORY_BANK].dtype == np.float16:
        todo = "Half precision rounds its scores: fit with precision float32, or with Blemish on the same images."
        raise ModelFileError(message("memory_bank", "float32", "float16", where=where, todo=todo))
    bank = np.ascontiguousarray(state[MEMORY_BANK], np.float32)
    if bank.ndim != 2 or not len(bank):
        todo = "Fit the model, then save the checkpoint."
        got = describe(bank)
        raise ModelFileError(message("memory_bank", "float32 (n, D), n above 0", got, where=where, todo=todo))
    return bank


def _layers(network: Network, layers: Any, where: object) -> tuple[str, ...]:
    """Return Blemish's names of a checkpoint's layers; unknown names are ignored, as in anomalib."""
    order = list(network.layers)
    listed = list(layers) if isinstance(layers, (list, tuple)) else [None]
    named = [layer for layer in listed if layer in order]
    if not all(isinstance(layer, str) for layer in listed) or not named or named != sorted(set(named), key=order.index):
        expected = f"some of {', '.join(order)}, finest first"
        raise ModelFileError(message("layers", expected, reprlib.repr(layers), where=where))
    return tuple(network.layers[layer] for layer in named)


def _backbone(network: Network, layers: tuple[str, ...], weights: Mapping[str, Any], prepared: Preparation) -> Backbone:
    model = build_graph(network.build, from_timm(network, weights), layers)
    # The checkpoint's normalisation may differ from the network's own.
    mean, std = (tuple(255 * value for value in values) for values in (prepared.mean, prepared.std))
    if not np.allclose([mean, std], [network.mean, network.std], rtol=1e-6):
        set_normalisation(model, network, mean, std)
    return Backbone(network.name, layers, (), (), "", model)


def _sources(index: MemoryIndex, maps: Iterable[tuple[int, Float32]]) -> tuple[NDArray[np.int32], list[int]]:
    """Return image, row and column of the source patch of each bank row, and the images that could be read."""
    source = np.full((index.n_rows, 3), UNKNOWN, np.int32)
    nearest = SAME_PATCH * np.linalg.norm(index.memory_bank, axis=1)
    kept = []
    for i, features in maps:
        kept.append(i)
        neighbors = index.search(features.reshape(-1, features.shape[-1]), 1)
        distances, rows = neighbors.distances[:, 0], neighbors.indices[:, 0]
        for patch in np.flatnonzero(distances <= nearest[rows]):
            row = rows[patch]
            if distances[patch] <= nearest[row]:
                nearest[row] = distances[patch]
                source[row] = len(kept) - 1, *divmod(int(patch), features.shape[1])
    return source, kept


def patchcore_checkpoint(model: Patchcore) -> dict[str, Any]:
    """Return the content of a checkpoint that gives the same scores in anomalib.

    Weights are those of the model's own network. Its batch norms are folded into the convolutions and are written as
    identities.
    """
    name, layers = _exported_names(model)
    network, fitted = timm_network(name), model.fitted
    constants = _constants(fitted.network)
    state: dict[str, NDArray[Any]] = {
        "_is_fitted": np.array([True]),
        MEMORY_BANK: fitted.scorer.index.memory_bank,
        **{FEATURES + key: value for key, value in _weights(constants, network).items()},
        "model.anomaly_map_generator.blur.kernel": _kernel(MAP_SIGMA_PX),
        **post_processor_state(fitted.image_calibration, fitted.pixel_calibration),
    }
    arguments = {
        "backbone": name,
        "layers": layers,
        "pre_trained": False,
        "coreset_sampling_ratio": float(model.settings.coreset_sampling_ratio),
        "num_neighbors": model.settings.num_neighbors,
        "precision": "float32",
    }
    mean = [float(value) for value in np.broadcast_to(constants["mean"].reshape(-1), 3)]
    return lightning_checkpoint(state, arguments, pre_processor_config(fitted.geometry, mean=mean, std=network.std))


def _exported_names(model: Patchcore) -> tuple[str, list[str]]:
    """Return the network and the layers by timm's names, or raise if anomalib can't express the settings."""
    settings = model.settings
    other = [name for name, value in ANOMALIB_SETTINGS.items() if getattr(settings, name) != value]
    if other:
        given = ", ".join(f"{name}={getattr(settings, name)!r}" for name in other)
        expected = ", ".join(f"{name}={ANOMALIB_SETTINGS[name]!r}" for name in other)
        raise InputError(message("model", f"settings that anomalib has: {expected}", given, todo="Fit with these."))
    name = timm_name(str(settings.backbone))
    names = {layer: timm for timm, layer in timm_network(name).layers.items()}
    layers = settings.layers or ()
    unknown = [layer for layer in layers if layer not in names]
    if unknown:
        raise InputError(message("layers", f"some of {', '.join(names)}", ", ".join(unknown), todo="Fit with these."))
    return name, [names[layer] for layer in layers]


def _weights(constants: Mapping[str, NDArray[Any]], network: Network) -> dict[str, NDArray[Any]]:
    """Return the weights of a network, constants of its graph, by timm's names."""
    count = sum(name.startswith("conv") and name.endswith(".weight") for name in constants)
    weights: dict[str, NDArray[Any]] = {}
    for i, conv in enumerate(network.convs):
        if i < count:
            weight, bias = constants[f"conv{i}.weight"], constants[f"conv{i}.bias"]
        elif conv.shape:  # after the last layer: timm loads these weights, and no layer uses them
            weight, bias = np.zeros(conv.shape, np.float32), np.zeros(conv.shape[0], np.float32)
        else:
            continue
        if i == 0:  # the graph divides by the pixels' standard deviations here
            weight = weight * np.array(network.std, np.float32).reshape(1, 3, 1, 1)
        weights[f"{conv.timm}.weight"] = weight
        norm = conv.timm_norm
        weights[f"{norm}.weight"] = np.ones_like(bias)
        weights[f"{norm}.bias"] = bias
        weights[f"{norm}.running_mean"] = np.zeros_like(bias)
        weights[f"{norm}.running_var"] = np.full_like(bias, 1 - network.epsilon)
        weights[f"{norm}.num_batches_tracked"] = np.array(0, np.int64)
    return weights


def _constants(data: bytes) -> dict[str, NDArray[Any]]:
    model = onnx.load_from_string(data)
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def _kernel(sigma: float) -> NDArray[np.float32]:
    side = cv2.getGaussianKernel(2 * int(4 * sigma + 0.5) + 1, sigma)
    return np.asarray(side @ side.T, np.float32)[None, None]
