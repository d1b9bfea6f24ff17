"""Fits of many categories: one task of Ray for each, with its memory reserved on a node.

A task reads the images of one category, fits, and returns the files of the model folder; they are written here, so that
nodes need to see the images alone, and a model is whole or absent whatever dies.
"""

from __future__ import annotations

import os
import socket
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from blemish.cluster.connection import check_nodes, check_versions, connected, versions
from blemish.cluster.ledger import Entry, Ledger, hashes_of, inputs_digest
from blemish.cluster.node_tasks import NodeTasks, check_seen
from blemish.cluster.plan import FitPlan, check_images, check_spreads, no_room, plan_fits
from blemish.cluster.spread import facts_over_nodes, fit_over_nodes
from blemish.cluster.tasks import TaskError, peak_bytes, run_tasks
from blemish.data.training_images import ImageFacts
from blemish.detectors.patchcore.detector import Patchcore
from blemish.detectors.pickling import restored
from blemish.detectors.registry import detector_type
from blemish.errors import BlemishError, InputError, SaveError, message
from blemish.imaging.decode import path_of
from blemish.modelfolder.folder import check_target, load_model, write_files
from blemish.search.encoder import prepare_defect_search
from blemish.types import Sample, no_progress

if TYPE_CHECKING:
    from blemish.cluster.node_tasks import Tasks
    from blemish.detectors.base import AnyDetector
    from blemish.detectors.settings import Settings
    from blemish.types import ImageInput, Progress


@dataclass(frozen=True)
class FitResult:
    """The fit of one category.

    Attributes:
        status: "fitted"; "unchanged" where the model of an earlier run is of the same images and settings; "failed".
        model: the model folder; None where it failed.
        error: why it failed.
        left_out: sentences on images that could not be read.
        seconds: of the fit.
        node: name of the machine that fitted it; "" where none did.
        peak_bytes: highest memory of the process that fitted it; it may have fitted others before.
    """

    category: str
    status: Literal["fitted", "unchanged", "failed"]
    model: Path | None = None
    error: str = ""
    left_out: tuple[str, ...] = ()
    seconds: float = 0.0
    node: str = ""
    peak_bytes: int = 0


@dataclass(frozen=True)
class FitJob:
    """What a node needs to fit one category.

    Attributes:
        inputs: digest of the inputs of the model that is there; "" if there is none.
    """

    category: str
    detector: str
    settings: Settings
    samples: tuple[Sample, ...]
    inputs: str
    versions: tuple[str, str]


@dataclass(frozen=True)
class FitOutcome:
    """What a node returns: the files of the model, none if it is unchanged; or an error."""

    node: str
    files: Mapping[str, bytes] | None = None
    inputs: str = ""
    left_out: tuple[str, ...] = ()
    seconds: float = 0.0
    peak_bytes: int = 0
    error: str = ""


