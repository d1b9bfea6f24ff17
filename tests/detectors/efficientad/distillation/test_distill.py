"""Distilling end to end on a few small images: resumed exactly, and refused with a reason."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from blemish.detectors.efficientad.checkpoint import load_checkpoint, save_checkpoint
from blemish.detectors.efficientad.distillation import distill as module
from blemish.detectors.efficientad.distillation.distill import DistillSettings, Run, RunState, check_out, distill
from blemish.detectors.efficientad.distillation.targets import TargetSettings, prepare
from blemish.detectors.efficientad.pdn import pdn_shapes
from blemish.detectors.efficientad.teacher import load_teacher
from blemish.errors import InputError, ModelFileError
from blemish.imaging.decode import load, save
from blemish.types import no_progress
from tests.images import good
from tests.lazy import torch

TARGETS = TargetSettings("efficientnet_lite0", ("blocks.3", "blocks.4"), image_px=64, crop_px=37, crops_per_image=2)
SETTINGS = DistillSettings(steps=4, batch=2, last_crops=4)
KILLED = """
import os, sys
from tests.detectors.efficientad.distillation.test_distill import SETTINGS, TARGETS, distill
from tests.efficientad_models import narrow_networks
def progress(stage, done, total):
    if stage.startswith("distilling") and done == 2:
        os._exit(9)
with narrow_networks():
    distill(sys.argv[1], sys.argv[2], settings=SETTINGS, targets=TARGETS, threads=1, progress=progress, save_s=0.0)
