"""Distillation of a deep pretrained network into a patch description network, the teacher of EfficientAD.

Few steps must do on a processor: batch norms, which are folded away at the end, the Muon optimizer, bfloat16 where the
processor multiplies it fast, and ridge regression of the last layer after the last step.

Source: Batzner et al. 2024, section 3.1.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from blemish._io.files import atomic_write
from blemish._validation.checks import check_number
from blemish._version import __version__
from blemish.detectors.efficientad.checkpoint import REMEDY, load_checkpoint, save_checkpoint
from blemish.detectors.efficientad.devices import training_device
from blemish.detectors.efficientad.distillation.optimizer import Muon
from blemish.detectors.efficientad.distillation.student import (
    batch_of,
    batches,
    folded,
    measure_norms,
    new_student,
    normalised_kernels,
    projected,
)
from blemish.detectors.efficientad.distillation.targets import Targets, TargetSettings, prepare, projection
from blemish.detectors.efficientad.pdn import check_size, import_torch
from blemish.detectors.efficientad.teacher import load_teacher, save_teacher
from blemish.errors import InputError, message
from blemish.imaging.decode import save as save_image
from blemish.ops.least_squares import mean_squared_error, refit_last_layer
from blemish.runtime.precision import has_instructions
from blemish.types import Float32, Progress, no_progress
from blemish.visualization import loss_figure

if TYPE_CHECKING:
    import torch

    from blemish.detectors.efficientad.pdn import Size

WARM_UP = 20  # steps until the highest rate
DECAY = 0.6  # the share of the steps, at the end, over which the rate falls to 0
HELD_OUT = 0.02  # of the images
N_HELD_OUT = 128  # crops of the held-out loss
TIMED_STEPS = 8  # before a budget is planned for the first time
REGRESSION_BATCH = 16  # crops
N_NORM_BATCHES = 16  # for the batch norms' statistics before the regression
SAVE_S = 60.0  # between two checkpoints
FINISH_SHARE = 0.1  # of a budget, for folding, regression and writing
BF16 = ("avx512_bf16", "amx_bf16")
DECAY_OF_LOSS = 0.95  # of the moving average, per step


@dataclass(frozen=True)
class DistillSettings:
    """Settings of a distillation.

    Attributes:
        steps: updates of the weights; None plans them from `budget_s`.
        budget_s: seconds for the steps, without making the crops.
        rate: highest length of a kernel's step, as a share of its norm.
        last_crops: crops in the regression of the last layer.
    """

    size: Size = "small"
    steps: int | None = 2000
    budget_s: float | None = None
    batch: int = 8
    rate: float = 0.02
    seed: int = 0
    last_crops: int = 1000

    def __post_init__(self) -> None:
        check_size(self.size)
        if (self.steps is None) == (self.budget_s is None):
            got = "both" if self.steps is not None else "neither"
            raise InputError(message("steps, budget", "one of them", got))
        if self.steps is not None:
            check_number("steps", self.steps, low=1, high=10_000_000)
        if self.budget_s is not None:
            check_number("budget", self.budget_s, low=1.0, high=1e7)
        check_number("batch", self.batch, low=1, high=4096)
        check_number("rate", self.rate, low=1e-6, high=1.0)
        check_number("last_crops", self.last_crops, low=1, high=100_000)


@dataclass
class RunState:
    """How far a run is.

    Attributes:
        steps: updates planned; 0 until a budget has been planned.
        losses: [step, moving training loss or None, held-out loss] per point of the curve.
        moving: the moving average of the training loss; None before the first step.
    """

    step: int = 0
    steps: int = 0
    losses: list[list[float | None]] = field(default_factory=list)
    moving: float | None = None
    spent_s: float = 0.0


def distill(
    images: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    settings: DistillSettings | None = None,
    targets: TargetSettings | None = None,
    work: str | os.PathLike[str] | None = None,
    device: str | None = None,
    licence: str = "",
    threads: int | None = None,
    progress: Progress = no_progress,
    say: Callable[[str], object] = str,
    save_s: float = SAVE_S,
) -> dict[str, Any]:
    """Train a teacher on natural images and a pretrained network; write its weights and card, return the card.

    A killed run continues when it is called again with the same settings, and ends with the same weights bit for bit on
    the same machine. Only `steps` may change in between, until the rate has begun to fall.

    Args:
        out: weights to write, ending in .safetensors; the card goes beside it.
        work: folder for crops, targets, checkpoint and loss curve; by default `out` with the ending .work.
        say: called with a sentence for each image that could not be read.

    Raises:
        DataError: if there are too few images.
        InputError: if a setting is out of range, torch is missing, `work` holds a run of other settings, or training
            diverges.
        ModelFileError: if the pretrained network's weights are missing, or a file in `work` is damaged.
        SaveError: if a file can't be written.
    """
    settings, targets = settings or DistillSettings(), targets or TargetSettings()
    torch, where = import_torch(), training_device(device)
    path = check_out(out)
    folder = Path(work) if work is not None else path.with_suffix(".work")
    pairs = prepare(images, folder, targets, threads=threads, progress=progress)
    for problem in pairs.problems:
        say(problem)
    if threads is not None:
        torch.set_num_threads(threads)
    run = Run(settings, pairs, folder, torch.device(where), save_s=save_s)
    run.train(progress)
    before, after = run.finish()
    state = projected(folded(run.network, settings.size), settings.size, run.to_384(targets.seed))
    losses = {
        "held_out": before,
        "held_out_after_solving_last_layer": after,
        "held_out_if_nothing_is_learnt": run.loss_of_mean(),
    }
    save_teacher(path, state, _card(settings, targets, run, losses, licence))
    return dict(load_teacher(settings.size, path).card)


def check_out(out: str | os.PathLike[str]) -> Path:
    """Return the path of the weights, checked before anything is computed. InputError if it does not end in
    .safetensors or is a folder.
    """
    path = Path(out)
    if path.suffix != ".safetensors" or path.is_dir():
        raise InputError(message("out", "a file ending in .safetensors", str(path)))
    return path


class Run:
    """One distillation: student, optimizer and state, in memory and in a folder.

    Args:
        folder: of the checkpoint, which is read if it exists.
    """

    def __init__(
        self, settings: DistillSettings, targets: Targets, folder: Path, device: torch.device, *, save_s: float = SAVE_S
    ) -> None:
        self.settings, self.targets, self.device = settings, targets, device
        self.save_s = save_s
        self.path = folder / "checkpoint.safetensors"
        self.n_channels = targets.features.shape[-1]
        self.mixed = device.type != "cpu" or has_instructions(*BF16)
        self.held_out, self.training = self._split()
        self.network = new_student(settings.size, self.n_channels, settings.seed).to(device)
        self.optimizer = Muon(dict(self.network.named_parameters()), normalised_kernels(settings.size))
        self.state = RunState(steps=settings.steps or 0)
        self.validation = [self._batch(rows) for rows in batches(self.held_out[:N_HELD_OUT], settings.batch)]
        self._resume()

    def train(self, progress: Progress) -> None:
        """Take the remaining steps, with a checkpoint every minute. InputError if the training diverges; the last
        checkpoint is kept.
        """
        at = self.state
        if at.step == 0:
            self.save()
        saved = started = time.monotonic()
        spent = at.spent_s
        while (self.settings.steps is None and at.steps == 0) or at.step < at.steps:
            self._step()
            at.spent_s = spent + time.monotonic() - started
            if at.steps == 0 and at.step >= TIMED_STEPS:
                self._plan()  # and again at each checkpoint: a machine that is busy at first may be free later
            is_last = at.step == at.steps
            if is_last or time.monotonic() - saved > self.save_s:
                if self.settings.budget_s is not None and at.step < (1 - DECAY) * at.steps:
                    self._plan()
                self.save()
                saved = time.monotonic()
            left = at.spent_s / at.step * (at.steps - at.step)
            stage = f"distilling, loss {at.moving:.3f}, {left / 60:.0f} min left"
            progress(stage, at.step, at.steps or TIMED_STEPS)

    def finish(self) -> tuple[float, float]:
        """Set the batch norms' statistics and refit the last layer; return the held-out loss before and after."""
        rows = batches(self.training[: self.settings.last_crops], REGRESSION_BATCH)
        measure_norms(self.network, (self._batch(part)[0] for part in rows[:N_NORM_BATCHES]))
        self.network.eval()
        body, last = self.network[:-1], self.network[-1]
        return refit_last_layer(body, last, (self._batch(part) for part in rows), self.validation)

    def loss_of_mean(self) -> float:
        """Return the held-out loss of a constant output, the mean of natural images."""
        total = sum(float(targets.square().sum()) for _, targets in self.validation)
        return total / sum(targets.numel() for _, targets in self.validation)

    def to_384(self, seed: int) -> Float32 | None:
        """Return the projection to 384 features, or None if the targets have 384 channels."""
        n = self.targets.facts["channels"]
        return projection(n, seed) if n == self.n_channels else None

    def save(self) -> None:
        """Write the checkpoint, with the held-out loss at this step in its curve."""
        self.network.eval()
        self.state.losses.append(
            [self.state.step, self.state.moving, mean_squared_error(self.network, self.validation)]
        )
        self.network.train()
        tensors = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        tensors |= {f"optimizer.{name}": tensor for name, tensor in self.optimizer.state.items()}
        arrays = {name: tensor.detach().cpu().contiguous().numpy() for name, tensor in tensors.items()}
        save_checkpoint(self.path, arrays, asdict(self.state), self._identity())
        self._draw_curve()

    def _draw_curve(self) -> None:
        """Write the losses as JSON and as a chart."""
        columns = [[row[i] for row in self.state.losses] for i in range(3)]
        document = dict(zip(("step", "training", "held_out"), columns, strict=True))
        atomic_write(self.path.with_name("loss.json"), json.dumps(document).encode(), name="loss curve")
        points = [[math.nan if value is None else value for value in column] for column in columns]
        curves = {"training": points[1], "held out": points[2]}
        title = f"Loss of the {self.settings.size} teacher: 1 is the loss of the mean"
        save_image(self.path.with_name("loss.png"), loss_figure(points[0], curves, title=title))

    def _step(self) -> None:
        at = self.state
        images, targets = self._batch(self._rows(at.step))
        with self._precision():
            outputs = self.network(images)
        loss = (outputs.float() - targets).square().mean()
        value = float(loss.detach())
        if not math.isfinite(value):
            name = "NaN" if math.isnan(value) else "infinite"
            todo = f"Give a smaller --rate than {self.settings.rate}; the last checkpoint is {self.path}."
            got = f"training diverged at step {at.step + 1} (loss {name})"
            raise InputError(message("loss", "a finite number", got, todo=todo))
        loss.backward()
        self.optimizer.step(self.settings.rate * self._share(at.step))
        at.step += 1
        at.moving = value if at.moving is None else DECAY_OF_LOSS * at.moving + (1 - DECAY_OF_LOSS) * value

    def _share(self, step: int) -> float:
        """Return the rate over its highest: linear warm-up, constant, linear decay to 0 at the last step."""
        down = (self.state.steps - step) / (DECAY * self.state.steps) if self.state.steps else 1.0
        return min(1.0, (step + 1) / WARM_UP, down)

    def _plan(self) -> None:
        """Set the number of steps that fit in the budget, from the mean duration so far."""
        assert self.settings.budget_s is not None
        each = self.state.spent_s / self.state.step
        self.state.steps = max(TIMED_STEPS, int(self.settings.budget_s * (1 - FINISH_SHARE) / each))

    def _rows(self, step: int) -> NDArray[np.int64]:
        """Return the crops of a step: each once per epoch, in a random order."""
        per_epoch = max(1, len(self.training) // self.settings.batch)
        epoch, place = divmod(step, per_epoch)
        order = np.random.default_rng((self.settings.seed, 4, epoch)).permutation(self.training)
        return order[place * self.settings.batch : (place + 1) * self.settings.batch]

    def _split(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the crops of the held-out images and of the training images, each in a random order."""
        valid = self.targets.valid
        rng = np.random.default_rng((self.settings.seed, 3))
        order = valid[rng.permutation(len(valid))]
        image = order // (len(valid) // self.targets.facts["images"])
        images = np.unique(image)
        chosen = rng.permutation(images)[: max(1, round(HELD_OUT * len(images)))]
        is_held_out = np.isin(image, chosen)
        return order[is_held_out], order[~is_held_out]

    def _precision(self) -> Any:
        import torch

        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.mixed)

    def _batch(self, rows: NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
        return batch_of(self.targets.crops, self.targets.features, rows, self.device)

    def _identity(self) -> dict[str, Any]:
        """Return what decides the training, but the number of steps."""
        settings = {name: value for name, value in asdict(self.settings).items() if name not in {"steps", "last_crops"}}
        return {**settings, "channels": self.n_channels, "crops": len(self.targets.valid)}

    def _resume(self) -> None:
        import torch

        checkpoint = load_checkpoint(self.path, self._identity())
        if checkpoint is None:
            return
        at = RunState(**checkpoint.state)
        steps = at.steps if self.settings.steps is None else self.settings.steps
        if at.steps != steps and at.step > (1 - DECAY) * min(at.steps, steps):
            got = f"one whose rate has begun to fall towards step {at.steps}"
            raise InputError(message("checkpoint", f"one of {steps} steps", got, where=self.path, todo=REMEDY))
        at.steps = steps
        tensors: dict[str, dict[str, torch.Tensor]] = {"network": {}, "optimizer": {}}
        for name, array in checkpoint.tensors.items():
            part, _, rest = name.partition(".")
            tensors[part][rest] = torch.from_numpy(np.array(array)).to(self.device)
        self.network.load_state_dict(tensors["network"])
        self.optimizer.load(tensors["optimizer"], at.step)
        self.state = at


def _card(
    settings: DistillSettings, targets: TargetSettings, run: Run, losses: dict[str, float], licence: str
) -> dict[str, Any]:
    from blemish.backbones.registry import SOURCES

    known = SOURCES[targets.backbone].files[-1] if targets.backbone in SOURCES else None
    facts = run.targets.facts
    return {
        "network": {"small": "PDN-S", "medium": "PDN-M"}[settings.size],
        "made_by": f"blemish {__version__}, blemish distill",
        "licence": "Apache-2.0",
        "source": {
            "network": targets.backbone,
            "layers": list(targets.layers),
            "channels": facts["channels"],
            "licence": known.licence if known else "",
            "url": known.source if known else "",
            "weights_sha256": facts["weights_sha256"],
        },
        "images": {
            "number": facts["images"],
            "left_out": len(run.targets.problems),
            "licence": licence,
            "names_sha256": facts["images_sha256"],
        },
        "learning": {
            **asdict(settings),
            "steps": run.state.step,
            "crops": len(run.targets.valid),
            "crop_px": targets.crop_px,
            "image_px": targets.image_px,
            "seconds_of_steps": round(run.state.spent_s),
        },
        "loss": {"training": run.state.moving, **losses},
        "loss_is": "mean squared error of channels of variance 1 over natural images; the held-out crops also chose"
        " by how much the last layer's solution was shrunk",
    }
