"""A fitted EfficientAD as a Lightning checkpoint that anomalib loads: its weights come out of the model's graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import numpy_helper

from blemish.detectors.efficientad.pdn import CONVS, DECODER, ENCODER, IMAGENET_MEAN, IMAGENET_STD
from blemish.errors import InputError, message
from blemish.interop.anomalib.efficientad_checkpoint import MEAN, STD
from blemish.interop.anomalib.patchcore_export import LIGHTNING, resize_and_crop, threshold_state

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from blemish.detectors.efficientad.detector import EfficientAd

Arrays = dict[str, "NDArray[Any]"]
# Of a weight on pixels from 0 to 255 less the mean to one on normalised pixels.
PER_COLOUR = 255 * np.reshape(IMAGENET_STD, (1, 3, 1, 1))


def efficientad_checkpoint(model: EfficientAd) -> dict[str, Any]:
    """Return the content of a checkpoint that gives the same maps in anomalib.

    The teacher's mean and deviation were folded into its last convolution; they are written as 0 and 1.

    Raises:
        InputError: if anomalib's arithmetic can't express the detector; the text says which settings it would need.
        NotFittedError: if it was never fitted.
    """
    fitted, settings = model.fitted, model.settings
    if settings.border != "zero" and settings.pad_maps and not settings.padding:
        todo = 'Fit with border="zero", which is blind at the frame as anomalib is.'
        raise InputError(message("border", "zero, as anomalib has it", settings.border, todo=todo))
    n = settings.teacher_out_channels
    quantiles = {
        f"model.quantiles.q{end}_{kind}": np.array(value, np.float32)
        for kind, pair in (("st", fitted.maps.student), ("ae", fitted.maps.autoencoder))
        for end, value in zip("ab", pair, strict=True)
    }
    state: Arrays = {
        **_networks(_constants(fitted.maps.model), settings.model_size, n),
        MEAN: np.zeros((1, n, 1, 1), np.float32),
        STD: np.ones((1, n, 1, 1), np.float32),
        **quantiles,
        **threshold_state(fitted.calibration, fitted.calibration),
    }
    told = {
        name: getattr(settings, name) for name in ("teacher_out_channels", "lr", "weight_decay", "padding", "pad_maps")
    }
    return {
        "epoch": 1,
        "global_step": 0,
        "pytorch-lightning_version": LIGHTNING,
        "state_dict": {name: np.array(array, np.float32) for name, array in state.items()},
        "callbacks": {},
        "optimizer_states": [],
        "lr_schedulers": [],
        "hparams_name": "kwargs",
        "hyper_parameters": {**told, "model_size": settings.model_size},
        "anomalib_pre_processor_config": {"transform": resize_and_crop(fitted.maps.geometry)},
    }


def _constants(data: bytes) -> Arrays:
    model = onnx.load_from_string(data)
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def _networks(constants: Mapping[str, NDArray[Any]], size: str, n: int) -> Arrays:
    """Return the weights of teacher, student and autoencoder by anomalib's names, out of our graph's constants."""
    names = [name for name, *_ in CONVS["medium" if size == "medium" else "small"]]
    parts = _tiled(constants) if "difference.weight" not in constants else _direct(constants, names)
    weight, bias = constants["first.weight"] * PER_COLOUR, constants["first.bias"].astype(np.float64)
    if "difference.weight" not in constants:  # without padding the mean was taken off here
        bias = bias + np.einsum("ocij,c->o", constants["first.weight"], 255 * np.array(IMAGENET_MEAN))
    half = len(bias) // 2
    state: Arrays = {}
    for i, who in enumerate(("teacher", "student")):
        state[f"model.{who}.{names[0]}.weight"] = weight[i * half : (i + 1) * half]
        state[f"model.{who}.{names[0]}.bias"] = bias[i * half : (i + 1) * half]
        for name in names[1:-1]:
            state[f"model.{who}.{name}.weight"], state[f"model.{who}.{name}.bias"] = next(parts)
    (both, difference), (second, rest) = next(parts), next(parts)
    into, last = both.shape[1] - second.shape[1], names[-1]  # the teacher's and the student's widths differ in PDN-M
    # The student's first half gets no bias of its own: only the difference to the teacher's counts.
    state[f"model.teacher.{last}.weight"], state[f"model.teacher.{last}.bias"] = both[:, :into], difference
    state[f"model.student.{last}.weight"] = np.concatenate([-both[:, into:], second])
    state[f"model.student.{last}.bias"] = np.concatenate([np.zeros(n, np.float32), rest])
    for part, rows in (("encoder", ENCODER), ("decoder", DECODER)):
        for name, *_ in rows:
            scale = PER_COLOUR if name == ENCODER[0][0] else 1.0
            state[f"model.ae.{part}.{name}.weight"] = constants[f"{name}.weight"] * scale
            state[f"model.ae.{part}.{name}.bias"] = constants[f"{name}.bias"]
    return state


def _tiled(constants: Mapping[str, NDArray[Any]]) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """Yield (out, in, k, k) weights and biases in order, out of a graph on tiles, which keeps plain kernels."""
    arrays = [array for name, array in constants.items() if name.startswith("tiles")]
    kernels = [array.transpose(3, 2, 0, 1) for array in arrays if array.ndim == 4]
    biases = [array for array in arrays if array.ndim == 1]
    return zip(kernels, biases, strict=True)


def _direct(constants: Mapping[str, NDArray[Any]], names: list[str]) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """Yield the same out of a graph of plain convolutions."""
    order = [f"{i}.{name}" for i in (0, 1) for name in names[1:-1]] + ["difference", "second"]
    return ((constants[f"{name}.weight"], constants[f"{name}.bias"]) for name in order)
