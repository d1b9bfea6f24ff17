"""Arguments of anomalib without a counterpart here: refused with the replacement, or accepted with a warning.

Arguments that would change a result are refused; those of batch loading are accepted with a warning.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping
from typing import ParamSpec, TypeVar

from blemish._validation.checks import check_number
from blemish.errors import InputError, message

P = ParamSpec("P")
R = TypeVar("R")

_IMAGE_SIZE = "Give image_size= and center_crop= to the detector: the same size is then used wherever it predicts."
_THRESHOLD = "Thresholds come from good images alone: give the detector false_positive_rate=."
_FIGURES = "Heat maps are drawn by `blemish predict --out`, `blemish benchmark` and blemish.visualization."
_METRICS = "Engine.test always computes image_AUROC, pixel_AUROC, AUPRO and the others of its documentation."
_TRANSFORM = f"Images are not changed at random. {_IMAGE_SIZE}"
_SPLIT = "Nothing is taken from the test images: thresholds come from good training images."
_PROCESSOR = "Networks run on the processor; EfficientAd(device=) says where to train."

OF_DETECTORS = {
    "pre_processor": _IMAGE_SIZE,
    "post_processor": _THRESHOLD,
    "evaluator": _METRICS,
    "visualizer": _FIGURES,
    "precision": "The networks' precision is chosen so that scores stay the same; leave it out.",
    "input_size": "It is called image_size= here.",
}
OF_ENGINE = {
    "task": "Pixel metrics are computed wherever there are masks; leave it out.",
    "image_metrics": _METRICS,
    "pixel_metrics": _METRICS,
    "threshold": _THRESHOLD,
    "normalization": "Scores are raw, each with a p-value; metrics are computed from raw scores.",
    "accelerator": _PROCESSOR,
    "devices": _PROCESSOR,
    "strategy": _PROCESSOR,
    "precision": OF_DETECTORS["precision"],
    "callbacks": "progress= is called as progress(stage, done, total); EfficientAd(checkpoint=) saves its state.",
    "logger": "progress= is called as progress(stage, done, total).",
    "default_root_dir": "Nothing is written without being asked for: use model.save(folder).",
    "visualizers": _FIGURES,
    "max_time": "Give EfficientAd(budget=), such as budget='10m'.",
}
OF_DATA_SETS = {
    "task": OF_ENGINE["task"],
    "image_size": _IMAGE_SIZE,
    "center_crop": _IMAGE_SIZE,
    "normalization": "Images are normalised inside the network; leave it out.",
    "transform": _TRANSFORM,
    "train_transform": _TRANSFORM,
    "eval_transform": _TRANSFORM,
    "augmentations": _TRANSFORM,
    "train_augmentations": _TRANSFORM,
    "val_augmentations": _TRANSFORM,
    "test_augmentations": _TRANSFORM,
    "val_split_mode": _SPLIT,
    "val_split_ratio": _SPLIT,
    "test_split_mode": "The folders define the test images; Folder(normal_split_ratio=) holds good images out.",
    "test_split_ratio": "It is called normal_split_ratio= here, of Folder.",
}


def refuses(name: str, arguments: Mapping[str, str]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate a function so that anomalib's `arguments` raise an InputError with the replacement.


    >>> @refuses("cut", {"radius": "Give width=."})
    ... def cut(width): ...
    >>> cut(radius=3)
    Traceback (most recent call last):
    blemish.errors.InputError: radius: expected to be left out, got 3, in cut(...). Give width=.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def checked(*args: P.args, **kwargs: P.kwargs) -> R:
            for argument, todo in arguments.items():
                if argument in kwargs:
                    got = f"{kwargs[argument]!r:.60}"
                    raise InputError(message(argument, "to be left out", got, where=f"{name}(...)", todo=todo))
            return function(*args, **kwargs)

        return checked

    return decorate


def warn_without_effect(name: str, given: Mapping[str, int | None]) -> None:
    """Warn, at the caller of the decorated function, of arguments that are not None. InputError if one is invalid in
    anomalib too.
    """
    for argument, value in given.items():
        if value is not None:
            check_number(argument, value, low=0 if argument == "num_workers" else 1, high=100_000)
    without = [argument for argument, value in given.items() if value is not None]
    if without:
        text = (
            f"{name}: {', '.join(without)} taken for compatibility with anomalib, without effect here: images go "
            "through the network one by one, decoded ahead in as many threads as the detector's threads= says."
        )
        warnings.warn(text, UserWarning, stacklevel=4)
