"""Commands that work on many machines: cluster fit, cluster predict."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from blemish.cli import options as option
from blemish.cli.console import Bars, complain, only_ours, say
from blemish.cli.exit_codes import ExitCode, finish
from blemish.errors import InputError, message

if TYPE_CHECKING:
    from blemish.cluster import FitPlan, FitResult
    from blemish.detectors.base import AnyDetector
    from blemish.types import Sample

app = typer.Typer(help="Work on many machines, with Ray: needs `pip install 'blemish[cluster]'` on each of them.")

# Images without a prediction that JSON lists, of millions; the Parquet file has all.
MAX_LISTED = 1000
Address = Annotated[
    str | None,
    typer.Option(
        help="Ray cluster to work on: HOST:PORT, or auto for the one that this machine belongs to. Without it, Ray is "
        "started on this machine for this command."
    ),
]


@app.command()
@option.of_detector
def fit(
    make: Callable[[], AnyDetector],
    data: Annotated[list[Path], typer.Argument(help="Data sets, and folders of categories.")],
    out: Annotated[Path, typer.Option(help="Folder to write one model folder for each category to.")],
    address: Address = None,
    layout: option.Layout = None,
    group_by: option.GroupBy = None,
    spread: Annotated[
        bool,
        typer.Option(
            "--spread",
            help="Spread the images of each category that has more than 900,000 patches, some 560 images, over all "
            "nodes, one such category after the other; patchcore only.",
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print images, memory and time of each; fit none.")
    ] = False,
    as_json: option.AsJson = False,
) -> None:
    """Fit a detector for each category, on all nodes. Example: blemish cluster fit images/ --out models"""
    from blemish.cluster import fit_many, plan_fits
    from blemish.cluster.connection import check_installed, connected

    check_installed()
    detector = make()
    images = _categories(data, layout, group_by)
    if dry_run:
        with only_ours(), connected(address) as nodes:
            plan = plan_fits(images, detector, nodes, n_cpus=detector.settings.threads or 1, spread=spread)
        say(as_json, asdict(plan), *_plan_lines(plan, len(nodes)))
        return
    with only_ours():
        results = fit_many(
            images, out, detector=detector, address=address, progress=Bars(), each=_report, spread=spread
        )
    failed = [result for result in results if result.status == "failed"]
    n_fitted = sum(result.status == "fitted" for result in results)
    line = f"{n_fitted} fitted, {len(results) - n_fitted - len(failed)} unchanged, {len(failed)} failed. Models: {out}"
    say(as_json, [_document(result) for result in results], line)
    if failed:
        raise typer.Exit(int(ExitCode.ERROR))
    finish(unread=any(result.left_out for result in results))


@app.command()
def predict(
    model: Path,
    images: Annotated[
        list[str], typer.Argument(help="Folders and images: paths, or URLs such as s3://bucket/folder, of fsspec.")
    ],
    out: Annotated[Path, typer.Option(help="Parquet file to write, one row per image.")],
    address: Address = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of each worker, which are its cores.")] = 1,
    maps: Annotated[bool, typer.Option("--maps", help="Add the anomaly map to each row: 100 to 200 kB.")] = False,
    masks: Annotated[bool, typer.Option("--masks", help="Add the mask to each row, as a PNG file.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print images, memory and time; predict none.")] = False,
    as_json: option.AsJson = False,
) -> None:
    """Predict many images, on all nodes. Example: blemish cluster predict model images/ --out results.parquet"""
    from blemish.cluster.connection import check_installed, connected
    from blemish.cluster.predictions import plan_predictions
    from blemish.cluster.predictions import predict as predict_many

    check_installed()
    if dry_run:
        with only_ours(), connected(address) as nodes:
            plan = plan_predictions(model, images, nodes, threads=threads)
        taken = "" if plan.seconds is None else f", about {plan.seconds:.0f} s"
        at_once = f"{plan.n_at_once} workers of {plan.n_bytes / 2**20:.0f} MB on {len(nodes)} nodes"
        say(as_json, asdict(plan), f"{plan.n_images} images, {at_once}{taken}. Nothing was predicted.")
        return
    unread: dict[str, str] = {}

    def name(path: str, error: str) -> None:
        complain(f"error: {error}")
        if len(unread) < MAX_LISTED:
            unread[path] = error

    with only_ours():
        result = predict_many(
            model, images, out, address=address, threads=threads, maps=maps, masks=masks, progress=Bars(), unread=name
        )
    rate = f" in {result.seconds:.0f} s" if result.n_new else ""
    line = f"{result.n_images} rows in {out}: {result.n_new} new{rate}, {result.n_defective} of them defective"
    document = {**asdict(result), "path": str(result.path), "left_out": unread}
    say(as_json, document, f"{line}, {result.n_unread} not read.")
    finish(unread=bool(result.n_unread))


def _categories(data: Sequence[Path], layout: str | None, group_by: str | None) -> dict[str, tuple[Sample, ...]]:
    """Return the good images of each category in the data sets, and in the folders of several."""
    from blemish.cli.detect import opened
    from blemish.data.datasets import categories

    images: dict[str, tuple[Sample, ...]] = {}
    for path in data:
        is_one = path.is_file() or (path / "train" / "good").is_dir() or not categories(path)
        for category in [None] if is_one else categories(path):
            dataset = opened(path, category, layout, group_by)
            name = path.resolve().stem if category is None and path.is_file() else category or path.resolve().name
            if name in images:
                got = f"two: {images[name][0].path} and {dataset.train[0].path if dataset.train else path}"
                todo = "Fit one of them in a run of its own, or rename its folder."
                raise InputError(message("category", f"one of the name {name}", got, todo=todo))
            images[name] = dataset.train
    return images


def _report(result: FitResult) -> None:
    """Print a line on stderr as soon as a fit ends."""
    if result.status == "failed":
        complain(f"error: {result.category}: {result.error}")
    else:
        taken = f", {result.seconds:.1f} s on {result.node}" if result.status == "fitted" else ""
        complain(f"{result.category}: {result.status}{taken}")
    for text in result.left_out:
        complain(f"{result.category}: {text}")


def _document(result: FitResult) -> dict[str, Any]:
    fields = asdict(result)
    return {**fields, "model": None if result.model is None else str(result.model), "left_out": list(result.left_out)}


def _plan_lines(plan: FitPlan, n_nodes: int) -> list[str]:
    lines = [
        f"{fit.category:20}  {fit.n_images:6} images  {fit.n_bytes / 2**20:7.0f} MB"
        + ("" if fit.seconds is None else f"  {fit.seconds:7.0f} s")
        + (f"  here, with {fit.n_tasks} tasks at once of {fit.task_bytes / 2**20:.0f} MB" if fit.is_spread else "")
        + ("  no node has room for it" if fit.category in plan.no_room else "")
        for fit in plan.fits
    ]
    total = "" if plan.seconds is None else f", about {plan.seconds:.0f} s in all"
    return [*lines, f"{len(plan.fits)} fits on {n_nodes} nodes, {plan.n_at_once} at once{total}. Nothing was fitted."]
