"""Settings of EfficientAD."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

from blemish.detectors.settings import (
    CROP_HELP,
    Settings,
    crop_size,
    flag,
    network_size,
    number,
    one_of,
    path,
    setting,
    whole,
)
from blemish.errors import InputError, message

if TYPE_CHECKING:
    from blemish.detectors.efficientad.pdn import Size
    from blemish.detectors.efficientad.teacher import Teacher
    from blemish.imaging.geometry import Geometry

Border = Literal["edge", "zero", "normal"]
LEAST_IMAGES = 4
MAX_STEPS = 70_000  # Batzner et al. 2024, section 4 and appendix
MAX_BUDGET_S = 30 * 86_400
_UNITS = {"s": 1, "m": 60, "h": 3600}


def check_model_size(name: str, size: Any) -> Size:
    """Return "small" or "medium".

    Raises:
        InputError: if it is neither; "S" and "M", as older anomalib had it, are told the name of today.

    >>> check_model_size("model_size", "M")
    Traceback (most recent call last):
    ...
    blemish.errors.InputError: model_size: expected small or medium, got 'M'. Write model_size="medium".
    """
    from blemish.detectors.efficientad.pdn import SIZES

    if size in SIZES:
        return "small" if size == "small" else "medium"
    near = [known for known in SIZES if isinstance(size, str) and size and known.startswith(size.lower())]
    todo = f'Write {name}="{near[0]}".' if near else ""
    raise InputError(message(name, " or ".join(SIZES), repr(size), todo=todo))


def check_budget(name: str, budget: Any) -> float | None:
    """Return a time in seconds: a number of them, or text such as "90s", "10m" or "1.5h".

    Raises:
        InputError: if it is neither.

    >>> check_budget("budget", "10m")
    600.0
    """
    if isinstance(budget, str):
        match = re.fullmatch(r"(\d+(?:\.\d+)?) ?(s|m|h|min)?", budget.strip())
        if not match:
            raise InputError(message(name, 'a time such as "90s", "10m" or "1.5h"', repr(budget)))
        budget = float(match[1]) * _UNITS[(match[2] or "s")[0]]
    checked: float | None = number(1, MAX_BUDGET_S, optional=True)(name, budget)
    return checked


def crop_side(name: str, value: Any) -> int | None:
    """Return the side of a training crop in outputs; None for whole images."""
    from blemish.imaging.geometry import MAX_SIDE_PX

    checked: int | None = whole(4, MAX_SIDE_PX, optional=True)(name, value)
    return checked


@dataclass(frozen=True, kw_only=True)
class EfficientAdSettings(Settings):
    """Settings of `EfficientAd`."""

    weights_argument: ClassVar[str] = "teacher"

    model_size: Size = setting(
        "small", "Networks: small (PDN-S) or medium (PDN-M).", check_model_size, option="model-size"
    )
    teacher: str | os.PathLike[str] | None = setting(
        None,
        "Weights of a teacher in this package's, nelson1425's or anomalib's layout; those in the package by default.",
        path,
        option="teacher",
        kind=os.PathLike,
    )
    teacher_out_channels: int = setting(384, "Outputs of the teacher.", whole(1, 4096))
    image_size: int | tuple[int, int] = setting(
        256, "Network input: (height, width), or the side of a square.", network_size, option="image-size"
    )
    center_crop: int | tuple[int, int] | None = setting(
        None,
        CROP_HELP,
        crop_size,
        option="center-crop",
        kind=int,
    )
    lr: float = setting(
        1e-4,
        "Learning rate of Adam; a tenth of it for the last twentieth of the training.",
        number(0, 1, positive=True),
        option="lr",
    )
    weight_decay: float = setting(1e-5, "Weight decay of Adam.", number(0, 1))
    padding: bool = setting(
        False, "Whether teacher and student pad with zeros: slower, and the maps show the image's frame.", flag
    )
    pad_maps: bool = setting(
        True, "Whether maps are laid where their cells lie; False stretches them over the image.", flag
    )
    border: Border = setting(
        "edge",
        "Around the maps: edge repeats the outermost cell; zero and normal are blind there, as anomalib's and "
        "nelson1425's programs are.",
        one_of(*get_args(Border)),
    )
    imagenet_dir: str | os.PathLike[str] | None = setting(
        None,
        "Folder of photographs of other things, on which the student is kept from imitating the teacher; drawn by "
        "default.",
        path,
        option="penalty",
        kind=os.PathLike,
    )
    max_steps: int = setting(MAX_STEPS, "Training steps, at most.", whole(1, 10**7), option="max-steps")
    max_epochs: int | None = setting(
        None,
        "Times that each image is trained on, at most.",
        whole(1, 10**6, optional=True),
        option="max-epochs",
        kind=int,
    )
    budget: float | str | None = setting(
        None,
        "Time for the whole fit, such as 90s, 10m or 1.5h: plans the steps, on crops of images where whole ones would "
        "allow only a few.",
        check_budget,
        option="budget",
        kind=str,
    )
    batch_size: int = setting(1, "Good images per training step.", whole(1, 256), option="batch-size")
    crop: int | None = setting(
        None,
        "Side, in outputs, of the crop that a step trains on; the whole image, or as the budget plans, by default.",
        crop_side,
        option="crop",
        kind=int,
    )
    holdout: float = setting(
        0.2,
        "Share of good images that are not trained on: a quarter of them set the quantiles, the others the threshold. "
        "Of 209 images 32 set it, for a false positive rate of 3 % at best; 1 % takes 660.",
        number(0, 0.8, positive=True),
        option="holdout",
    )
    early_stop: bool = setting(True, "Whether training ends when the held-out loss no longer falls.", flag)
    solve_last: bool = setting(
        True, "Whether the student's last layer ends as a ridge regression, which short trainings need.", flag
    )
    checkpoint: str | os.PathLike[str] | None = setting(
        None,
        "File for the state of the training, written every minute; training goes on from it if it is there.",
        path,
        option="checkpoint",
        kind=os.PathLike,
        stored=False,
    )
    device: str | None = setting(
        None,
        "Where to train, such as cpu or cuda; a GPU where torch has one, by default.",
        lambda _, value: value or None,
        option="device",
        kind=str,
        stored=False,
    )

    def check_together(self) -> None:
        """Raise InputError if a crop is larger than the whole, or the image smaller than the receptive field."""
        from blemish.detectors.efficientad.pdn import output_hw

        outputs = output_hw(self.model_size, self.geometry().network_hw, padding=self.padding)
        if self.crop is None:
            return
        if self.padding:
            todo = "A padded network sees the frame of each part: train on whole images, or without padding."
            raise InputError(message("crop", "None with padding", repr(self.crop), todo=todo))
        if self.crop % 4 or self.crop > min(outputs):
            raise InputError(message("crop", f"a multiple of 4 up to {min(outputs)} outputs", repr(self.crop)))

    @property
    def budget_s(self) -> float | None:
        """The budget in seconds."""
        assert not isinstance(self.budget, str), "the check turns text into seconds"
        return self.budget

    def geometry(self) -> Geometry:
        """Return the geometry: one number is a square, as in the paper."""
        from blemish.imaging.geometry import choose_geometry

        size = self.image_size if isinstance(self.image_size, tuple) else (self.image_size, self.image_size)
        return choose_geometry([(1, 1)], size, self.center_crop)

    def load_pretrained(self) -> Teacher:
        """Return the teacher, if it has as many outputs as the settings say.

        Raises:
            InputError: if it has not.
            ModelFileError: if it is absent, damaged or of another size.
        """
        from blemish.detectors.efficientad.teacher import load_teacher

        teacher = load_teacher(self.model_size, self.teacher or None)
        n = len(list(teacher.state.values())[-1])
        if n != self.teacher_out_channels:
            got, where = str(self.teacher_out_channels), self.teacher or None
            raise InputError(message("teacher_out_channels", f"{n} as the teacher has", got, where=where))
        return teacher
