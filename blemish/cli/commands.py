"""The command line. Heavy libraries are loaded by the command that needs them.

Exit codes: 0 done; 1 the answer is no (`check` found what stops a run, `predict --fail-on-defect` a defect); 2
something could not be read, written or understood; 130 interrupted.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from blemish._version import __version__
from blemish.cli import anomalib as cli_interop
from blemish.cli import options as option
from blemish.cli import search as cli_search
from blemish.cli import teacher as cli_teacher
from blemish.cli.console import say
from blemish.errors import BlemishError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from blemish.data.datasets import DataSet
    from blemish.detectors.base import AnyDetector
    from blemish.evaluation.engine import Engine
    from blemish.types import Report

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
backbones_app = typer.Typer(no_args_is_help=True, help="List pretrained networks, and fetch their weights.")


def _version(asked: bool) -> None:
    if asked:
        print(f"blemish {__version__}")
        raise typer.Exit


@app.callback()
def _blemish(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Find defects in images of things that should all look alike, from good images alone."""


def _data(path: Path, category: str | None) -> DataSet:
    from blemish.data.datasets import open_dataset

    return open_dataset(path, category=category)


def _engine() -> Engine:
    from blemish.cli.console import Bars
    from blemish.evaluation.engine import Engine

    return Engine(progress=Bars())


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("blemish-demo"),
    seed: option.Seed = 0,
    as_json: option.AsJson = False,
) -> None:
    """Make three small categories, fit, test, and write a report. Example: blemish demo"""
    from blemish.data.datasets import MVTecAD
    from blemish.data.synthetic.demo import CATEGORIES, make_demo
    from blemish.detectors.patchcore.detector import Patchcore
    from blemish.evaluation.results import numbers_with_average, table, write_html

    engine, models, reports = _engine(), [], []
    make_demo(out / "images", seed=seed, progress=lambda done, total: engine.progress("drawing images", done, total))
    for category in CATEGORIES:
        model = Patchcore(seed=seed)
        data = MVTecAD(out / "images", category)
        engine.fit(model, data)
        reports.append(engine.evaluate(model, data))
        model.save(out / "models" / category)
        models.append(model)
    report = write_html(out / "report.html", models, reports)
    rows = numbers_with_average(reports)
    document = {"report": str(report), "categories": {one.category: rows[one.category] for one in reports}}
    say(as_json, {**document, "average": rows["average"]}, *table(rows), f"Report: {report}")


@app.command()
def check(data: Path, category: option.Category = None, as_json: option.AsJson = False) -> None:
    """Say what would be read as what, and what is wrong. Example: blemish check images/"""
    from blemish.data.validation import survey_dataset

    survey = survey_dataset(_data(data, category))
    problems = [
        {"path": str(one.path), "kind": one.kind, "text": one.text, "fatal": one.fatal} for one in survey.problems
    ]
    summary = survey.summary.to_dict()
    lines = [f"{name}: {value}" for name, value in summary.items()]
    found = [one.text if str(one.path) in one.text else f"{one.path}: {one.text}" for one in survey.problems]
    say(as_json, {"summary": summary, "problems": problems}, *lines, *found)
    if any(one.fatal for one in survey.problems):
        raise typer.Exit(1)


@app.command()
@option.of_detector
def fit(
    make: Callable[[], AnyDetector],
    data: Path,
    out: Annotated[Path, typer.Option(help="Model folder to write.")],
    category: option.Category = None,
    as_json: option.AsJson = False,
) -> None:
    """Fit a detector on good images. Example: blemish fit images/ --out model"""
    from blemish.detectors.registry import Trained
    from blemish.modelfolder.folder import check_target
    from blemish.ops.conformal import percent

    chosen = _data(data, category)
    check_target(out)
    model = make()
    megabytes = model.estimated_bytes(len(chosen.train)) / 2**20 if chosen.train else 0
    print(f"{len(chosen.train)} good images, about {megabytes:.0f} MB of memory.", file=sys.stderr)
    if isinstance(model, Trained) and model.hint:
        print(model.hint, file=sys.stderr)
    _engine().fit(model, chosen)
    model.save(out)
    left_out = [one.text for one in model.problems]
    promised, warning = model.calibration.false_positive_rate_promised, model.calibration.warning
    document = {
        "model": str(out),
        "threshold": model.threshold,
        "false_positive_rate_promised": promised,
        "left_out": left_out,
        "warning": warning,
    }
    lines = [*left_out, *([warning] if warning else [])]
    if isinstance(model, Trained):
        document["training"] = model.summary
        lines.append(model.summary)
    lines.append(f"Threshold {model.threshold:.3f}, at most {percent(promised)} false positives. Saved in {out}.")
    say(as_json, document, *lines)


