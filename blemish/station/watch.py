"""Inspection of the images that arrive in a folder, each once, when it is complete."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

from blemish._io.files import file_sha256
from blemish.data.discovery import IMAGE_ENDINGS, has_image_bytes, is_hidden
from blemish.errors import BlemishError, ImageError, visible
from blemish.station.errors import BusyError

if TYPE_CHECKING:
    from pathlib import Path

    from blemish.station.service import InspectionService

LOG = logging.getLogger("blemish.station")
WHO = "watch"
# A file is complete when its size and time have stayed the same for so long, and its header says so.
SETTLED_S = 0.5
POLL_S = 0.5
# A file that is cut short is looked at again for so long.
PATIENCE_S = 30.0


class _Seen(NamedTuple):
    """Size and time of a file, and when they were first seen."""

    size: int
    mtime_ns: int
    since: float


class Watch:
    """Inspects images as they arrive in a folder.

    A thread lists the folder twice a second, which works on network shares too. At the first start the images that are
    there already are left alone; at a later one those that came while the station was stopped are inspected.

    Args:
        folder: it may be absent for a while.
        model: name; None for the only one.
    """

    def __init__(self, service: InspectionService, folder: Path, *, model: str | None = None) -> None:
        self._service, self._folder, self._model = service, folder, model
        self._stop, self._is_gone = threading.Event(), False
        self._seen: dict[str, _Seen] = {}
        self._strangers: dict[str, tuple[tuple[int, int], bool]] = {}
        self._done = {(path.name, *_facts(path)) for path in self._old()}
        self.n_inspected = 0
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop; what was accepted is inspected."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            for path in self._listed():
                if self._stop.is_set():
                    return
                self._look_at(path)
            self._stop.wait(POLL_S)

    def _old(self) -> list[Path]:
        """Return the files that are there at the start and are not to be inspected.

        Files newer than the newest one that was inspected came while the station was stopped: their times are of one
        clock, which may not be this one's.
        """
        paths, before = self._listed(), self._service.records.last_time_of(WHO)
        if before is None:
            return paths
        for n_old in range(len(paths), 0, -1):
            path = paths[n_old - 1]
            if self._service.records.has_image(_source(path), file_sha256(str(path))):
                return paths[:n_old]
        return [path for path in paths if _facts(path)[1] / 1e9 < before]

    def _listed(self) -> list[Path]:
        """Return the images in the folder, the oldest first; none, and one warning, while it is gone."""
        try:
            paths = [path for path in self._folder.iterdir() if not is_hidden(path.name) and self._is_image(path)]
            paths.sort(key=lambda path: (_facts(path)[1], path.name))
        except OSError as error:
            if not self._is_gone:
                LOG.warning("The watched folder can't be read: %s. It is tried again.", error.strerror)
            self._is_gone = True
            return []
        if self._is_gone:
            LOG.warning("The watched folder is there again.")
            self._is_gone = False
        return paths

    def _is_image(self, path: Path) -> bool:
        """Return whether a file is an image by its ending, or else by its first bytes, read once as long as it is."""
        if path.suffix.lower() in IMAGE_ENDINGS:
            return True
        facts, known = _facts(path), self._strangers.get(path.name)
        if known is None or known[0] != facts:
            known = self._strangers[path.name] = facts, has_image_bytes(path)
        return known[1]

    def _look_at(self, path: Path) -> None:
        size, mtime_ns = _facts(path)
        key = (path.name, size, mtime_ns)
        if key in self._done:
            return
        now, seen = time.monotonic(), self._seen.get(path.name)
        if seen is None or seen[:2] != (size, mtime_ns):
            self._seen[path.name] = _Seen(size, mtime_ns, now)
            return
        if now - seen.since < (SETTLED_S if size else PATIENCE_S):
            return
        try:
            future = self._service.submit(path, model=self._model, source=_source(path), who=WHO, wait_s=5.0)
            future.result()
        except BusyError:
            return  # it is looked at again
        except ImageError as error:
            if now - seen.since < PATIENCE_S:
                return
            LOG.warning("A watched file was not inspected: %s", error)
        except BlemishError as error:
            LOG.error("A watched file was not inspected yet: %s", error)
            return
        else:
            self.n_inspected += 1
        self._done.add(key)
        del self._seen[path.name]


def _source(path: Path) -> str:
    return visible(path.name)[:150]


def _facts(path: Path) -> tuple[int, int]:
    """Return size and time of a file; zeros if it is gone."""
    try:
        info = path.stat()
    except OSError:
        return 0, 0
    return info.st_size, info.st_mtime_ns
