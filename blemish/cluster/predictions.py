"""Predictions of many images: actors of Ray that load the model once, and one row for each image in a Parquet file.

Rows come back in chunks and are written in parts, in the order of the listing; a part is there or not, so that whatever
dies, a second run makes the rows that are missing, and those alone.
"""

from __future__ import annotations

import errno
import os
import socket
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from blemish._io.files import save_error
from blemish._io.lock import exclusive
from blemish._io.prefetch import prefetch
from blemish._validation.checks import check_whole
from blemish._version import __version__
from blemish.cluster.connection import check_nodes, check_versions, connected, nodes, versions
from blemish.cluster.listing import ImageFile, Listing, find_files, is_url
from blemish.cluster.maps import MAP, MASK
from blemish.cluster.plan import TIMED_IMAGES, WORKER_BYTES, PredictPlan, n_places
from blemish.cluster.pool import ActorPool, Dead
from blemish.cluster.rows import Parts, error_row, folder_of, named, prediction_row
from blemish.data.discovery import IMAGE_ENDINGS
from blemish.data.outputs import has_mark
from blemish.detectors.pickling import digest_of
from blemish.detectors.registry import load
from blemish.errors import ImageError, InputError, message
from blemish.imaging.decode import decode
from blemish.modelfolder.folder import HEADER, load_model
from blemish.types import UInt8, no_progress

if TYPE_CHECKING:
    from blemish.cluster.connection import Node
    from blemish.types import Progress

# An actor gets at most so many at once: seconds of work, and what is made again if it dies.
CHUNK = 64
# Chunks for each actor, where there are few images: all have work to the end.
CHUNKS_EACH = 8
# With maps and masks fewer: results of several chunks of each worker wait in memory for the first one.
CHUNK_WITH_EXTRAS = 4
# A part is written after so many rows or seconds: what is made again if the command is killed.
PART_ROWS, PART_ROWS_WITH_EXTRAS = 20_000, 500
PART_S = 20.0
# Measured: a process that predicts, with the default backbone, beyond the model's files.
PREDICT_BYTES = 300 * 2**20
MAX_IMAGE_BYTES = 1 << 30
DIED = "a process that died each time that it had this image, as of a fault in a native library"


@dataclass(frozen=True)
class PredictResult:
    """A run over many images.

    Attributes:
        path: the Parquet file.
        n_images: rows in it.
        n_new: those that this run made.
        n_defective: of those, the ones whose label is true.
        n_unread: of those, the ones with an error.
        seconds: of the run, with the start of the workers.
    """

    path: Path
    n_images: int
    n_new: int
    n_defective: int
    n_unread: int
    seconds: float


def predict(
    model: str | os.PathLike[str],
    images: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    address: str | None = None,
    threads: int = 1,
    storage: Mapping[str, Any] | None = None,
    maps: bool = False,
    masks: bool = False,
    progress: Progress | None = None,
    unread: Callable[[str, str], None] | None = None,
) -> PredictResult:
    """Predict many images on all nodes of a Ray cluster; write one row for each image to a Parquet file.

    A second call goes on where the first one stopped, and makes the rows of images that are new, changed, or had an
    error. An image whose process dies three times, where it was the only one in it, gets a row with that error.

    Args:
        model: a model folder on this machine.
        images: folders and files: paths that each node sees, or URLs of any file system of fsspec that it can read.
        out: the Parquet file, on this machine; while the run goes on, parts are in OUT.parts.
        address: HOST:PORT of a cluster, "auto" for the one that this machine belongs to, None to start Ray here.
        threads: of each worker, which are its CPUs.
        storage: options of the file systems of URLs, such as keys; they are sent to the nodes.
        maps: whether rows hold the anomaly map, some 100 to 200 kB, which `read_map` returns.
        masks: whether rows hold the mask, which `read_mask` returns.
        progress: called as progress(stage, done, total).
        unread: called with path and error of each image without a prediction.

    Raises:
        ClusterError: if the cluster can't be joined, a node has other versions or does not see the images, or there is
            no room for a worker.
        InputError: if Ray is not installed, there is no image, or OUT.parts holds those of another model or of other
            columns.
        ModelFileError: if the model can't be loaded.
        SaveError: if the results can't be written, or another run writes them.
    """
    start = time.perf_counter()
    check_whole("threads", threads, 1, 256)
    extras = (*((MAP,) if maps else ()), *((MASK,) if masks else ()))
    spec, metadata = spec_of(model, threads, storage or {}, extras)
    target = Path(os.path.realpath(out))
    with connected(address) as found, working_folder(target) as folder, tempfile.TemporaryFile(dir=folder) as spool:
        parts = Parts(target, metadata, extras)
        listing = Listing(find_files([os.fspath(place) for place in images], spec.storage), spool)
        if not len(listing):
            raise _no_images(images)
        done = parts.done_keys()
        first = next(listing.chunks(1, without=done), [])
        check_nodes(found, {file.path: file.size for file in first}, storage=spec.storage)
        tally = _Tally(int(np.isin(listing.keys, done, invert=True).sum()), progress or no_progress, unread)
        if first:
            n, most = (CHUNK_WITH_EXTRAS, PART_ROWS_WITH_EXTRAS) if extras else (CHUNK, PART_ROWS)
            n = chunk_size(tally.total, n_places(found, spec.threads, spec.n_bytes), n)
            _run(pool_of(Inspector, spec, spec), listing.chunks(n, without=done), parts, tally, most)
        n_rows = parts.merge(listing.keys)
    assert n_rows == len(listing), "one row for each image"
    seconds = time.perf_counter() - start
    return PredictResult(Path(out), n_rows, tally.n_done, tally.n_defective, tally.n_unread, seconds)


