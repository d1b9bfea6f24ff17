"""Ridge regression of the student's last convolution on teacher and autoencoder features, after the last step.

After minutes of training the student's error on good images is still large, and its map shows it. The last layer is
linear: the best one for the features below needs no more steps.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from blemish.detectors.efficientad.pdn import import_torch, pdn_shapes
from blemish.ops.least_squares import SHRINKAGES, refit_last_layer

if TYPE_CHECKING:
    from blemish.detectors.efficientad.training import Training

CROP = 24  # rows and columns of outputs of a crop
N_CROPS = 160
# Outputs in the regression, 22 for each input of the last layer. With 23,000 rows AUPRO of bottle fell from .92 to .88.
MOST_ROWS = 100_000
HELD_OUT_SHARE, MOST_HELD_OUT = 0.1, 8  # of the training images, to choose the ridge on
N_HELD_OUT_CROPS = 16
AUTOENCODER_COST = 0.25  # of the teacher on a whole image


def refit_student(training: Training) -> dict[str, NDArray[np.float32]]:
    """Return the student's weights with the last layer's ridge regression on crops of the training images.

    Differs: the paper ends with the last step. The penalty acts through the layers below alone.
    """
    student = training.student
    fit_on, held_out = held_out_split(len(training.images.train), training.settings.seed)
    hw = crop_hw(training)
    last = copy.deepcopy(student.last)

    def features(images: Any) -> Any:
        with training.precision():
            return student.features(images)

    pairs = _pairs(training, fit_on, N_CROPS, 0)
    validation = _pairs(training, held_out, N_HELD_OUT_CROPS, 1)
    refit_last_layer(features, last, pairs, validation, stride=stride_of(n_crops(len(fit_on), hw, training.hw), hw))
    weights = student.weights()
    *_, weight, bias = weights
    found = {weight: last.weight, bias: last.bias}
    return {**weights, **{name: tensor.detach().cpu().numpy() for name, tensor in found.items()}}


def _pairs(training: Training, chosen: Sequence[int], most: int, part: int) -> Iterator[tuple[Any, Any]]:
    """Yield random crops of the images in turn, and their targets."""
    hw = crop_hw(training)
    rng = np.random.default_rng([training.settings.seed, 4, part])
    for k in range(n_crops(len(chosen), hw, training.hw, most)):
        row, column = (int(rng.integers(whole - side + 1)) for whole, side in zip(training.hw, hw, strict=True))
        yield training.training_pair(chosen[k % len(chosen)], (row, column), hw)


def crop_hw(training: Training) -> tuple[int, int]:
    """Return rows and columns of the crops; whole images with padding, whose frame the networks see."""
    height, width = training.hw
    return training.hw if training.settings.padding else (min(CROP, height), min(CROP, width))


def n_crops(n_images: int, hw: tuple[int, int], whole_hw: tuple[int, int], most: int = N_CROPS) -> int:
    """Return the number of crops: as many as cover the images, `most` at most."""
    return min(n_images * -(-math.prod(whole_hw) // math.prod(hw)), most)


def seconds_to_refit(training: Training, each: float, product_s: float | None = None) -> float:
    """Return the estimated seconds of `refit_student`.

    Args:
        each: seconds of the teacher on one image; the student takes about as long.
        product_s: seconds of a multiplication and addition in a large product of matrices; None to measure them.
    """
    last = pdn_shapes(training.settings.model_size, 2 * training.n_outputs)
    n_outputs, *inputs = list(last.values())[-2]
    n_inputs = math.prod(inputs)
    fit_on, held_out = held_out_split(len(training.images.train), training.settings.seed)
    hw = crop_hw(training)
    n = n_crops(len(fit_on), hw, training.hw)
    n_held_out = n_crops(len(held_out), hw, training.hw, N_HELD_OUT_CROPS)
    stride = stride_of(n, hw)
    products = n * math.prod(-(-side // stride) for side in hw) * n_inputs * (n_inputs / 2 + n_outputs)
    # Of doubles, which take twice as long: a Cholesky decomposition, then two triangles of which each takes a half.
    solving = 2 * len(SHRINKAGES) * n_inputs**2 * (n_inputs / 6 + n_outputs)
    validating = len(SHRINKAGES) * n_held_out * math.prod(hw) * n_inputs * n_outputs
    networks = each * (2 * math.prod(hw) / math.prod(training.hw) + AUTOENCODER_COST) * (n + n_held_out)
    return networks + (products + solving + validating) * (product_s or seconds_of_product())


def held_out_split(n: int, seed: int) -> tuple[list[int], list[int]]:
    """Return which of `n` images are in the regression, and which are held out; at least one each."""
    n_held_out = min(max(1, round(HELD_OUT_SHARE * n)), MOST_HELD_OUT)
    order = np.random.default_rng([seed, 3]).permutation(n).tolist()
    return sorted(order[n_held_out:]), sorted(order[:n_held_out])


def stride_of(n_images: int, hw: tuple[int, int]) -> int:
    """Return the stride in rows and columns at which outputs are taken, for at most about `MOST_ROWS`."""
    return max(1, math.ceil(math.sqrt(n_images * math.prod(hw) / MOST_ROWS)))


def seconds_of_product() -> float:
    """Return the seconds of one multiplication and addition in a large product of matrices."""
    torch = import_torch()
    left, right = torch.ones(512, 2048), torch.ones(2048, 1024)
    times = []
    for _ in range(3):
        start = time.monotonic()
        torch.mm(left, right)
        times.append(time.monotonic() - start)
    return float(max(min(times), 1e-6)) / (512 * 2048 * 1024)
