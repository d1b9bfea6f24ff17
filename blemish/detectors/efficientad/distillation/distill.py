"""Distilling a teacher: a patch description network that gives what a deep pretrained network gives.

Few steps on few crops must do on a CPU: the network learns with batch norms, which are folded away at the end, by a
fast optimiser, with products of bfloat16 where the processor has them, and its last layer is at last solved for by
least squares.
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

from blemish._io.files import atomic_write
from blemish._validation.checks import check_number
from blemish._version import __version__
from blemish.detectors.efficientad.devices import training_device
from blemish.detectors.efficientad.distillation.checkpoint import load_checkpoint, save_checkpoint
from blemish.detectors.efficientad.distillation.optimizer import Descent
from blemish.detectors.efficientad.distillation.student import (
    batch_of,
    batches,
    folded,
    measure_norms,
    projected,
    trainee,
    turned,
)
from blemish.detectors.efficientad.distillation.targets import Targets, TargetSettings, prepare, projection
from blemish.detectors.efficientad.pdn import check_size, import_torch
from blemish.detectors.efficientad.teacher import save_teacher
from blemish.errors import InputError, message
from blemish.imaging.decode import save as save_image
from blemish.ops.least_squares import mean_squared_error, refit_last_layer
from blemish.runtime.precision import has_instructions
from blemish.visualization import loss_figure

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from blemish.detectors.efficientad.pdn import Size
    from blemish.types import Float32

WARM_UP = 20  # steps until the rate is full
DECAY = 0.6  # the share of the steps, at the end, over which the rate falls to 0
HELD_OUT = 0.02  # of the images, for a loss that nothing was fitted to
N_MEASURED = 128  # held-out crops that the loss is measured on
TIMED_STEPS = 8  # that a budget is first planned from
SOLVED_AT_ONCE = 16  # crops, where products of all inputs of a layer are added up
N_NORM_BATCHES = 16  # that the batch norms' statistics are measured on before the last layer is solved
SAVE_S = 60.0  # between two checkpoints
FINISH_SHARE = 0.1  # of a budget, for folding, solving and writing
BF16 = ("avx512_bf16", "amx_bf16")
MOVING = 0.95  # of the loss that is shown, per step


@dataclass(frozen=True)
class DistillSettings:
    """How a teacher learns.

    Attributes:
        size: "small" or "medium".
        steps: updates of the weights; None plans them from `budget_s`.
        budget_s: seconds for the steps, without making the crops.
        batch: crops per step.
        rate: the share of their length that kernels move by in a step, at its highest.
        seed: of the first weights and the order of the crops.
        last_crops: crops that the last layer is solved on behind the last step.
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
class Progress:
    """Where a run stands.

    Attributes:
        step: updates done.
        steps: updates planned; 0 until a budget has been planned.
        losses: [step, moving training loss or None, held-out loss] per point of the curve.
        moving: the moving average of the training loss; None before the first step.
        spent_s: seconds of learning, over all parts of the run.
    """

    step: int = 0
    steps: int = 0
    losses: list[list[float | None]] = field(default_factory=list)
    moving: float | None = None
    spent_s: float = 0.0


Report = Callable[[str, int, int, str], None]


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
    progress: Report | None = None,
) -> dict[str, Any]:
    """Make a teacher from natural images and a pretrained network; write its weights and card, return the card.

    What was killed goes on where it stood when it is called again with the same settings, and ends with the same
    weights to the bit on the same machine. Only `steps` may be changed in between, until the rate has begun to fall.

    Args:
        images: a folder of natural images, with its sub-folders.
        out: weights to write, ending in .safetensors; the card goes beside it.
        settings: how to learn.
        targets: from what.
        work: folder for crops, targets, checkpoint and loss curve; by default `out` with the ending .work.
        device: "cpu", "cuda", ...; None for a GPU where there is one.
        licence: of the images, for the card.
        threads: of the processor; None for all.
        progress: called as progress(what, done, all, remark).

    Raises:
        DataError: if there are too few images.
        InputError: if a setting can't be, torch is missing, `work` holds a run of other settings, or the loss is no
            number.
        ModelFileError: if the pretrained network's weights are missing, or a file in `work` is damaged.
        SaveError: if a file can't be written.
    """
    settings, targets = settings or DistillSettings(), targets or TargetSettings()
    torch, where = import_torch(), training_device(device)
    target = check_out(out)
    folder = Path(work) if work is not None else target.with_suffix(".work")
    say = progress or _silent
    ready = prepare(
        images, folder, targets, threads=threads, progress=lambda done, n: say("preparing crops", done, n, "")
    )
    if threads is not None:
        torch.set_num_threads(threads)
    run = Run(settings, ready, folder, torch.device(where))
    run.learn(say)
    before, after = run.finish()
    state = projected(folded(run.network, settings.size), settings.size, run.to_384(targets.seed))
    losses = {
        "held_out": before,
        "held_out_after_solving_last_layer": after,
        "held_out_if_nothing_is_learnt": run.nothing_learnt(),
    }
    card = _card(settings, targets, run, losses, licence)
    save_teacher(target, state, card)
    return card


