"""Evaluation of detectors on data sets: the engine, tables of results, and the HTML report."""

from blemish.evaluation.engine import Engine, average, load_defect_mask
from blemish.evaluation.report import Figure, report_html, write_report
from blemish.evaluation.results import figures_of, load_nearest_good, scores_csv, table, write_html

__all__ = [
    "Engine",
    "Figure",
    "average",
    "figures_of",
    "load_defect_mask",
    "load_nearest_good",
    "report_html",
    "scores_csv",
    "table",
    "write_html",
    "write_report",
]
