"""What an anomalib checkpoint says of how images are prepared: size, crop, mean and deviation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from blemish._io.safe_pickle import Inert
from blemish.errors import ModelFileError, message

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
KEPT = {"Resize", "CenterCrop", "Normalize"}
# Containers of the transforms, and what changes no pixel of an image that is RGB already.
PASSED = {"Compose", "PreProcessor", "ToImage", "ToDtype"}


class Preparation(NamedTuple):
    """How an image becomes the network's input.

    Attributes:
        resize_hw: (height, width) that the whole image is resized to, antialiased.
        crop_hw: (height, width) of the centre that is kept of that, or None for all.
        mean: of red, green and blue on the 0 to 1 scale.
        std: as `mean`.
    """

    resize_hw: tuple[int, int]
    crop_hw: tuple[int, int] | None
    mean: tuple[float, ...]
    std: tuple[float, ...]


def preparation(checkpoint: Mapping[str, Any], *, normalised: bool, where: object) -> Preparation:
    """Return what a checkpoint's pre-processor does; anomalib's default where it says nothing.

    anomalib 2.7 writes plain data ("anomalib_pre_processor_config"); before it, a pre-processor that was given to the
    model lies among the hyper-parameters as a pickled object, which is read as data.

    Args:
        checkpoint: as `torchfile.load_checkpoint` gives it.
        normalised: whether the default takes ImageNet's mean and deviation off.
        where: its file, for errors.

    Raises:
        ModelFileError: if images are prepared in a way that a model folder can't express; the text says which.
    """
    config = checkpoint.get("anomalib_pre_processor_config")
    spec = config.get("transform") if isinstance(config, Mapping) else None
    if spec is None:
        spec = (checkpoint.get("hyper_parameters") or {}).get("pre_processor")
    found: dict[str, Mapping[str, Any]] = {}
    for name, values in _transforms(spec, 0):
        if name in KEPT and name not in found:
            found[name] = values
        elif name not in PASSED:
            raise _refuse("Resize, CenterCrop and Normalize, once each", f"{name[:60]}", where)
    if spec is not None and not isinstance(spec, bool) and "Resize" not in found:
        raise _refuse("a Resize", ", ".join(found) or "nothing that is known", where)
    resize = found.get("Resize", {"size": [256, 256], "antialias": True})
    if str(resize.get("interpolation") or "bilinear").lower() not in {"bilinear", "2"} or not resize.get("antialias"):
        raise _refuse("a bilinear Resize with antialias", "another", where)
    crop = found.get("CenterCrop")
    default = IMAGENET if normalised and spec in (None, True) else ((0.0,) * 3, (1.0,) * 3)
    given = found.get("Normalize", {})
    mean, std = (_numbers(given.get(part), default[i], part, where) for i, part in enumerate(("mean", "std")))
    crop_hw = None if crop is None else _pair("CenterCrop", crop.get("size"), where)
    return Preparation(_pair("Resize", resize.get("size"), where), crop_hw, mean, std)


def _transforms(spec: Any, depth: int) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield name and arguments of each transform, outermost first, of plain data or of an object read as data."""
    if depth > 20:
        return
    if isinstance(spec, Inert):
        state = spec.state if isinstance(spec.state, Mapping) else {}
        yield spec.name.rpartition(".")[2], {**state, "interpolation": _mode(state.get("interpolation"))}
        modules = state.get("_modules")
        inner = [*(state.get("transforms") or ()), modules.get("transform") if isinstance(modules, Mapping) else None]
    elif isinstance(spec, Mapping) and isinstance(spec.get("class_path"), str):
        values = spec.get("init_args")
        values = values if isinstance(values, Mapping) else {}
        yield spec["class_path"].rpartition(".")[2], values
        inner = list(values.get("transforms") or ())
    else:
        return
    for one in inner:
        yield from _transforms(one, depth + 1)


def _mode(value: Any) -> Any:
    """Return the word in an InterpolationMode that was read as data."""
    return value.arguments[0] if isinstance(value, Inert) and value.arguments else value


def _pair(name: str, size: Any, where: object) -> tuple[int, int]:
    values = list(size) if isinstance(size, (list, tuple)) else [size]
    if len(values) != 2 or not all(type(value) is int and 0 < value <= 4096 for value in values):
        raise _refuse(f"{name} to (height, width)", str(size)[:60], where)
    return values[0], values[1]


def _numbers(values: Any, default: tuple[float, ...], name: str, where: object) -> tuple[float, ...]:
    if values is None:
        return default
    if (
        not isinstance(values, (list, tuple))
        or len(values) != 3
        or not all(isinstance(v, (int, float)) for v in values)
    ):
        raise _refuse(f"three numbers as {name} of Normalize", str(values)[:60], where)
    return tuple(float(value) for value in values)


def _refuse(expected: str, got: str, where: object) -> ModelFileError:
    todo = "Such a detector can't be imported: fit with Blemish on the same images."
    return ModelFileError(message("pre_processor", expected, got, where=where, todo=todo))
