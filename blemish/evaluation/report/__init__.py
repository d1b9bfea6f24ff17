"""The HTML report on tested detectors: one page without scripts and links, for people who decide on a detector."""

from blemish.evaluation.report.figures import Figure, Kind, Selection, closest, kind_of, worst
from blemish.evaluation.report.page import report_html, write_report

__all__ = ["Figure", "Kind", "Selection", "closest", "kind_of", "report_html", "worst", "write_report"]
