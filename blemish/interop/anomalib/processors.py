"""The pre-processor and the post-processor of an anomalib checkpoint: resize, crop, normalisation and thresholds."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from blemish._io.safe_pickle import Inert
from blemish.errors import ModelFileError, message

if TYPE_CHECKING:
    from blemish.imaging.geometry import Geometry
    from blemish.ops.conformal import Calibration

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
MAX_PARTS, MAX_TRANSFORMS = 1000, 100
KEPT = {"Resize", "CenterCrop", "Normalize"}
# Containers of transforms, and transforms that change no pixel of an RGB image.
PASSED = {"Compose", "PreProcessor", "ToImage", "ToDtype"}


class Preparation(NamedTuple):
    """Preparation of an image for the network.

    Attributes:
        crop_hw: (height, width) of the centre crop of the resized image; None for no crop.
        mean: of red, green and blue on the 0 to 1 scale.
        std: standard deviations, as `mean`.
    """

    resize_hw: tuple[int, int]
    crop_hw: tuple[int, int] | None
    mean: tuple[float, ...]
    std: tuple[float, ...]


def preparation(checkpoint: Mapping[str, Any], *, normalised: bool, where: object) -> Preparation:
    """Return the preparation of images by a checkpoint's pre-processor; anomalib's default if it has none.

    anomalib 2.7 writes plain data ("anomalib_pre_processor_config"). Earlier versions pickle the pre-processor among
    the hyper-parameters, which is read as data.

    Args:
        normalised: whether the default normalises by ImageNet's mean and standard deviation.

    Raises:
        ModelFileError: if a model folder can't express the preparation; the message names the transform.
    """
    config = checkpoint.get("anomalib_pre_processor_config")
    spec = config.get("transform") if isinstance(config, Mapping) else None
    if spec is None:
        spec = (checkpoint.get("hyper_parameters") or {}).get("pre_processor")
    transforms: dict[str, Mapping[str, Any]] = {}
    for name, values in islice(_transforms(spec, 0, [MAX_PARTS]), MAX_TRANSFORMS):
        if name in KEPT and name not in transforms:
            transforms[name] = values
        elif name not in PASSED:
            raise _refuse("Resize, CenterCrop and Normalize, once each", name[:60], where)
    if spec is not None and not isinstance(spec, bool) and "Resize" not in transforms:
        raise _refuse("a Resize", ", ".join(transforms) or "no known transform", where)
    resize = transforms.get("Resize", {"size": [256, 256], "antialias": True})
    mode = resize.get("interpolation") or "bilinear"
    if not isinstance(mode, (str, int)) or str(mode).lower() not in {"bilinear", "2"} or not resize.get("antialias"):
        raise _refuse("a bilinear Resize with antialias", "another", where)
    crop = transforms.get("CenterCrop")
    default = IMAGENET if normalised and spec in (None, True) else ((0.0,) * 3, (1.0,) * 3)
    normalize = transforms.get("Normalize", {})
    mean, std = (_numbers(normalize.get(part), default[i], part, where) for i, part in enumerate(("mean", "std")))
    crop_hw = None if crop is None else _pair("CenterCrop", crop.get("size"), where)
    return Preparation(_pair("Resize", resize.get("size"), where), crop_hw, mean, std)


def _transforms(spec: Any, depth: int, left: list[int]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield name and arguments of each transform, outermost first, from plain data or from an object read as data.

    Args:
        left: how many more parts may be looked at: parts that share parts have 2^20 ways to be reached.
    """
    left[0] -= 1
    if depth > 20 or left[0] < 0:
        return
    if isinstance(spec, Inert):
        state = spec.state if isinstance(spec.state, Mapping) else {}
        yield spec.name.rpartition(".")[2], {**state, "interpolation": _mode(state.get("interpolation"))}
        modules = state.get("_modules")
        inner = [*_listed(state.get("transforms")), modules.get("transform") if isinstance(modules, Mapping) else None]
    elif isinstance(spec, Mapping) and isinstance(spec.get("class_path"), str):
        values = spec.get("init_args")
        values = values if isinstance(values, Mapping) else {}
        yield spec["class_path"].rpartition(".")[2], values
        inner = _listed(values.get("transforms"))
    else:
        return
    for item in inner:
        yield from _transforms(item, depth + 1, left)


def _listed(values: Any) -> list[Any]:
    return list(values[:MAX_PARTS]) if isinstance(values, (list, tuple)) else []


def _mode(value: Any) -> Any:
    """Return the name of an InterpolationMode that was read as data."""
    return value.arguments[0] if isinstance(value, Inert) and value.arguments else value


def _pair(name: str, size: Any, where: object) -> tuple[int, int]:
    values = list(size) if isinstance(size, (list, tuple)) else [size]
    if len(values) != 2 or not all(type(value) is int and 0 < value <= 4096 for value in values):
        raise _refuse(f"{name} to (height, width)", reprlib.repr(size), where)
    return values[0], values[1]


def _numbers(values: Any, default: tuple[float, ...], name: str, where: object) -> tuple[float, ...]:
    if values is None:
        return default
    if (
        not isinstance(values, (list, tuple))
        or len(values) != 3
        or not all(isinstance(v, (int, float)) for v in values)
    ):
        raise _refuse(f"three numbers as {name} of Normalize", reprlib.repr(values), where)
    return tuple(float(value) for value in values)


def _refuse(expected: str, got: str, where: object) -> ModelFileError:
    todo = "Such a detector can't be imported: fit with Blemish on the same images."
    return ModelFileError(message("pre_processor", expected, got, where=where, todo=todo))


def pre_processor_config(
    geometry: Geometry, *, mean: Sequence[float] = (), std: Sequence[float] = ()
) -> dict[str, Any]:
    """Return the pre-processor as anomalib 2.7 writes it, plain data.

    Args:
        mean: of red, green and blue on the 0 to 255 scale; empty without normalisation.
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


def post_processor_state(image: Calibration, pixel: Calibration) -> dict[str, NDArray[np.float32]]:
    """Return thresholds and score ranges: anomalib normalises scores to 0 to 1 with the threshold at 0.5."""
    numbers: dict[str, float] = {}
    for kind, calibration in (("image", image), ("pixel", pixel)):
        low, high = float(calibration.scores[0]), max(float(calibration.scores[-1]), calibration.threshold)
        # Equal scores have no range: the distance of the threshold from 0 stands for it.
        high = high if high > low else low + max(abs(low), 1.0)
        numbers |= {f"_{kind}_threshold": calibration.threshold, f"{kind}_min": low, f"{kind}_max": high}
    return {f"post_processor.{name}": np.array(value, np.float32) for name, value in numbers.items()}
