"""Ridge regression of the student's last convolution on teacher and autoencoder features, after the last step.

After minutes of training the student's error on good images is still large, and its map shows it. The last layer is
linear: the best one for the features below needs no more steps.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from blemish.detectors.efficientad.networks import arrays
from blemish.detectors.efficientad.pdn import import_torch, pdn, pdn_shapes
from blemish.ops.least_squares import SHRINKAGES, refit_last_layer

if TYPE_CHECKING:
    from blemish.detectors.efficientad.training import Training

MOST_ROWS = 60_000  # outputs in the regression, about fifteen for each input of the last layer
HELD_OUT_SHARE, MOST_HELD_OUT = 0.1, 8  # of the training images, to choose the ridge on


def refit_student(training: Training) -> dict[str, NDArray[np.float32]]:
    """Return the student's weights with the last layer's ridge regression on the training images.

    Differs: the paper ends with the last step. The penalty acts through the layers below alone.
    """
    torch = import_torch()
    settings, weights = training.settings, training.student.weights()
    student = pdn(settings.model_size, 2 * training.n_outputs, padding=settings.padding)
    student.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
    network = torch.nn.Sequential(*list(student)[1:]).to(training.device).eval()  # images come normalised
    fit_on, held_out = held_out_split(len(training.images.train), settings.seed)
    pairs: Iterator[tuple[Any, Any]] = (training.training_pair(i) for i in fit_on)
    validation = [training.training_pair(i) for i in held_out]
    stride = stride_of(len(fit_on), training.hw)
    refit_last_layer(network, pairs, validation, stride=stride, precision=training.precision)
    return arrays(student)


def seconds_to_refit(training: Training, each: float, product_s: float | None = None) -> float:
    """Return the estimated seconds of `refit_student`.

    Args:
        each: seconds of the teacher on one image; student and autoencoder take about as long each.
        product_s: seconds of a multiplication and addition in a large product of matrices; None to measure them.
    """
    last = pdn_shapes(training.settings.model_size, 2 * training.n_outputs)
    n_outputs, *inputs = list(last.values())[-2]
    n_inputs = math.prod(inputs)
    fit_on, held_out = held_out_split(len(training.images.train), training.settings.seed)
    stride = stride_of(len(fit_on), training.hw)
    n_rows = len(fit_on) * math.prod(-(-n // stride) for n in training.hw)
    products = n_rows * n_inputs * (n_inputs + n_outputs)
    # Of doubles, which take twice as long: a Cholesky decomposition, then two triangles of which each takes a half.
    solving = 2 * len(SHRINKAGES) * n_inputs**2 * (n_inputs / 6 + n_outputs)
    validating = len(SHRINKAGES) * len(held_out) * math.prod(training.hw) * n_inputs * n_outputs
    return 3 * each * len(training.images.train) + (products + solving + validating) * (
        product_s or seconds_of_product()
    )


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
