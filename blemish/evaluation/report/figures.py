"""The images of a report that are worth a look: which they are, and how a page shows them."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from blemish.evaluation.report.markup import escaped
from blemish.visualization.charts import gauge_chart
from blemish.visualization.figure import HEAT_MAP, Panel, heat_map, to_jpeg

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from blemish.types import Report, Tested, UInt8

Kind = Literal["miss", "false positive", "close call", "example"]
_GROUPS: dict[Kind, tuple[str, str]] = {
    "miss": ("Worst misses", "Defective images that were called good, lowest score first."),
    "false positive": ("Worst false positives", "Good images that were called defective, highest score first."),
    "close call": ("Close calls", "Called right, but nearest to the threshold."),
    "example": ("Examples", "Images as the detector sees them."),
}
_VERDICTS = {"miss": "MISSED", "false positive": "FALSE ALARM", "close call": "CLOSE CALL", "example": "EXAMPLE"}
_SCALE = (
    '<svg class="scale" viewBox="0 0 84 12" role="img" aria-label="low to high; the line is the threshold">'
    '<rect y="3" width="84" height="6" rx="3" fill="url(#heat)"/><line x1="28" x2="28" y1="0" y2="12"/></svg>'
)


@dataclass(frozen=True, eq=False)
class Figure:
    """One image of a report that is worth a look.

    Attributes:
        kind: the group that it is shown in; `kind_of` tells it from a result.
        caption: such as the file's name.
        image: (H, W, 3) uint8 RGB, such as from `render.figure`, or what `render.panels` returns, which a narrow
            screen puts below each other.
        tested: its result, for the verdict, the p-value and a gauge, if it is known.
    """

    kind: Kind
    caption: str
    image: UInt8 | tuple[Panel, ...]
    tested: Tested | None = None


class Worst(NamedTuple):
    """What a detector got wrong, worst first.

    Attributes:
        misses: defective images called good, lowest score first.
        false_positives: good images called defective, highest score first.
    """

    misses: tuple[Tested, ...]
    false_positives: tuple[Tested, ...]


class Closest(NamedTuple):
    """What a detector got right most narrowly, nearest to the threshold first.

    Attributes:
        found: defective images called defective, lowest score first.
        good: good images called good, highest score first.
    """

    found: tuple[Tested, ...]
    good: tuple[Tested, ...]


def worst(report: Report, n: int = 3) -> Worst:
    """Return up to `n` of the worst misses and up to `n` of the worst false positives; either may be empty."""
    misses = [t for t in report.tested if t.sample.is_defective and not t.label]
    false_positives = [t for t in report.tested if t.label and not t.sample.is_defective]
    return Worst(_by_score(misses, n), _by_score(false_positives, n, highest_first=True))


def closest(report: Report, n: int = 3) -> Closest:
    """Return up to `n` of the defects found most narrowly and up to `n` of the good images nearest to an alarm."""
    found = [t for t in report.tested if t.sample.is_defective and t.label]
    good = [t for t in report.tested if not t.label and not t.sample.is_defective]
    return Closest(_by_score(found, n), _by_score(good, n, highest_first=True))


def kind_of(tested: Tested) -> Kind:
    """Return which group of figures a result belongs to: what was called right is a close call."""
    if tested.label == tested.sample.is_defective:
        return "close call"
    return "miss" if tested.sample.is_defective else "false positive"


def figures_html(report: Report, figures: Sequence[Figure]) -> str:
    """Return the images of a report as HTML in up to four groups, each in the order given."""
    parts, n_wrong = [], {kind: sum(kind_of(t) == kind for t in report.tested) for kind in ("miss", "false positive")}
    for kind, (title, note) in _GROUPS.items():
        shown = [_figure(figure, report.threshold) for figure in figures if figure.kind == kind]
        if shown:
            left_out = f" ({len(shown)} of {n_wrong[kind]})" if n_wrong.get(kind, 0) > len(shown) else ""
            parts.append(f'<h3>{title}{left_out}</h3><p class="why">{note}</p>{"".join(shown)}')
    return "".join(parts)


def _figure(figure: Figure, threshold: float) -> str:
    result, is_bad = figure.tested, figure.kind in {"miss", "false positive"}
    verdict, details = _VERDICTS[figure.kind], ""
    if result is not None:
        if figure.kind in {"close call", "example"} and kind_of(result) == "close call":
            verdict = "FOUND" if result.label else "GOOD"
        details = f'<span class="why">{escaped(result.sample.defect)}, p = {result.p_value:.2g}</span>'
        details += f'<span class="gauge">{gauge_chart(result.score, threshold)}</span>'
    return (
        f'<figure><figcaption><span class="pill {"bad" if is_bad else "good"}">{verdict}</span>'
        f'<span class="file"><bdi>{escaped(figure.caption)}</bdi></span>{details}</figcaption>'
        f"{_imaged(figure)}</figure>"
    )


def _imaged(figure: Figure) -> str:
    """Return the image of a figure, or its panels side by side where there is room."""
    if not isinstance(figure.image, tuple):
        return f'<div class="strip">{_image(figure.image, figure.caption)}</div>'
    cells = []
    for panel in figure.image:
        scale = _SCALE if panel.caption == HEAT_MAP else ""
        image = _image(panel.image, f"{panel.caption}: {figure.caption}")
        cells.append(f'<div class="panel"><span>{escaped(panel.caption)}{scale}</span>{image}</div>')
    height, width = figure.image[0].image.shape[:2] if figure.image else (1, 1)
    shape = "wide" if width > 2 * height else "narrow" if height > 2 * width else "square"
    shape += " two-rows" if len(cells) > 4 else ""
    return f'<div class="panels {shape}">{"".join(cells)}</div>'


def _image(image: UInt8, alt: str) -> str:
    data = base64.b64encode(to_jpeg(image)).decode()
    height, width = image.shape[:2]
    return f'<img alt="{escaped(alt)}" width="{width}" height="{height}" src="data:image/jpeg;base64,{data}">'


def heat_gradient() -> str:
    """Return the colours of the heat maps as an SVG gradient, once for all the small scales of a page."""
    colours = heat_map(np.linspace(0, 1, 13, dtype=np.float32)[None], 0.0, 1.0)[0].tolist()
    stops = (f'<stop offset="{i / 12:.3f}" stop-color="rgb({r},{g},{b})"/>' for i, (r, g, b) in enumerate(colours))
    gradient = f'<linearGradient id="heat">{"".join(stops)}</linearGradient>'
    return f'<svg width="0" height="0" style="position:absolute" aria-hidden="true"><defs>{gradient}</defs></svg>'


def _by_score(results: Iterable[Tested], n: int, *, highest_first: bool = False) -> tuple[Tested, ...]:
    return tuple(sorted(results, key=lambda t: t.score, reverse=highest_first)[:n])