def chunk_size(n_images: int, n_actors: int, most: int) -> int:
    """Return how many images an actor gets at once.

    >>> chunk_size(20_000, 2, 64), chunk_size(100, 4, 64)
    (64, 4)
    """
    return max(1, min(most, -(-n_images // (CHUNKS_EACH * max(1, n_actors)))))


def plan_predictions(
    model: str | os.PathLike[str],
    images: Sequence[str | os.PathLike[str]],
    found: Sequence[Node],
    *,
    threads: int = 1,
    storage: Mapping[str, Any] | None = None,
) -> PredictPlan:
    """Return the plan of `predict` on some nodes; it lists the images, and predicts a few here.

    Raises:
        InputError: if there is no image.
        ModelFileError: if the model can't be loaded.
    """
    spec, _ = spec_of(model, threads, storage or {})
    few, n_images = list[ImageFile](), 0
    for file in find_files([os.fspath(place) for place in images], spec.storage):
        n_images += 1
        if len(few) < TIMED_IMAGES:
            few.append(file)
    if not few:
        raise _no_images(images)
    worker, n_at_once = Inspector(spec), n_places(found, spec.threads, spec.n_bytes)
    worker.run(few[:1])  # the first run is slower
    start = time.perf_counter()
    is_read = any("score" in row for row in worker.run(few))
    seconds = (time.perf_counter() - start) / len(few) * n_images / n_at_once if is_read and n_at_once else None
    return PredictPlan(n_images, spec.n_bytes, n_at_once, seconds)


def _no_images(places: Sequence[str | os.PathLike[str]]) -> InputError:
    where = ", ".join(map(str, places))
    return InputError(message("images", f"images ({', '.join(IMAGE_ENDINGS)})", "none", where=where))


@dataclass(frozen=True)
class WorkerSpec:
    """All that a worker needs to predict: the files of the model folder, its threads, and options of file systems.

    Attributes:
        extras: columns out of anomaly_map and mask that rows hold.
    """

    files: Mapping[str, bytes] = field(repr=False)
    threads: int
    versions: tuple[str, str]
    storage: Mapping[str, Any]
    extras: tuple[str, ...] = ()

    @property
    def n_bytes(self) -> int:
        """Peak memory of a worker, estimated: the model is held as files, as arrays and by its index."""
        return WORKER_BYTES + PREDICT_BYTES + 3 * sum(map(len, self.files.values()))


def spec_of(
    model: str | os.PathLike[str], threads: int, storage: Mapping[str, Any], extras: tuple[str, ...] = ()
) -> tuple[WorkerSpec, dict[str, str]]:
    """Return what workers need, and what the results say of the model."""
    folder = load_model(model)
    header, names = folder.header, (HEADER, *folder.header["files"])
    metadata = {
        "model": digest_of(folder),
        "detector": header["detector"],
        "library_version": __version__,
        "threshold": repr(header["thresholds"]["image"]),
        "pixel_threshold": repr(header["thresholds"]["pixel"]),
    }
    files = {name: (folder.path / name).read_bytes() for name in names}
    return WorkerSpec(files, threads, versions(), dict(storage), extras), metadata


class Inspector:
    """A worker: loads the model once, and predicts the images that it is given."""

    def __init__(self, spec: WorkerSpec) -> None:
        check_versions(spec.versions)
        self._spec = spec
        with tempfile.TemporaryDirectory(prefix="blemish-model-") as folder:
            for name, data in spec.files.items():
                (Path(folder) / name).write_bytes(data)
            self._detector = load(folder, threads=spec.threads)

    def ready(self) -> str:
        """Return the name of the machine, once the model is loaded."""
        return socket.gethostname()

    def run(self, files: Sequence[ImageFile]) -> list[dict[str, Any]]:
        """Return the row of each image; the next one is read meanwhile."""
        images = prefetch(self._read, files, threads=1, ahead=2)
        return [named(self._row(image), file) for file, image in zip(files, images, strict=True)]

    def _read(self, file: ImageFile) -> UInt8 | str:
        """Return the image, or why it can't be read."""
        try:
            data = read_bytes(file, self._spec.storage)
            if has_mark(data):
                return message("image", "an image of a part", "a figure or mask that Blemish wrote", where=file.path)
            return decode(data, where=file.path, bit_depth=self._detector.bit_depth)
        except ImageError as error:
            return str(error)
        except MemoryError:
            return message("image", "an image", "one that does not fit into memory", where=file.path)

    def _row(self, image: UInt8 | str) -> dict[str, Any]:
        if isinstance(image, str):
            return error_row(image)
        try:
            return prediction_row(self._detector.predict(image), self._spec.extras)
        except Exception as error:  # the rest goes on
            return error_row(f"{type(error).__name__}: {error}")


def read_bytes(file: ImageFile, storage: Mapping[str, Any]) -> bytes:
    """Return the bytes of an image.

    Raises:
        ImageError: if it can't be read, or is larger than any image.
    """
    if file.size > MAX_IMAGE_BYTES:
        raise ImageError(message("image", f"at most {MAX_IMAGE_BYTES} bytes", str(file.size), where=file.path))
    try:
        if not is_url(file.path):
            if Path(file.path).exists() and not Path(file.path).is_file():  # reading a pipe would wait for ever
                raise OSError("a folder, pipe or device")
            return Path(file.path).read_bytes()
        import fsspec

        with fsspec.open(file.path, "rb", **storage) as opened:
            return bytes(opened.read(MAX_IMAGE_BYTES))
    except Exception as error:  # of any file system
        got = repr(getattr(error, "strerror", None) or str(error))[:300]
        raise ImageError(message("image", "a file that can be read", got, where=file.path)) from error


def pool_of(kind: Callable[[Any], Any], spec: object, worker: WorkerSpec) -> ActorPool[Any, Any]:
    """Return a pool of actors, one for each place that the nodes have room for.

    Args:
        kind: class of the actors, made with `spec`.
        worker: states the CPUs and the memory of each.
    """
    import ray

    n_cpus, n_bytes = worker.threads, worker.n_bytes
    actor = ray.remote(num_cpus=n_cpus, memory=n_bytes, max_restarts=0, max_task_retries=0)(kind)
    shared = ray.put(spec)
    return ActorPool(lambda: actor.remote(shared), lambda: n_places(nodes(), n_cpus, n_bytes))


def died(path: str) -> str:
    """Return the error of an image whose process died each time."""
    return message("image", "a prediction", DIED, where=path)


@dataclass
class _Tally:
    """Counts of the rows of a run.

    Attributes:
        total: images that this run predicts.
        unread: called with path and error of each image without a prediction.
    """

    total: int
    progress: Progress
    unread: Callable[[str, str], None] | None
    n_done: int = 0
    n_defective: int = 0
    n_unread: int = 0

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Count rows."""
        for row in rows:
            self.n_defective += bool(row.get("label"))
            if "error" in row:
                self.n_unread += 1
                if self.unread is not None:
                    self.unread(row["path"], row["error"])
        self.n_done += len(rows)
        self.progress("predicting", self.n_done, self.total)


def _run(
    pool: ActorPool[ImageFile, dict[str, Any]],
    chunks: Iterator[list[ImageFile]],
    parts: Parts,
    tally: _Tally,
    part_rows: int,
) -> None:
    """Write the rows of all images in parts; an end by Ctrl-C or an error leaves what came so far."""
    waiting: deque[list[ImageFile]] = deque()
    rows: list[dict[str, Any]] = []
    written_s = time.monotonic()

    def remembered() -> Iterator[list[ImageFile]]:
        for chunk in chunks:
            waiting.append(chunk)
            yield chunk

    try:
        with closing(pool.map(remembered())) as mapped:
            for results in mapped:
                new = [_row(file, result) for file, result in zip(waiting.popleft(), results, strict=True)]
                rows += new
                tally.add(new)
                if len(rows) >= part_rows or time.monotonic() - written_s > PART_S:
                    parts.write(rows)
                    rows, written_s = [], time.monotonic()
    finally:
        if rows:
            parts.write(rows)


def _row(file: ImageFile, result: dict[str, Any] | Dead) -> dict[str, Any]:
    return named(error_row(died(file.path)), file) if isinstance(result, Dead) else result


@contextmanager
def working_folder(out: Path) -> Iterator[Path]:
    """Make the folder of parts for the time of a run, which no other run may share; it goes where it is left empty."""
    folder = folder_of(out)
    try:
        if out.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise save_error("results", out, error) from error
    with exclusive(folder, patience_s=0):
        yield folder
    with suppress(OSError):
        folder.rmdir()
