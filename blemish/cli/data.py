"""Commands about image folders: demo, check."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from blemish.cli import options as option
from blemish.cli.console import Bars, say
from blemish.cli.exit_codes import finish

app = typer.Typer()
# Kinds of problems that leave an image or a mask out of a fit or test.
UNREAD = {"unreadable", "unreadable-mask", "mask-size"}


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("blemish-demo"),
    seed: option.Seed = 0,
    as_json: option.AsJson = False,
) -> None:
    """Fit, test and report on a small synthetic data set. Example: blemish demo"""
    from blemish.data.datasets import MVTecAD
    from blemish.data.synthetic.demo import CATEGORIES, make_demo
    from blemish.detectors.patchcore.detector import Patchcore
    from blemish.evaluation.engine import Engine
    from blemish.evaluation.results import numbers_with_average, table, write_html
    from blemish.search.encoder import prepare_defect_search

    engine, models, reports = Engine(progress=Bars()), [], []
    make_demo(out / "images", seed=seed, progress=engine.progress)
    for category in CATEGORIES:
        model = Patchcore(seed=seed)
        data = MVTecAD(out / "images", category)
        engine.fit(model, data)
        prepare_defect_search(model, progress=engine.progress)
        reports.append(engine.evaluate(model, data))
        model.save(out / "models" / category)
        models.append(model)
    report = write_html(out / "report.html", models, reports)
    rows = numbers_with_average(reports)
    document = {"report": str(report), "categories": {result.category: rows[result.category] for result in reports}}
    say(as_json, {**document, "average": rows["average"]}, *table(rows), f"Report: {report}")


@app.command()
def check(
    data: Path,
    category: option.Category = None,
    layout: option.Layout = None,
    group_by: option.GroupBy = None,
    as_json: option.AsJson = False,
) -> None:
    """Check a data set before a run: images, labels, masks. Example: blemish check images/"""
    from blemish.data.datasets import open_dataset
    from blemish.data.validation import survey_dataset

    dataset = open_dataset(data, category=category, layout=layout, group_by=group_by)
    notes = list(getattr(dataset, "notes", ()))
    survey = survey_dataset(dataset)
    summary = asdict(survey.summary)
    problems = [
        {"path": str(problem.path), "kind": problem.kind, "text": problem.text, "fatal": problem.fatal}
        for problem in survey.problems
    ]
    lines = [*notes, *(f"{name}: {value}" for name, value in summary.items())]
    lines += [
        problem.text if str(problem.path) in problem.text else f"{problem.path}: {problem.text}"
        for problem in survey.problems
    ]
    say(as_json, {"summary": summary, "notes": notes, "problems": problems}, *lines)
    unread = any(problem.kind in UNREAD for problem in survey.problems)
    finish(unread=unread, defect=any(problem.fatal for problem in survey.problems))