def _silent(_what: str, _done: int, _total: int, _remark: str) -> None:
    """Say nothing of the progress."""


def check_out(out: str | os.PathLike[str]) -> Path:
    """Return the path to write weights to, or raise before anything is computed.

    Raises:
        InputError: if it does not end in .safetensors or is a folder.
    """
    path = Path(out)
    if path.suffix != ".safetensors" or path.is_dir():
        raise InputError(message("out", "a file ending in .safetensors", str(path)))
    return path


class Run:
    """One distillation: network, optimiser and where they stand, in memory and in a folder.

    Args:
        settings: how to learn.
        targets: what from.
        folder: where the checkpoint lies, which is read if it is there.
        device: torch's.

    Raises:
        InputError: if the checkpoint is of other settings.
        ModelFileError: if it is damaged.
    """

    def __init__(self, settings: DistillSettings, targets: Targets, folder: Path, device: torch.device) -> None:
        self.settings, self.targets, self.device = settings, targets, device
        self.path = folder / "checkpoint.safetensors"
        self.n_channels = targets.features.shape[-1]
        self.mixed = device.type != "cpu" or has_instructions(*BF16)
        self.held_out, self.learnt = self._parted()
        self.network = trainee(settings.size, self.n_channels, settings.seed).to(device)
        self.descent = Descent(dict(self.network.named_parameters()), turned(settings.size))
        self.progress = Progress(steps=settings.steps or 0)
        self.judged = [self._batch(rows) for rows in batches(self.held_out[:N_MEASURED], settings.batch)]
        self._resume()

    def learn(self, say: Report) -> None:
        """Do the steps that are left, saving now and then.

        Raises:
            InputError: if the loss is no number; the checkpoint before it is kept.
        """
        at = self.progress
        if at.step == 0:
            self.save()
        saved = started = time.monotonic()
        spent = at.spent_s
        while (self.settings.steps is None and at.steps == 0) or at.step < at.steps:
            self._step()
            at.spent_s = spent + time.monotonic() - started
            if at.steps == 0 and at.step >= TIMED_STEPS:
                self._plan()  # and anew at each saving, since a machine that is busy at first may be free later
            is_last = at.step == at.steps
            if is_last or time.monotonic() - saved > SAVE_S:
                if self.settings.budget_s is not None and at.step < (1 - DECAY) * at.steps:
                    self._plan()
                self.save()
                saved = time.monotonic()
            left = at.spent_s / at.step * (at.steps - at.step)
            say("distilling", at.step, at.steps or TIMED_STEPS, f"loss {at.moving:.3f}, {left / 60:.0f} min left")

    def finish(self) -> tuple[float, float]:
        """Measure the batch norms' statistics and solve the last layer; return the held-out losses before and after."""
        rows = batches(self.learnt[: self.settings.last_crops], SOLVED_AT_ONCE)
        measure_norms(self.network, (self._batch(part)[0] for part in rows[:N_NORM_BATCHES]))
        self.network.eval()
        return refit_last_layer(self.network, (self._batch(part) for part in rows), self.judged)

    def nothing_learnt(self) -> float:
        """Return the held-out loss of a network that always gives the mean of natural images."""
        total = sum(float(wanted.square().sum()) for _, wanted in self.judged)
        return total / sum(wanted.numel() for _, wanted in self.judged)

    def to_384(self, seed: int) -> Float32 | None:
        """Return the projection that the last layer lacks, or None if the targets are 384 already."""
        n = self.targets.facts["channels"]
        return projection(n, seed) if n == self.n_channels else None

    def save(self) -> None:
        """Write the checkpoint, with the held-out loss at this step in its curve."""
        self.network.eval()
        self.progress.losses.append(
            [self.progress.step, self.progress.moving, mean_squared_error(self.network, self.judged)]
        )
        self.network.train()
        tensors = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        tensors |= {f"descent.{name}": tensor for name, tensor in self.descent.state.items()}
        arrays = {name: tensor.detach().cpu().contiguous().numpy() for name, tensor in tensors.items()}
        save_checkpoint(self.path, arrays, {"identity": self._identity(), "progress": asdict(self.progress)})
        self._draw_curve()

    def _draw_curve(self) -> None:
        """Write the losses so far as JSON and as a chart."""
        columns = [[row[i] for row in self.progress.losses] for i in range(3)]
        document = dict(zip(("step", "training", "held_out"), columns, strict=True))
        atomic_write(self.path.with_name("loss.json"), json.dumps(document).encode(), name="loss curve")
        points = [[math.nan if value is None else value for value in column] for column in columns]
        curves = {"training": points[1], "held out": points[2]}
        title = f"Loss of the {self.settings.size} teacher: 1 is nothing learnt"
        save_image(self.path.with_name("loss.png"), loss_figure(points[0], curves, title=title))

    def _step(self) -> None:
        at = self.progress
        images, wanted = self._batch(self._rows(at.step))
        with self._precision():
            made = self.network(images)
        loss = (made.float() - wanted).square().mean()
        value = float(loss.detach())
        if not math.isfinite(value):
            todo = f"Give a smaller --rate than {self.settings.rate}; what was learnt before is in {self.path}."
            raise InputError(message("loss", "a number", str(value), where=f"step {at.step + 1}", todo=todo))
        loss.backward()
        self.descent.step(self.settings.rate * self._share(at.step))
        at.step += 1
        at.moving = value if at.moving is None else MOVING * at.moving + (1 - MOVING) * value

    def _share(self, step: int) -> float:
        """Return the rate's share of its highest: up, level, and down to 0 at the last step."""
        down = (self.progress.steps - step) / (DECAY * self.progress.steps) if self.progress.steps else 1.0
        return min(1.0, (step + 1) / WARM_UP, down)

    def _plan(self) -> None:
        """Plan the steps that the budget has time for, from how long those that were done took."""
        assert self.settings.budget_s is not None
        each = self.progress.spent_s / self.progress.step
        self.progress.steps = max(TIMED_STEPS, int(self.settings.budget_s * (1 - FINISH_SHARE) / each))

    def _rows(self, step: int) -> NDArray[np.int64]:
        """Return the crops of a step: each epoch in an order of its own, which the seed decides."""
        per_epoch = max(1, len(self.learnt) // self.settings.batch)
        epoch, place = divmod(step, per_epoch)
        order = np.random.default_rng((self.settings.seed, 4, epoch)).permutation(self.learnt)
        return order[place * self.settings.batch : (place + 1) * self.settings.batch]

    def _parted(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the crops of held-out images and those of the others, each in an order that the seed decides."""
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
        """Return what a checkpoint must agree on, but the number of steps."""
        found = {name: value for name, value in asdict(self.settings).items() if name not in {"steps", "last_crops"}}
        return {**found, "channels": self.n_channels, "crops": len(self.targets.valid)}

    def _resume(self) -> None:
        import torch

        found = load_checkpoint(self.path)
        if found is None:
            return
        tensors, facts = found
        begin_anew = f"Give the settings of before, or delete {self.path} to begin anew."
        theirs, ours = facts.get("identity", {}), self._identity()
        for name, value in ours.items():
            if theirs.get(name) != value:
                got = f"{name} {theirs.get(name)!r:.60}"
                raise InputError(message("checkpoint", f"{name} {value!r}", got, where=self.path, todo=begin_anew))
        at = Progress(**facts["progress"])
        wanted = at.steps if self.settings.steps is None else self.settings.steps
        if at.steps != wanted and at.step > (1 - DECAY) * min(at.steps, wanted):
            got = f"one whose rate has begun to fall towards step {at.steps}"
            raise InputError(message("checkpoint", f"one of {wanted} steps", got, where=self.path, todo=begin_anew))
        at.steps = wanted
        state = {name: torch.from_numpy(np.array(array)).to(self.device) for name, array in tensors.items()}
        self.network.load_state_dict({n.partition(".")[2]: t for n, t in state.items() if n.startswith("network.")})
        self.descent.load({n.partition(".")[2]: t for n, t in state.items() if n.startswith("descent.")}, at.step)
        self.progress = at


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
            "steps": run.progress.step,
            "crops": len(run.targets.valid),
            "crop_px": targets.crop_px,
            "image_px": targets.image_px,
            "seconds_of_steps": round(run.progress.spent_s),
        },
        "loss": {"training": run.progress.moving, **losses},
        "loss_is": "mean squared error of channels of variance 1 over natural images; the held-out crops also chose"
        " by how much the last layer's solution was shrunk",
    }
