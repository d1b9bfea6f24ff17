"""Fitting EfficientAD: training, quantile normalisation and calibration on good images (Batzner et al. 2024)."""

from __future__ import annotations

import math
import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from blemish.detectors.efficientad.devices import current, is_gpu
from blemish.detectors.efficientad.graph import Networks, efficientad_graph
from blemish.detectors.efficientad.last_layer import refit_student, seconds_to_refit
from blemish.detectors.efficientad.loop import Loop, Outcome, Plan, plan_training
from blemish.detectors.efficientad.maps import Maps, Quantiles, open_maps
from blemish.detectors.efficientad.networks import arrays
from blemish.detectors.efficientad.pdn import import_torch
from blemish.detectors.efficientad.penalty import penalty_images
from blemish.detectors.efficientad.settings import LEAST_IMAGES
from blemish.detectors.efficientad.state import EfficientAdState
from blemish.detectors.efficientad.training import MOST_HELD, Images, Training
from blemish.errors import DataError, InputError, message
from blemish.modelfolder.header import Training as TrainingRecord
from blemish.ops.conformal import Calibration
from blemish.ops.distance_statistics import fit_distance_statistics
from blemish.runtime.memory import kept_memory
from blemish.types import Problem, Progress, UInt8

if TYPE_CHECKING:
    from blemish.data.training_images import TrainingImages
    from blemish.detectors.efficientad.settings import EfficientAdSettings
    from blemish.detectors.efficientad.teacher import Teacher
    from blemish.imaging.geometry import Geometry
    from blemish.types import Float32, Int64

# Crops instead of whole images where time is short: 24 x 24 outputs, 125 x 125 pixels.
SHORT_CROP = 24
ENOUGH_STEPS = 10_000  # on whole images; if fewer fit in, more steps on crops give better scores
TIMED_STEPS = 2
TIMED_ON_GPU = 8  # the first load programs and record the CUDA graph
AFTER = 2.5  # seconds of a prediction over those of the teacher alone
AFTER_S = 3.0  # building the graph
ROOM = 1.3  # over the least budget, in the advice for one that is too small
LEAST_SHARE = 0.1  # of a budget, for training where reading the images took all of it


class Split(NamedTuple):
    """Indices of the training images, of the held-out ones (quantiles, early stop) and of the calibration set."""

    train: list[int]
    held: list[int]
    calibration: list[int]


class Run(NamedTuple):
    """Options of a fit that do not change its result."""

    threads: int
    device: str
    checkpoint: str | os.PathLike[str] | None
    progress: Progress


