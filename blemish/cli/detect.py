"""Commands of the detectors: fit, test, predict, benchmark."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from blemish.cli import options as option
from blemish.cli.console import Bars, complain, only_ours, print_json, print_line, say
from blemish.cli.exit_codes import ExitCode, finish
from blemish.cli.suspects import after_fit
from blemish.errors import BlemishError

if TYPE_CHECKING:
    from blemish.data.datasets import DataSet
    from blemish.detectors.base import AnyDetector
    from blemish.evaluation.engine import Engine
    from blemish.types import Prediction, Problem, Report, Sample

app = typer.Typer()
FailOnDrift = Annotated[
    bool,
    typer.Option(help="Exit with 4 if an image is not like those that the model learnt from (light, focus, size)."),
]
NOT_COMPARABLE = "not comparable"


@app.command()
@option.of_detector
def fit(
    make: Callable[[], AnyDetector],
    data: Path,
    out: Annotated[Path, typer.Option(help="Model folder to write.")],
    category: option.Category = None,
    layout: option.Layout = None,
    group_by: option.GroupBy = None,
    as_json: option.AsJson = False,
) -> None:
    """Fit a detector on good images. Example: blemish fit images/ --out model"""
    from blemish.detectors.registry import Trained
    from blemish.evaluation.engine import Engine
    from blemish.evaluation.thresholds import threshold_fields, threshold_sentence
    from blemish.modelfolder.folder import check_target
    from blemish.search.encoder import prepare_defect_search

    dataset = opened(data, category, layout, group_by)
    check_target(out)
    model = make()
    complain(_expected(model, dataset.train))
    if isinstance(model, Trained) and model.hint:
        complain(model.hint)
    Engine(progress=Bars()).fit(model, dataset)
    prepare_defect_search(model, progress=Bars())
    model.save(out)
    left_out = [problem.text for problem in model.problems]
    warning = model.calibration.warning
    document = {
        "model": str(out),
        **threshold_fields(model.calibration),
        "notes": list(model.notes),
        "left_out": left_out,
        "warning": warning,
        "training_warnings": list(model.training_warnings),
        "suspects": [suspect._asdict() for suspect in model.suspects],
    }
    lines = [*left_out, *([warning] if warning else []), *after_fit(model, out)]
    if isinstance(model, Trained):
        document["training"] = model.summary
        lines.append(model.summary)
    lines += model.notes
    lines.append(f"{threshold_sentence(model.calibration)} Saved in {out}.")
    say(as_json, document, *lines)
    finish(unread=bool(left_out))


def _expected(model: AnyDetector, samples: Sequence[Sample]) -> str:
    """Return a sentence on the memory and the time that a fit takes."""
    megabytes = model.estimated_bytes(len(samples)) / 2**20 if samples else 0
    seconds = model.estimated_seconds(samples)
    taken = "" if seconds is None else f" and {seconds:.0f} s" if seconds < 120 else f" and {seconds / 60:.0f} minutes"
    return f"{len(samples)} good images, about {megabytes:.0f} MB of memory{taken}."


@app.command()
def test(
    model: Path,
    data: Path,
    category: option.Category = None,
    layout: option.Layout = None,
    report: option.ReportOut = None,
    scores: Annotated[Path | None, typer.Option("--csv", help="CSV file to write, one line per image.")] = None,
    fail_on_drift: FailOnDrift = False,
    threads: option.Threads = None,
    as_json: option.AsJson = False,
) -> None:
    """Test a model on images whose defects are known. Example: blemish test model images/ --report report.html"""
    from blemish.detectors import registry
    from blemish.evaluation.engine import Engine
    from blemish.evaluation.report.text import missed_caution
    from blemish.evaluation.results import (
        numbers,
        problem_fields,
        scores_csv,
        table,
        training_overlap,
        write_html,
        write_text,
    )
    from blemish.imaging.drift import not_comparable as drift_sentence

    detector = registry.load(model, threads=threads)
    result = Engine(progress=Bars()).evaluate(detector, opened(data, category, layout))
    overlap = training_overlap(detector, result)
    if overlap is not None:
        complain(f"warning: {overlap}")
    drifts = [tested.drift for tested in result.tested]
    _warn_of_drift(drifts)
    if scores is not None:
        write_text(scores, scores_csv([result]))
    if report is not None:
        write_html(report, [detector], [result])
    row, left_out = numbers(result), problem_fields(result.problems)
    lines = [*table({result.category: row}), *(problem.text for problem in result.problems)]
    lines += [line for line in (missed_caution(result), drift_sentence(drifts)) if line]
    drifted = {str(tested.sample.path): tested.drift for tested in result.tested if tested.drift}
    say(as_json, {**row, "left_out": left_out, "drift": drifted}, *lines)
    finish(unread=bool(left_out), not_comparable=fail_on_drift and bool(drifted))


@app.command()
def predict(
    model: Path,
    images: list[Path],
    out: Annotated[Path | None, typer.Option(help="Folder to write one figure per image to.")] = None,
    masks: Annotated[
        Path | None, typer.Option(help="Folder to write one mask per image to; defects are white.")
    ] = None,
    fail_on_defect: Annotated[
        bool, typer.Option(help="Exit with 1 if an image is not good: defective, or to look at again.")
    ] = False,
    fail_on_drift: FailOnDrift = False,
    threads: option.Threads = None,
    as_json: option.AsJson = False,
) -> None:
    """Inspect images: outcomes, and places of defects. Example: blemish predict model part.png --out figures"""
    from blemish.detectors import registry
    from blemish.types import Problem

    detector = registry.load(model, threads=threads)
    paths, left_out = image_paths(images)
    _check_outputs(paths, out, masks)
    rows, drifts, n_broken, n_defective = [], [], 0, 0
    for i, prediction in enumerate(detector.predict_many(paths)):
        if isinstance(prediction, Problem):
            n_broken += 1
            complain(f"error: {prediction.text}")
            rows.append(_unread(prediction))
            continue
        n_defective += prediction.label
        drifts.append(prediction.drift)
        written = _write_images(detector, prediction, paths[i], i, out, masks)
        outcome = NOT_COMPARABLE if fail_on_drift and prediction.drift else prediction.outcome
        rows.append({**prediction.to_dict(), "outcome": outcome, **written})
        if not as_json:
            print_line(
                _verdict(prediction, paths[i], outcome) + (f"  ({prediction.drift})" if prediction.drift else "")
            )
    if as_json:
        print_json(rows + [_unread(problem) for problem in left_out])
    _warn_of_drift(drifts)
    complain_of(left_out)
    drifted = fail_on_drift and any(drifts)
    finish(unread=bool(n_broken), not_comparable=drifted, defect=fail_on_defect and bool(n_defective))


def _check_outputs(paths: Sequence[Path], out: Path | None, masks: Path | None) -> None:
    """Refuse to replace other files by figures or masks, or one by the other, before anything is judged."""
    from blemish._io.text import output_name
    from blemish.data.outputs import check_replaceable

    if out is not None and masks is not None and os.path.realpath(out) == os.path.realpath(masks):
        raise typer.BadParameter("it is the folder of --out, and masks have the names of figures", param_hint="--masks")
    for folder in (out, masks):
        if folder is not None and folder.is_dir():
            for number, path in enumerate(paths):
                check_replaceable(folder / output_name(number, path, folder))


def _write_images(
    detector: AnyDetector, prediction: Prediction, path: Path, number: int, out: Path | None, masks: Path | None
) -> dict[str, str]:
    """Write figure and mask of a prediction, marked so that a later `predict` leaves them out; return their paths."""
    from blemish._io.text import output_name
    from blemish.data.outputs import save_output
    from blemish.evaluation import load_nearest_good
    from blemish.imaging.decode import load
    from blemish.visualization import figure

    written = {}
    if out is not None:
        image = load(path, bit_depth=detector.bit_depth)
        good_image = load_nearest_good(prediction.nearest_good, detector.bit_depth)
        drawn = figure(image, prediction, title=path.name, good_image=good_image)
        written["figure"] = str(save_output(out / output_name(number, path, out), drawn))
    if masks is not None:
        written["mask"] = str(save_output(masks / output_name(number, path, masks), prediction.mask))
    return written


def _unread(problem: Problem) -> dict[str, Any]:
    """Return the JSON object of a file without a prediction."""
    return {"path": str(problem.path), "score": None, "label": None, "outcome": "not read", "problem": problem.text}


def complain_of(left_out: Sequence[Problem]) -> None:
    """Print one line for each reason why files were not read, with the first files."""
    by_text: dict[str, list[str]] = {}
    for problem in left_out:
        by_text.setdefault(problem.text, []).append(str(problem.path))
    for text, names in by_text.items():
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        complain(f"not read: {', '.join(names[:5])}{more}: {text}")


def opened(data: Path, category: str | None, layout: str | None, group_by: str | None = None) -> DataSet:
    """Return the data set; how it was read, and files that are not used, go to stderr."""
    from blemish.data.datasets import open_dataset

    dataset = open_dataset(data, category=category, layout=layout, group_by=group_by)
    skipped: list[Path] = [*getattr(dataset, "skipped", ()), *getattr(dataset, "unused_masks", ())]
    for note in getattr(dataset, "notes", ()):
        complain(note)
    if skipped:
        rest = f" and {len(skipped) - 3} more" if len(skipped) > 3 else ""
        complain(f"not used: {', '.join(map(str, skipped[:3]))}{rest}. `blemish check` says more.")
    return dataset


def _warn_of_drift(drifts: Sequence[str]) -> None:
    from blemish.imaging.drift import drift_of_most

    warning = drift_of_most(drifts)
    if warning:
        complain(f"warning: {warning}")


def image_paths(images: Sequence[Path]) -> tuple[list[Path], list[Problem]]:
    """Return the images, with those of each folder at any depth, each once; and the files that are not read."""
    from blemish.data.discovery import IMAGE_ENDINGS, find_images, no_images
    from blemish.types import Problem

    paths: dict[str, Path] = {}
    left_out: list[Problem] = []
    for given in images:
        if not given.is_dir():
            paths.setdefault(os.path.realpath(given), given)
            continue
        found = find_images(given)
        if not found.images:
            raise no_images("images", [given], IMAGE_ENDINGS)
        for path in found.images:
            paths.setdefault(os.path.realpath(path), path)
        left_out += [Problem(path, "output", "written by Blemish, not an image of a part.") for path in found.outputs]
        left_out += [Problem(path, "no-image", "no image, by name and content.") for path in found.others]
    return list(paths.values()), left_out


def _verdict(prediction: Prediction, path: Path, outcome: str) -> str:
    from blemish.visualization.primitives import p_value_text

    outcome = {"defective": "DEFECTIVE"}.get(outcome, outcome)
    whole = prediction.label and not prediction.regions
    note = "  (as a whole: no region is above the pixel threshold)" if whole else ""
    score = f"{prediction.score:8.3f} of {prediction.threshold:.3f}"
    return f"{outcome:10}  {score}  {p_value_text(prediction.p_value):10}  {path}{note}"


@app.command()
@option.of_detector
def benchmark(
    make: Callable[[], AnyDetector],
    root: Annotated[Path, typer.Option(help="Folder of categories in MVTec AD's layout.")],
    categories: Annotated[list[str] | None, typer.Option(help="Names of categories; all by default.")] = None,
    cluster: option.Cluster = None,
    json_out: option.JsonOut = None,
    csv_out: option.CsvOut = None,
    report: option.ReportOut = None,
) -> None:
    """Fit and test each category, and the average. Example: blemish benchmark --root R --categories grid bottle"""
    from blemish.data.datasets import categories as all_categories
    from blemish.detectors.registry import Trained

    first = make()  # wrong options are refused before an image is read
    if isinstance(first, Trained) and first.hint:
        complain(first.hint)
    names = [name for part in categories or () for name in part.split(",")] or all_categories(root)
    results: dict[str, Report] = {}
    models: dict[str, AnyDetector] = {}
    failed: dict[str, str] = {}
    rows = _tested_here(make, root, names) if cluster is None else _tested_on(cluster, first, root, names, report)
    with only_ours():
        for name, result, model, error in rows:
            if result is None:
                failed[name] = error
                complain(f"error: {name}: {error}")
            else:
                results[name] = result
            if model is not None:
                models[name] = model
            _write_results([results[name] for name in names if name in results], failed, json_out, csv_out)
    ordered = [name for name in names if name in results]
    _finish([models[name] for name in ordered if name in models], [results[name] for name in ordered], report, failed)


def _tested_here(
    make: Callable[[], AnyDetector], root: Path, names: Sequence[str]
) -> Iterator[tuple[str, Report | None, AnyDetector | None, str]]:
    """Yield name, report, model and error of each category, in order."""
    from blemish.evaluation.engine import Engine

    engine = Engine(progress=Bars())
    for name in names:
        detector = make()
        try:
            result = _fit_and_test(engine, detector, root, name)
        except BlemishError as error:
            yield name, None, None, str(error)
        else:
            yield name, result, detector, ""


def _tested_on(
    cluster: str, detector: AnyDetector, root: Path, names: Sequence[str], report: Path | None
) -> Iterator[tuple[str, Report | None, AnyDetector | None, str]]:
    """Yield name, report, model (if there is a page to write) and error of each category, as they end on a cluster."""
    from blemish.cluster import evaluate_many
    from blemish.cluster.connection import check_installed

    check_installed()
    data = {}
    for name in names:
        dataset, error = _opened_or_error(root, name)
        if dataset is None:
            yield name, None, None, error
        else:
            data[name] = dataset
    address, bars = option.address_of(cluster), Bars()
    evaluated = evaluate_many(data, detector=detector, address=address, with_models=report is not None)
    for done, row in enumerate(evaluated if data else (), start=1):
        yield row.category, row.report, row.model, row.error
        bars("testing", done, len(data))


def _opened_or_error(root: Path, category: str) -> tuple[DataSet | None, str]:
    from blemish.data.datasets import open_dataset

    try:
        return open_dataset(root, category=category), ""
    except BlemishError as error:
        return None, str(error)


def _fit_and_test(engine: Engine, model: AnyDetector, root: Path, category: str) -> Report:
    from blemish.data.datasets import open_dataset

    data = open_dataset(root, category=category)
    engine.fit(model, data)
    return engine.evaluate(model, data)


def _write_results(
    reports: Sequence[Report], failed: Mapping[str, str], json_out: Path | None, csv_out: Path | None
) -> None:
    """Write the results so far: a run over fifteen categories may be stopped at any of them."""
    from blemish.evaluation.engine import average
    from blemish.evaluation.results import numbers, numbers_csv, problem_fields, write_text

    rows = {result.category: numbers(result) for result in reports}
    mean = average(reports) if reports else {}
    if json_out is not None:
        left_out = {result.category: problem_fields(result.problems) for result in reports if result.problems}
        document = {"categories": rows, "average": mean, "left_out": left_out, "failed": dict(failed)}
        write_text(json_out, json.dumps(document, indent=1) + "\n")
    if csv_out is not None:
        write_text(csv_out, numbers_csv({**rows, "average": mean}))


def _finish(
    models: Sequence[AnyDetector], reports: Sequence[Report], report: Path | None, failed: Mapping[str, str]
) -> None:
    from blemish.evaluation.results import numbers_with_average, table, write_html

    if reports:
        say(False, None, *table(numbers_with_average(reports)))
        for result in reports:
            for problem in result.problems:
                complain(f"{result.category}: {problem.text}")
        if report is not None:
            write_html(report, models, reports)
    if failed:
        raise typer.Exit(int(ExitCode.ERROR))
    finish(unread=any(result.problems for result in reports))
