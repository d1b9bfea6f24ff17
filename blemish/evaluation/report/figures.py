"""Images of a report: the worst misses and false positives, and the closest calls."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from blemish.visualization.overlays import to_jpeg

if TYPE_CHECKING:
    from collections.abc import Sequence

    from blemish.types import Report, Tested, UInt8
    from blemish.visualization import Panel

Kind = Literal["miss", "false positive", "close call", "example"]
_GROUPS: dict[Kind, tuple[str, str]] = {
    "miss": ("Worst misses", "Defective images that were called good, lowest score first."),
    "false positive": ("Worst false positives", "Good images above the threshold, highest score first."),
    "close call": ("Close calls", "Called right, but nearest to the threshold."),
    "example": ("Examples", "Images as the detector sees them."),
}


@dataclass(frozen=True, eq=False)
class Figure:
    """One image of a report.

    Attributes:
        kind: the group that it is shown in, such as from `kind_of`.
        caption: such as the file's name.
        image: (H, W, 3) uint8 RGB from `visualization.figure`, or the result of `visualization.panels`, which are
            arranged by the width of the screen.
        tested: its result, for the verdict, the p-value and a gauge, if it is known.
    """

    kind: Kind
    caption: str
    image: UInt8 | tuple[Panel, ...]
    tested: Tested | None = None

    @property
    def verdict(self) -> str:
        """The group in a word."""
        return {"miss": "missed"}.get(self.kind, self.kind)

    @property
    def layout(self) -> str:
        """The arrangement of the panels; "" for a single image."""
        if not isinstance(self.image, tuple):
            return ""
        height, width = self.image[0].image.shape[:2] if self.image else (1, 1)
        shape = "wide" if width > 2 * height else "narrow" if height > 2 * width else "square"
        return shape + (" two-rows" if len(self.image) > 4 else "")


class Selection(NamedTuple):
    """Defective images, lowest score first, and good images, highest score first."""

    defective: tuple[Tested, ...]
    good: tuple[Tested, ...]


def worst(report: Report, n: int = 3) -> Selection:
    """Return up to `n` misses (defective) and up to `n` false positives (good) with the largest errors."""
    return _extremes([t for t in report.tested if t.label != t.sample.is_defective], n)


def closest(report: Report, n: int = 3) -> Selection:
    """Return up to `n` defective and up to `n` good images with a correct label that are nearest to the threshold."""
    return _extremes([t for t in report.tested if t.label == t.sample.is_defective], n)


def kind_of(tested: Tested) -> Kind:
    """Return the group of a result: "miss", "false positive", or "close call" if its label is correct."""
    if tested.label == tested.sample.is_defective:
        return "close call"
    return "miss" if tested.sample.is_defective else "false positive"


def grouped(report: Report, figures: Sequence[Figure]) -> list[tuple[str, str, list[Figure]]]:
    """Return the title, the explanation and the figures of each group that has figures."""
    groups = []
    for kind, (title, note) in _GROUPS.items():
        members = [figure for figure in figures if figure.kind == kind]
        n_wrong = 0 if kind == "close call" else sum(kind_of(t) == kind for t in report.tested)
        if members:
            part = f" ({len(members)} of {n_wrong})" if n_wrong > len(members) else ""
            groups.append((title + part, note, members))
    return groups


def jpeg_uri(image: UInt8) -> str:
    """Return the image as a data URI of a JPEG file."""
    return "data:image/jpeg;base64," + base64.b64encode(to_jpeg(image)).decode()


def _extremes(results: Sequence[Tested], n: int) -> Selection:
    defective = sorted((t for t in results if t.sample.is_defective), key=lambda t: t.score)
    good = sorted((t for t in results if not t.sample.is_defective), key=lambda t: -t.score)
    return Selection(tuple(defective[:n]), tuple(good[:n]))
