"""Models in service: copies of model folders under their hash, thresholds that can be moved, and the way back."""

from __future__ import annotations

import copy
import os
import re
import shutil
import sqlite3
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from blemish._io.files import read_file, save_error
from blemish._io.json_file import read_json_object
from blemish.detectors.pickling import digest_of
from blemish.detectors.registry import detector_type
from blemish.errors import InputError, ModelFileError, message
from blemish.modelfolder.folder import HEADER, header_digest, load_model
from blemish.station.errors import UnknownError
from blemish.station.inspections import iso_time

if TYPE_CHECKING:
    from blemish.detectors.base import AnyDetector
    from blemish.modelfolder.folder import ModelFolder
    from blemish.ops.conformal import Calibration
    from blemish.station.database import Database

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Deployment:
    """A model as it was put in service: which one, with which thresholds.

    Attributes:
        number: 1, 2, 3, ... over all models.
        model: its name in the station.
        digest: hash of the model folder.
        folder: the station's copy.
        source: the folder that it was copied from.
        detector: such as "patchcore".
        false_positive_rate, threshold, upper_threshold, pixel_threshold: as of the detector.
        time: seconds since 1970, UTC.
        who: the person who did it.
        reason: such as "threshold moved".
        previous: number of the deployment that this one goes back to when it is rolled back.
    """

    number: int
    model: str
    digest: str
    folder: str
    source: str
    detector: str
    false_positive_rate: float
    threshold: float
    upper_threshold: float | None
    pixel_threshold: float
    time: float
    who: str
    reason: str
    previous: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON values, without places on this machine."""
        left_out = {"folder", "source", "model"}
        values = {name: value for name, value in asdict(self).items() if name not in left_out}
        return {"name": self.model, **values, "time": iso_time(self.time)}


@dataclass(frozen=True, eq=False)
class ModelInService:
    """A detector that is loaded, and how it was put in service."""

    detector: AnyDetector
    deployment: Deployment

    @property
    def spread(self) -> float:
        """Distance of the threshold from the median of the calibration scores; above 0."""
        scores = self.detector.calibration.scores
        return max(self.detector.threshold - float(np.median(scores)), 1e-9)

    @property
    def is_changed_on_disk(self) -> bool:
        """Whether the folder that it was copied from holds another model by now, or is gone."""
        return _stated_digest(Path(self.deployment.source)) != self.deployment.digest


@dataclass(frozen=True, eq=False)
class CopiedModel:
    """The station's copy of a model folder, loaded.

    Attributes:
        folder: of the copy.
        source: the folder that it was copied from.
        digest: hash of the model folder.
        detector: loaded from the copy.
    """

    folder: str
    source: str
    digest: str
    detector: AnyDetector

    def facts(self) -> dict[str, str]:
        """Return the fields of a deployment that say which model it is."""
        place = {"digest": self.digest, "folder": self.folder, "source": self.source}
        return {**place, "detector": self.detector.name}


class Deployments:
    """The models of a station by name. Threads may share it.

    Args:
        root: folder of the copies.
        threads: of each detector's network.
    """

    def __init__(self, database: Database, root: Path, *, threads: int) -> None:
        self._database, self._root, self._threads = database, root, threads
        self._lock = threading.RLock()
        self._in_service: dict[str, ModelInService] = {}

    def __getitem__(self, name: str) -> ModelInService:
        try:
            return self._in_service[name]
        except KeyError:
            known = ", ".join(self._in_service) or "none"
            raise UnknownError(message("model", f"one in service: {known}", repr(name)[:80])) from None

    def __iter__(self) -> Iterator[ModelInService]:
        return iter(tuple(self._in_service.values()))

    def __len__(self) -> int:
        return len(self._in_service)

    def history(self, name: str) -> list[Deployment]:
        """Return all deployments of a model, the newest first."""
        rows = self._database.rows("SELECT * FROM deployments WHERE model = ? ORDER BY number DESC", (name,))
        return [Deployment(**dict(row)) for row in rows]

    def restore(self) -> None:
        """Put the models in service that were in service when the station stopped.

        Raises:
            ModelFileError: if the copy of one is damaged.
        """
        query = "SELECT * FROM deployments WHERE number IN (SELECT MAX(number) FROM deployments GROUP BY model)"
        for row in self._database.rows(query):
            deployment = Deployment(**dict(row))
            with self._lock:
                self._in_service[deployment.model] = self._loaded(deployment)

    def put_in_service(self, name: str, folder: str | os.PathLike[str], *, who: str, reason: str) -> Deployment:
        """Copy a model folder and put it in service under a name; inspections that run end with the model before.

        A model that is in service already stays, with its thresholds as they were moved.

        Raises:
            InputError: if the name is none.
            ModelFileError: if the folder holds no model that can be loaded.
            SaveError: if it can't be copied.
        """
        if not NAME.fullmatch(name):
            expected = "letters, digits, dots, dashes and underscores, at most 64"
            raise InputError(message("model", f"a name of {expected}", repr(name)[:80]))
        source = os.path.realpath(folder)
        with self._lock:
            before = self._in_service.get(name)
            if before is not None and before.deployment.digest == _stated_digest(Path(source)):
                return before.deployment
            return self.put(name, self.copy_of(source), who=who, reason=reason)

    def put(self, name: str, copied: CopiedModel, *, who: str, reason: str) -> Deployment:
        """Put a copy of a model in service under a name."""
        with self._lock:
            before = self._in_service.get(name)
            place = {"model": name, **copied.facts()}
            previous = None if before is None else before.deployment.number
            upper = check_upper(copied.detector.calibration, None)
            deployment = self._stored(copied.detector, place, who, reason, previous, upper=upper)
            self._in_service[name] = ModelInService(copied.detector, deployment)
            return deployment

    def copy_of(self, folder: str | os.PathLike[str]) -> CopiedModel:
        """Return the station's own copy of a model folder, loaded.

        Raises:
            ModelFileError: if the folder holds no model that can be loaded.
            SaveError: if it can't be copied.
        """
        source = os.path.realpath(folder)
        copied, model = self._copied(Path(source))
        return CopiedModel(str(copied), source, digest_of(model), _detector(model, source, self._threads))

    def load_copy(self, folder: str, source: str, digest: str) -> CopiedModel:
        """Return a copy that was made before, loaded.

        Raises:
            ModelFileError: if it is gone or damaged.
        """
        model = load_model(folder)
        if digest_of(model) != digest:
            todo = "Fit it again, or put another model in service."
            expected, got = f"the model of hash {digest:.16}...", f"{digest_of(model):.16}..."
            raise ModelFileError(message("model", expected, got, where=folder, todo=todo))
        return CopiedModel(folder, source, digest, _detector(model, source, self._threads))

    def move(
        self, name: str, false_positive_rate: float, *, who: str, upper_threshold: float | None = None
    ) -> Deployment:
        """Move the thresholds of a model in service to another false positive rate; its folder is not changed.

        Args:
            name: of the model.
            false_positive_rate: of the threshold.
            who: the person.
            upper_threshold: above it parts are called defective, and looked at again between both; None for that of the
                calibration.

        Raises:
            InputError: if the rate is not between 0 and 1, or the upper threshold is below the threshold, or the model
                has none.
            UnknownError: if there is no such model.
        """
        with self._lock:
            before = self[name]
            detector = copy.copy(before.detector)
            detector.set_false_positive_rate(false_positive_rate)
            fixed = _fixed(before.deployment)
            upper = check_upper(detector.calibration, upper_threshold)
            deployment = self._stored(detector, fixed, who, "threshold moved", before.deployment.number, upper=upper)
            self._in_service[name] = ModelInService(detector, deployment)
            return deployment

    def roll_back(self, name: str, *, who: str) -> Deployment:
        """Put what was in service before the newest change in service again.

        Raises:
            InputError: if there was nothing before.
            ModelFileError: if the station's copy of it is gone or damaged.
            UnknownError: if there is no such model.
        """
        with self._lock:
            present = self[name].deployment
            if present.previous is None:
                raise InputError(message("model", "one that was changed in service", f"the first {name}"))
            (row,) = self._database.rows("SELECT * FROM deployments WHERE number = ?", (present.previous,))
            target = Deployment(**dict(row))
            loaded = self._loaded(target).detector
            reason = f"rolled back to {target.number}"
            upper = target.upper_threshold
            deployment = self._stored(loaded, _fixed(target), who, reason, target.previous, upper=upper)
            self._in_service[name] = ModelInService(loaded, deployment)
            return deployment

    def _loaded(self, deployment: Deployment) -> ModelInService:
        detector = self.load_copy(deployment.folder, deployment.source, deployment.digest).detector
        if detector.false_positive_rate != deployment.false_positive_rate:
            detector.set_false_positive_rate(deployment.false_positive_rate)
        return ModelInService(detector, deployment)

    def _copied(self, folder: Path) -> tuple[Path, ModelFolder]:
        """Return the station's copy of a model, under its hash: a change of the folder changes nothing in service."""
        names = (HEADER, *load_model(folder).header["files"])
        try:
            with tempfile.TemporaryDirectory(dir=self._root, prefix="new-", ignore_cleanup_errors=True) as temporary:
                copied = Path(temporary) / "model"
                copied.mkdir()
                for name in names:
                    shutil.copyfile(folder / name, copied / name)
                target = self._root / digest_of(load_model(copied))[:32]
                if not target.is_dir():
                    copied.rename(target)
        except OSError as error:
            raise save_error("model", self._root, error) from error
        return target, load_model(target)

    def _stored(
        self,
        detector: AnyDetector,
        fixed: Mapping[str, Any],
        who: str,
        reason: str,
        previous: int | None,
        *,
        upper: float | None,
    ) -> Deployment:
        values = {
            **fixed,
            "false_positive_rate": detector.false_positive_rate,
            "threshold": detector.threshold,
            "upper_threshold": upper,
            "pixel_threshold": detector.pixel_threshold,
            "time": time.time(),
            "who": who,
            "reason": reason,
            "previous": previous,
        }
        with self._database.transaction() as connection:
            number = _insert(connection, values)
            names = ("digest", "false_positive_rate", "threshold", "upper_threshold", "reason")
            facts = {name: values[name] for name in names}
            self._database.record(connection, who, "put in service", str(values["model"]), **facts)
        return Deployment(number=number, **values)


