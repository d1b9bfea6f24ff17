"""The plan of work on a cluster, before it starts: images, memory and time."""

from __future__ import annotations

import heapq
import time
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

from blemish.detectors.patchcore.cost import estimated_chunk_bytes, n_patches
from blemish.detectors.patchcore.detector import Patchcore
from blemish.errors import DataError, InputError, message
from blemish.imaging.decode import path_of

if TYPE_CHECKING:
    from blemish.cluster.connection import Node
    from blemish.detectors.base import AnyDetector
    from blemish.types import ImageInput

# Measured: a process of Ray that has loaded Blemish, beyond what a detector's own estimate counts.
WORKER_BYTES = 150 * 2**20
# Images of the fit that is timed where no category is large enough for the detector's own estimate.
TIMED_IMAGES = 16


@dataclass(frozen=True)
class PlannedFit:
    """The fit of one category.

    Attributes:
        n_bytes: peak memory, estimated; the node is asked for it. Where the category is spread over nodes, it is of the
            machine where the command runs.
        seconds: of the fit, estimated; None where it is not known.
        n_tasks: at once, which a category that is spread has room for; 1 where it is one task.
        task_bytes: of each of these tasks, estimated; the nodes are asked for it. 0 where the category is one task.
    """

    category: str
    n_images: int
    n_bytes: int
    seconds: float | None
    n_tasks: int = 1
    task_bytes: int = 0

    @property
    def is_spread(self) -> bool:
        """Whether the category is spread over nodes."""
        return self.task_bytes > 0


@dataclass(frozen=True)
class FitPlan:
    """The fits of many categories on some nodes.

    Attributes:
        fits: in the order of the data; those that are spread come one after the other, after all others.
        n_cpus: of each task.
        n_at_once: the most fits that run at the same time.
        seconds: from the first to the last, estimated; None where it is not known.
        no_room: categories that no node has room for.
    """

    fits: tuple[PlannedFit, ...]
    n_cpus: int
    n_at_once: int
    seconds: float | None
    no_room: tuple[str, ...]

    @property
    def bytes_of(self) -> dict[str, int]:
        """Category to its peak memory, estimated."""
        return {fit.category: fit.n_bytes for fit in self.fits}


def plan_fits(
    data: Mapping[str, Sequence[ImageInput]],
    detector: AnyDetector,
    nodes: Sequence[Node],
    *,
    n_cpus: int = 1,
    timed: bool = True,
    spread: bool = False,
) -> FitPlan:
    """Return the plan of fits of many categories on some nodes.

    The time is that of one category here, by the detector's own estimate or a fit of a few of its images, scaled by the
    number of images.

    Args:
        data: category to its good images.
        n_cpus: of each task.
        timed: whether to estimate the time, which takes seconds.
        spread: whether categories whose patches are more than the fit holds are spread over all nodes.

    Raises:
        InputError: if there is no category, or the fit of this detector can't be spread.
    """
    if not data:
        raise InputError(message("data", "at least one category", "none"))
    image_s = _image_s(data, detector) if timed else None
    fits = []
    for category, images in data.items():
        n = max(1, len(images))
        n_bytes, seconds = detector.estimated_bytes(n), None if image_s is None else image_s * len(images)
        task_bytes = _task_bytes(detector, n) if spread else 0
        if task_bytes:
            n_tasks = n_places(nodes, n_cpus, task_bytes)
            shared_s = None if seconds is None else seconds / max(1, n_tasks)
            fits.append(PlannedFit(category, len(images), n_bytes, shared_s, n_tasks, task_bytes))
        else:
            fits.append(PlannedFit(category, len(images), WORKER_BYTES + n_bytes, seconds))
    no_room = tuple(
        fit.category for fit in fits if not any(has_room(node, fit.task_bytes or fit.n_bytes, n_cpus) for node in nodes)
    )
    possible = [fit for fit in fits if fit.category not in no_room]
    seconds, n_at_once = schedule([fit for fit in possible if not fit.is_spread], nodes, n_cpus)
    seconds += sum(fit.seconds or 0.0 for fit in possible if fit.is_spread)
    n_at_once = max([n_at_once, *(fit.n_tasks for fit in possible if fit.is_spread)])
    return FitPlan(tuple(fits), n_cpus, n_at_once, None if image_s is None else seconds, no_room)