def split_images(groups: Int64, holdout: float, seed: int) -> Split:
    """Return a random split of images: `holdout` of them, at least two, are not trained on; a quarter is `held`.

    Images of one part are on one side of it, and those that are not trained on show a part each.

    The calibration set decides nothing but the threshold: it is exchangeable with new good images, so that the
    conformal false positive rate holds.

    Args:
        groups: (n,) int64, the lowest index of the images that show the same part as each.
        holdout: share of the parts.
        seed: of the split.

    >>> [len(part) for part in split_images(np.arange(209), 0.2, 0)]
    [167, 10, 32]
    """
    first = np.unique(groups)
    n_out = min(max(2, round(holdout * len(first))), len(first) - 2)
    n_held = max(1, n_out // 4)
    order = first[np.random.default_rng([seed, 2]).permutation(len(first))]
    train = np.flatnonzero(np.isin(groups, order[n_out:]))
    return Split(*(sorted(part.tolist()) for part in (train, order[:n_held], order[n_held:n_out])))


def fit(
    settings: EfficientAdSettings, teacher: Teacher, images: TrainingImages, run: Run
) -> tuple[EfficientAdState, tuple[Problem, ...], str]:
    """Return the fitted detector, problems met in the penalty folder, and a warning or ""."""
    start = time.monotonic()
    torch = import_torch()
    threads_before = torch.get_num_threads()
    torch.set_num_threads(run.threads)
    try:
        with kept_memory(), current(run.device):
            return _fit(settings, teacher, images, run, start)
    finally:
        torch.set_num_threads(threads_before)


def _fit(
    settings: EfficientAdSettings, teacher: Teacher, images: TrainingImages, run: Run, start: float
) -> tuple[EfficientAdState, tuple[Problem, ...], str]:
    geometry = settings.geometry(images.sizes_hw)
    settings.check_crop(geometry)
    penalty = penalty_images(settings.imagenet_dir, geometry.network_hw, settings.seed)
    inputs = _inputs(geometry, images, run.progress)
    split = split_images(images.groups, settings.holdout, settings.seed)
    began = time.monotonic()
    learnt = Images(inputs[split.train], inputs[split.held], penalty)
    training = Training(settings, settings.crop, teacher.state, learnt, device=run.device)
    each = (time.monotonic() - began) / min(len(split.train), 64)
    plan = plan_training(settings, len(split.train))
    if plan.seconds is not None:
        after = _seconds_after(training, split, each)
        _check_budget(plan.seconds, time.monotonic() - start + after, len(images))
        plan = _planned(training, plan, start + plan.seconds - after)
    identity = {"settings": settings.to_dict(), "teacher": teacher.weights_sha256, "crop": plan.crop}
    identity["images"] = images.sha256
    loop = Loop(training, plan, checkpoint=run.checkpoint, identity=identity, progress=run.progress)
    outcome = loop.run()
    network = efficientad_graph(_networks(training, teacher, run), geometry.network_hw)
    maps = open_maps(network, geometry, settings, threads=run.threads)
    maps, scores, levels = _calibrated(maps, training, inputs, split, run.progress)
    provenance: dict[str, str | int | float] = {
        "seed": settings.seed,
        "backbone": f"teacher {teacher.file.name}",
        "backbone_sha256": teacher.weights_sha256,
        "n_training_files": len(images),
        "training_sha256": images.sha256,
        "n_steps": outcome.n_steps,
        "training_s": round(outcome.seconds, 3),
        "fit_s": round(time.monotonic() - start, 3),
    }
    fitted = EfficientAdState(
        geometry=maps.geometry,
        **_of_calibration(settings, images, split.calibration, scores, levels),
        provenance=provenance,
        maps=maps,
        history=_history(plan, outcome, split),
    )
    return fitted, tuple(penalty.problems), outcome.warning


def _inputs(geometry: Geometry, images: TrainingImages, progress: Progress) -> UInt8:
    """Return all images as the network's inputs, (n, h, w, 3) uint8: 0.2 MB each at 256 pixels."""
    found, good = [], []
    for i, image in images.prepared(geometry, range(len(images)), stage="reading images", progress=progress):
        found.append(image)
        good.append(i)
    images.keep(good)
    if len(found) < LEAST_IMAGES:
        raise DataError(message("good images", f"at least {LEAST_IMAGES}", str(len(found))))
    return np.stack(found)


def _seconds_after(training: Training, split: Split, each: float) -> float:
    """Return the estimated seconds of a fit beside reading and training, of which the teacher takes `each` an image."""
    n_maps = 2 * min(len(split.held), MOST_HELD) + len(split.held) + len(split.calibration)
    last_layer = seconds_to_refit(training, each) if training.settings.solve_last else 0.0
    return AFTER * each * n_maps + AFTER_S + last_layer


def _check_budget(budget_s: float, needed_s: float, n_images: int) -> None:
    """Raise InputError if all but the training takes the whole budget, before it is spent."""
    if needed_s < budget_s:
        return
    least = 10 * math.ceil(needed_s * ROOM / 10)
    todo = (
        "Reading, the last layer and the calibration take that time without any training. Give a longer budget, limit "
        "the steps by max_steps instead, or take PatchCore, which fits in seconds."
    )
    expected = f"at least {least} s for {n_images} images on this machine"
    raise InputError(message("budget", expected, f"{budget_s:g} s", todo=todo))


def _planned(training: Training, plan: Plan, end: float) -> Plan:
    """Return the plan with the steps, and the crop, that fit in until `end`, by timing a few steps."""
    assert plan.seconds is not None
    least = LEAST_SHARE * plan.seconds
    crop = training.settings.crop
    each = _seconds_a_step(training)
    short = min(SHORT_CROP, *training.hw) // 4 * 4
    if crop is None and not training.settings.padding and short >= 4 and end - time.monotonic() < ENOUGH_STEPS * each:
        crop = short
        training.crop_hw = (short, short)
        each = _seconds_a_step(training)
    seconds = max(end - time.monotonic(), least)
    return Plan(min(plan.n_steps, max(1, int(seconds / each))), crop, seconds)


def _seconds_a_step(training: Training) -> float:
    """Return the seconds of a step; the networks stay as they were."""
    torch = import_torch()
    before = [tensor.detach().clone() for tensor in training.parameters]
    times = []
    for k in range(TIMED_ON_GPU if is_gpu(training.device) else TIMED_STEPS):
        start = time.monotonic()
        training.step(k, training.settings.lr)
        times.append(time.monotonic() - start)
    with torch.no_grad():
        for tensor, old in zip(training.parameters, before, strict=True):
            tensor.copy_(old)
    training.optimizer.state.clear()
    return max(min(times), 1e-4)


def _networks(training: Training, teacher: Teacher, run: Run) -> Networks:
    """Return the trained networks, with the ridge regression of the student's last layer if the settings ask for it."""
    settings = training.settings
    if settings.solve_last:
        run.progress("fitting the last layer", 0, 1)
        student = refit_student(training)
        run.progress("fitting the last layer", 1, 1)
    else:
        student = training.student.weights()
    return Networks(
        teacher.state,
        student,
        arrays(training.autoencoder),
        training.mean.cpu().numpy(),
        training.std.cpu().numpy(),
        settings.model_size,
        settings.padding,
    )


def _calibrated(
    maps: Maps, training: Training, inputs: UInt8, split: Split, progress: Progress
) -> tuple[Maps, list[float], list[float]]:
    """Return the maps with quantiles of the held-out images, and scores and map levels of the calibration set."""
    total = len(split.held) + len(split.calibration)
    raw = []
    for done, i in enumerate((*split.held, *split.calibration), start=1):
        raw.append(maps.raw(inputs[i]))
        progress("calibrating", done, total)
    student, autoencoder = (Quantiles.of(np.stack([pair[k] for pair in raw[: len(split.held)]])) for k in (0, 1))
    maps = replace(maps, student=student, autoencoder=autoencoder, share=_share(training.explained()))
    others, settings = raw[len(split.held) :], training.settings

    def level(network_map: Float32) -> float:
        return float(np.quantile(network_map, 1 - settings.top_share))

    if not settings.counts_positions(len(others)):
        return maps, [maps.score(*pair) for pair in others], [level(maps.joined(*pair)) for pair in others]
    assert settings.position_sigma is not None, "positions count"
    cells = np.stack([maps.cells(*pair) for pair in others])
    statistics, z_scores = fit_distance_statistics(cells, settings.position_sigma)
    levels = [level(maps.at_input_size(one)) for one in z_scores]
    return replace(maps, statistics=statistics), list(map(maps.cell_score, z_scores)), levels


def _of_calibration(
    settings: EfficientAdSettings,
    images: TrainingImages,
    chosen: list[int],
    scores: list[float],
    levels: list[float],
) -> dict[str, Any]:
    """Return the calibrations and the training images of the state."""
    rate, rule = settings.false_positive_rate, settings.calibration
    names, sizes_hw = images.names, images.sizes_hw
    return {
        "image_calibration": Calibration.from_scores(scores, rate, rule),
        "pixel_calibration": Calibration.from_scores(levels, rate, rule),
        "pixel_share": settings.top_share,
        "training": TrainingRecord.calibrated(names, sizes_hw, chosen=chosen, scores=scores, map_peaks=levels),
    }


def _share(explained: float) -> float:
    """Return the weight of the autoencoder's map: half if it explains all of the teacher's variance, 0 if none.

    The map of an untrained autoencoder is noise, which quantile normalisation scales up to the student's map.
    Differs: always half in the paper.

    >>> _share(0.0), _share(1.0)
    (0.0, 0.5)
    """
    return explained / (1 + explained)


def _history(plan: Plan, outcome: Outcome, split: Split) -> dict[str, Any]:
    """Return the history for `model.json`."""
    return {
        "planned_steps": plan.n_steps,
        "crop": plan.crop,
        "budget_s": plan.seconds,
        "losses": [[k, *losses] for k, losses in outcome.losses],
        "held_out": outcome.held_out,
        "late_losses": outcome.late_losses,
        "n_learnt": len(split.train),
        "n_held": len(split.held),
        "n_calibration": len(split.calibration),
        "warning": outcome.warning,
    }
