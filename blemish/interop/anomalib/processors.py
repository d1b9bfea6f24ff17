"""The pre-processor and the post-processor of an anomalib checkpoint: resize, crop, normalisation and thresholds."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from blemish._io.safe_pickle import Global, Inert
from blemish.errors import ModelFileError, message
from blemish.interop.anomalib.releases import ENABLED, PRE_PROCESSOR, Line

if TYPE_CHECKING:
    from blemish.imaging.geometry import Geometry
    from blemish.ops.conformal import Calibration

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
MAX_PARTS, MAX_TRANSFORMS = 1000, 100
ORDER = ("Resize", "CenterCrop", "Normalize")
# Containers of transforms, and transforms that change no pixel of an RGB image of float32.
PASSED = {"Compose", "PreProcessor", "ToImage", "ToDtype"}
MODULES = ("torchvision.transforms.", "anomalib.")


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


def preparation(
    checkpoint: Mapping[str, Any], line: Line, *, default: Callable[[], Preparation], where: object
) -> Preparation:
    """Return the preparation of images by a checkpoint's transform, plain data or a pickled object read as data.

    Args:
        line: of the release that wrote it.
        default: for the preparation where the checkpoint says no more than that it is the model's default.

    Raises:
        ModelFileError: if the checkpoint has none, or a model folder can't express it; the message names the transform.
    """
    spec = _specification(checkpoint, line)
    if spec is True:
        return default()
    if spec is None or spec is False:
        raise _refuse("a transform of images", f"none, in a checkpoint of anomalib {line}", where)
    transforms: dict[str, Mapping[str, Any]] = {}
    for name, values in islice(_transforms(spec, 0, [MAX_PARTS]), MAX_TRANSFORMS):
        module, _, plain = name.rpartition(".")
        if not module.startswith(MODULES) or (plain not in ORDER and plain not in PASSED):
            got = plain if module.startswith(MODULES) else name
            raise _refuse(f"{', '.join(ORDER)} of torchvision", got[:80], where)
        if plain in ORDER:
            later = [other for other in transforms if ORDER.index(other) >= ORDER.index(plain)]
            if later:
                raise _refuse(f"{', '.join(ORDER)}, once each and in this order", f"{plain} after {later[0]}", where)
            transforms[plain] = values
        if plain == "ToDtype" and not _is_float32(values.get("dtype")):
            raise _refuse("images of float32", f"ToDtype to {reprlib.repr(values.get('dtype'))}", where)
    if "Resize" not in transforms:
        raise _refuse("a Resize", ", ".join(transforms) or "no known transform", where)
    return _preparation(transforms, where)


def _preparation(transforms: Mapping[str, Mapping[str, Any]], where: object) -> Preparation:
    """Return the preparation by the arguments of Resize, CenterCrop and Normalize."""
    resize, crop = transforms["Resize"], transforms.get("CenterCrop")
    mode = resize.get("interpolation") or "bilinear"
    # "warn", an old default of antialias, is not antialiased.
    if not isinstance(mode, (str, int)) or str(mode).lower() not in {"bilinear", "2"}:
        raise _refuse("a bilinear Resize with antialias", f"interpolation {mode!r:.30}", where)
    if resize.get("antialias") is not True:
        raise _refuse("a bilinear Resize with antialias", f"antialias={resize.get('antialias')!r:.30}", where)
    resize_hw = _pair("Resize", resize.get("size"), where)
    crop_hw = None if crop is None else _pair("CenterCrop", crop.get("size"), where)
    if crop_hw is not None and (crop_hw[0] > resize_hw[0] or crop_hw[1] > resize_hw[1]):
        raise _refuse(f"a CenterCrop within {resize_hw}", str(crop_hw), where)
    normalize = transforms.get("Normalize", {"mean": (0.0,) * 3, "std": (1.0,) * 3})
    mean, std = (_numbers(normalize.get(part), part, where) for part in ("mean", "std"))
    if min(std) <= 0:
        raise _refuse("standard deviations above 0 in Normalize", str(std), where)
    return Preparation(resize_hw, crop_hw, mean, std)


def _specification(checkpoint: Mapping[str, Any], line: Line) -> Any:
    """Return the transform of a checkpoint: an object read as data, plain data, True for the default, or None."""
    if line == "1.x":
        return checkpoint.get("transform")
    if line == "2.7":
        enabled, config = checkpoint.get(ENABLED), checkpoint.get(PRE_PROCESSOR)
        if isinstance(enabled, Mapping) and enabled.get("pre_processor") is not True:
            return None
        return config.get("transform") if isinstance(config, Mapping) else None
    arguments = checkpoint.get("hyper_parameters")
    return arguments.get("pre_processor") if isinstance(arguments, Mapping) else None


def _is_float32(dtype: Any) -> bool:
    """Return whether a dtype, an object read as data or its name, is float32."""
    name = dtype.name if isinstance(dtype, (Inert, Global)) else dtype
    return name in {"torch.float32", "torch.float", "float32"}


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
        yield spec.name, {**state, "interpolation": _mode(state.get("interpolation"))}
        modules = state.get("_modules")
        inner = [*_listed(state.get("transforms")), modules.get("transform") if isinstance(modules, Mapping) else None]
    elif isinstance(spec, Mapping) and isinstance(spec.get("class_path"), str):
        values = spec.get("init_args")
        values = values if isinstance(values, Mapping) else {}
        yield spec["class_path"], values
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


def _numbers(values: Any, name: str, where: object) -> tuple[float, ...]:
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
