"""Fits of new models, one at a time: on images of good parts that people send, and on what they said of the line."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from blemish._io.files import atomic_write
from blemish.data.validation import survey_dataset
from blemish.detectors.patchcore.detector import Patchcore
from blemish.errors import BlemishError, InputError, message
from blemish.evaluation.thresholds import threshold_sentence
from blemish.imaging.decode import decode, load
from blemish.imaging.headers import read_header
from blemish.modelfolder.folder import load_model
from blemish.runtime.cores import usable_cores
from blemish.search.encoder import prepare_defect_search
from blemish.station.deployments import NAME
from blemish.station.errors import StationError, UnknownError
from blemish.station.files import ENDINGS, thumbnail
from blemish.station.inspections import InspectionFilter
from blemish.station.kept import compared, is_kept
from blemish.types import Sample

if TYPE_CHECKING:
    from blemish.detectors.base import AnyDetector
    from blemish.station.deployments import Deployment
    from blemish.station.inspections import Inspection
    from blemish.station.service import InspectionService
    from blemish.station.shadow import Candidate
    from blemish.types import Progress

N_DIGITS = 24
IMAGE_ID = re.compile(rf"[0-9a-f]{{{N_DIGITS}}}")
MAX_IMAGES = 5000
# Inspections of each kind on which a new model is compared with the one in service.
MAX_COMPARED = 500
TAUGHT, LEARNT = "taught", "learnt from reviews"
Work: TypeAlias = "Callable[..., AnyDetector]"  # of progress


@dataclass(frozen=True)
class _GoodImages:
    """A data set of good images alone."""

    name: str
    train: tuple[Sample, ...]
    test: tuple[Sample, ...] = ()


@dataclass
class Fit:
    """A fit that runs or has ended.

    Attributes:
        stage: what is done at present, with `done` of `total`.
        seconds_left: of this stage; None while it is not known.
        error: why it failed, "" if it did not.
        result: facts about the new model; None before the end.
    """

    stage: str = "starting"
    done: int = 0
    total: int = 0
    seconds_left: float | None = None
    is_running: bool = True
    error: str = ""
    result: dict[str, Any] | None = None
    stage_start: float = field(default_factory=time.monotonic, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON values."""
        names = ("stage", "done", "total", "seconds_left", "is_running", "error", "result")
        return {name: getattr(self, name) for name in names}


class _StoppedError(Exception):
    """The station stops during a fit."""


