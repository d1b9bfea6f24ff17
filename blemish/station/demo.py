"""Demo of the station: two models of drawn parts, and a line on which parts come by."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from blemish.data.synthetic.demo import make_demo
from blemish.detectors.patchcore.detector import Patchcore
from blemish.errors import BlemishError
from blemish.search.encoder import prepare_defect_search
from blemish.types import Progress, no_progress

if TYPE_CHECKING:
    from blemish.station.inspections import Inspection
    from blemish.station.service import InspectionService

CATEGORIES = ("tile", "grid")
SIZE_PX, N_TRAIN, N_TEST, N_DEFECTIVE = 384, 30, 30, 4
WHO = "demo"
# Parts of each model that are there at once, and seconds from one to the next from then on.
N_FIRST, PAUSE_S = 16, 4.0


def prepare(folder: Path, *, progress: Progress = no_progress) -> dict[str, Path]:
    """Draw the images and fit a model of each category, unless that was done before; return name to model folder.

    Raises:
        SaveError: if the folder can't be written, or holds other files.
    """
    images = make_demo(
        folder / "images",
        image_size=SIZE_PX,
        n_train=N_TRAIN,
        n_test=N_TEST,
        n_defective=N_DEFECTIVE,
        categories=CATEGORIES,
        progress=progress,
    )
    models = {name: folder / "models" / name for name in CATEGORIES}
    for name, place in models.items():
        if not (place / "model.json").is_file():
            good = sorted((images / name / "train" / "good").glob("*.png"))
            model = Patchcore().fit([path.resolve() for path in good], progress=progress)
            prepare_defect_search(model, progress=progress)
            model.save(place)
    return models


class DemoLine:
    """A line on which drawn parts come by, some of them defective; most of the first were reviewed already."""

    def __init__(self, service: InspectionService, folder: Path) -> None:
        self._service, self._stop = service, threading.Event()
        rng = np.random.default_rng(0)
        self._parts = []
        for name in CATEGORIES:
            paths = sorted((folder / "images" / name / "test").glob("*/*.png"))
            self._parts.append([(name, paths[i]) for i in rng.permutation(len(paths))])
        self._thread = threading.Thread(target=self._run, name="demo", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop the line."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        for number in range(10**9):
            for (name, path), *_ in (part[number % len(part) :] for part in self._parts):
                if self._stop.is_set():
                    return
                self._inspect(name, path, number)
            if number >= N_FIRST:
                self._stop.wait(PAUSE_S)

    def _review(self, found: Inspection, kind: str) -> None:
        """Say of a part what it is; some defects have no type yet, and a third of the parts wait for a review."""
        if kind == "good" and found.number % 3:
            self._service.review(found.id, "good", who=WHO)
        elif kind != "good" and found.label:
            defect_type = "" if found.number % 3 == 0 else kind.replace("_", " ")
            self._service.review(found.id, "defective", who=WHO, defect_type=defect_type)

    def _inspect(self, name: str, path: Path, number: int) -> None:
        kind, part_id = path.parent.name, f"{name[0].upper()}-{number + 1:04}"
        try:
            found = self._service.inspect(path, model=name, part_id=part_id, source="demo line", who=WHO)
            if number < N_FIRST:
                self._review(found, kind)
        except BlemishError:
            self._stop.wait(PAUSE_S)