"""


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    for i in range(8):
        save(folder / f"{i}.png", good(i))
    return folder


@pytest.fixture(scope="module")
def prepared(photographs, tmp_path_factory):
    """A folder of crops and targets, to be copied."""
    folder = tmp_path_factory.mktemp("prepared")
    prepare(photographs, folder, TARGETS)
    return folder


@pytest.fixture
def work(prepared, tmp_path):
    return shutil.copytree(prepared, tmp_path / "t.work")


@pytest.fixture
def pairs(photographs, work):
    return prepare(photographs, work, TARGETS)


def made(photographs, out, settings=SETTINGS, **more):
    return distill(photographs, out, settings=settings, targets=TARGETS, threads=1, **more)


def changed(path, change, **state):
    """Write a checkpoint again, with other tensors or another state."""
    checkpoint = load_checkpoint(path, {})
    tensors = dict(checkpoint.tensors)
    identity = {"size": "small", "budget_s": None, "batch": 2, "rate": 0.02, "seed": 0, "channels": 80, "crops": 16}
    change(tensors)
    save_checkpoint(path, tensors, {**checkpoint.state, **state}, identity)


@pytest.mark.slow
def test_a_teacher_is_made_with_card_and_curve(photographs, tmp_path):
    seen = []
    card = made(photographs, tmp_path / "t.safetensors", progress=lambda *row: seen.append(row), licence="CC0")
    found = load_teacher("small", tmp_path / "t.safetensors")
    assert {name: array.shape for name, array in found.state.items()} == pdn_shapes("small")
    assert found.card["licence"] == "Apache-2.0"
    assert found.card["images"] == {**card["images"], "number": 8, "left_out": 0, "licence": "CC0"}
    assert (found.card["source"]["network"], found.card["learning"]["steps"]) == ("efficientnet_lite0", 4)
    assert found.card["loss"]["held_out_after_solving_last_layer"] <= found.card["loss"]["held_out"]
    curve = json.loads((tmp_path / "t.work" / "loss.json").read_text())
    assert (curve["step"], curve["training"][0]) == ([0, 4], None)
    assert load(tmp_path / "t.work" / "loss.png").shape == (400, 720, 3)
    assert {row[0].partition(",")[0] for row in seen} == {"preparing crops", "distilling"}
    assert [row[1] for row in seen if row[0].startswith("distilling, loss ")] == [1, 2, 3, 4]
    assert seen[-1][0].endswith(" min left")
    assert card == json.loads((tmp_path / "t.json").read_text())
    assert card["weights_sha256"] == found.weights_sha256


@pytest.mark.slow
def test_a_kill_in_the_middle_changes_no_weight(photographs, work, tmp_path):
    made(photographs, tmp_path / "whole.safetensors", work=shutil.copytree(work, tmp_path / "whole"))
    out = tmp_path / "t.safetensors"
    command = [sys.executable, "-c", KILLED, str(photographs), str(out)]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, check=False)
    assert done.returncode == 9
    assert not out.exists()
    steps = []
    made(photographs, out, progress=lambda stage, n, _: steps.append(n) if "distilling" in stage else None)
    assert steps == [3, 4]
    assert out.read_bytes() == (tmp_path / "whole.safetensors").read_bytes()


@pytest.mark.slow
def test_the_seed_decides(photographs, prepared, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        shutil.copytree(prepared, tmp_path / f"{name}.work")
        made(photographs, tmp_path / f"{name}.safetensors", DistillSettings(**{**SETTINGS.__dict__, "seed": seed}))
    a, b, c = ((tmp_path / f"{name}.safetensors").read_bytes() for name in "abc")
    assert a == b
    assert a != c


@pytest.mark.slow
def test_steps_may_change_until_the_rate_falls(photographs, work, tmp_path):
    made(photographs, tmp_path / "t.safetensors")
    longer = DistillSettings(**{**SETTINGS.__dict__, "steps": 6})
    with pytest.raises(InputError, match=r"expected one of 6 steps, got one whose rate has begun to fall towards"):
        made(photographs, tmp_path / "t.safetensors", longer)
    changed(work / "checkpoint.safetensors", lambda _: None, step=1)
    assert made(photographs, tmp_path / "t.safetensors", longer)["learning"]["steps"] == 6


@pytest.mark.slow
def test_a_checkpoint_of_other_settings_is_refused(photographs, work, tmp_path):
    made(photographs, tmp_path / "t.safetensors")
    other = DistillSettings(**{**SETTINGS.__dict__, "rate": 0.01})
    with pytest.raises(
        InputError, match=r"checkpoint: expected one made with rate 0\.01, got 0\.02, .*delete it to begin anew"
    ):
        made(photographs, tmp_path / "t.safetensors", other)
    path = work / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ModelFileError, match=r"checkpoint\.safetensors.*to begin anew"):
        made(photographs, tmp_path / "t.safetensors")


@pytest.mark.slow
def test_divergence_stops_and_keeps_the_checkpoint(photographs, work, tmp_path):
    made(photographs, tmp_path / "t.safetensors")
    path = work / "checkpoint.safetensors"
    nan = np.full(80, np.nan, np.float32)
    changed(path, lambda tensors: tensors.update({"network.conv4.bias": nan}), step=1)
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"training diverged at step 2 \(loss NaN\)\. Give a smaller --rate than"):
        made(photographs, tmp_path / "t.safetensors")
    assert path.read_bytes() == before


@pytest.mark.slow
def test_a_budget_becomes_steps(pairs, work, monkeypatch):
    settings = DistillSettings(**{**SETTINGS.__dict__, "steps": None, "budget_s": 1.0})
    monkeypatch.setattr(module, "TIMED_STEPS", 2)
    run = Run(settings, pairs, work, torch.device("cpu"))
    run.train(no_progress)
    assert run.state.step == run.state.steps >= 2


def test_a_slow_start_is_planned_anew_until_the_rate_falls(pairs, work, monkeypatch):
    settings = DistillSettings(**{**SETTINGS.__dict__, "steps": None, "budget_s": 100.0})
    run = Run(settings, pairs, work, torch.device("cpu"), save_s=0.0)
    clock, took = [0.0], iter([2.0] * module.TIMED_STEPS + [0.5] * 400)
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(run, "save", lambda: None)

    def step():
        run.state.step += 1
        run.state.moving = 1.0
        clock[0] += next(took)

    monkeypatch.setattr(run, "_step", step)
    plans = []
    run.train(lambda *_: plans.append(run.state.steps))
    assert plans[module.TIMED_STEPS - 1] == 45
    assert 60 < plans[-1] == run.state.step
    assert run.state.spent_s <= 100.0


def test_the_rate_rises_and_falls():
    run = Run.__new__(Run)
    run.state = RunState(steps=1000)
    shares = [run._share(step) for step in range(1000)]
    assert shares[0] == 1 / module.WARM_UP
    assert max(shares) == 1.0
    assert shares[-1] == pytest.approx(1 / 1000 / module.DECAY)
    assert np.argmin(np.array(shares[50:]) == 1.0) == pytest.approx(1000 * (1 - module.DECAY) - 50, abs=1)


def test_no_image_is_both_held_out_and_trained_on(pairs, work):
    run = Run(SETTINGS, pairs, work, torch.device("cpu"))
    held_out, training = (
        {int(row) // TARGETS.crops_per_image for row in rows} for rows in (run.held_out, run.training)
    )
    assert (len(held_out), len(training)) == (1, 7)
    assert held_out.isdisjoint(training)
    assert sorted([*run.held_out, *run.training]) == pairs.valid.tolist()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"steps": None}, "steps, budget: expected one of them, got neither"),
        ({"budget_s": 5.0}, "steps, budget: expected one of them, got both"),
        ({"steps": 0}, "steps: expected a number from 1"),
        ({"steps": None, "budget_s": 0.0}, "budget: expected a number from 1.0"),
        ({"batch": 0}, "batch: expected"),
        ({"rate": -1.0}, "rate: expected"),
        ({"size": "large"}, "size: expected small or medium"),
        ({"last_crops": 0}, "last_crops: expected"),
    ],
)
def test_settings_out_of_range_are_refused(change, text):
    with pytest.raises(InputError, match=text):
        DistillSettings(**{**SETTINGS.__dict__, **change})


def test_a_wrong_path_is_refused_first(tmp_path):
    for out in (tmp_path / "t.pth", tmp_path):
        with pytest.raises(InputError, match=r"out: expected a file ending in \.safetensors"):
            distill(tmp_path, out)
    assert check_out("a.safetensors").name == "a.safetensors"


def test_missing_torch_is_an_error_before_anything_is_read(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(InputError, match=r"torch: expected to be installed.*pip install 'blemish\[train\]'"):
        distill(tmp_path / "none", tmp_path / "t.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_learning_helps(tmp_path):
    """After some steps, held-out loss falls well below what knowing nothing gives."""
    folder = tmp_path / "photographs"
    for i in range(24):
        save(folder / f"{i}.png", good(i))
    settings = DistillSettings(steps=30, batch=4, last_crops=40)
    loss = distill(folder, tmp_path / "t.safetensors", settings=settings, targets=TARGETS)["loss"]
    assert loss["held_out"] < 0.1 * loss["held_out_if_nothing_is_learnt"]
    assert loss["held_out_after_solving_last_layer"] < loss["held_out"]
    shutil.rmtree(tmp_path / "t.work")