@app.command()
def test(
    model: Path,
    data: Path,
    category: option.Category = None,
    report: option.ReportOut = None,
    scores: Annotated[Path | None, typer.Option("--csv", help="CSV file to write, one line per image.")] = None,
    threads: option.Threads = None,
    as_json: option.AsJson = False,
) -> None:
    """Test a model on images whose defects are known. Example: blemish test model images/ --report report.html"""
    from blemish.detectors import registry
    from blemish.evaluation.results import numbers, scores_csv, table, training_overlap, write_html, write_text

    loaded = registry.load(model, threads=threads)
    found = _engine().evaluate(loaded, _data(data, category))
    note = training_overlap(loaded, found)
    if note is not None:
        print(f"warning: {note}", file=sys.stderr)
    if scores is not None:
        write_text(scores, scores_csv([found]))
    if report is not None:
        write_html(report, [loaded], [found])
    say(as_json, numbers(found), *table({found.category: numbers(found)}), *(one.text for one in found.problems))


@app.command()
def predict(
    model: Path,
    images: list[Path],
    out: Annotated[Path | None, typer.Option(help="Folder for one figure per image.")] = None,
    masks: Annotated[Path | None, typer.Option(help="Folder for one mask per image: white where defective.")] = None,
    fail_on_defect: Annotated[bool, typer.Option(help="Exit with 1 if an image is called defective.")] = False,
    threads: option.Threads = None,
    as_json: option.AsJson = False,
) -> None:
    """Say of each image whether it is defective, and where. Example: blemish predict model part.png --out figures"""
    from blemish.data.datasets import open_dataset
    from blemish.detectors import registry
    from blemish.evaluation import load_nearest_good
    from blemish.imaging.decode import load, save
    from blemish.types import Problem
    from blemish.visualization import figure

    loaded = registry.load(model, threads=threads)
    bit_depth = loaded.bit_depth
    paths: list[Path] = []
    for path in images:
        data = open_dataset(path) if path.is_dir() else None
        paths += [path] if data is None else [sample.path for sample in (*data.train, *data.test)]
    rows, n_broken, n_defective = [], 0, 0
    for i, found in enumerate(loaded.predict_many(paths)):
        if isinstance(found, Problem):
            n_broken += 1
            print(f"error: {found.text}", file=sys.stderr)
            continue
        n_defective += found.label
        rows.append(found.to_dict())
        name = f"{i:04d}-{paths[i].stem}.png"
        if out is not None:
            beside = load_nearest_good(found.nearest_good, bit_depth)
            drawn = figure(load(paths[i], bit_depth=bit_depth), found, title=paths[i].name, good_image=beside)
            save(out / name, drawn)
        if masks is not None:
            save(masks / name, found.mask)
        if not as_json:
            verdict = "DEFECTIVE" if found.label else "good"
            note = "" if found.regions or not found.label else "  (as a whole: no one place stands out)"
            print(f"{verdict:9}  {found.score:8.3f} of {found.threshold:.3f}  p {found.p_value:.3f}  {paths[i]}{note}")
    if as_json:
        print(json.dumps(rows, indent=1))
    if n_broken:
        raise typer.Exit(2)
    if fail_on_defect and n_defective:
        raise typer.Exit(1)


