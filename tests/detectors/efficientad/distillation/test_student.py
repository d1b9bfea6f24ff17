"""The student: folded and projected, it is the teacher."""

from __future__ import annotations

import numpy as np
import pytest

from blemish.detectors.efficientad import pdn
from blemish.detectors.efficientad.distillation.student import (
    batch_of,
    batches,
    folded,
    measure_norms,
    new_student,
    projected,
)
from blemish.detectors.efficientad.distillation.targets import projection
from tests.lazy import torch

CPU = "cpu"


def random_student(size, n_channels=6):
    """A student whose batch norms and weights are random."""
    network = new_student(size, n_channels, 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if tensor.dtype.is_floating_point and tensor.ndim == 1:
                tensor.uniform_(0.5, 1.5, generator=generator)
            elif name.startswith(list(dict(network.named_children()))[-1]):
                tensor.normal_(0, 0.1, generator=generator)
    return network


@pytest.mark.parametrize("size", pdn.SIZES)
def test_folded_and_projected_it_is_the_teacher(size):
    network = random_student(size).eval()
    crops = np.random.default_rng(0).integers(0, 256, (2, 41, 41, 3), np.uint8)
    features = np.zeros((2, 3, 3, 6), np.float16)
    images, _ = batch_of(crops, features, np.arange(2), CPU)
    to_384 = projection(6, 0)
    state = projected(folded(network, size), size, to_384)
    teacher = pdn.pdn(size).eval()
    teacher.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})
    with torch.no_grad():
        wanted = torch.einsum("bchw,cf->bfhw", network(images), torch.from_numpy(to_384))
        found = teacher(torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 255)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))
    assert projected(state, size, None) is state


def test_the_batch_norms_have_the_statistics_of_the_batches():
    network = new_student("small", 2, 0)
    images = torch.randn(6, 3, 37, 37, generator=torch.Generator().manual_seed(0))
    measure_norms(network, [images[:3], images[3:]])
    with torch.no_grad():
        behind = network[0](images)
    torch.testing.assert_close(network.norm1.running_mean, behind.mean((0, 2, 3)), rtol=1e-4, atol=1e-4)
    assert network.norm1.momentum == 0.1


def test_batches_are_in_the_order_of_the_file_and_whole():
    assert [part.tolist() for part in batches(np.arange(5), 2)] == [[0, 1], [2, 3], [4]]
    crops = np.zeros((3, 33, 33, 3), np.uint8)
    crops[1] = 255
    features = np.arange(3, dtype=np.float16).reshape(3, 1, 1, 1)
    images, wanted = batch_of(crops, features, np.array([2, 1]), CPU)
    assert wanted.flatten().tolist() == [1.0, 2.0]
    assert float(images[0, 0, 0, 0]) == pytest.approx((1 - 0.485) / 0.229, rel=1e-5)
    assert float(images[1, 2, 0, 0]) == pytest.approx(-0.406 / 0.225, rel=1e-5)
