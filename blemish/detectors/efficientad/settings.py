"""Settings of EfficientAD."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

from blemish.detectors.settings import (
    CROP_HELP,
    SIZE_HELP,
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
# Calibration images: with fewer the deviation at a position is off by more than an eighth.
LEAST_POSITION = 30
MAX_STEPS = 70_000  # Batzner et al. 2024, section 4 and appendix
LONGEST = 4  # long side over short side of the network input: the receptive field needs 33 px of both
MAX_BUDGET_S = 30 * 86_400
_UNITS = {"s": 1, "m": 60, "h": 3600}


def _model_size(name: str, size: Any) -> Size:
    from blemish.detectors.efficientad.pdn import check_size

    return check_size(size, name)


def check_budget(name: str, budget: Any) -> float | None:
    """Return a time in seconds: a number of them, or text such as "90s", "10m" or "1.5h".

    Raises:
        InputError: if it is neither.

    >>> check_budget("budget", "10m")
    600.0
    """
    if isinstance(budget, str):
        match = re.fullmatch(r"(\d+(?:\.\d+)?) ?(s|m|h|min)?", budget.strip().lower())
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
        "small", "Size of the networks: small (PDN-S) or medium (PDN-M).", _model_size, option="model-size"
    )
    teacher: str | os.PathLike[str] | None = setting(
        None,
        "Teacher weights, in the layout of this package, nelson1425 or anomalib; the installed ones by default.",
        path,
        option="teacher",
        kind=os.PathLike,
    )
    teacher_out_channels: int = setting(384, "Output channels of the teacher.", whole(1, 4096))
    image_size: int | tuple[int, int] = setting(256, SIZE_HELP, network_size, option="image-size")
    center_crop: int | tuple[int, int] | None = setting(None, CROP_HELP, crop_size, option="center-crop", kind=int)
    lr: float = setting(
        1e-4,
        "Learning rate of Adam; divided by 10 for the last twentieth of the training.",
        number(0, 1, positive=True),
        option="lr",
    )
    weight_decay: float = setting(1e-5, "Weight decay of Adam.", number(0, 1))
    padding: bool = setting(
        False, "Whether teacher and student use zero padding: slower, and the maps show the image border.", flag
    )
    pad_maps: bool = setting(
        True, "Whether map cells keep their position in the image; False stretches the maps over the image.", flag
    )
    border: Border = setting(
        "edge",
        "Values around the maps: edge repeats the outermost cell; zero and normal detect nothing there, as in anomalib "
        "and nelson1425's program.",
        one_of(*get_args(Border)),
    )
    top_share: float = setting(
        0.01,
        "Share of the map's cells, the highest, whose mean makes the image score, together with the mean of all cells; "
        "also that of a good image's pixels that exceed its level in the pixel calibration; 0 for the highest value in "
        "both, as in the paper.",
        number(0, 1),
        absent=0.0,
    )
    position_sigma: float | None = setting(
        1.0,
        "Standard deviation, in cells, of the Gaussian that smooths the per-position statistics of good maps, by which "
        "maps are normalised where there are 30 calibration images; None for plain maps. It needs top_share above 0.",
        number(0, 100, optional=True),
        absent=None,
    )
    imagenet_dir: str | os.PathLike[str] | None = setting(
        None,
        "Folder of penalty images: photographs of other objects, on which the student must not imitate the teacher; "
        "synthetic images by default.",
        path,
        option="penalty",
        kind=os.PathLike,
    )
    max_steps: int = setting(MAX_STEPS, "Maximum number of training steps.", whole(1, 10**7), option="max-steps")
    max_epochs: int | None = setting(
        None,
        "Maximum number of passes over the training images.",
        whole(1, 10**6, optional=True),
        option="max-epochs",
        kind=int,
    )
    budget: float | str | None = setting(
        None,
        "Time for the whole fit, such as 90s, 10m or 1.5h: sets the number of steps, and trains on crops where whole "
        "images would allow only a few steps.",
        check_budget,
        option="budget",
        kind=str,
    )
    batch_size: int = setting(1, "Good images per training step.", whole(1, 256), option="batch-size")
    crop: int | None = setting(
        None,
        "Side of the training crops, in network outputs; whole images, or crops chosen by the budget, by default.",
        crop_side,
        option="crop",
        kind=int,
    )
    holdout: float = setting(
        0.2,
        "Share of good images held out of training: a quarter of them set the quantiles, the others the threshold. A "
        "false positive rate of 1 % needs 660 good images.",
        number(0, 0.8, positive=True),
        option="holdout",
    )
    early_stop: bool = setting(True, "Whether training stops when the held-out loss no longer falls.", flag)
    solve_last: bool = setting(
        True,
        "Whether ridge regression solves the student's last layer after training, which short trainings need.",
        flag,
    )
    checkpoint: str | os.PathLike[str] | None = setting(
        None,
        "File for the training state, written every minute; training resumes from it if it exists.",
        path,
        option="checkpoint",
        kind=os.PathLike,
        stored=False,
    )
    device: str | None = setting(
        None,
        "Device to train on, such as cpu or cuda; a GPU if torch has one, by default.",
        lambda _, value: value or None,
        option="device",
        kind=str,
        stored=False,
    )

    def check_together(self) -> None:
        """Raise InputError if a crop is larger than a square image, or that is smaller than the receptive field."""
        if self.crop is not None and self.padding:
            todo = "A padded network sees the frame of each part: train on whole images, or without padding."
            raise InputError(message("crop", "None with padding", repr(self.crop), todo=todo))
        self.check_crop(self.geometry())

    @property
    def budget_s(self) -> float | None:
        """The budget in seconds."""
        assert not isinstance(self.budget, str), "the check turns text into seconds"
        return self.budget

    @property
    def may_count_positions(self) -> bool:
        """Whether maps are normalised at each position, with enough calibration images."""
        return self.position_sigma is not None and self.top_share > 0

    def counts_positions(self, n_calibration: int) -> bool:
        """Return whether a fit normalises maps at each position, with so many calibration images."""
        return self.may_count_positions and n_calibration >= LEAST_POSITION

    def geometry(self, images_hw: Sequence[tuple[int, int]] = ((1, 1),)) -> Geometry:
        """Return the geometry for images of these (height, width), square ones by default.

        Differs: the paper resizes all images to a square, in which thin defects of long parts are lost.
        """
        from blemish.imaging.geometry import choose_geometry

        limited = [(min(height, LONGEST * width), min(width, LONGEST * height)) for height, width in images_hw]
        return choose_geometry(limited, self.image_size, self.center_crop, multiple_px=1)

    def check_crop(self, geometry: Geometry) -> None:
        """Raise InputError if the crop is larger than the map of images of this geometry, or they have none."""
        from blemish.detectors.efficientad.pdn import output_hw

        outputs = output_hw(self.model_size, geometry.network_hw, padding=self.padding)
        if self.crop is not None and (self.crop % 4 or self.crop > min(outputs)):
            raise InputError(message("crop", f"a multiple of 4 up to {min(outputs)} outputs", repr(self.crop)))

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
