"""Small pieces of HTML, with everything that comes from outside escaped."""

from __future__ import annotations

import html
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import PurePath

NO_BREAK = "\u00a0"
DASH = "\u2013"


def escaped(text: object) -> str:
    """Return the text as it may stand in HTML, inside and outside of quotes.

    >>> escaped('<script src="x">')
    '&lt;script src=&quot;x&quot;&gt;'
    """
    return html.escape(str(text))


def file_name(path: PurePath) -> str:
    """Return the last three parts of a path, escaped: enough to find the file, and nothing of whose disk it is on.

    A name that changes the direction of writing can't change that of the text around it.
    """
    return f"<bdi>{escaped('/'.join(path.parts[-3:]))}</bdi>"


def cell(content: str, kind: str = "") -> str:
    """Return a table cell of HTML content."""
    return f'<td class="{kind}">{content}</td>' if kind else f"<td>{content}</td>"


def number(content: str) -> str:
    """Return a table cell that is set to the right."""
    return cell(content, "number")


def row(cells: Iterable[str], kind: str = "") -> str:
    """Return a table row of cells."""
    return f'<tr class="{kind}">{"".join(cells)}</tr>' if kind else f"<tr>{''.join(cells)}</tr>"


def table(heads: Sequence[str], rows: Iterable[str], numbers: range) -> str:
    """Return a table; the heads in `numbers` are set to the right like the cells below them. Wide ones scroll."""
    shown = (
        f'<th scope="col"{" class=number" if i in numbers else ""}>{head}</th>' for i, head in enumerate(heads)
    )  # fmt: skip
    body = "".join(rows)
    return f'<div class="scroll"><table><thead><tr>{"".join(shown)}</tr></thead><tbody>{body}</tbody></table></div>'


def definitions(pairs: Iterable[tuple[str, str]]) -> str:
    """Return a list of names and what they stand for, both escaped."""
    shown = (f"<dt>{escaped(name)}</dt><dd>{escaped(value)}</dd>" for name, value in pairs)
    return f"<dl>{''.join(shown)}</dl>"


def absent(reason: str) -> str:
    """Return a dash with the reason why there is no value."""
    return f'{DASH}<br><span class="why">{escaped(reason)}</span>' if reason else DASH


def out_of(n_hits: int, n: int) -> str:
    """Return how many of how many, or a dash where there are none at all.

    >>> out_of(61, 63)
    '61 <small>of 63</small>'
    """
    return f"{n_hits} <small>of {n}</small>" if n else DASH


def metric(value: float | None, reason: str = "") -> str:
    """Return a metric with three decimals, or a dash with the reason why it is absent.

    What is not 1 never looks like 1.

    >>> metric(0.98765), metric(1.0), metric(0.99987)
    ('0.988', '1.000', '0.9998')
    """
    if value is None or math.isnan(value):
        return absent(reason)
    shown = f"{value:.3f}"
    if shown == "1.000" and value < 1:
        shown = f"{int(value * 10_000) / 10_000:.4f}"
    return shown


def interval(low: float, high: float) -> str:
    """Return an interval of a metric."""
    return f"{metric(low)} to {metric(high)}"