def check_spreads(detector: AnyDetector) -> None:
    """Raise InputError unless the fit of this detector can be spread over nodes."""
    if not isinstance(detector, Patchcore):
        todo = "Fit it without --spread: each category on one node."
        raise InputError(message("spread", "patchcore, whose fit is a map and a merge", detector.name, todo=todo))


def _task_bytes(detector: AnyDetector, n_images: int) -> int:
    """Return the peak memory of a task of a fit that is spread; 0 if one node holds the patches of so many images."""
    check_spreads(detector)
    settings, backbone = detector.settings, detector.pretrained
    if n_patches(settings, backbone, n_images) <= settings.max_rows:
        return 0
    return WORKER_BYTES + estimated_chunk_bytes(settings, backbone, n_images)


def n_places(nodes: Sequence[Node], n_cpus: int, n_bytes: int) -> int:
    """Return how many tasks or workers the nodes have room for."""
    return sum(min(node.n_cpus // n_cpus, node.memory_bytes // n_bytes) for node in nodes)


def has_room(node: Node, n_bytes: int, n_cpus: int) -> bool:
    """Return whether an idle node has room for a task."""
    return node.n_cpus >= n_cpus and node.memory_bytes >= n_bytes


def no_room(plan: FitPlan, category: str) -> str:
    """Return the error of a category that no node has room for."""
    n_bytes = next(fit.task_bytes or fit.n_bytes for fit in plan.fits if fit.category == category)
    expected = f"a node with {plan.n_cpus} CPUs and {n_bytes / 2**20:.0f} MB"
    todo = "Add a larger node, or use smaller images or fewer of them."
    return message("cluster", expected, "none", todo=todo)


def _image_s(data: Mapping[str, Sequence[ImageInput]], detector: AnyDetector) -> float | None:
    """Return the seconds that fitting takes for each image of the category of median size; None if it can't be read."""
    middle = sorted(data.values(), key=len)[len(data) // 2]
    try:
        seconds = detector.estimated_seconds(middle)
        if seconds is not None:
            return seconds / len(middle)
        few = middle[:TIMED_IMAGES]
        start = time.perf_counter()
        copy(detector).fit(few)
        return (time.perf_counter() - start) / len(few)
    except DataError:
        return None


def schedule(fits: Sequence[PlannedFit], nodes: Sequence[Node], n_cpus: int) -> tuple[float, int]:
    """Return the time of all fits, started in their order as soon as a node has room, and the most at once."""
    free = {node.id: [node.n_cpus, node.memory_bytes] for node in nodes}
    running: list[tuple[float, str, int]] = []
    now, most = 0.0, 0
    for fit in fits:
        while (place := _place(free, fit.n_bytes, n_cpus)) is None:
            now, done, n_bytes = heapq.heappop(running)
            free[done][0] += n_cpus
            free[done][1] += n_bytes
        free[place][0] -= n_cpus
        free[place][1] -= fit.n_bytes
        heapq.heappush(running, (now + (fit.seconds or 1.0), place, fit.n_bytes))
        most = max(most, len(running))
    return max((end for end, _, _ in running), default=now), most


def _place(free: Mapping[str, Sequence[int]], n_bytes: int, n_cpus: int) -> str | None:
    return next((node for node, (cpus, room) in free.items() if cpus >= n_cpus and room >= n_bytes), None)


def check_images(data: Mapping[str, Sequence[ImageInput]]) -> None:
    """Raise InputError if an image is no file: nodes read files."""
    for category, images in data.items():
        if any(path_of(image) is None for image in images):
            raise InputError(message("data", "files", "an array", where=category, todo="Save the images as files."))


@dataclass(frozen=True)
class PredictPlan:
    """Predictions of many images on some nodes.

    Attributes:
        n_bytes: of each worker, estimated; the node is asked for it.
        n_at_once: workers that the nodes have room for.
        seconds: estimated from a few images on this machine; None if none of them can be read, or there is no room.
    """

    n_images: int
    n_bytes: int
    n_at_once: int
    seconds: float | None
