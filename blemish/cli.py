"""The command line. Heavy libraries are loaded by the command that needs them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from blemish._version import __version__
from blemish.errors import BlemishError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from blemish.datasets import DataSet
    from blemish.engine import Engine
    from blemish.patchcore import Patchcore
    from blemish.records import Report
    from blemish.report import Figure

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Category = Annotated[str | None, typer.Option(help="Category of a folder that holds several.")]
ImageSize = Annotated[int, typer.Option(help="Side of the network's input in pixels.")]
Backbone = Annotated[str, typer.Option(help="A name out of `blemish backbones list`, or an ONNX file.")]
Layers = Annotated[str, typer.Option(help="Layers of the backbone, with commas; empty for its usual ones.")]
Rate = Annotated[float, typer.Option(help="Share of good pictures that may be called defective.")]
Ratio = Annotated[float, typer.Option(help="Share of good patches that the bank keeps.")]
Seed = Annotated[int, typer.Option(help="Of every random choice.")]


def _say(as_json: bool, document: Any, *lines: str) -> None:
    """Print the document as JSON, or the lines."""
    print(json.dumps(document, indent=1) if as_json else "\n".join(lines))


def _data(path: Path, category: str | None) -> DataSet:
    from blemish.datasets import open_dataset

    return open_dataset(path, category=category)


def _engine() -> Engine:
    from blemish.console import Bars
    from blemish.engine import Engine

    return Engine(progress=Bars())


def _model(backbone: str, layers: str, image_size: int, ratio: float, rate: float, seed: int) -> Patchcore:
    from blemish.patchcore import Patchcore

    return Patchcore(
        backbone=backbone,
        layers=tuple(layers.split(",")) if layers else None,
        image_size=image_size,
        coreset_sampling_ratio=ratio,
        false_alarm_rate=rate,
        seed=seed,
    )


def _figures(model: Patchcore, report: Report) -> list[Figure]:
    """Return the worst misses and false alarms, and the closest calls, as figures."""
    from blemish.engine import mask_of
    from blemish.images import load
    from blemish.records import Problem
    from blemish.render import panels
    from blemish.report import Figure, closest, kind_of, worst

    figures = []
    for tested in (one for group in (*worst(report), *closest(report)) for one in group):
        picture = load(tested.sample.path, bit_depth=model.settings.bit_depth)
        mask = mask_of(tested.sample, (picture.shape[0], picture.shape[1]))
        shown = panels(picture, model.predict(tested.sample), mask=None if isinstance(mask, Problem) else mask)
        figures.append(Figure(kind_of(tested), tested.sample.path.name, shown, tested))
    return figures


def _write_report(path: Path, models: Sequence[Patchcore], reports: Sequence[Report]) -> None:
    from blemish.report import write_report

    figures = {report.category: _figures(model, report) for model, report in zip(models, reports, strict=True)}
    provenance = {name: str(value) for name, value in models[0].fitted.provenance.items()}
    write_report(path, reports, figures=figures, provenance={"Blemish": __version__, **provenance})


def _numbers(report: Report) -> dict[str, float]:
    return {**report.metrics, **report.timings}


def _table(rows: dict[str, dict[str, float]]) -> list[str]:
    """Return lines of a table: one row per category, the figures that people compare."""
    columns = ("image_AUROC", "pixel_AUROC", "AUPRO", "false_alarm_rate", "miss_rate", "fit_s", "predict_ms")
    width = max(len(name) for name in rows)
    lines = [" " * width + "  " + "  ".join(f"{column:>16}" for column in columns)]
    for name, row in rows.items():
        cells = [f"{row[column]:16.3f}" if column in row else f"{'-':>16}" for column in columns]
        lines.append(f"{name:<{width}}  " + "  ".join(cells))
    return lines


def _run(engine: Engine, model: Patchcore, data: DataSet) -> Report:
    engine.fit(model, data)
    return engine.evaluate(model, data)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("blemish-demo"),
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Make three small categories, fit, test, and write a report. Example: blemish demo"""
    from blemish.datasets import MVTecAD
    from blemish.demo import CATEGORIES, make_demo
    from blemish.engine import average
    from blemish.patchcore import Patchcore

    make_demo(out / "pictures", seed=seed)
    engine, models, reports = _engine(), [], []
    for category in CATEGORIES:
        model = Patchcore(seed=seed)
        reports.append(_run(engine, model, MVTecAD(out / "pictures", category)))
        model.save(out / "models" / category)
        models.append(model)
    _write_report(out / "report.html", models, reports)
    rows = {report.category: _numbers(report) for report in reports}
    table = _table({**rows, "average": average(reports)})
    document = {"report": str(out / "report.html"), "categories": rows, "average": average(reports)}
    _say(as_json, document, *table, f"Report: {out / 'report.html'}")


