"""Hook of PyInstaller, found by the entry point `pyinstaller40`: what a frozen application needs of this package."""

from __future__ import annotations

from pathlib import Path


def hook_directories() -> list[str]:
    """Return the folder of the hooks."""
    return [str(Path(__file__).parent)]
