"""Import and export of anomalib's Lightning checkpoints."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from blemish._io.files import atomic_write, read_file
from blemish._io.safe_pickle import Inert
from blemish._io.safetensors_file import is_finite
from blemish._io.torch_file import read_checkpoint
from blemish._validation.checks import describe
from blemish.detectors.efficientad.detector import EfficientAd
from blemish.detectors.patchcore.detector import Patchcore
from blemish.detectors.settings import Settings
from blemish.errors import DataError, ImageError, InputError, ModelFileError, message
from blemish.interop.anomalib.checkpoint_writer import checkpoint_bytes
from blemish.interop.anomalib.efficientad import efficientad_checkpoint, import_efficientad
from blemish.interop.anomalib.patchcore import MEMORY_BANK, import_patchcore, patchcore_checkpoint
from blemish.interop.anomalib.releases import check_release
from blemish.interop.anomalib.source import Source
from blemish.runtime.cores import usable_cores
from blemish.types import ImageInput, Progress, no_progress

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from blemish.detectors.base import AnyDetector

STUDENT = "model.student.conv1.weight"


def import_checkpoint(
    path: str | os.PathLike[str],
    *,
    good: Sequence[ImageInput] = (),
    false_positive_rate: float = 0.02,
    release: str | None = None,
    threads: int | None = None,
    progress: Progress = no_progress,
) -> AnyDetector:
    """Return the detector in a Lightning checkpoint of anomalib 1.0 to 2.7: the same images get the same scores.

    The file is read as data: nothing in it is imported or executed.

    Args:
        good: good images for the calibration of thresholds, training images or others. Without them the checkpoint's
            thresholds are kept: anomalib chose them on test images, and they promise no false positive rate.
        release: version of anomalib that wrote it, such as "2.0.0", where the checkpoint does not say.

    Raises:
        DataError: if fewer than two of the good images can be read.
        InputError: if the rate, the release or the threads are out of range.
        ModelFileError: if the file is damaged, of anomalib before 1.0, or another model's, if it does not say how
            images are prepared, if Blemish has no such backbone, or a model folder can't express it.
    """
    Settings(false_positive_rate=false_positive_rate, threads=threads)  # a wrong number is the caller's error
    check_release(release)
    data = read_file(path)
    tree = read_checkpoint(data, where=path, allow_unknown=True)
    state = tree.get("state_dict") if isinstance(tree, Mapping) else None
    if not isinstance(state, Mapping) or not {MEMORY_BANK, STUDENT} & state.keys():
        got = f"one with {', '.join(sorted(map(str, state))[:3])}"[:120] if isinstance(state, Mapping) else "none"
        todo = "Other models can't be imported: fit with Blemish on the same images."
        expected = "PatchCore's or EfficientAD's state_dict of anomalib"
        raise ModelFileError(message("checkpoint", expected, got, where=path, todo=todo))
    sha256, n_threads = hashlib.sha256(data).hexdigest(), threads or usable_cores()
    tree = {**tree, "state_dict": _values(state, path), "hyper_parameters": _plain(tree.get("hyper_parameters"))}
    source = Source(tree, path, sha256, n_threads, good, false_positive_rate, progress, release)
    try:
        return import_patchcore(source) if MEMORY_BANK in state else import_efficientad(source)
    except (ModelFileError, DataError, ImageError):
        raise
    except InputError as error:
        raise ModelFileError(f"{error} It is {path}.") from error
    except (ArithmeticError, AttributeError, LookupError, MemoryError, TypeError, ValueError, cv2.error) as error:
        got = f"{type(error).__name__}: {error}"[:160]
        todo = "Copy or download the file again."
        raise ModelFileError(message("checkpoint", "one of anomalib", got, where=path, todo=todo)) from error


def _plain(arguments: Any) -> Any:
    """Return hyper-parameters with nested lists as inert data: where these share lists, printing never ends."""
    if not isinstance(arguments, Mapping):
        return arguments
    return {
        name: Inert("nested") if name != "pre_processor" and _is_nested(value) else value
        for name, value in arguments.items()
    }


def _is_nested(value: Any) -> bool:
    containers = (list, tuple, Mapping)
    items = value.values() if isinstance(value, Mapping) else value
    return isinstance(value, containers) and any(isinstance(item, containers) for item in items)


def _values(state: Mapping[Any, Any], where: object) -> dict[str, NDArray[Any] | str]:
    """Return tensors and names of classes of a state_dict; ModelFileError if a tensor of the model is not finite."""
    values = {name: value for name, value in state.items() if isinstance(name, str)}
    values = {name: value for name, value in values.items() if isinstance(value, (np.ndarray, str))}
    for name, value in values.items():
        if name.startswith("model.") and isinstance(value, np.ndarray) and not is_finite(value):
            todo = "Train the model again: it diverged, or the file is damaged."
            raise ModelFileError(message(name[:80], "finite numbers", describe(value), where=where, todo=todo))
    return values


def export_checkpoint(model: AnyDetector, path: str | os.PathLike[str]) -> Path:
    """Write a Lightning checkpoint that anomalib 2.7 loads and that gives the same scores there; return its path.

    Raises:
        InputError: if anomalib's arithmetic can't express the detector; the message names the setting.
        NotFittedError: if it was never fitted.
        SaveError: if it can't be written; an earlier file is then unchanged.
    """
    if isinstance(model, Patchcore):
        tree = patchcore_checkpoint(model)
    elif isinstance(model, EfficientAd):
        tree = efficientad_checkpoint(model)
    else:
        raise InputError(message("model", "PatchCore or EfficientAD", type(model).__name__))
    return atomic_write(Path(path), checkpoint_bytes(tree), name="checkpoint")