def fit_many(
    data: Mapping[str, Sequence[ImageInput]],
    out: str | os.PathLike[str],
    *,
    detector: AnyDetector,
    address: str | None = None,
    progress: Progress | None = None,
    each: Callable[[FitResult], None] | None = None,
    spread: bool = False,
) -> list[FitResult]:
    """Fit one detector for each category, on all nodes of a Ray cluster; write each model to OUT/CATEGORY.

    The models are those of `detector.fit` on one machine, but for the stated time. A category that fails is reported,
    and the rest go on. A second call goes on where the first one stopped: it leaves alone what was fitted on the same
    images with the same settings. Nodes must see the images at the same paths.

    Args:
        data: category to its good images: samples or paths. Relative paths are of the working directory here.
        out: the folder of models; it is on this machine.
        detector: not fitted; its settings are those of each. `threads` of them are the CPUs of a task, one by default.
        address: HOST:PORT of a cluster, "auto" for the one that this machine belongs to, None to start Ray here.
        progress: called as progress(stage, done, total) with images.
        each: called with each result as it comes.
        spread: whether the images of a category with more patches than `max_rows` are spread over all nodes, one such
            category after the other; PatchCore only. What is common to all images is made on this machine.

    Returns:
        One result for each category, in the order given.

    Raises:
        ClusterError: if the cluster can't be joined, or a node has other versions or does not see a category.
        InputError: if Ray is not installed, or an image is no file.
        SaveError: if the ledger of finished fits can't be written.
    """
    images = {category: absolute_samples(given) for category, given in data.items()}
    folder = Path(out)
    if spread:
        check_spreads(detector)
    for category in images:
        if category in {"", ".", ".."} or Path(category).name != category:
            raise InputError(message("category", "a name that a folder can have", repr(category)))
    n_cpus = detector.settings.threads or 1
    with connected(address) as nodes:
        check_nodes(nodes, first_files(images, detector.settings))
        plan = plan_fits(images, detector, nodes, n_cpus=n_cpus, timed=False, spread=spread)
        results: dict[str, FitResult | None] = dict.fromkeys(images)
        for failed in _impossible(images, plan, folder):
            results[failed.category] = failed
            (each or _ignore)(failed)
        possible = {name: images[name] for name, result in results.items() if result is None}
        jobs = _jobs(possible, detector, Ledger(folder))
        done, total = 0, sum(map(len, possible.values()))
        ledger = Ledger(folder)
        with closing(_outcomes(jobs, plan, progress or no_progress)) as ended:
            for job, outcome in ended:
                result = _collected(job, outcome, folder, ledger)
                results[result.category] = result
                (each or _ignore)(result)
                done += len(images[result.category])
                (progress or no_progress)("fitting", done, total)
    return [result for result in results.values() if result is not None]


def absolute_samples(images: Sequence[ImageInput]) -> tuple[Sample, ...]:
    """Return images as samples with absolute paths, since nodes have other working directories.

    Raises:
        InputError: if one is no file.
    """
    check_images({"": images})
    samples = (image if isinstance(image, Sample) else Sample(Path(path_of(image) or ""), "train") for image in images)
    return tuple(replace(sample, path=Path(os.path.abspath(sample.path))) for sample in samples)  # noqa: PTH100  # keeps links


def first_files(images: Mapping[str, Sequence[Sample]], settings: Settings) -> dict[str, int]:
    """Return the files by which a node shows that it sees the data: path to size; and files that settings name."""
    named = [getattr(settings, name, None) for name in ("weights", "backbone", settings.weights_argument)]
    paths = [str(samples[0].path) for samples in images.values() if samples]
    paths += [str(path) for path in named if path and Path(path).is_file()]
    return {path: Path(path).stat().st_size for path in paths if Path(path).is_file()}


def _ignore(result: FitResult) -> None:
    del result


def _impossible(images: Mapping[str, object], plan: FitPlan, folder: Path) -> Iterator[FitResult]:
    """Yield a result for each category that no node has room for, or whose model could not be written."""
    for category in images:
        if category in plan.no_room:
            yield FitResult(category, "failed", error=no_room(plan, category))
            continue
        try:
            check_target(folder / category)
        except SaveError as error:
            yield FitResult(category, "failed", error=str(error))


def _jobs(images: Mapping[str, tuple[Sample, ...]], detector: AnyDetector, ledger: Ledger) -> list[FitJob]:
    """Return the jobs, the largest first: the last ones to end are then short."""
    settings = replace(detector.settings, threads=detector.settings.threads or 1)
    known = {category: ledger.finished(category) for category in images}
    inputs = {category: "" if entry is None else entry.inputs for category, entry in known.items()}
    jobs = [
        FitJob(category, detector.name, settings, samples, inputs[category], versions())
        for category, samples in images.items()
    ]
    return sorted(jobs, key=lambda job: -len(job.samples))


def _outcomes(
    jobs: Sequence[FitJob], plan: FitPlan, progress: Progress
) -> Generator[tuple[FitJob, FitOutcome], None, None]:
    """Yield each job and its outcome as it ends; first those of one task each."""
    spread = {fit.category: fit for fit in plan.fits if fit.is_spread}
    whole = [job for job in jobs if job.category not in spread]
    with closing(run_tasks(fit_here, whole, n_cpus=plan.n_cpus, n_bytes=plan.bytes_of)) as ended:
        for job, outcome in ended:
            yield job, FitOutcome("", error=outcome.text) if isinstance(outcome, TaskError) else outcome
    for job in jobs:
        if job.category in spread:
            planned = spread[job.category]
            with closing(NodeTasks(plan.n_cpus, planned.task_bytes, planned.n_tasks)) as tasks:
                yield job, _attempted(partial(_spread, job, tasks, progress))


