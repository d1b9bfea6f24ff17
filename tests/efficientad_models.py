"""Small EfficientAD detectors for tests: narrow networks, a random teacher, images of 48 pixels, three steps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import safetensors.numpy

from blemish import EfficientAd
from blemish.detectors.efficientad import pdn
from blemish.detectors.efficientad.networks import arrays
from tests.lazy import torch

if TYPE_CHECKING:
    import numpy as np

N_OUTPUTS = 32
PAPER = dict(pdn.CONVS)
# Every setting that decides the result is written down, so that tests say the same whatever the defaults become.
SETTINGS: dict[str, Any] = {
    "model_size": "small",
    "teacher_out_channels": N_OUTPUTS,
    "image_size": 48,
    "lr": 1e-3,
    "weight_decay": 1e-5,
    "max_steps": 3,
    "max_epochs": None,
    "budget": None,
    "batch_size": 1,
    "crop": None,
    "holdout": 0.4,
    "early_stop": True,
    "solve_last": True,
    "false_positive_rate": 0.25,
    "seed": 0,
    "device": "cpu",
    "threads": 1,
}


@contextmanager
def narrow_networks(divisor: int = 8) -> Iterator[None]:
    """Inside, patch description networks have an eighth of the paper's channels: a fiftieth of the work."""
    with pytest.MonkeyPatch.context() as patch:
        for size, convs in PAPER.items():
            narrow = tuple((name, width // divisor, *kernel) for name, width, *kernel in convs)
            patch.setitem(pdn.CONVS, size, narrow)  # type: ignore[arg-type]
        yield


def random_weights(size: str = "small", n_outputs: int = N_OUTPUTS, seed: int = 0) -> dict[str, np.ndarray]:
    """A network whose outputs have a standard deviation of about one."""
    return _random_weights(size, n_outputs, seed, pdn.CONVS[size])


@lru_cache(maxsize=8)
def _random_weights(size: str, n_outputs: int, seed: int, _convs: object) -> dict[str, np.ndarray]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return {name: array * 2 for name, array in arrays(pdn.pdn(size, n_outputs)).items()}


def write_teacher(folder: Path, size: str = "small", seed: int = 0) -> Path:
    path = folder / f"{size}-{seed}.safetensors"
    if not path.exists():
        safetensors.numpy.save_file(random_weights(size, seed=seed), path)
    return path


def small_efficientad(teacher: Path, **changes: Any) -> EfficientAd:
    return EfficientAd(**{**SETTINGS, "teacher": teacher, **changes})
