"""The loop: limits, learning rate, checkpoints, divergence, early stop."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from blemish.detectors.efficientad.loop import Loop, Plan, plan_training
from blemish.detectors.efficientad.training import Losses
from blemish.errors import InputError
from tests.lazy import torch


class Quadratic:
    """Stands for a training: one tensor that Adam brings to 0; one step can diverge."""

    def __init__(self, *, diverges_at: int = -1, held_out: float | None = None) -> None:
        self.settings = SimpleNamespace(lr=0.1, early_stop=held_out is not None)
        self.parameters = [torch.full((3,), 5.0, requires_grad=True)]
        self.optimizer = torch.optim.Adam(self.parameters, lr=0.1)
        self.rates: list[float] = []
        self.shares: list[float] = []
        self.measured: list[int] = []  # the steps after which the held-out loss was measured
        self.diverges_at, self.held_out = diverges_at, held_out

    def step(self, k: int, rate: float, share: float) -> Losses:
        self.shares.append(share)
        self.rates.append(rate)
        if k == self.diverges_at:
            with torch.no_grad():
                self.parameters[0].fill_(float("nan"))
            return Losses(float("nan"), 0, 0, 0)
        self.optimizer.param_groups[0]["lr"] = rate
        self.optimizer.zero_grad()
        loss = (self.parameters[0] * (k % 3 + 1)).square().sum()
        loss.backward()
        self.optimizer.step()
        return Losses(float(loss.detach()), 0, 0, 0)

    def held_out_losses(self) -> tuple[float, float]:
        self.measured.append(len(self.rates))
        return 1.0 if self.held_out is None else self.held_out, 0.0


def loop(training: Any, n_steps: int = 200, **changes: Any) -> Loop:
    kept: dict[str, Any] = {"checkpoint": None, "identity": {"a": 1}, "progress": lambda *_: None}
    plan = Plan(n_steps, None, changes.pop("seconds", None))
    return Loop(training, plan, **{**kept, **changes})


def test_the_rate_falls_at_95_percent():
    training = Quadratic()
    outcome = loop(training).run()
    assert outcome.n_steps == 200
    assert training.rates == [0.1] * 190 + [pytest.approx(0.01)] * 10
    assert [k for k, _ in outcome.losses] == [50, 100, 150, 200]
    assert training.shares[0] == 0.1
    assert training.shares[100:] == [0.001] * 100
    assert outcome.losses[-1][1].total < outcome.losses[0][1].total


@pytest.mark.slow
@pytest.mark.parametrize("stop", [37, 100, 199])
def test_a_run_that_was_stopped_goes_on_to_the_same_weights(tmp_path: Path, stop: int):
    whole = Quadratic()
    expected = loop(whole).run()

    def interrupt(stage: str, done: int, total: int) -> None:
        if done == stop:
            raise KeyboardInterrupt

    first = Quadratic()
    with pytest.raises(KeyboardInterrupt):
        loop(first, checkpoint=tmp_path / "c", progress=interrupt).run()
    second = Quadratic()
    outcome = loop(second, checkpoint=tmp_path / "c").run()
    assert len(second.rates) == 200 - stop
    assert torch.equal(second.parameters[0], whole.parameters[0])
    assert (outcome.n_steps, outcome.losses) == (expected.n_steps, expected.losses)


def test_a_finished_run_is_not_run_again(tmp_path: Path):
    loop(Quadratic(), checkpoint=tmp_path / "c").run()
    again = Quadratic()
    assert loop(again, checkpoint=tmp_path / "c").run().n_steps == 200
    assert again.rates == []


def test_a_checkpoint_of_other_settings_is_refused(tmp_path: Path):
    loop(Quadratic(), checkpoint=tmp_path / "c").run()
    with pytest.raises(InputError, match="checkpoint: expected one made with a 2, got 1"):
        loop(Quadratic(), checkpoint=tmp_path / "c", identity={"a": 2})


def test_divergence_stops_and_restores_the_last_copy():
    training = Quadratic(diverges_at=120)
    outcome = loop(training).run()
    assert outcome.n_steps == 100
    assert torch.isfinite(training.parameters[0]).all()
    expected = (
        "Training diverged at step 121 (loss NaN); the weights of step 100 are kept. Try a lower lr, such as 1e-02."
    )
    assert outcome.warning == expected


def test_divergence_in_the_first_step_is_an_error():
    with pytest.raises(InputError, match="loss: expected a finite number, got NaN in the first step"):
        loop(Quadratic(diverges_at=0)).run()


def test_the_last_third_is_measured():
    training = Quadratic()
    assert loop(training, 200).run().late_losses == (1.0, 1.0)
    assert training.measured == [134, 200]


def test_the_last_third_of_a_time_is_measured():
    training, times = Quadratic(), itertools.count()
    outcome = loop(training, 10_000, seconds=90, clock=lambda: float(next(times))).run()
    assert outcome.late_losses == (1.0, 1.0)
    first, last = training.measured
    assert first / last == pytest.approx(2 / 3, abs=0.05)


def test_a_resumed_training_keeps_the_loss_before_its_last_third(tmp_path: Path):
    training = Quadratic(held_out=0.5)
    loop(training, 200, checkpoint=tmp_path / "state").run()
    other = Quadratic(held_out=0.25)
    assert loop(other, 200, checkpoint=tmp_path / "state").run().late_losses == (0.5, 0.25)


def test_training_ends_where_the_held_out_loss_stays():
    training = Quadratic(held_out=1.0)
    outcome = loop(training, 1000, check_steps=10).run()
    # The first is the best; eight more without a gain, and then a twentieth at the low rate.
    assert outcome.held_out == [(k, 1.0) for k in range(10, 100, 10)]
    assert outcome.n_steps == int(90 / 0.95) + 1
    assert training.rates[-1] == pytest.approx(0.01)


def test_time_ends_it_too():
    seconds = iter(range(10_000))
    training = Quadratic()
    outcome = loop(training, 1000, seconds=40.0, clock=lambda: float(next(seconds))).run()
    assert 30 <= outcome.n_steps <= 41
    assert training.rates[0] == 0.1
    assert training.rates[-1] == pytest.approx(0.01)


def test_progress_ends_at_its_total():
    calls: list[tuple[str, int, int]] = []
    loop(Quadratic(), 20, progress=lambda *call: calls.append(call)).run()
    assert calls[0][0].startswith("training, loss ")
    assert [done for _, done, _ in calls[:-1]] == [*range(1, 20), 19]
    assert calls[-1] == ("training", 20, 20)


@pytest.mark.parametrize(
    ("steps", "epochs", "batch", "expected"),
    [(70_000, None, 1, 70_000), (70_000, 10, 1, 2000), (50, 10, 1, 50), (900, 3, 8, 75)],
)
def test_the_least_of_steps_and_epochs(steps: int, epochs: int | None, batch: int, expected: int):
    settings: Any = SimpleNamespace(max_steps=steps, max_epochs=epochs, batch_size=batch, crop=None, budget_s=None)
    assert plan_training(settings, 200) == Plan(expected, None, None)
