"""The content of a model folder, without what differs from run to run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def content(folder: Path) -> dict[str, Any]:
    """The files of a model folder, and its header without the time of the fit and the digest that holds it."""
    files: dict[str, Any] = {path.name: path.read_bytes() for path in folder.iterdir()}
    header = json.loads(files["model.json"])
    del header["provenance"]["fit_s"], header["digest"]
    return {**files, "model.json": header}
