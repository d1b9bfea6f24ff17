"""Devices of training: the choice, its errors, random generators."""

from __future__ import annotations

import pytest

from blemish.detectors.efficientad.devices import current, seeded, training_device
from blemish.errors import InputError
from tests.lazy import torch


def gpus(monkeypatch: pytest.MonkeyPatch, n: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: n > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: n)


@pytest.mark.parametrize(
    ("n", "asked", "expected"),
    [
        (0, None, "cpu"),
        (0, "", "cpu"),
        (2, None, "cuda"),
        (2, "cpu", "cpu"),
        (2, "cuda", "cuda"),
        (2, "cuda:1", "cuda:1"),
    ],
)
def test_the_device_asked_for_or_a_gpu(monkeypatch: pytest.MonkeyPatch, n: int, asked: str | None, expected: str):
    gpus(monkeypatch, n)
    assert training_device(asked) == expected


@pytest.mark.parametrize("asked", ["gpu", "cuda:x", "cuda:", "mps", "meta", 3, "cuda:1234"])
def test_an_unknown_device_is_refused(monkeypatch: pytest.MonkeyPatch, asked: str):
    gpus(monkeypatch, 2)
    with pytest.raises(InputError, match="device: expected cpu, cuda or a GPU by its number"):
        training_device(asked)


def test_a_missing_gpu_is_refused(monkeypatch: pytest.MonkeyPatch):
    gpus(monkeypatch, 0)
    with pytest.raises(InputError, match=r"got cuda, and torch sees 0 GPUs here\. .*a torch built for CUDA"):
        training_device("cuda")
    gpus(monkeypatch, 1)
    with pytest.raises(InputError, match=r"got cuda:1, and torch sees 1 GPU here\. Leave it out"):
        training_device("cuda:1")


def test_a_seed_decides_inside_and_changes_nothing_outside():
    before = torch.random.get_rng_state()
    drawn = []
    for seed in (1, 1, 2):
        with seeded("cpu", seed), current("cpu"):
            drawn.append(torch.rand(3).tolist())
    assert drawn[0] == drawn[1] != drawn[2]
    assert torch.equal(torch.random.get_rng_state(), before)
