"""The inspection of one image: decode and predict while the file is stored, then store what was predicted."""

from __future__ import annotations

import hashlib
import time
from concurrent.futures import wait
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from blemish.imaging.decode import decode
from blemish.station.files import encoded_map, new_id, thumbnail
from blemish.station.inspections import Inspection, stored_fields

if TYPE_CHECKING:
    from concurrent.futures import Executor
    from pathlib import Path

    from blemish.station.deployments import ModelInService
    from blemish.station.files import Files
    from blemish.station.records import Records
    from blemish.types import Prediction, UInt8


class Job(NamedTuple):
    """An image that was accepted.

    Attributes:
        data: the bytes of its file.
        format: of its file, such as "PNG".
        who: the user, for the audit.
        max_pixels: limit of the decoder.
    """

    model: ModelInService
    data: bytes
    format: str
    part_id: str
    source: str
    who: str
    max_pixels: int


class Inspecting:
    """The inspection of an image that was accepted.

    Args:
        storing: stores the image's file while another thread decodes and predicts.
    """

    def __init__(self, job: Job, files: Files, records: Records, storing: Executor) -> None:
        self._job, self._files, self._records, self._storing = job, files, records, storing
        self._pixels: UInt8 | None = None

    def run(self) -> Inspection:
        """Return the inspection, when image, map and record are on disk.

        Raises:
            ImageError: if the image can't be decoded; nothing is stored then.
            SaveError: if a file can't be written; nothing is stored then.
            StationError: if the record can't be written; nothing is stored then.
        """
        job, files, id_, detector = self._job, self._files, new_id(), self._job.model.detector
        image, map_ = files.image(id_, job.format), files.map(id_)
        stored = self._storing.submit(self._store_image, image)
        try:
            self._pixels = decode(job.data, bit_depth=detector.bit_depth, max_pixels=job.max_pixels)
            prediction = detector.predict(self._pixels)
            inspection = _inspection(job, id_, prediction, sha256=stored.result())
            record = {**stored_fields(inspection), "deployment": asdict(job.model.deployment)}
            encoded = encoded_map(prediction.anomaly_map, record)
            inspection = replace(inspection, n_bytes=len(job.data) + len(encoded))
            files.write(map_, encoded)
            files.commit(image, map_)
            number = self._records.add(inspection, job.model.deployment.number, job.who)
        except BaseException:
            wait([stored])
            files.discard(image, map_)
            raise
        return replace(inspection, number=number)

    def _store_image(self, path: Path) -> str:
        """Write the image's file under its temporary name, and return its hash."""
        self._files.write(path, self._job.data)
        return hashlib.sha256(self._job.data).hexdigest()

    @property
    def data(self) -> bytes:
        """The bytes of the image's file."""
        return self._job.data

    def keep_thumbnail(self, inspection: Inspection) -> None:
        """Write the thumbnail from the pixels that were decoded, after the answer."""
        assert self._pixels is not None
        self._files.keep_thumbnail(inspection.id, thumbnail(self._pixels))


def _inspection(job: Job, id_: str, prediction: Prediction, *, sha256: str) -> Inspection:
    deployment = job.model.deployment
    height, width = prediction.anomaly_map.shape
    return Inspection(
        number=0,
        id=id_,
        time=time.time(),
        model=deployment.model,
        digest=deployment.digest,
        part_id=job.part_id,
        source=job.source,
        score=prediction.score,
        p_value=prediction.p_value,
        threshold=prediction.threshold,
        upper_threshold=deployment.upper_threshold,  # a person may have moved it
        pixel_threshold=prediction.pixel_threshold,
        drift=prediction.drift,
        margin=abs(prediction.score - prediction.threshold) / job.model.spread,
        height=height,
        width=width,
        format=job.format,
        sha256=sha256,
        n_bytes=0,
        details=_details(prediction),
    )


def _details(prediction: Prediction) -> dict[str, Any]:
    """Return the part of a prediction that no filter asks for, as JSON values."""
    document = prediction.to_dict()
    for region, entry in zip(prediction.regions, document["regions"], strict=True):
        entry["contour"] = region.contour.tolist()
    names = ("peak_xy", "regions", "nearest_good", "score_components")
    return {**{name: document[name] for name in names}, "good_peak": prediction.good_peak}
