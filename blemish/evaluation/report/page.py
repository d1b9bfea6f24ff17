"""Rendering of the HTML report, one file that loads nothing, from its Jinja2 template."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from blemish._io.files import atomic_write
from blemish.errors import visible
from blemish.evaluation.report.charts import gauge
from blemish.evaluation.report.context import report_context
from blemish.evaluation.report.figures import jpeg_uri, kind_of
from blemish.evaluation.report.text import path_tail
from blemish.visualization.primitives import p_value_text, short_number

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from jinja2 import Environment

    from blemish.evaluation.report.figures import Figure
    from blemish.types import Report


def report_html(
    reports: Sequence[Report],
    *,
    figures: Mapping[str, Sequence[Figure]] | None = None,
    title: str = "Test report",
    provenance: Mapping[str, str] | None = None,
    max_images_listed: int = 5000,
) -> str:
    """Return the report on one or several categories as one HTML page that loads nothing.

    Args:
        reports: one per category.
        figures: images to show by category, such as those of `worst` and `closest`.
        title: the page's heading.
        provenance: origin of the results: version, seed, backbone, data set, ...
        max_images_listed: rows of the list of all images, for each category.
    """
    context = report_context(reports, figures=figures or {}, max_images_listed=max_images_listed)
    return environment().get_template("report.html.j2").render(title=title, provenance=provenance or {}, **context)


def write_report(
    path: str | os.PathLike[str],
    reports: Sequence[Report],
    *,
    figures: Mapping[str, Sequence[Figure]] | None = None,
    title: str = "Test report",
    provenance: Mapping[str, str] | None = None,
) -> Path:
    """Write `report_html` to a file atomically and return its path.

    Raises:
        SaveError: if it can't be written.
    """
    page = report_html(reports, figures=figures, title=title, provenance=provenance)
    # File names that are not UTF-8 hold half surrogates, which UTF-8 can't encode.
    return atomic_write(path, page.encode("utf-8", "backslashreplace"), name="report")


@lru_cache(maxsize=1)
def environment() -> Environment:
    """Return the environment of the templates, with autoescape."""
    import jinja2

    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("blemish.evaluation.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        # Names of files and text in them: one line each, without marks that reverse the writing direction.
        finalize=lambda value: visible(value) if type(value) is str else value,
    )
    filters = (gauge, jpeg_uri, kind_of, p_value_text, path_tail, short_number)
    templates.filters.update({function.__name__: function for function in filters})
    return templates
