"""The training loop of EfficientAD: plan, learning rate, checkpoints, early stop, divergence."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from blemish.detectors.efficientad.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from blemish.detectors.efficientad.pdn import import_torch
from blemish.detectors.efficientad.training import Losses, Training, hard_share
from blemish.errors import InputError, message
from blemish.types import Progress

if TYPE_CHECKING:
    from blemish.detectors.efficientad.settings import EfficientAdSettings

LATE, LATE_FACTOR = 0.95, 0.1  # nelson1425/efficientad.py and anomalib: the rate falls to a tenth at 95 % of the steps
CHECK_STEPS = 500  # between two held-out losses
PATIENCE = 8  # held-out losses without an improvement, after which the last part of the training begins
LEAST_IMPROVEMENT = 0.005
LAST_PART = 2 / 3  # of the training, from which on the last third is measured
SAVE_S = 60.0  # between two checkpoints
BACKUP_STEPS = 50  # between two copies of the weights
DIVERGED = (
    "Training diverged at step {step} (loss {loss}); the weights of step {kept} are kept. "
    "Try a lower lr, such as {lr:.0e}."
)


class Plan(NamedTuple):
    """Limits of a training.

    Attributes:
        crop: rows and columns of outputs of each image that a step sees; None for all.
    """

    n_steps: int
    crop: int | None
    seconds: float | None


@dataclass
class Outcome:
    """Result of a training, beside the weights.

    Attributes:
        losses: (step, the four losses averaged since the last entry).
        held_out: (step, held-out loss).
        late_losses: the student's held-out loss after two thirds of the training, and at its end; None where it was not
            measured. The autoencoder's rises while it learns to say anything.
        warning: a sentence for the user if something went wrong, else "".
    """

    n_steps: int = 0
    seconds: float = 0.0
    losses: list[tuple[int, Losses]] = field(default_factory=list)
    held_out: list[tuple[int, float]] = field(default_factory=list)
    late_losses: tuple[float | None, float | None] = (None, None)
    warning: str = ""


def plan_training(settings: EfficientAdSettings, n_images: int) -> Plan:
    """Return the limits that the settings give: the least of steps, epochs and time."""
    steps = settings.max_steps
    if settings.max_epochs is not None:
        steps = min(steps, max(1, settings.max_epochs * n_images // settings.batch_size))
    return Plan(steps, settings.crop, settings.budget_s)


class Loop:
    """Trains, and goes on from a checkpoint.

    Args:
        checkpoint: a file that the state is written to every minute, and read from where it exists; None for none.
        identity: what decides the training: settings, teacher, images.
        progress: called as progress(stage, steps done, steps); the stage holds the loss.
    """

    def __init__(
        self,
        training: Training,
        plan: Plan,
        *,
        checkpoint: str | os.PathLike[str] | None,
        identity: dict[str, Any],
        progress: Progress,
        clock: Callable[[], float] = time.monotonic,
        check_steps: int = CHECK_STEPS,
    ) -> None:
        self.training, self.plan, self.path, self.identity = training, plan, checkpoint, identity
        self.progress, self.clock, self.check_steps = progress, clock, check_steps
        self.outcome = Outcome()
        self.end = plan.n_steps
        self._best, self._since_best = float("inf"), 0
        self._recent: list[Losses] = []
        self._backup: list[Any] = []
        self._backup_step = 0
        saved = load_checkpoint(checkpoint, identity) if checkpoint is not None else None
        if saved is not None:
            self._resume(saved)

    def run(self) -> Outcome:
        """Train to the end, and return what came of it."""
        started = self.clock() - self.outcome.seconds
        saved = self.clock()
        try:
            while self.outcome.n_steps < self.end and not self._is_late(1.0):
                if self.outcome.n_steps % BACKUP_STEPS == 0:
                    self._back_up()
                if not self._step():
                    break
                self.outcome.seconds = self.clock() - started
                if self.outcome.late_losses[0] is None and self._is_after(LAST_PART):
                    self.outcome.late_losses = self.training.held_out_losses()[0], None
                if self.path is not None and self.clock() - saved > SAVE_S:
                    self._save()
                    saved = self.clock()
        finally:
            # Also after Ctrl-C: the steps so far are not lost.
            self.outcome.seconds = self.clock() - started
            if self.path is not None and self.outcome.n_steps:
                self._save()
        if self.outcome.late_losses[0] is not None:
            self.outcome.late_losses = self.outcome.late_losses[0], self.training.held_out_losses()[0]
        self.progress("training", self.end, self.end)
        return self.outcome

    def _step(self) -> bool:
        """Take one step, and return whether to go on."""
        k = self.outcome.n_steps
        rate = self.training.settings.lr * (LATE_FACTOR if self._is_after(LATE) else 1.0)
        losses = self.training.step(k, rate, hard_share(k, self.plan.n_steps))
        if not np.isfinite(losses.total):
            self._restore(k, losses.total)
            return False
        self.outcome.n_steps = k + 1
        self._recent.append(losses)
        if len(self._recent) == BACKUP_STEPS:
            mean = Losses(*np.mean(self._recent, axis=0).tolist())
            self.outcome.losses.append((k + 1, mean))
            self._recent = []
        if self.training.settings.early_stop and (k + 1) % self.check_steps == 0:
            self._check(k + 1)
        total = self._expected()
        self.progress(f"training, loss {losses.total:.3f}", min(k + 1, total - 1), total)
        return True

    def _is_after(self, share: float) -> bool:
        """Return whether this share of the steps or of the time has passed."""
        return self.outcome.n_steps >= share * self.end or self._is_late(share)

    def _is_late(self, share: float) -> bool:
        """Return whether this share of the time has passed."""
        return self.plan.seconds is not None and self.outcome.seconds >= share * self.plan.seconds

    def _expected(self) -> int:
        """Return the expected number of steps."""
        if self.plan.seconds is None or not self.outcome.seconds:
            return self.end
        return max(
            self.outcome.n_steps + 1,
            min(self.end, round(self.outcome.n_steps * self.plan.seconds / self.outcome.seconds)),
        )

    def _check(self, k: int) -> None:
        """Measure the held-out loss; if it no longer falls, begin the last part of the training."""
        loss = sum(self.training.held_out_losses())
        self.outcome.held_out.append((k, loss))
        if loss < self._best * (1 - LEAST_IMPROVEMENT):
            self._best, self._since_best = loss, 0
            return
        self._since_best += 1
        if self._since_best >= PATIENCE and k < LATE * self.end:
            self.end = min(self.end, int(k / LATE) + 1)

    def _back_up(self) -> None:
        """Copy the weights, to go back to if training diverges."""
        torch = import_torch()
        with torch.no_grad():
            self._backup = [tensor.clone() for tensor in self.training.parameters]
        self._backup_step = self.outcome.n_steps

    def _restore(self, k: int, loss: float) -> None:
        """Go back to the last copy of the weights after step `k` diverged."""
        torch = import_torch()
        lr = self.training.settings.lr / 10
        if k == 0:
            todo = "The teacher's weights or the images are not what they should be."
            raise InputError(message("loss", "a finite number", f"{_name(loss)} in the first step", todo=todo))
        with torch.no_grad():
            for tensor, backup in zip(self.training.parameters, self._backup, strict=True):
                tensor.copy_(backup)
        self.outcome.n_steps = self._backup_step
        self.outcome.warning = DIVERGED.format(step=k + 1, loss=_name(loss), kept=self._backup_step, lr=lr)

    def _save(self) -> None:
        tensors = {}
        for i, tensor in enumerate(self.training.parameters):
            tensors[f"weight.{i}"] = tensor.detach().cpu().numpy()
            for name, value in self.training.optimizer.state[tensor].items():
                tensors[f"{name}.{i}"] = value.cpu().numpy()
        recent = np.array(self._recent, np.float64).reshape(-1, len(Losses._fields))
        state = {
            "n_steps": self.outcome.n_steps,
            "seconds": self.outcome.seconds,
            "losses": self.outcome.losses,
            "held_out": self.outcome.held_out,
            "at_last_part": self.outcome.late_losses[0],
            "recent": recent,
            "best": min(self._best, 1e300),
            "since_best": self._since_best,
            "end": self.end,
        }
        assert self.path is not None
        save_checkpoint(self.path, tensors, state, self.identity)

    def _resume(self, checkpoint: Checkpoint) -> None:
        """Continue from a checkpoint."""
        torch = import_torch()
        with torch.no_grad():
            for i, tensor in enumerate(self.training.parameters):
                tensor.copy_(torch.from_numpy(np.array(checkpoint.tensors[f"weight.{i}"])))
                moments = {
                    name: torch.from_numpy(np.array(checkpoint.tensors[f"{name}.{i}"])).to(tensor.device)
                    for name in ("step", "exp_avg", "exp_avg_sq")
                    if f"{name}.{i}" in checkpoint.tensors
                }
                if moments:
                    self.training.optimizer.state[tensor] = moments
        state = checkpoint.state
        self.outcome = Outcome(
            state["n_steps"],
            state["seconds"],
            [(k, Losses(*losses)) for k, losses in state["losses"]],
            [(k, loss) for k, loss in state["held_out"]],
            (state.get("at_last_part"), None),
        )
        self._recent = [Losses(*losses) for losses in state["recent"]]
        self._best, self._since_best, self.end = state["best"], state["since_best"], state["end"]
        self._back_up()


def _name(loss: float) -> str:
    return "NaN" if math.isnan(loss) else "infinite"