@app.command()
@option.of_detector
def benchmark(
    make: Callable[[], AnyDetector],
    root: Annotated[Path, typer.Option(help="Folder of categories in MVTec AD's layout.")],
    categories: Annotated[list[str] | None, typer.Option(help="Names, after one option or several.")] = None,
    json_out: option.JsonOut = None,
    csv_out: option.CsvOut = None,
    report: option.ReportOut = None,
) -> None:
    """Fit and test each category, and the average. Example: blemish benchmark --root R --categories grid bottle"""
    from blemish.data.datasets import categories as all_categories
    from blemish.detectors.registry import Trained

    first = make()  # what is wrong with the options is said before an image is read
    if isinstance(first, Trained) and first.hint:
        print(first.hint, file=sys.stderr)
    engine, models, reports, n_failed = _engine(), [], [], 0
    for name in [name for part in categories or () for name in part.split(",")] or all_categories(root):
        detector = make()
        try:
            reports.append(_fit_and_test(engine, detector, root, name))
        except BlemishError as error:
            n_failed += 1
            print(f"error: {name}: {error}", file=sys.stderr)
            continue
        models.append(detector)
        _write_results(reports, json_out, csv_out)
    _finish(models, reports, report, n_failed)


def _fit_and_test(engine: Engine, model: AnyDetector, root: Path, category: str) -> Report:
    from blemish.data.datasets import MVTecAD

    data = MVTecAD(root, category)
    engine.fit(model, data)
    return engine.evaluate(model, data)


def _write_results(reports: Sequence[Report], json_out: Path | None, csv_out: Path | None) -> None:
    """Write what is known so far: a run over fifteen categories may be stopped at any of them."""
    from blemish.evaluation.engine import average
    from blemish.evaluation.results import numbers, numbers_csv, write_text

    rows, mean = {one.category: numbers(one) for one in reports}, average(reports)
    if json_out is not None:
        write_text(json_out, json.dumps({"categories": rows, "average": mean}, indent=1) + "\n")
    if csv_out is not None:
        write_text(csv_out, numbers_csv({**rows, "average": mean}))


def _finish(models: Sequence[AnyDetector], reports: Sequence[Report], report: Path | None, n_failed: int) -> None:
    from blemish.evaluation.results import numbers_with_average, table, write_html

    if reports:
        print("\n".join(table(numbers_with_average(reports))))
        if report is not None:
            write_html(report, models, reports)
    if n_failed:
        raise typer.Exit(2)


@backbones_app.command("list")
def list_backbones(as_json: option.AsJson = False) -> None:
    """List the networks. Example: blemish backbones list"""
    from blemish.backbones import available

    rows = [
        {"name": net.name, "licence": net.licence, "mb": net.download_mb, "present": net.present, "source": net.source}
        for net in available()
    ]
    lines = [
        f"{row['name']:20} {'here' if row['present'] else '-':5} {row['mb']:6} MB  {row['licence']:13} {row['source']}"
        for row in rows
    ]
    say(as_json, rows, *lines)


@backbones_app.command("fetch")
def fetch_backbone(
    name: str,
    url: Annotated[str | None, typer.Option(help="Another place for the same file.")] = None,
    as_json: option.AsJson = False,
) -> None:
    """Download a network's weights and check their hash. Example: blemish backbones fetch resnet50"""
    from blemish.backbones import fetch

    def announce(done: int, total: int) -> None:
        if not done:
            print(f"Downloading {total / 1e6:.1f} MB.", file=sys.stderr)

    path = fetch(name, url=url, progress=announce)
    say(as_json, {"name": name, "path": str(path)}, str(path))


app.add_typer(backbones_app, name="backbones")
app.add_typer(cli_teacher.app)
app.add_typer(cli_interop.app)
app.add_typer(cli_search.app)


def _several_values(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with `--categories a b` written as `--categories a --categories b`."""
    result: list[str] = []
    inside = False
    for argument in arguments:
        if argument.startswith("-"):
            inside = argument == "--categories"
        elif inside and result[-1] != "--categories":
            result.append("--categories")
        result.append(argument)
    return result


def main() -> None:
    """Run the command line; errors that we raise on purpose become one line and exit code 2."""
    try:
        app(args=_several_values(sys.argv[1:]))
    except BlemishError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
