"""The ledger of fits in a folder of models: which inputs each model was fitted on, so that a second run goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blemish._io.files import atomic_write, file_sha256
from blemish._io.json_file import read_json_object
from blemish._version import __version__
from blemish.detectors.pickling import digest_of
from blemish.errors import ModelFileError
from blemish.modelfolder.folder import load_model

if TYPE_CHECKING:
    from blemish.detectors.settings import Settings
    from blemish.types import Sample

NAME = "cluster-fit.json"


@dataclass(frozen=True)
class Entry:
    """A finished fit.

    Attributes:
        inputs: digest of all that the model follows from, see `inputs_digest`.
        model: digest of the model folder.
        seconds: of the fit.
        left_out: sentences on broken images.
    """

    inputs: str
    model: str
    seconds: float
    left_out: tuple[str, ...]


class Ledger:
    """Reads and writes the ledger of a folder of models; one that is damaged counts as empty."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        self._entries: dict[str, Entry] = {}
        try:
            stored = read_json_object(self._path.read_bytes(), name="ledger", where=self._path)
            for name, row in stored["fits"].items():
                self._entries[name] = Entry(**{**row, "left_out": tuple(row["left_out"])})
        except (OSError, ModelFileError, KeyError, TypeError, AttributeError):
            self._entries = {}

    def finished(self, name: str) -> Entry | None:
        """Return the entry of a model that is there, whole, and the one that was written then; else None."""
        entry = self._entries.get(name)
        if entry is None:
            return None
        try:
            model = load_model(self._path.parent / name)
        except ModelFileError:
            return None
        return entry if digest_of(model) == entry.model else None

    def add(self, name: str, entry: Entry) -> None:
        """Write the ledger with one more fit.

        Raises:
            SaveError: if it can't be written.
        """
        self._entries[name] = entry
        rows: dict[str, Any] = {name: asdict(entry) for name, entry in sorted(self._entries.items())}
        text = json.dumps({"version": 1, "fits": rows}, indent=1) + "\n"
        atomic_write(self._path, text.encode("utf-8"), name="ledger")


def inputs_digest(
    detector: str, settings: Settings, weights_sha256: str, samples: Sequence[Sample], sha256s: Sequence[str]
) -> str:
    """Return the SHA-256 of all that a model follows from: detector, settings, weights, version and images.

    Args:
        sha256s: of the content of each image.
    """
    images = [(str(sample.path), sample.group, sha256) for sample, sha256 in zip(samples, sha256s, strict=True)]
    given = [__version__, detector, settings.to_dict(), weights_sha256, images]
    return hashlib.sha256(json.dumps(given, sort_keys=True, default=str).encode("utf-8")).hexdigest()


def hashes_of(samples: Sequence[Sample], known: dict[str, str] | None = None) -> list[str]:
    """Return the SHA-256 of each image, "" where there is no file; those that are known are not read again."""
    known = known or {}
    return [known.get(str(sample.path)) or file_sha256(str(sample.path)) for sample in samples]