class Teaching:
    """Images of good parts by name of the model to be, their check, the fit, and the way into service.

    Args:
        root: folder of the images and models.
    """

    def __init__(self, service: InspectionService, root: Path) -> None:
        self._service, self._root = service, root
        self._lock, self._fits = threading.Lock(), dict[str, Fit]()
        self._thread: threading.Thread | None = None
        self._is_stopping = False

    def names(self) -> list[str]:
        """Return the names for which there are images."""
        places = self._root.glob("*/images")
        return sorted(place.parent.name for place in places if NAME.fullmatch(place.parent.name))

    def images(self, name: str) -> list[str]:
        """Return the ids of the images of a name."""
        return sorted(path.stem for path in self._folder(name).glob("*") if IMAGE_ID.fullmatch(path.stem))

    def state(self, name: str) -> dict[str, Any]:
        """Return the images and the fit of a name as JSON values."""
        fit = self._fits.get(name)
        return {"name": name, "images": self.images(name), "fit": None if fit is None else fit.to_dict()}

    def add(self, name: str, data: bytes) -> str:
        """Keep an image of a good part, and return its id: the same image twice is one.

        Raises:
            ImageError: if it can't be read, or has too many bytes or pixels.
            InputError: if the name is none, or there are too many images.
            SaveError: if it can't be written.
        """
        folder, limits = self._folder(name), self._service.settings
        if len(data) > limits.max_bytes:
            raise InputError(message("image", f"at most {limits.max_bytes:,} bytes", f"{len(data):,}"))
        if len(self.images(name)) >= MAX_IMAGES:
            raise InputError(message("images", f"at most {MAX_IMAGES:,}", "one more"))
        decode(data, max_pixels=limits.max_pixels)
        id_ = hashlib.sha256(data).hexdigest()[:N_DIGITS]
        atomic_write(folder / (id_ + ENDINGS[read_header(data).format]), data, name="image")
        return id_

    def take_from_line(self, name: str, *, model: str, n: int) -> int:
        """Keep the newest images of a model that a person called good, but for those that are kept to compare versions;
        return their number.

        Raises:
            InputError: if the name is none.
        """
        taken = [self.add(name, self._service.image(one)) for one in islice(self._good(model, kept=False), n)]
        return len(taken)

    def kept(self, name: str) -> list[Inspection]:
        """Return the inspections that people called good and that are never learnt from, the newest first: versions of
        a model are compared on them.
        """
        return list(self._good(name, kept=True))

    def n_good(self, name: str) -> tuple[int, int]:
        """Return the number of inspections of a model that people called good and that may be learnt from, and of those
        that are kept.
        """
        every = self._service.settings.keep_every
        are_kept = [is_kept(*one, every) for one in self._service.records.good_images(name)]
        return are_kept.count(False), are_kept.count(True)

    def _good(self, name: str, *, kept: bool) -> Iterator[Inspection]:
        every = self._service.settings.keep_every
        for one in self._service.records.all(InspectionFilter(model=name, reviewed="good")):
            if is_kept(one.part_id, one.sha256, every) == kept:
                yield one

    def remove(self, name: str, id_: str) -> None:
        """Remove an image.

        Raises:
            UnknownError: if there is none of that id.
        """
        self._path(name, id_).unlink(missing_ok=True)

    def thumbnail(self, name: str, id_: str) -> bytes:
        """Return an image as a JPEG file of at most 256 px a side.

        Raises:
            UnknownError: if there is none of that id.
        """
        return thumbnail(load(self._path(name, id_)))

    def check(self, name: str) -> dict[str, Any]:
        """Return what is wrong with the images of a name, and their facts, as JSON values."""
        survey = survey_dataset(self._data(name))
        summary = survey.summary
        facts = {"images": summary.train, "parts": summary.parts, "unreadable": summary.unreadable}
        problems = [
            {"kind": one.kind, "text": one.text, "fatal": one.fatal, "image": _image_id(one.path)}
            for one in survey.problems
        ]
        return {**facts, "sizes": dict(summary.sizes), "problems": problems}

    def fit(self, name: str, *, who: str) -> Fit:
        """Begin to fit a PatchCore model on the images of a name; `state` follows it. Images that are kept to compare
        versions are left out.

        Raises:
            InputError: if there are too few images.
            StationError: if another fit runs.
        """
        left_out = {one.sha256[:N_DIGITS] for one in self._good(name, kept=True)}
        given = self._data(name).train
        samples = [sample for sample in given if Path(str(sample.path)).stem not in left_out]
        if len(samples) < Patchcore.least_images:
            todo = "Add images of good parts: 20 will do, 100 are better."
            raise InputError(message("images", f"at least {Patchcore.least_images}", str(len(samples)), todo=todo))
        threads = max(1, usable_cores() // 2)  # the line goes on beside it
        work = partial(Patchcore(threads=threads).fit, samples)
        facts = {"images": len(samples), "kept_apart": len(given) - len(samples)}
        return self._begin(name, work, who, reason=TAUGHT, **facts)

    def learn(self, name: str, *, who: str) -> Fit:
        """Begin to fit the model in service of a name on its own images and on those that people called good, but for
        the ones that are kept to compare versions.

        Raises:
            InputError: if people called none good, but for those.
            StationError: if another fit runs.
            UnknownError: if no model of that name is in service.
        """
        present = self._service.model(name).detector
        called_good = list(self._good(name, kept=False))
        if not called_good:
            todo = "Review inspections first: the good ones as well as the false alarms."
            raise InputError(message("reviews", "inspections that people called good", "none", todo=todo))
        samples = [Sample(self._image(one), split="train", group=one.part_id) for one in called_good]
        return self._begin(name, partial(present.update, samples), who, reason=LEARNT, images=len(samples))

    def _begin(self, name: str, work: Work, who: str, **facts: Any) -> Fit:
        with self._lock:
            if any(fit.is_running for fit in self._fits.values()):
                raise StationError(message("fit", "one at a time", "another that runs", todo="Wait for its end."))
            fit = self._fits[name] = Fit()
            self._thread = threading.Thread(
                target=self._run, args=(name, work, fit, who, facts), name="fit", daemon=True
            )
            self._thread.start()
        return fit

    def run_beside(self, name: str, *, who: str) -> Candidate:
        """Run the model that was fitted last beside the one in service under its name; see `Shadows.start`.

        Raises:
            InputError: if none was fitted.
            UnknownError: if no model of that name is in service.
        """
        return self._service.shadows.start(name, self._fitted(name), who=who)

    def _fitted(self, name: str) -> Path:
        place = self._root / name / "model"
        if not NAME.fullmatch(name) or not (place / "model.json").is_file():
            raise InputError(message("model", "one that was fitted", "none", todo="Fit it first."))
        return place

    def put_in_service(self, name: str, *, who: str) -> Deployment:
        """Put the model that was fitted last in service under its name.

        Raises:
            InputError: if none was fitted.
        """
        place = self._fitted(name)
        provenance = load_model(place).header["provenance"]
        reason = LEARNT if "n_reviewed" in provenance else TAUGHT
        return self._service.put_in_service(name, place, who=who, reason=reason)

    def close(self) -> None:
        """Stop a fit that runs."""
        self._is_stopping = True
        if self._thread is not None:
            self._thread.join()

    def _run(self, name: str, work: Work, fit: Fit, who: str, facts: Mapping[str, Any]) -> None:
        def progress(stage: str, done: int, total: int) -> None:
            if self._is_stopping:
                raise _StoppedError
            if stage != fit.stage:
                fit.stage, fit.stage_start = stage, time.monotonic()
            fit.done, fit.total = done, total
            elapsed = time.monotonic() - fit.stage_start
            fit.seconds_left = elapsed / done * (total - done) if done else None
            self._service.events.publish("teach", {"name": name, **fit.to_dict(), "result": None})

        try:
            detector = work(progress=progress)
            prepare_defect_search(detector, progress=progress)
            detector.save(self._root / name / "model")
            fit.result = {**_facts(detector), "comparison": self._compared(name, detector, progress)}
            if facts.get("kept_apart"):
                note = f"{facts['kept_apart']} images were left out: they are kept to compare versions."
                fit.result["notes"].append(note)
        except _StoppedError:
            fit.error = "The station was stopped."
        except (BlemishError, OSError, MemoryError) as error:
            fit.error = str(error) or "The memory is not enough."
        finally:
            fit.is_running = False
            self._service.events.publish("teach", {"name": name, **fit.to_dict()})
        with self._service.database.transaction() as connection:
            self._service.database.record(connection, who, "fitted", name, **facts, error=fit.error)

    def _compared(self, name: str, detector: AnyDetector, progress: Progress) -> dict[str, Any] | None:
        """Return how the new model and the one in service call the reviewed and the kept parts; None without any."""
        bad = self._service.records.all(InspectionFilter(model=name, reviewed="defective"))
        sources = (self._good(name, kept=False), bad, self._good(name, kept=True))
        images = [[self._image(one) for one in islice(source, MAX_COMPARED)] for source in sources]
        if not any(images):
            return None
        good, defective, kept = images
        return compared(self._service.model(name).detector, detector, good, defective, kept, progress=progress)

    def _image(self, inspection: Inspection) -> Path:
        """Return the absolute path of an inspected image, which a model keeps."""
        return self._service.files.image(inspection.id, inspection.format).resolve()

    def _folder(self, name: str) -> Path:
        if not NAME.fullmatch(name):
            expected = "letters, digits, dots, dashes and underscores, at most 64"
            raise InputError(message("model", f"a name of {expected}", repr(name)[:80]))
        return self._root / name / "images"

    def _path(self, name: str, id_: str) -> Path:
        found = next((path for path in self._folder(name).glob("*") if path.stem == id_), None)
        if found is None:
            raise UnknownError(message("image", "one that was added", repr(id_)[:80]))
        return found

    def _data(self, name: str) -> _GoodImages:
        folder = self._folder(name).resolve()
        paths: Iterable[Path] = sorted(path for path in folder.glob("*") if IMAGE_ID.fullmatch(path.stem))
        return _GoodImages(name, tuple(Sample(path, split="train") for path in paths))


def _image_id(path: str | Path) -> str:
    """Return the id of an image that people sent, by its path; "" if it is another."""
    stem = Path(path).stem
    return stem if IMAGE_ID.fullmatch(stem) else ""


def _facts(detector: AnyDetector) -> dict[str, Any]:
    """Return what a person should know of a new model, as JSON values."""
    return {
        "threshold": detector.threshold,
        "sentence": threshold_sentence(detector.calibration),
        "notes": [*detector.notes, *detector.training_warnings],
        "left_out": [problem.text for problem in detector.problems],
        "suspects": [
            {"image": _image_id(suspect.path), "score": suspect.score, "threshold": suspect.threshold}
            for suspect in detector.suspects
        ],
    }
