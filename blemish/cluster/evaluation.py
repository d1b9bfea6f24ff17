"""Fit and test of many categories: one task of Ray for each, which returns the report."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from blemish.cluster.connection import check_nodes, check_versions, connected, versions
from blemish.cluster.fit import absolute_samples, first_files
from blemish.cluster.plan import no_room, plan_fits
from blemish.cluster.tasks import TaskError, run_tasks
from blemish.detectors.pickling import restored
from blemish.detectors.registry import detector_type
from blemish.errors import BlemishError
from blemish.evaluation.engine import Engine

if TYPE_CHECKING:
    from blemish.data.datasets import DataSet
    from blemish.detectors.base import AnyDetector
    from blemish.detectors.settings import Settings
    from blemish.types import Report, Sample


@dataclass(frozen=True)
class EvaluationResult:
    """The test of one category.

    Attributes:
        report: of the test; None where it failed.
        model: the fitted detector, if it was asked for.
        error: why it failed.
    """

    category: str
    report: Report | None = None
    model: AnyDetector | None = None
    error: str = ""


@dataclass(frozen=True)
class _Images:
    """The images of a data set, with absolute paths."""

    name: str
    train: tuple[Sample, ...]
    test: tuple[Sample, ...]


@dataclass(frozen=True)
class EvaluationJob:
    """What a node needs to fit and test one category."""

    category: str
    detector: str
    settings: Settings
    images: _Images
    with_model: bool
    versions: tuple[str, str]


def evaluate_many(
    data: Mapping[str, DataSet],
    *,
    detector: AnyDetector,
    address: str | None = None,
    with_models: bool = False,
) -> Iterator[EvaluationResult]:
    """Yield the result of fitting and testing a detector on each category, as they end, on all nodes of a cluster.

    The metrics are those of `Engine.fit` and `Engine.evaluate` on one machine. Nodes must see the images at the same
    paths.

    Args:
        data: category to its data set.
        detector: not fitted; its settings are those of each. `threads` of them are the CPUs of a task, one by default.
        address: as of `fit_many`.
        with_models: whether the fitted detectors come back too.

    Raises:
        ClusterError: if the cluster can't be joined, or a node has other versions or does not see a category.
        InputError: if Ray is not installed.
    """
    settings = replace(detector.settings, threads=detector.settings.threads or 1)
    images = {
        key: _Images(dataset.name, *map(_absolute, (dataset.train, dataset.test))) for key, dataset in data.items()
    }
    good = {key: each.train for key, each in images.items()}
    with connected(address) as nodes:
        check_nodes(nodes, first_files(good, settings))
        plan = plan_fits(good, detector, nodes, n_cpus=settings.n_threads, timed=False)
        yield from (EvaluationResult(category, error=no_room(plan, category)) for category in plan.no_room)
        jobs = [
            EvaluationJob(key, detector.name, settings, each, with_models, versions())
            for key, each in sorted(images.items(), key=lambda pair: -len(pair[1].train) - len(pair[1].test))
            if key not in plan.no_room
        ]
        with closing(run_tasks(evaluate_here, jobs, n_cpus=plan.n_cpus, n_bytes=plan.bytes_of)) as ended:
            for job, result in ended:
                if isinstance(result, TaskError):
                    yield EvaluationResult(job.category, error=result.text)
                else:
                    yield result


def _absolute(samples: tuple[Sample, ...]) -> tuple[Sample, ...]:
    """Return samples with absolute paths of images and masks."""

    def moved(sample: Sample) -> Sample:
        mask = None if sample.mask_path is None else Path(os.path.abspath(sample.mask_path))  # noqa: PTH100
        further = tuple(Path(os.path.abspath(path)) for path in sample.further_masks)  # noqa: PTH100
        return replace(sample, mask_path=mask, further_masks=further)

    return tuple(map(moved, absolute_samples(samples)))


def evaluate_here(job: EvaluationJob) -> EvaluationResult:
    """Fit and test one category on a node."""
    try:
        check_versions(job.versions)
        detector = restored(detector_type(job.detector), job.settings, None, {})
        engine = Engine()
        engine.fit(detector, job.images)
        report = engine.evaluate(detector, job.images)
    except (BlemishError, MemoryError) as error:
        return EvaluationResult(job.category, error=str(error) or type(error).__name__)
    return EvaluationResult(job.category, report, detector if job.with_model else None)
