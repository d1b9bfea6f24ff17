"""A fitted PatchCore as a Lightning checkpoint that anomalib loads, for detectors that its arithmetic can express."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import onnx
from onnx import numpy_helper

from blemish.errors import InputError, message
from blemish.interop.anomalib.patchcore_checkpoint import FEATURES, MEMORY_BANK
from blemish.interop.anomalib.timm_names import Network, network, timm_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from blemish.detectors.patchcore.detector import Patchcore
    from blemish.imaging.geometry import Geometry
    from blemish.ops.conformal import Calibration

LIGHTNING = "2.6.0"  # the version that the checkpoint says it is of: the oldest that anomalib 2.7 takes
# What anomalib always does, and so what a detector must have been fitted with.
WANTED = {
    "pooling": 3,
    "scaling": "none",
    "position_sigma": None,
    "score_fusion": False,
}


def patchcore_checkpoint(model: Patchcore) -> dict[str, Any]:
    """Return the content of a checkpoint that gives the same scores in anomalib.

    Weights come out of the model's own network. Batch norms were folded into its convolutions; they are written as
    ones that change nothing.

    Raises:
        InputError: if anomalib's arithmetic can't express the detector; the text says which settings it would need.
        NotFittedError: if it was never fitted.
    """
    name, layers = _expressible(model)
    known, network_bytes = network(name), model.fitted.extractor.model
    state: dict[str, NDArray[Any]] = {
        "_is_fitted": np.array([True]),
        MEMORY_BANK: model.fitted.scorer.index.memory_bank,
        **{FEATURES + key: value for key, value in _weights(network_bytes, known).items()},
        "model.anomaly_map_generator.blur.kernel": _kernel(4.0),
        **threshold_state(model.fitted.image_calibration, model.fitted.pixel_calibration),
    }
    return {
        "epoch": 1,
        "global_step": 0,
        "pytorch-lightning_version": LIGHTNING,
        "state_dict": state,
        "callbacks": {},
        "optimizer_states": [],
        "lr_schedulers": [],
        "hparams_name": "kwargs",
        "hyper_parameters": {
            "backbone": name,
            "layers": layers,
            "pre_trained": False,
            "coreset_sampling_ratio": float(model.settings.coreset_sampling_ratio),
            "num_neighbors": model.settings.num_neighbors,
            "precision": "float32",
        },
        "anomalib_pre_processor_config": {
            "transform": resize_and_crop(model.fitted.geometry, mean=_mean(network_bytes), std=known.std)
        },
    }


def _expressible(model: Patchcore) -> tuple[str, list[str]]:
    """Return the network and the layers by timm's names, or say what anomalib can't express."""
    settings = model.settings
    other = {name: getattr(settings, name) for name, value in WANTED.items() if getattr(settings, name) != value}
    if other:
        given = ", ".join(f"{name}={value!r}" for name, value in other.items())
        wanted = ", ".join(f"{name}={WANTED[name]!r}" for name in other)
        raise InputError(message("model", f"settings that anomalib has: {wanted}", given, todo="Fit with these."))
    name = timm_name(str(settings.backbone))
    theirs = {ours: layer for layer, ours in network(name).layers.items()}
    layers = settings.layers or ()
    unknown = [layer for layer in layers if layer not in theirs]
    if unknown:
        raise InputError(message("layers", f"some of {', '.join(theirs)}", ", ".join(unknown), todo="Fit with these."))
    return name, [theirs[layer] for layer in layers]


def _weights(data: bytes, known: Network) -> dict[str, NDArray[Any]]:
    """Return the weights of a model folder's network by timm's names."""
    constants = _constants(data)
    count = sum(name.startswith("conv") and name.endswith(".weight") for name in constants)
    weights: dict[str, NDArray[Any]] = {}
    for i, conv in enumerate(known.convs):
        if i < count:
            weight, bias = constants[f"conv{i}.weight"], constants[f"conv{i}.bias"]
        elif conv.shape:  # behind the last layer: timm loads these weights, and no layer uses them
            weight, bias = np.zeros(conv.shape, np.float32), np.zeros(conv.shape[0], np.float32)
        else:
            continue
        if i == 0:  # our graphs divide by the pixels' deviations here
            weight = weight * np.array(known.std, np.float32).reshape(1, 3, 1, 1)
        norm = conv.their_norm
        weights[f"{conv.theirs}.weight"] = weight
        weights[f"{norm}.weight"] = np.ones_like(bias)
        weights[f"{norm}.bias"] = bias
        weights[f"{norm}.running_mean"] = np.zeros_like(bias)
        weights[f"{norm}.running_var"] = np.full_like(bias, 1 - known.epsilon)
        weights[f"{norm}.num_batches_tracked"] = np.array(0, np.int64)
    return weights


def _constants(data: bytes) -> dict[str, NDArray[Any]]:
    model = onnx.load_from_string(data)
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def _mean(data: bytes) -> list[float]:
    """Return what the network takes off red, green and blue, on the 0 to 255 scale."""
    return [float(number) for number in np.broadcast_to(_constants(data)["mean"].reshape(-1), 3)]


def resize_and_crop(geometry: Geometry, *, mean: Sequence[float] = (), std: Sequence[float] = ()) -> dict[str, Any]:
    """Return how images are prepared, as anomalib 2.7 writes it: plain data.

    Args:
        geometry: resizing, and the crop if there is one.
        mean: of red, green and blue on the 0 to 255 scale, if pixels are normalised before the network.
        std: likewise.
    """

    def step(name: str, **arguments: Any) -> dict[str, Any]:
        return {"class_path": f"torchvision.transforms.v2.{name}", "init_args": arguments}

    steps = [step("Resize", size=list(geometry.resize_hw), interpolation="bilinear", max_size=None, antialias=True)]
    if geometry.crop_hw is not None:
        steps.append(step("CenterCrop", size=list(geometry.crop_hw)))
    if mean:
        numbers = [value / 255 for value in mean], [value / 255 for value in std]
        steps.append(step("Normalize", mean=numbers[0], std=numbers[1], inplace=False))
    return step("Compose", transforms=steps)


def threshold_state(image: Calibration, pixel: Calibration) -> dict[str, NDArray[np.float32]]:
    """Return thresholds, and the ends of the range that anomalib scales scores to 0 to 1 by, with 0.5 the threshold."""
    numbers: dict[str, float] = {}
    for kind, calibration in (("image", image), ("pixel", pixel)):
        low, high = float(calibration.scores[0]), max(float(calibration.scores[-1]), calibration.threshold)
        # Of one score, or of equal ones, there is no range: then as far as the threshold is from 0.
        high = high if high > low else low + max(abs(low), 1.0)
        numbers |= {f"_{kind}_threshold": calibration.threshold, f"{kind}_min": low, f"{kind}_max": high}
    return {f"post_processor.{name}": np.array(value, np.float32) for name, value in numbers.items()}


def _kernel(sigma: float) -> NDArray[np.float32]:
    side = cv2.getGaussianKernel(2 * int(4 * sigma + 0.5) + 1, sigma)
    return np.asarray(side @ side.T, np.float32)[None, None]
