"""What all detectors' model folders have in common: settings, calibrations and training images, read strictly."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from blemish._validation.checks import check_number, check_whole
from blemish.errors import BlemishError, InputError, ModelFileError, message
from blemish.ops.conformal import Calibration

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from blemish.modelfolder.folder import ModelFolder

Read = TypeVar("Read")
# Scores are float32 distances, and maps are compared with thresholds as float32.
LARGEST_SCORE = float(np.finfo(np.float32).max)


def read_fitted(model: ModelFolder, detector: str, what: str, read: Callable[[], Read]) -> Read:
    """Return what `read` makes of a model folder; whatever does not fit in it is an error of the folder.

    Args:
        model: the folder.
        detector: the name that it must say.
        what: what was expected, for the error.
        read: raises whatever it likes.

    Raises:
        ModelFileError: if it is another detector's, or its parts do not fit each other.
    """
    named = model.header["detector"]
    if named != detector:
        raise ModelFileError(message("detector", detector, repr(named), where=model.path))
    try:
        return read()
    except ModelFileError:
        raise
    except (BlemishError, KeyError, TypeError, ValueError, IndexError) as error:
        got = f"{type(error).__name__}: {error}".strip()
        todo = "Fit again, or copy the model folder again."
        raise ModelFileError(message("model.json", what, got, where=model.path, todo=todo)) from error


def stored_settings(stored: Mapping[str, Any], kind: type[Any]) -> dict[str, Any]:
    """Return the values of a dataclass of settings, lists as tuples since JSON has none.

    Raises:
        InputError: if there are others than it has.
    """
    names = {field.name for field in dataclasses.fields(kind)}
    if set(stored) != names:
        raise InputError(message("settings", ", ".join(sorted(names)), ", ".join(sorted(stored))))
    return {name: tuple(value) if isinstance(value, list) else value for name, value in stored.items()}


def stored_calibration(stored: Mapping[str, Any], name: str, rate: float) -> Calibration:
    """Return the calibration of the `name` scores; rate and threshold must be the ones that follow from them.

    Raises:
        InputError: if they are not.
    """
    found = Calibration.from_scores(stored[f"{name}_scores"], stored["false_positive_rate"])
    for score in found.scores[[0, -1]]:
        check_number(f"thresholds.{name}_scores", float(score), low=-LARGEST_SCORE, high=LARGEST_SCORE)
    if rate != found.false_positive_rate:
        expected = f"{found.false_positive_rate} as thresholds say"
        raise InputError(message("false_positive_rate", expected, repr(rate)))
    if stored[name] != found.threshold:
        todo = "Move thresholds with set_false_positive_rate, and save."
        expected = f"{found.threshold}, which follows from its scores"
        raise InputError(message(f"thresholds.{name}", expected, repr(stored[name]), todo=todo))
    return found


def stored_training(stored: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, ...], tuple[tuple[int, int], ...]]:
    """Return path and (height, width) of each training image.

    Raises:
        InputError: if they are not that.
    """
    if not isinstance(stored, list):
        raise InputError(message("training", "a list of images", type(stored).__name__))
    sizes_hw = []
    for one in stored:
        if not isinstance(one["path"], str):
            raise InputError(message("path", "text", repr(one["path"])))
        height, width = one["height_width"]
        most = 2**31 - 1
        sizes_hw.append((check_whole("height_width", height, 1, most), check_whole("height_width", width, 1, most)))
    return tuple(one["path"] for one in stored), tuple(sizes_hw)
