"""How much disk a package takes with all that it needs, from what the installed packages say of themselves."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

MB = 2**20


def installed_mb(package: str) -> float | None:
    """Return the MB of a package and of all that it requires, as installed here; None if it is not.

    Extras count where a requirement asks for them. Files that were compiled since count too.
    """
    found = closure(package)
    return sum(_bytes(name) for name in found) / MB if found else None


def closure(package: str) -> set[str]:
    """Return the names of a package and of all installed packages that it requires, directly or not."""
    from packaging.requirements import Requirement

    seen: set[tuple[str, str]] = set()
    waiting = [(package, "")]
    while waiting:
        name, extra = waiting.pop()
        key = _plain(name), extra
        if key in seen:
            continue
        try:
            required = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        seen.add(key)
        for text in required:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                waiting += [(requirement.name, wanted) for wanted in ("", *requirement.extras)]
    return {name for name, _ in seen}


def _bytes(name: str) -> int:
    distribution = importlib.metadata.distribution(name)
    paths = {Path(str(distribution.locate_file(file))) for file in distribution.files or ()}
    folders = {path.parent for path in paths if path.suffix == ".py"}
    paths |= {cached for folder in folders for cached in (folder / "__pycache__").glob("*.pyc")}
    return sum(path.stat().st_size for path in paths if path.is_file())


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
