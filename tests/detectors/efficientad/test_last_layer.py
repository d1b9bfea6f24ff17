"""The regression of the student's last layer: smaller errors, and the layers below as they were."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from blemish.detectors.efficientad import last_layer, pdn
from blemish.detectors.efficientad.last_layer import refit_student, seconds_to_refit
from blemish.detectors.efficientad.penalty import DrawnPenalty
from blemish.detectors.efficientad.training import Images, Training
from tests.efficientad_models import N_OUTPUTS, random_weights, small_efficientad, write_teacher
from tests.images import good
from tests.lazy import torch

SIDE = 68


def training(tmp_path, *, size: str = "small", n: int = 4, mixed: bool = False, **options: Any) -> Training:
    model = small_efficientad(write_teacher(tmp_path, size), image_size=SIDE, model_size=size, **options)
    images = np.stack([good(seed, SIDE, SIDE) for seed in range(n + 1)])
    parts = Images(images[:n], images[n:], DrawnPenalty((SIDE, SIDE), 0))
    return Training(model.settings, None, random_weights(size), parts, mixed=mixed)


def errors(made: Training, weights: dict[str, np.ndarray]) -> np.ndarray:
    """Mean squared error of each head on the training images."""
    student = pdn.pdn(made.settings.model_size, 2 * N_OUTPUTS, padding=made.settings.padding)
    student.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
    heads = []
    for i in range(len(made.images.train)):
        x, targets = made.training_pair(i, (0, 0), made.hw)
        with torch.no_grad():
            error = (student[1:](x.permute(0, 3, 1, 2)) - targets).square()
        heads.append([error[:, :N_OUTPUTS].mean().item(), error[:, N_OUTPUTS:].mean().item()])
    return np.mean(heads, axis=0)


@pytest.mark.slow
@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize(("size", "padding"), [("small", False), ("small", True), ("medium", False)])
def test_the_errors_of_both_heads_fall_and_nothing_below_moves(tmp_path, size, padding, mixed):
    made = training(tmp_path, size=size, padding=padding, mixed=mixed)
    before = made.student.weights()
    after = refit_student(made)
    last = list(before)[-2:]
    assert list(after) == list(before)
    assert all(np.array_equal(after[name], before[name]) for name in before if name not in last)
    assert all(after[name].shape == before[name].shape for name in last)
    assert (errors(made, after) < 0.9 * errors(made, before)).all()
    assert made.autoencoder.training
    assert all(tensor.requires_grad for tensor in made.parameters)


@pytest.mark.slow
def test_a_training_pair_has_the_scaled_features_of_the_teacher(tmp_path):
    made = training(tmp_path)
    x, targets = made.training_pair(1, (0, 0), made.hw)
    assert tuple(targets.shape) == (1, 2 * N_OUTPUTS, *made.hw)
    teacher = pdn.pdn("small", N_OUTPUTS)
    teacher.load_state_dict({name: torch.from_numpy(array) for name, array in random_weights().items()})
    with torch.no_grad():
        features = teacher[1:](x.permute(0, 3, 1, 2))
    expected = (features - made.mean[:, None, None]) / made.std[:, None, None]
    torch.testing.assert_close(targets[:, :N_OUTPUTS], expected, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("place", [(0, 0), (2, 1), (3, 4)])
def test_a_crop_has_the_targets_of_its_place(tmp_path, place):
    made = training(tmp_path)
    row, column = place
    _, whole = made.training_pair(1, (0, 0), made.hw)
    x, targets = made.training_pair(1, place, (6, 5))
    assert tuple(x.shape) == (1, pdn.pixels_of(6), pdn.pixels_of(5), 3)
    torch.testing.assert_close(targets, whole[:, :, row : row + 6, column : column + 5], rtol=1e-3, atol=1e-3)


def test_held_out_images_are_not_in_the_regression():
    for n in (2, 10, 1000):
        fit_on, held_out = last_layer.held_out_split(n, 0)
        assert sorted([*fit_on, *held_out]) == list(range(n))
        assert 1 <= len(held_out) <= last_layer.MOST_HELD_OUT


def test_the_number_of_rows_is_bounded():
    for n in (1, 20, 200, 3000):
        stride = last_layer.stride_of(n, (56, 56))
        assert n * (56 // stride) ** 2 <= last_layer.MOST_ROWS
    assert last_layer.stride_of(1, (8, 8)) == 1


def test_the_work_does_not_grow_with_the_images():
    assert last_layer.n_crops(5, (24, 24), (56, 56)) == 30
    assert last_layer.n_crops(30, (24, 24), (56, 56)) == last_layer.n_crops(9000, (24, 24), (56, 56))
    assert last_layer.n_crops(30, (9, 9), (9, 9)) == 30
    assert last_layer.n_crops(9000, (9, 9), (9, 9)) == last_layer.N_CROPS


@pytest.mark.slow
def test_crops_of_large_maps_lower_the_errors_too(tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(last_layer, "CROP", 6)
    made = training(tmp_path)
    assert last_layer.crop_hw(made) == (6, 6)
    assert (errors(made, refit_student(made)) < 0.9 * errors(made, made.student.weights())).all()


@pytest.mark.slow
def test_the_estimated_time_grows_with_the_images(tmp_path):
    few, more = (training(tmp_path, n=n) for n in (2, 6))
    n_inputs = 16 * pdn.CONVS["small"][-2][1]
    # All of the 9 x 9 outputs of an image are rows, of one image of the two and of five of the six.
    products = 4 * 9 * 9 * n_inputs * (n_inputs / 2 + 2 * N_OUTPUTS) * 1e-11
    seconds = [seconds_to_refit(made, each, 1e-11) for made, each in ((few, 0.0), (more, 0.0), (more, 0.1))]
    assert seconds[1] - seconds[0] == pytest.approx(products, rel=1e-3)
    assert seconds[2] - seconds[1] == pytest.approx((2 + last_layer.AUTOENCODER_COST) * 6 * 0.1)
    assert last_layer.seconds_of_product() > 0
