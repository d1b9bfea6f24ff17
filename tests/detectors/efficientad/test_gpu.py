"""The same on a GPU as on the processor: a step, a fit, a run that goes on, a teacher."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from blemish.detectors.efficientad.distillation.distill import DistillSettings, distill
from blemish.detectors.efficientad.distillation.targets import TargetSettings
from blemish.detectors.efficientad.penalty import DrawnPenalty
from blemish.detectors.efficientad.teacher import load_teacher
from blemish.detectors.efficientad.training import Images, Training
from blemish.detectors.registry import load
from blemish.imaging.decode import save
from tests.efficientad_models import random_weights, small_efficientad
from tests.images import good
from tests.lazy import torch

if TYPE_CHECKING:
    from blemish import EfficientAd


@pytest.fixture(autouse=True, scope="module")
def _gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")


SIDE = 68
FULL_WIDTH = True


def training(model: EfficientAd, device: str, crop: int | None) -> Training:
    images = np.stack([good(seed, SIDE, SIDE) for seed in range(4)])
    parts = Images(images[:3], images[3:], DrawnPenalty((SIDE, SIDE), 0))
    made = Training(model.settings, crop, random_weights(), parts, device=device)
    made.autoencoder.dropout.p = 0.0
    return made


def test_a_graph_gives_the_steps_that_it_is_of(teacher: Path, monkeypatch: pytest.MonkeyPatch):
    model = small_efficientad(teacher, image_size=SIDE)
    graphed, plain = training(model, "cuda", None), training(model, "cuda", None)
    monkeypatch.setattr(plain, "_losses", lambda inputs, share: plain._four_losses(inputs.places, share, *inputs[:3]))
    for made in (graphed, plain):
        made.autoencoder.dropout.p = 0.5
    for k in range(6):
        np.testing.assert_allclose(graphed.step(k, 1e-4), plain.step(k, 1e-4), rtol=0.02)
    assert graphed._graph is not None
    for one, other in zip(graphed.parameters, plain.parameters, strict=True):
        torch.testing.assert_close(one, other, rtol=0.05, atol=1e-3)
    # It is of the share and the parts that it was made with.
    np.testing.assert_allclose(graphed.step(6, 1e-9, 0.1), plain.step(6, 1e-9, 0.1), rtol=0.02)
    graphed.crop_hw = plain.crop_hw = (4, 4)
    for k in (7, 8):
        np.testing.assert_allclose(graphed.step(k, 1e-9), plain.step(k, 1e-9), rtol=0.02)


@pytest.mark.parametrize(("padding", "crop"), [(False, None), (False, 4), (True, None)])
def test_steps_are_those_of_the_processor(teacher: Path, padding: bool, crop: int | None):
    model = small_efficientad(teacher, image_size=SIDE, padding=padding)
    on_gpu, on_processor = training(model, "cuda", crop), training(model, "cpu", crop)
    before = torch.random.get_rng_state(), torch.cuda.get_rng_state()
    for k in range(3):
        np.testing.assert_allclose(on_gpu.step(k, 1e-9), on_processor.step(k, 1e-9), rtol=0.05)
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert torch.equal(torch.cuda.get_rng_state(), before[1])
    assert on_gpu.held_out_losses() == pytest.approx(on_processor.held_out_losses(), rel=0.05)
    assert on_gpu.explained() == pytest.approx(on_processor.explained(), abs=0.02)


def test_it_learns(teacher: Path):
    made = training(small_efficientad(teacher, image_size=SIDE), "cuda", None)
    first = sum(made.held_out_losses())
    for k in range(30):
        made.step(k, 1e-3)
    assert sum(made.held_out_losses()) < 0.9 * first


def test_a_fit_predicts_on_any_machine(teacher: Path, tmp_path: Path):
    images = [good(seed, SIDE, SIDE) for seed in range(8)]
    scores = []
    for device in ("cuda:0", "cpu"):
        model = small_efficientad(teacher, image_size=SIDE, device=device).fit(images)
        saved = load(model.save(tmp_path / device.partition(":")[0]))
        scores.append([saved.predict(image).score for image in images])
        assert scores[-1] == pytest.approx([model.predict(image).score for image in images])
    assert np.corrcoef(scores)[0, 1] > 0.9


def test_a_run_that_was_stopped_goes_on(teacher: Path, tmp_path: Path):
    images = [good(seed, SIDE, SIDE) for seed in range(8)]
    model = small_efficientad(teacher, image_size=SIDE, device="cuda", max_steps=6, checkpoint=tmp_path / "state")
    stopped = small_efficientad(teacher, image_size=SIDE, device="cuda", max_steps=6, checkpoint=tmp_path / "stopped")

    def stop(stage: str, done: int, _total: int) -> None:
        if stage.startswith("training") and done == 3:
            raise KeyboardInterrupt

    model.fit(images)
    with pytest.raises(KeyboardInterrupt):
        stopped.fit(images, progress=stop)
    stopped.fit(images)
    found, expected = (one.predict(images[0]).score for one in (stopped, model))
    assert found == pytest.approx(expected, rel=0.02)  # a GPU adds up in no fixed order


def test_a_teacher_is_distilled(tmp_path: Path):
    folder = tmp_path / "photographs"
    folder.mkdir()
    for i in range(8):
        save(folder / f"{i}.png", good(i))
    targets = TargetSettings("efficientnet_lite0", ("blocks.3", "blocks.4"), image_px=64, crop_px=37, crops_per_image=2)
    settings = DistillSettings(steps=4, batch=2, last_crops=4)
    card = distill(folder, tmp_path / "t.safetensors", settings=settings, targets=targets, device="cuda")
    assert np.isfinite(card["loss"]["held_out"])
    assert len(load_teacher("small", tmp_path / "t.safetensors").state) == 8
