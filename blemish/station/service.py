"""Inspection service without HTTP: predicts in a pool, keeps records, takes reviews, moves thresholds."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from blemish._io.files import known_file, save_error
from blemish._io.lock import exclusive
from blemish.errors import BlemishError, ImageError, InputError, SaveError, message
from blemish.imaging.decode import check_image, load
from blemish.imaging.headers import read_header
from blemish.station.defect_groups import DefectGroups
from blemish.station.defects import Defects
from blemish.station.deployments import Deployments, check_upper
from blemish.station.errors import StationError
from blemish.station.events import Events
from blemish.station.export import EXPORTS, Exported, to_coco, to_csv, to_folders, to_zip
from blemish.station.files import Files, read_map, thumbnail
from blemish.station.inspections import Inspection, InspectionFilter, checked_text
from blemish.station.job import Inspecting, Job
from blemish.station.pool import Pool
from blemish.station.rebuild import open_or_rebuild
from blemish.station.records import Records
from blemish.station.retention import Removed, Retention
from blemish.station.review_queue import ReviewQueue
from blemish.station.settings import StationSettings
from blemish.station.shadow import Shadows
from blemish.station.teaching import Teaching
from blemish.station.threshold_preview import Preview, histogram, preview

if TYPE_CHECKING:
    from blemish.station.defects import Similar
    from blemish.station.deployments import Deployment, ModelInService
    from blemish.station.inspections import Review, Verdict
    from blemish.types import Float32, UInt8

SELF = "station"
# Inspections after which old ones are looked for.
TIDIED_EVERY = 100
MAX_ZIPPED = 20_000
LOG = logging.getLogger("blemish.station")


class InspectionService:
    """Inspects images with models in service, and keeps each inspection with its image and its map.

    An inspection is answered when it is in the records: a process that is killed loses no answer. Threads may share it;
    use it as a context manager, or close it.

    Args:
        folder: of the records; made if there is none. One process at a time has it open.
        models: name to model folder. A model that is in service already keeps the thresholds as they were moved;
            another one under its name takes its place.
        settings: limits and places.

    Attributes:
        groups: groups of similar confirmed defects.
        shadows: candidates that run beside models in service.
        queue: inspections that wait for a review, the most informative first.

    Raises:
        InputError: if the name of a model is none.
        ModelFileError: if a model can't be loaded.
        StationError: if another process has the folder open, or the records can't be read.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        models: Mapping[str, str | os.PathLike[str]] | None = None,
        *,
        settings: StationSettings | None = None,
    ) -> None:
        self.folder, self.settings = Path(folder), settings or StationSettings()
        self._open = ExitStack()
        with ExitStack() as opening:
            opening.enter_context(_locked(self.folder))
            durable = self.settings.durable
            self.files = Files(self.folder / "files", durable=durable)
            self.database = open_or_rebuild(self.folder / "station.sqlite", self.files, durable=durable)
            opening.callback(self.database.close)
            self.records = Records(self.database)
            threads = self.settings.threads_of_worker
            self.deployments = Deployments(self.database, self.folder / "models", threads=threads)
            self.deployments.restore()
            for name, path in (models or {}).items():
                self.deployments.put_in_service(name, path, who=SELF, reason="started with it")
            self.defects = Defects(self.folder / "defects", self.deployments, self.records, self.files)
            opening.callback(self.defects.close)
            self._storing = ThreadPoolExecutor(self.settings.workers, thread_name_prefix="store")
            opening.callback(self._storing.shutdown)
            self._pool = Pool(self.settings.workers, self.settings.max_queue)
            opening.callback(self._pool.close)
            self.retention = Retention(self.database, self.files, self.settings)
            self.events = Events()
            self.shadows = Shadows(self.database, self.deployments, self._pool, self.settings)
            opening.callback(self.shadows.close)
            self.queue = ReviewQueue(self.database, self.records, self.deployments, self.defects, self._pool)
            opening.callback(self.queue.close)
            self.groups = DefectGroups(self.database, self.records, self.files, self.defects, self.events)
            self.teaching = Teaching(self, self.folder / "teach")
            opening.callback(self.teaching.close)
            self._open = opening.pop_all()

    def submit(
        self,
        image: bytes | UInt8 | str | os.PathLike[str],
        *,
        model: str | None = None,
        part_id: str = "",
        source: str = "python",
        who: str = SELF,
        wait_s: float = 0.0,
    ) -> Future[Inspection]:
        """Accept an image for inspection; the result is there when it is in the records.

        Args:
            image: the bytes of an image file, an array, or the path of a file.
            model: name; None for the only one.
            part_id: of the part that the image shows.
            source: where it came from, for the records.
            who: the user, for the audit.
            wait_s: how long to wait for a place in the queue.

        Raises:
            BusyError: if the queue is full, or the service closes.
            ImageError: if the file can't be read, or has too many bytes or pixels.
            InputError: if the array is no image, or a text is refused.
            UnknownError: if there is no such model.
        """
        chosen = self.model(model)
        part, origin = checked_text("part_id", part_id), checked_text("source", source)
        data, kind = self._checked_bytes(image, chosen)
        job = Job(chosen, data, kind, part, origin, who, self.settings.max_pixels)
        inspecting = Inspecting(job, self.files, self.records, self._storing)
        return self._pool.submit(inspecting.run, afterwards=partial(self._answered, inspecting), wait_s=wait_s)

    def inspect(self, image: bytes | UInt8 | str | os.PathLike[str], **given: Any) -> Inspection:
        """Return the inspection of an image; arguments and errors as of `submit`, which waits for a place here.

        Raises:
            ImageError: if it can't be decoded.
            SaveError: if the records can't be written; nothing is stored then.
        """
        return self.submit(image, **{"wait_s": 60.0, **given}).result()

    def model(self, name: str | None) -> ModelInService:
        """Return a model in service, None for the only one.

        Raises:
            InputError: if it is not named, and there are several or none.
            UnknownError: if there is no such model.
        """
        if name is not None:
            return self.deployments[name]
        if len(self.deployments) != 1:
            raise InputError(
                message("model", "the name of one in service", f"none, and there are {len(self.deployments)}")
            )
        return next(iter(self.deployments))

    def model_of(self, inspection: Inspection) -> ModelInService | None:
        """Return the model that inspected an image, if it is still in service under the same hash."""
        chosen = (model.deployment for model in self.deployments)
        is_there = any((one.model, one.digest) == (inspection.model, inspection.digest) for one in chosen)
        return self.deployments[inspection.model] if is_there else None

    def nearest_good(self, inspection: Inspection) -> tuple[Path, tuple[int, int, int, int]] | None:
        """Return the good training image that an inspection was compared with, and the box of the patch in it.

        None if it is not known, the model is no longer in service, or the file is gone or was changed.
        """
        nearest, model = inspection.details["nearest_good"], self.model_of(inspection)
        if nearest is None or model is None:
            return None
        training = model.detector.fitted.training
        if nearest["path"] not in training.paths:
            return None
        sha256 = training.sha256s[training.paths.index(nearest["path"])]
        path = known_file(nearest["path"], sha256, root=training.root)
        x, y, width, height = nearest["box"]
        return None if path is None else (path, (x, y, width, height))

    @property
    def n_pending(self) -> int:
        """Images that were accepted and not answered."""
        return self._pool.n_pending

    def image(self, inspection: Inspection) -> bytes:
        """Return the file of an inspected image, as it was received.

        Raises:
            StationError: if it is gone.
        """
        path = self.files.image(inspection.id, inspection.format)
        try:
            return path.read_bytes()
        except OSError as error:
            todo = "Put the folder back from a copy."
            got = repr(error.strerror)
            raise StationError(message("image", "a file that can be read", got, where=path, todo=todo)) from error

    def pixels(self, inspection: Inspection) -> UInt8:
        """Return an inspected image, (H, W, 3) uint8 RGB.

        Raises:
            ImageError: if it is gone or damaged.
        """
        model = next((model for model in self.deployments if model.deployment.model == inspection.model), None)
        bit_depth = None if model is None else model.detector.bit_depth
        return load(self.files.image(inspection.id, inspection.format), bit_depth=bit_depth)

    def anomaly_map(self, inspection: Inspection) -> Float32:
        """Return the stored anomaly map, (h, w) float32, at most 320 px a side.

        Raises:
            StationError: if it is gone or damaged.
        """
        return read_map(self.files.map(inspection.id))

    def thumbnail(self, inspection: Inspection) -> bytes:
        """Return the image as a JPEG file of at most 256 px a side, made when it is first asked for.

        Raises:
            ImageError: if the image is gone or damaged.
        """
        path = self.files.thumbnail(inspection.id)
        try:
            return path.read_bytes()
        except OSError:
            data = thumbnail(self.pixels(inspection))
            self.files.keep_thumbnail(inspection.id, data)
            return data

    def _answered(self, inspecting: Inspecting, inspection: Inspection) -> None:
        """Make the thumbnail of a new inspection before a page asks for it, and tell listeners."""
        inspecting.keep_thumbnail(inspection)
        self.events.publish("inspection", inspection.to_dict())
        self.shadows.offer(inspection, inspecting.data)
        if inspection.number % TIDIED_EVERY == 0:
            try:
                self.remove_old()
            except BlemishError as error:
                LOG.warning("Old inspections could not be removed: %s", error)

    def review(self, id_: str, verdict: Verdict, *, who: str, defect_type: str = "", comment: str = "") -> Review:
        """Store what a person says of an inspection; see `Records.review`."""
        said = self.records.review(id_, verdict, who=who, defect_type=defect_type, comment=comment)
        self.files.keep_review(id_, said._asdict())
        self.defects.learn(self.records.get(id_))
        self.events.publish("review", {"id": id_, **said.to_dict()})
        return said

    def undo_review(self, id_: str, *, who: str) -> Review | None:
        """Take back the last review of an inspection; see `Records.undo_review`."""
        said = self.records.undo_review(id_, who=who)
        self.files.keep_review(id_, None if said is None else said._asdict())
        self.defects.learn(self.records.get(id_))
        self.events.publish("review", {"id": id_, "verdict": None if said is None else said.verdict})
        return said

    def similar(self, inspection: Inspection, k: int = 5) -> Similar:
        """Return past defects like an inspection; see `Defects.similar`."""
        return self.defects.similar(inspection, k)

    def preview_threshold(
        self,
        name: str,
        *,
        false_positive_rate: float | None = None,
        threshold: float | None = None,
        upper_threshold: float | None = None,
    ) -> Preview:
        """Return what thresholds would have done to the stored inspections of a model.

        Args:
            name: of the model.
            false_positive_rate: of the threshold; or
            threshold: itself: the rate of the nearest threshold that the calibration has follows from it.
            upper_threshold: above it parts are called defective; None for that of the calibration.

        Raises:
            InputError: if neither or both are given, the rate is not between 0 and 1, or the upper threshold is below
                the threshold.
            UnknownError: if there is no such model.
        """
        detector, deployment = self.deployments[name].detector, self.deployments[name].deployment
        if (false_positive_rate is None) == (threshold is None):
            raise InputError(message("threshold", "a threshold or a false positive rate", "neither, or both"))
        rate = false_positive_rate
        if rate is None:
            assert threshold is not None
            # The share of good images strictly above: at the threshold itself an image is good.
            above = float(np.nextafter(threshold, np.inf))
            rate = min(max(detector.calibration.p_value(above), 1e-9), 1 - 1e-9)
        calibration = detector.calibration.with_rate(rate)
        upper = check_upper(calibration, upper_threshold)
        present = (deployment.threshold, deployment.upper_threshold)
        return preview(calibration, upper, present, self.records.scores(name))

    def histogram(self, name: str) -> dict[str, Any]:
        """Return the scores of a model's calibration set and of its inspections, in bins; see `histogram`.

        Raises:
            UnknownError: if there is no such model.
        """
        model = self.deployments[name]
        return histogram(model.detector.calibration, model.deployment.upper_threshold, self.records.scores(name))

    def move_threshold(
        self, name: str, false_positive_rate: float, *, who: str, upper_threshold: float | None = None
    ) -> Deployment:
        """Move the thresholds of a model to another false positive rate; see `Deployments.move`."""
        moved = self.deployments.move(name, false_positive_rate, who=who, upper_threshold=upper_threshold)
        return self._published(moved)

    def put_in_service(self, name: str, folder: str | os.PathLike[str], *, who: str, reason: str = "") -> Deployment:
        """Put the model in a folder in service; see `Deployments.put_in_service`."""
        return self._published(
            self.deployments.put_in_service(name, folder, who=who, reason=reason or "put in service")
        )

    def roll_back(self, name: str, *, who: str) -> Deployment:
        """Put what was in service before the newest change in service again; see `Deployments.roll_back`."""
        return self._published(self.deployments.roll_back(name, who=who))

    def put_candidate_in_service(self, name: str, *, who: str) -> Deployment:
        """Put the candidate beside a model in service in its place; see `Shadows.put_in_service`."""
        return self._published(self.shadows.put_in_service(name, who=who))

    def _published(self, deployment: Deployment) -> Deployment:
        self.shadows.follow(deployment)
        self.events.publish("model", deployment.to_dict())
        return deployment

    def export_csv(self, chosen: InspectionFilter) -> str:
        """Return a CSV table of inspections, the newest first."""
        return to_csv(self.records.all(chosen))

    def export_coco(self, folder: str | os.PathLike[str], chosen: InspectionFilter) -> Exported:
        """Write inspections in COCO's format; see `export.to_coco`."""
        return to_coco(folder, self.records.all(chosen), self.files)

    def export_folders(self, folder: str | os.PathLike[str], chosen: InspectionFilter) -> Exported:
        """Write reviewed inspections in the layout of MVTec AD; see `export.to_folders`."""
        return to_folders(folder, self.records.reviewed(chosen), self.files)

    def export_zip(self, layout: str, chosen: InspectionFilter) -> Iterator[bytes]:
        """Return the pieces of a zip file of an export, made as they are read.

        Args:
            layout: "folders" or "coco", as of `export_folders` and `export_coco`.
            chosen: at most 20,000 inspections.

        Raises:
            InputError: if `layout` is none, or there are more.
        """
        if layout not in EXPORTS:
            raise InputError(message("layout", " or ".join(EXPORTS), repr(layout)[:80]))
        if layout == "folders" and chosen.reviewed in ("all", "no"):
            chosen = replace(chosen, reviewed="yes")
        n = self.records.counts(chosen)["total"]
        if n > MAX_ZIPPED:
            todo = "State since and until, or use blemish station --export."
            raise InputError(message("export", f"at most {MAX_ZIPPED:,} inspections", f"{n:,}", todo=todo))
        return to_zip(EXPORTS[layout](self.records.all(chosen), self.files))

    def remove_old(self, *, who: str = SELF, reviewed_too: bool = False) -> Removed:
        """Remove inspections by age and size, as the settings state; see `Retention.apply`."""
        return self.retention.apply(who=who, reviewed_too=reviewed_too)

    def close(self) -> None:
        """Finish what was accepted, accept nothing more, and release the folder; a second call does nothing."""
        self._open.close()

    def __enter__(self) -> InspectionService:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _checked_bytes(self, image: bytes | UInt8 | str | os.PathLike[str], model: ModelInService) -> tuple[bytes, str]:
        """Return the bytes and the format of an image file that is not too large, by its header; nothing is decoded."""
        if isinstance(image, bytes):
            data = image
        elif isinstance(image, np.ndarray):
            pixels = check_image(image, bit_depth=model.detector.bit_depth)
            data = bytes(cv2.imencode(".png", pixels[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1])[1])
        else:
            data = self._read(Path(image))
        limits = self.settings
        if len(data) > limits.max_bytes:
            raise ImageError(message("image", f"at most {limits.max_bytes:,} bytes", f"{len(data):,}"))
        header = read_header(data)
        if header.height * header.width > limits.max_pixels:
            got = f"{header.width:,} x {header.height:,}"
            raise ImageError(message("image", f"at most {limits.max_pixels:,} pixels", got))
        return data, header.format

    def _read(self, path: Path) -> bytes:
        try:
            with path.open("rb") as file:
                return file.read(self.settings.max_bytes + 1)
        except OSError as error:
            raise ImageError(message("image", "a file that can be read", repr(error.strerror), where=path)) from error


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder of records, which is made if there is none; taken at once or not at all."""
    try:
        (folder / "models").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise save_error("records", folder, error) from error
    with ExitStack() as stack:
        try:
            stack.enter_context(exclusive(folder, patience_s=0.0))
        except SaveError:
            todo = "Stop the other station, or choose another folder of records."
            got = "one that another station has open"
            raise StationError(message("records", "a folder of its own", got, where=folder, todo=todo)) from None
        yield
