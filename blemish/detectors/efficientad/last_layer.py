"""The end of EfficientAD's training: the student's last convolution, solved by least squares.

A student that was trained for minutes says of good images only roughly what the teacher says, and its map shows
what it has not learnt yet. Its last layer is linear, so the best one for the features below it needs no more steps.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from blemish.detectors.efficientad.networks import arrays
from blemish.detectors.efficientad.pdn import import_torch, pdn, pdn_shapes
from blemish.ops.least_squares import SHRINKAGES, refit_last_layer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from blemish.detectors.efficientad.training import Training

MOST_ROWS = 60_000  # outputs that are solved on, about fifteen for each input of the last layer
JUDGED_SHARE, MOST_JUDGED = 0.1, 8  # images that choose how far the solution is shrunk, and are not solved on


def solved(training: Training) -> dict[str, NDArray[np.float32]]:
    """Return the student's weights with a last layer that says of good images what teacher and autoencoder say.

    Differs: the paper ends with the last step. What the penalty taught stays in the layers below.
    """
    torch = import_torch()
    settings, weights = training.settings, training.student.weights()
    student = pdn(settings.model_size, 2 * training.n_outputs, padding=settings.padding)
    student.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
    network = torch.nn.Sequential(*list(student)[1:]).to(training.device).eval()  # images come normalised
    solve_on, judge_on = _parts(len(training.images.train), settings.seed)
    lessons: Iterator[tuple[Any, Any]] = (training.lesson(i) for i in solve_on)
    judged = [training.lesson(i) for i in judge_on]
    refit_last_layer(network, lessons, judged, stride=_every(len(solve_on), training.hw), precision=training.precision)
    return arrays(student)


def seconds_to_solve(training: Training, each: float) -> float:
    """Return about how long `solved` will take.

    Args:
        training: the networks.
        each: seconds that the teacher takes for one image; student and autoencoder take about as long each.
    """
    last = pdn_shapes(training.settings.model_size, 2 * training.n_outputs)
    n_outputs, *inputs = list(last.values())[-2]
    n_inputs = math.prod(inputs)
    solve_on, judge_on = _parts(len(training.images.train), training.settings.seed)
    every = _every(len(solve_on), training.hw)
    n_rows = len(solve_on) * math.prod(-(-n // every) for n in training.hw)
    products = n_rows * n_inputs * (n_inputs + n_outputs)
    # Of doubles, which take twice as long: a Cholesky decomposition, then two triangles of which each takes a half.
    solving = 2 * len(SHRINKAGES) * n_inputs**2 * (n_inputs / 6 + n_outputs)
    judging = len(SHRINKAGES) * len(judge_on) * math.prod(training.hw) * n_inputs * n_outputs
    return 3 * each * len(training.images.train) + (products + solving + judging) * _seconds_a_product()


def _parts(n: int, seed: int) -> tuple[list[int], list[int]]:
    """Return which of `n` images are solved on, and which judge; at least one each."""
    n_judged = min(max(1, round(JUDGED_SHARE * n)), MOST_JUDGED)
    order = np.random.default_rng([seed, 3]).permutation(n).tolist()
    return sorted(order[n_judged:]), sorted(order[:n_judged])


def _every(n_images: int, hw: tuple[int, int]) -> int:
    """Return every how manieth row and column of outputs is solved on, so that there are not many more than enough."""
    return max(1, math.ceil(math.sqrt(n_images * math.prod(hw) / MOST_ROWS)))


def _seconds_a_product() -> float:
    """Return how long one multiplication and addition takes within a large product of matrices."""
    torch = import_torch()
    left, right = torch.ones(512, 2048), torch.ones(2048, 1024)
    times = []
    for _ in range(3):
        start = time.monotonic()
        torch.mm(left, right)
        times.append(time.monotonic() - start)
    return float(max(min(times), 1e-6)) / (512 * 2048 * 1024)
