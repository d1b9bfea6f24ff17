"""What an EfficientAD detector can be told: one frozen record, checked when it is made, written into every model."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from blemish._validation.checks import check_number, check_whole
from blemish.detectors.efficientad.pdn import SIZES, Size, output_hw
from blemish.detectors.patchcore.settings import ARITHMETICS, Arithmetic
from blemish.errors import InputError, message
from blemish.imaging.geometry import MAX_SIDE_PX, Geometry, choose_geometry

Border = Literal["edge", "zero", "normal"]
BORDERS = ("edge", "zero", "normal")
LEAST_IMAGES = 4
MAX_STEPS = 70_000  # Batzner et al. 2024, section 4 and appendix
MAX_BUDGET_S = 30 * 86_400
_UNITS = {"s": 1, "m": 60, "h": 3600}


@dataclass(frozen=True)
class EfficientAdSettings:
    """Settings of `EfficientAd`, which documents them; every one is in the model folder.

    `arithmetic` is "anomalib" in detectors that were imported from it: the network then resizes images itself.

    Raises:
        InputError: if one is out of range.
    """

    model_size: Size
    teacher: str
    teacher_out_channels: int
    image_size: int | tuple[int, int]
    center_crop: int | tuple[int, int] | None
    lr: float
    weight_decay: float
    padding: bool
    pad_maps: bool
    border: Border
    map_sigma_px: float
    imagenet_dir: str | None
    max_steps: int
    max_epochs: int | None
    budget_s: float | None
    batch_size: int
    crop: int | None
    holdout: float
    early_stop: bool
    solve_last: bool
    false_positive_rate: float
    bit_depth: int | None
    seed: int
    arithmetic: Arithmetic = "blemish"

    def __post_init__(self) -> None:
        """Check every number; files are checked where they are read."""
        for name, known in (("model_size", SIZES), ("border", BORDERS), ("arithmetic", ARITHMETICS)):
            if getattr(self, name) not in known:
                raise InputError(message(name, " or ".join(known), repr(getattr(self, name))))
        for name in ("padding", "pad_maps", "early_stop", "solve_last"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(message(name, "True or False", repr(getattr(self, name))))
        for name, high in (("lr", 1.0), ("holdout", 0.8), ("weight_decay", 1.0), ("map_sigma_px", 100.0)):
            check_number(name, getattr(self, name), low=0, high=high)
            if not getattr(self, name) and name in {"lr", "holdout"}:
                raise InputError(message(name, "a number above 0", "0"))
        self._check_counts()
        self._check_sizes()

    def _check_counts(self) -> None:
        check_whole("teacher_out_channels", self.teacher_out_channels, 1, 4096)
        check_whole("max_steps", self.max_steps, 1, 10**7)
        check_whole("batch_size", self.batch_size, 1, 256)
        check_whole("seed", self.seed, 0, 2**63 - 1)
        if self.max_epochs is not None:
            check_whole("max_epochs", self.max_epochs, 1, 10**6)
        if self.budget_s is not None:
            check_number("budget", self.budget_s, low=1, high=MAX_BUDGET_S)
        if self.bit_depth is not None:
            check_whole("bit_depth", self.bit_depth, 9, 16)

    def _check_sizes(self) -> None:
        """Refuse what no image allows: parts larger than the whole, or smaller than what one output sees."""
        geometry = self.geometry()
        outputs = output_hw(self.model_size, geometry.network_hw, padding=self.padding)
        if self.crop is None:
            return
        if self.padding:
            todo = "A padded network sees the frame of each part: train on whole images, or without padding."
            raise InputError(message("crop", "None with padding", repr(self.crop), todo=todo))
        check_whole("crop", self.crop, 4, MAX_SIDE_PX)
        if self.crop % 4 or self.crop > min(outputs):
            raise InputError(message("crop", f"a multiple of 4 up to {min(outputs)} outputs", repr(self.crop)))

    def geometry(self) -> Geometry:
        """Return how images become the network's input: one number is a square, as in the paper."""
        size = self.image_size if isinstance(self.image_size, tuple) else (self.image_size, self.image_size)
        chosen = choose_geometry([(1, 1)], size, self.center_crop)
        return replace(chosen, like_anomalib=self.arithmetic == "anomalib")

    def to_dict(self) -> dict[str, Any]:
        """Return what `model.json` holds."""
        return asdict(self)


def check_model_size(size: str) -> Size:
    """Return "small" or "medium".

    Raises:
        InputError: if it is neither; "S" and "M", as older anomalib had it, are told the name of today.

    >>> check_model_size("M")
    Traceback (most recent call last):
    ...
    blemish.errors.InputError: model_size: expected small or medium, got 'M'. Write model_size="medium".
    """
    if size in SIZES:
        return "small" if size == "small" else "medium"
    near = [name for name in SIZES if isinstance(size, str) and size and name.startswith(size.lower())]
    todo = f'Write model_size="{near[0]}".' if near else ""
    raise InputError(message("model_size", " or ".join(SIZES), repr(size), todo=todo))


def check_budget(budget: float | str | None) -> float | None:
    """Return a time in seconds: a number of them, or text such as "90s", "10m" or "1.5h".

    Raises:
        InputError: if it is neither.

    >>> check_budget("10m")
    600.0
    """
    if budget is None or not isinstance(budget, str):
        return budget
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?(s|m|h|min)?", budget.strip())
    if not found:
        raise InputError(message("budget", 'a time such as "90s", "10m" or "1.5h"', repr(budget)))
    return float(found[1]) * _UNITS[(found[2] or "s")[0]]