def _collected(job: FitJob, outcome: FitOutcome, folder: Path, ledger: Ledger) -> FitResult:
    """Write the model of a category, and then the ledger; return the result."""
    name, path = job.category, folder / job.category
    if outcome.error:
        return FitResult(name, "failed", error=outcome.error, seconds=outcome.seconds, node=outcome.node)
    if outcome.files is None:
        entry = ledger.finished(name)
        left_out = () if entry is None else entry.left_out
        return FitResult(name, "unchanged", path, left_out=left_out, node=outcome.node)
    try:
        write_files(path, outcome.files)
    except SaveError as error:
        return FitResult(name, "failed", error=str(error), seconds=outcome.seconds, node=outcome.node)
    digest = str(load_model(path).header["digest"])
    ledger.add(name, Entry(outcome.inputs, digest, outcome.seconds, outcome.left_out))
    return FitResult(
        name,
        "fitted",
        path,
        left_out=outcome.left_out,
        seconds=outcome.seconds,
        node=outcome.node,
        peak_bytes=outcome.peak_bytes,
    )


def fit_here(job: FitJob) -> FitOutcome:
    """Fit one category on a node."""
    return _attempted(lambda node: _fitted(job, node))


def _attempted(run: Callable[[str], FitOutcome]) -> FitOutcome:
    """Return the outcome of a fit, given the name of this machine, with its time; an error is an outcome too."""
    node, start = socket.gethostname(), time.perf_counter()
    try:
        return replace(run(node), seconds=time.perf_counter() - start)
    except (BlemishError, MemoryError, OSError) as error:
        text = str(error) if isinstance(error, BlemishError) else f"{type(error).__name__}: {error}"
        return FitOutcome(node, error=text, seconds=time.perf_counter() - start)


def _fitted(job: FitJob, node: str) -> FitOutcome:
    check_versions(job.versions)
    check_seen(job.samples)
    detector = restored(detector_type(job.detector), job.settings, None, {})
    if job.inputs and job.inputs == _inputs_of(job, detector, hashes_of(job.samples)):
        return FitOutcome(node, inputs=job.inputs)
    return _outcome(job, detector.fit(job.samples), node)


def _spread(job: FitJob, tasks: Tasks, progress: Progress, node: str) -> FitOutcome:
    """Fit one category on all nodes; what is common to all images is made here."""
    detector, samples = restored(Patchcore, job.settings, None, {}), job.samples
    facts = facts_over_nodes(samples, job.settings.bit_depth, tasks)
    pairs = zip(samples, facts, strict=True)
    known = {str(sample.path): fact.sha256 for sample, fact in pairs if isinstance(fact, ImageFacts)}
    if job.inputs and job.inputs == _inputs_of(job, detector, hashes_of(samples, known)):
        return FitOutcome(node, inputs=job.inputs)
    fit_over_nodes(detector, samples, facts, tasks, progress)
    return _outcome(job, detector, node)


def _inputs_of(job: FitJob, detector: AnyDetector, sha256s: Sequence[str]) -> str:
    weights = "" if detector.pretrained is None else detector.pretrained.weights_sha256
    return inputs_digest(job.detector, job.settings, weights, job.samples, sha256s)


def _outcome(job: FitJob, detector: AnyDetector, node: str) -> FitOutcome:
    """Return the files of the model, and what it was fitted on."""
    training = detector.fitted.training
    sha256s = hashes_of(job.samples, dict(zip(training.paths, training.sha256s, strict=True)))
    prepare_defect_search(detector)
    with tempfile.TemporaryDirectory(prefix="blemish-fit-") as parent:
        saved = detector.save(Path(parent) / "model")
        files = {path.name: path.read_bytes() for path in saved.iterdir()}
    return FitOutcome(
        node,
        files,
        _inputs_of(job, detector, sha256s),
        tuple(problem.text for problem in detector.problems),
        peak_bytes=peak_bytes(),
    )
