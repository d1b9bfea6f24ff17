"""Training images that look defective, and warnings of a training set that no threshold should rest on."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from blemish.errors import InputError, message
from blemish.ops.conformal import UPPER_RATE, Calibration, percent
from blemish.ops.near_duplicates import LEAST_GROUPS
from blemish.ops.tail_probability import Tail
from blemish.types import Suspect

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator

    from blemish.modelfolder.header import Training
    from blemish.types import Float64

# Scores up to the median that span less of it come from images that are all the same.
LEAST_SPAN = 1e-3
LEAST_IMAGES = 3
# With fewer scores any two groups may be chance.
LEAST_GROUPED = 20
# Share of the variance that the best split of a uniform distribution explains.
UNIFORM = 0.75
# So many defective images hardly move the threshold; more of them do (benchmarks/contamination.py).
MANY = 0.05
# Least share of the smaller of two groups of scores.
LEAST_GROUP = 0.1
# Of the rarities above the median: twice the share of images that may be alike.
CENSORED_RARITIES = 0.2


def find_suspects(training: Training, calibration: Calibration) -> tuple[Suspect, ...]:
    """Return the calibration images above an upper limit that nobody reviewed, the least probable first.

    The limit is what one good image of a thousand exceeds by the likeliest tail. The predictive one is higher, to allow
    for what few scores may hide, but a suspect in vain costs a look, and one that is not named blinds the detector.

    Images that show the same part as one of these follow with its values.
    """
    suspects: dict[int, Suspect] = {}
    for measure, values, limit, tail in _measures(training, calibration):
        for i, value in enumerate(values):
            if value is None or value <= limit or training.reviews[i]:
                continue
            p_value = tail.survival(value)  # as that of the limit
            if i not in suspects or p_value < suspects[i].p_value:
                for alike in training.alike([i]):
                    suspects[alike] = Suspect(training.paths[alike], value, limit, p_value, measure)
    return tuple(sorted(suspects.values(), key=lambda suspect: (suspect.p_value, -suspect.score)))


def _measures(
    training: Training, calibration: Calibration
) -> Iterator[tuple[str, tuple[float | None, ...], float, Tail]]:
    """Yield name, values, upper limit and tail of each measure."""
    tail = replace(calibration.tail, predictive=False)
    yield "score", training.scores, max(calibration.threshold, tail.quantile(UPPER_RATE)), tail
    rarities = np.array([value for value in training.rarities if value is not None])
    if len(rarities):
        tail = Tail.from_scores(rarities, censored=CENSORED_RARITIES, predictive=False)
        yield "rarity", training.rarities, tail.quantile(UPPER_RATE), tail


def notes_of(training: Training) -> tuple[str, ...]:
    """Return a sentence on images that show the same part; none where each shows another."""
    n, n_parts = len(training.paths), _n_parts(training)
    if not LEAST_GROUPS <= n_parts < n:
        return ()
    text = f"{n} good images show {n_parts} parts: {n - n_parts} have the detail of another, as further shots have."
    return (f"{text} Thresholds count parts, each scored without its own images.",)


def _n_parts(training: Training) -> int:
    """Return how many different parts the training images show, as far as it is known."""
    groups = training.groups
    return len(set(groups)) if groups and None not in groups else len(training.paths)


def warnings_of(training: Training, calibration: Calibration, scores: Float64) -> tuple[str, ...]:
    """Return sentences for the user on training images that no threshold should rest on.

    Args:
        training: the training images.
        calibration: of image scores.
        scores: (n,) float64, one score of each calibration image before any score fusion.
    """
    n = len(scores)
    if n < LEAST_IMAGES or not training.chosen:
        return ()
    lowest, median = np.quantile(scores, (0, 0.5), method="lower")
    if median - lowest <= LEAST_SPAN * abs(median):
        text = "All good images look the same, or most of them: copies, or images of nothing."
        return (f"{text} The threshold says nothing of other parts.",)
    n_images, n_parts = len(training.paths), _n_parts(training)
    if n_parts < min(n_images, LEAST_GROUPS):
        text = f"{n_images} good images show only {n_parts} part{'s' * (n_parts > 1)}: they have the detail of others."
        return (f"{text} The threshold is too low for other parts. Give images of 10 parts or more, better of 100.",)
    n_suspects = len(find_suspects(training, calibration))
    if n_suspects > MANY * n:
        many = f"{n_suspects} of {n} good images look defective ({percent(n_suspects / n)})."
        return (
            f"{many} More than {percent(MANY)} move the threshold: drop or confirm them, or fit again without them.",
        )
    n_high = high_group(scores)
    if n_high:
        path = training.paths[training.chosen[int(np.argmax(scores))]]
        share = f"{n_high} of {n} good images score far above the others, the highest {path}."
        return (f"{share} If these are defective, the threshold can't be trusted: fit again without them.",)
    return ()


def high_group(scores: Float64) -> int:
    """Return the number of scores in the upper of two groups; 0 if the scores are one group.

    Two groups: the best split explains more of the variance of the logarithms than that of a uniform distribution, 3/4.
    Of a normal distribution it is 0.64, and 0.59 to 0.72 of the good images of the development sets.

    Args:
        scores: (n,) float64.

    Source: the split is that of Otsu 1979, "A Threshold Selection Method from Gray-Level Histograms".
    """
    n, floor = len(scores), float(np.median(scores)) / 10
    if n < LEAST_GROUPED or floor <= 0:
        return 0
    ordered = np.log(np.maximum(np.sort(scores), floor))
    centred = ordered - ordered.mean()
    sizes = np.arange(1, n)
    # The sums of both groups are opposite: with k and n - k scores they explain sum^2 (1 / k + 1 / (n - k)).
    explained = np.cumsum(centred)[:-1] ** 2 * (1 / sizes + 1 / (n - sizes))
    least = math.ceil(LEAST_GROUP * n)
    inner = explained[least - 1 : n - least]
    if inner.max() <= UNIFORM * np.square(centred).sum():
        return 0
    return n - least - int(np.argmax(inner))


def indices_of(training: Training, paths: Iterable[str | os.PathLike[str]]) -> list[int]:
    """Return the indices of training images by path.

    Raises:
        InputError: if an image is none of them.
    """
    known = {path: i for i, path in reversed([*enumerate(training.paths)])}
    names = [str(path) for path in paths]
    for name in names:
        if name not in known:
            todo = "`blemish suspects` lists paths as the fit was given them."
            raise InputError(message("path", "a training image of the model", repr(name), todo=todo))
    return [known[name] for name in names]
