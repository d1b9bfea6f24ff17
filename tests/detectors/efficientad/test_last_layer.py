"""The student's last layer, solved at the end: nearer to what it should say, with the layers below as they were."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from blemish.detectors.efficientad import last_layer as efficientad_heads
from blemish.detectors.efficientad import pdn
from blemish.detectors.efficientad import training as efficientad_training
from blemish.detectors.efficientad.last_layer import seconds_to_solve, solved
from blemish.detectors.efficientad.penalty import DrawnPenalty
from blemish.detectors.efficientad.training import Images, Training
from tests.efficientad_models import random_weights, small_efficientad, write_teacher
from tests.images import good

SIDE = 68


def training(tmp_path, *, size: str = "small", n: int = 4, **options: Any) -> Training:
    model = small_efficientad(write_teacher(tmp_path, size), image_size=SIDE, model_size=size, **options)
    images = np.stack([good(seed, SIDE, SIDE) for seed in range(n + 1)])
    learnt = Images(images[:n], images[n:], DrawnPenalty((SIDE, SIDE), 0))
    return Training(model.settings, None, random_weights(size), learnt)


def errors(made: Training, weights: dict[str, np.ndarray]) -> np.ndarray:
    """How far each half of the student's outputs is from what it should say of the training images."""
    student = pdn.pdn(made.settings.model_size, 768, padding=made.settings.padding)
    student.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
    found = []
    for i in range(len(made.images.train)):
        x, wanted = made.lesson(i)
        with torch.no_grad():
            error = (student[1:](x) - wanted).square()
        found.append([error[:, :384].mean().item(), error[:, 384:].mean().item()])
    return np.mean(found, axis=0)


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize(("size", "padding"), [("small", False), ("small", True), ("medium", False)])
def test_both_halves_come_nearer_and_nothing_below_moves(tmp_path, monkeypatch, size, padding, mixed):
    monkeypatch.setattr(efficientad_training, "has_instructions", lambda *_: mixed)
    made = training(tmp_path, size=size, padding=padding)
    before = made.student.weights()
    after = solved(made)
    last = list(before)[-2:]
    assert list(after) == list(before)
    assert all(np.array_equal(after[name], before[name]) for name in before if name not in last)
    assert all(after[name].shape == before[name].shape for name in last)
    assert (errors(made, after) < 0.9 * errors(made, before)).all()
    assert made.autoencoder.training
    assert all(tensor.requires_grad for tensor in made.learnt)


def test_a_lesson_is_what_the_losses_are_of(tmp_path, monkeypatch):
    monkeypatch.setattr(efficientad_training, "has_instructions", lambda *_: False)
    made = training(tmp_path)
    x, wanted = made.lesson(1)
    assert tuple(wanted.shape) == (1, 768, *made.hw)
    teacher = pdn.pdn()
    teacher.load_state_dict({name: torch.from_numpy(array) for name, array in random_weights().items()})
    with torch.no_grad():
        said = teacher[1:](x)
    expected = (said - made.mean[:, None, None]) / made.std[:, None, None]
    torch.testing.assert_close(wanted[:, :384], expected, rtol=0.02, atol=0.02)


def test_images_that_judge_are_not_solved_on():
    for n in (2, 10, 1000):
        solve_on, judge_on = efficientad_heads._parts(n, 0)
        assert sorted([*solve_on, *judge_on]) == list(range(n))
        assert 1 <= len(judge_on) <= efficientad_heads.MOST_JUDGED


def test_not_many_more_outputs_are_solved_on_than_enough():
    for n in (1, 20, 200, 3000):
        every = efficientad_heads._every(n, (56, 56))
        assert n * (56 // every) ** 2 <= efficientad_heads.MOST_ROWS
    assert efficientad_heads._every(1, (8, 8)) == 1


def test_the_time_it_will_take_grows_with_the_images(tmp_path, monkeypatch):
    monkeypatch.setattr(efficientad_heads, "_seconds_a_product", lambda: 1e-11)
    few, more = (training(tmp_path, n=n) for n in (2, 6))
    # 8 x 8 or 9 x 9 outputs, all of which are solved on; one image of the two and five of the six are.
    products = 4 * few.hw[0] * few.hw[1] * 4096 * (4096 + 768) * 1e-11
    assert seconds_to_solve(more, 0.0) - seconds_to_solve(few, 0.0) == pytest.approx(products, rel=1e-3)
    assert seconds_to_solve(more, 0.1) - seconds_to_solve(more, 0.0) == pytest.approx(3 * 6 * 0.1)
    assert efficientad_heads._seconds_a_product() > 0