def check_upper(calibration: Calibration, upper_threshold: float | None) -> float | None:
    """Return an upper threshold, by default that of the calibration; None if it has none.

    Raises:
        InputError: if it is below the threshold, or the calibration has none.
    """
    if upper_threshold is None:
        return calibration.upper_threshold if calibration.rule == "tail" else None
    if calibration.rule != "tail":
        raise InputError(message("upper_threshold", "none, as of this model's calibration", f"{upper_threshold:.4g}"))
    if not upper_threshold >= calibration.threshold or not np.isfinite(upper_threshold):
        expected = f"a number of at least the threshold {calibration.threshold:.4g}"
        raise InputError(message("upper_threshold", expected, f"{upper_threshold:.4g}"))
    return upper_threshold


def _stated_digest(folder: Path) -> str:
    """Return the hash that a model folder states of itself; "" if it can't be read. Its files are not looked at."""
    place = folder / HEADER
    try:
        header = read_json_object(read_file(place, name="model"), name="model", where=place)
    except ModelFileError:
        return ""
    return str(header.get("digest") or header_digest(header))


def _detector(model: ModelFolder, source: str, threads: int) -> AnyDetector:
    """Return the detector in a copy; its training images are looked for where the copy came from."""
    detector = detector_type(str(model.header["detector"])).from_model(model, threads=threads)
    state = detector.fitted
    return detector.from_state(detector.settings, replace(state, training=replace(state.training, root=source)))


def _fixed(deployment: Deployment) -> dict[str, Any]:
    """Return the fields that do not follow from the thresholds."""
    return {name: getattr(deployment, name) for name in ("model", "digest", "folder", "source", "detector")}


def _insert(connection: sqlite3.Connection, values: Mapping[str, Any]) -> int:
    names, marks = ", ".join(values), ", ".join("?" * len(values))
    number = connection.execute(f"INSERT INTO deployments ({names}) VALUES ({marks})", [*values.values()]).lastrowid
    assert number is not None
    return number