@app.command()
def check(data: Path, category: Category = None, as_json: AsJson = False) -> None:
    """Say what would be read as what, and what is wrong. Example: blemish check pictures/"""
    from blemish.datacheck import survey_dataset

    survey = survey_dataset(_data(data, category))
    problems = [
        {"path": str(one.path), "kind": one.kind, "text": one.text, "fatal": one.fatal} for one in survey.problems
    ]
    lines = [f"{name}: {value}" for name, value in survey.summary.to_dict().items()]
    _say(
        as_json,
        {"summary": survey.summary.to_dict(), "problems": problems},
        *lines,
        *(str(p["text"]) for p in problems),
    )
    if any(one.fatal for one in survey.problems):
        raise typer.Exit(1)


@app.command()
def fit(
    data: Path,
    out: Annotated[Path, typer.Option(help="Model folder to write.")],
    category: Category = None,
    backbone: Backbone = "efficientnet_lite0",
    layers: Layers = "",
    image_size: ImageSize = 320,
    coreset_ratio: Ratio = 0.02,
    false_alarm_rate: Rate = 0.01,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Fit PatchCore on good pictures. Example: blemish fit pictures/good --out model"""
    chosen = _data(data, category)
    model = _model(backbone, layers, image_size, coreset_ratio, false_alarm_rate, seed)
    megabytes = model.estimated_bytes(len(chosen.train)) / 2**20
    print(f"{len(chosen.train)} good pictures, about {megabytes:.0f} MB of memory.", file=sys.stderr)
    _engine().fit(model, chosen)
    model.save(out)
    left_out = [one.text for one in model.problems]
    promised = model.calibration.false_alarm_rate_promised
    document = {
        "model": str(out),
        "threshold": model.threshold,
        "false_alarm_rate_promised": promised,
        "left_out": left_out,
        "warning": model.calibration.warning,
    }
    lines = [*left_out, *([model.calibration.warning] if model.calibration.warning else [])]
    lines.append(f"Threshold {model.threshold:.3f}, at most {100 * promised:.2g} % false alarms. Saved in {out}.")
    _say(as_json, document, *lines)


@app.command()
def test(
    model: Path,
    data: Path,
    category: Category = None,
    report: Annotated[Path | None, typer.Option(help="HTML report to write.")] = None,
    as_json: AsJson = False,
) -> None:
    """Test a model on pictures whose defects are known. Example: blemish test model pictures/ --report report.html"""
    from blemish.patchcore import Patchcore

    loaded = Patchcore.load(model)
    found = _engine().evaluate(loaded, _data(data, category))
    if report is not None:
        _write_report(report, [loaded], [found])
    _say(as_json, _numbers(found), *_table({found.category: _numbers(found)}), *(one.text for one in found.problems))


@app.command()
def predict(
    model: Path,
    pictures: list[Path],
    out: Annotated[Path | None, typer.Option(help="Folder for one figure per picture.")] = None,
    fail_on_defect: Annotated[bool, typer.Option(help="Exit with 1 if a picture is called defective.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say of each picture whether it is defective, and where. Example: blemish predict model part.png --out figures"""
    from blemish.datasets import open_dataset
    from blemish.images import load, save
    from blemish.patchcore import Patchcore
    from blemish.records import Problem
    from blemish.render import figure

    loaded = Patchcore.load(model)
    paths = [
        one for path in pictures for one in ([s.path for s in open_dataset(path).train] if path.is_dir() else [path])
    ]
    rows, n_broken, n_defective = [], 0, 0
    for i, found in enumerate(loaded.predict_many(paths)):
        if isinstance(found, Problem):
            n_broken += 1
            print(f"error: {found.text}", file=sys.stderr)
            continue
        n_defective += found.label
        rows.append(found.to_dict())
        if out is not None:
            drawn = figure(load(paths[i], bit_depth=loaded.settings.bit_depth), found, title=paths[i].name)
            save(out / f"{i:04d}-{paths[i].stem}.png", drawn)
        if not as_json:
            verdict = "DEFECTIVE" if found.label else "good"
            print(f"{verdict:9}  {found.score:8.3f} of {found.threshold:.3f}  p {found.p_value:.3f}  {paths[i]}")
    if as_json:
        print(json.dumps(rows, indent=1))
    if n_broken:
        raise typer.Exit(2)
    if fail_on_defect and n_defective:
        raise typer.Exit(1)


@app.command()
def benchmark(
    root: Annotated[Path, typer.Option(help="Folder of categories in MVTec AD's layout.")],
    categories: Annotated[list[str] | None, typer.Option(help="Names, after one option or several.")] = None,
    model: Annotated[str, typer.Option(help="The detector: patchcore.")] = "patchcore",
    backbone: Backbone = "efficientnet_lite0",
    layers: Layers = "",
    image_size: ImageSize = 320,
    coreset_ratio: Ratio = 0.02,
    false_alarm_rate: Rate = 0.01,
    seed: Seed = 0,
    json_out: Annotated[Path | None, typer.Option("--json", help="JSON file to write.")] = None,
    csv_out: Annotated[Path | None, typer.Option("--csv", help="CSV file to write.")] = None,
    report: Annotated[Path | None, typer.Option(help="HTML report to write.")] = None,
) -> None:
    """Fit and test each category, and the average. Example: blemish benchmark --root R --categories grid bottle"""
    from blemish.datasets import MVTecAD
    from blemish.datasets import categories as all_categories
    from blemish.engine import average
    from blemish.files import atomic_write

    if model != "patchcore":
        raise typer.BadParameter(f"{model} is no detector here; there is patchcore", param_hint="--model")
    chosen = [name for part in categories or () for name in part.split(",")] or all_categories(root)
    engine, models, reports = _engine(), [], []
    for name in chosen:
        detector = _model(backbone, layers, image_size, coreset_ratio, false_alarm_rate, seed)
        reports.append(_run(engine, detector, MVTecAD(root, name)))
        models.append(detector)
    rows = {one.category: _numbers(one) for one in reports}
    mean = average(reports)
    print("\n".join(_table({**rows, "average": mean})))
    if json_out is not None:
        text = json.dumps({"categories": rows, "average": mean}, indent=1) + "\n"
        atomic_write(json_out, text.encode(), name="results")
    if csv_out is not None:
        columns = sorted({name for row in rows.values() for name in row})
        table = {**rows, "average": mean}
        csv_lines = ["category," + ",".join(columns)]
        csv_lines += [",".join([name, *(str(row.get(c, "")) for c in columns)]) for name, row in table.items()]
        atomic_write(csv_out, ("\n".join(csv_lines) + "\n").encode(), name="results")
    if report is not None:
        _write_report(report, models, reports)


backbones_app = typer.Typer(no_args_is_help=True, help="List pretrained networks, and fetch their weights.")
app.add_typer(backbones_app, name="backbones")


@backbones_app.command("list")
def list_backbones(as_json: AsJson = False) -> None:
    """List the networks. Example: blemish backbones list"""
    from blemish.backbones import available

    rows = [
        {"name": one.name, "licence": one.licence, "mb": one.download_mb, "present": one.present, "source": one.source}
        for one in available()
    ]
    lines = [f"{r['name']:20} {'here' if r['present'] else '-':5} {r['mb']:6} MB  {r['licence']}" for r in rows]
    _say(as_json, rows, *lines)


@backbones_app.command("fetch")
def fetch_backbone(
    name: str, url: Annotated[str | None, typer.Option(help="Another place for the same file.")] = None
) -> None:
    """Download a network's weights and check their hash. Example: blemish backbones fetch resnet50"""
    from blemish.backbones import fetch

    print(fetch(name, url=url))


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
    if sys.argv[1:] == ["--version"]:
        print(f"blemish {__version__}")
        return
    try:
        app(args=_several_values(sys.argv[1:]))
    except BlemishError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
