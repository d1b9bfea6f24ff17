"""Commands for users of anomalib: import, export-anomalib, compare."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from blemish.cli import options as option
from blemish.cli.console import complain, only_ours, say
from blemish.cli.exit_codes import ExitCode, finish

if TYPE_CHECKING:
    from blemish.interop.anomalib.compare import CategoryJob, Measured

app = typer.Typer()


@app.command("import")
def import_checkpoint(
    checkpoint: Path,
    out: Annotated[Path, typer.Argument(help="Model folder to write.")],
    good: Annotated[
        Path | None,
        typer.Option(
            help="Folder of good images to calibrate the thresholds on; by default the checkpoint's are kept."
        ),
    ] = None,
    release: Annotated[
        str | None,
        typer.Option(help="Version of anomalib that wrote it, such as 2.0.0, where the checkpoint does not say."),
    ] = None,
    false_positive_rate: option.Rate = 0.02,
    threads: option.Threads = None,
    as_json: option.AsJson = False,
) -> None:
    """Convert an anomalib checkpoint to a model folder. Example: blemish import lightning.ckpt model"""
    from blemish.cli.console import Bars
    from blemish.data.datasets import open_dataset
    from blemish.interop.anomalib.checkpoints import import_checkpoint
    from blemish.modelfolder.folder import check_target
    from blemish.search.encoder import prepare_defect_search

    check_target(out)
    images = open_dataset(good).train if good is not None else ()
    model = import_checkpoint(
        checkpoint,
        good=images,
        false_positive_rate=false_positive_rate,
        release=release,
        threads=threads,
        progress=Bars(),
    )
    if good is not None:
        prepare_defect_search(model, images, progress=Bars())
    model.save(out)
    source = model.header()["provenance"]["thresholds_from"]
    lines = [f"Threshold {model.threshold:.3f}, from {source}. Saved in {out}."]
    if good is None:
        lines.insert(0, "The threshold guarantees no false positive rate: give --good to calibrate it on good images.")
    left_out = [problem.text for problem in model.problems]
    document = {"model": str(out), "detector": model.header()["detector"], "threshold": model.threshold}
    say(as_json, {**document, "thresholds_from": source, "left_out": left_out}, *left_out, *lines)
    finish(unread=bool(left_out))


@app.command("export-anomalib")
def export_anomalib(
    model: Path,
    out: Annotated[Path, typer.Argument(help="Checkpoint to write: a .ckpt that anomalib loads.")],
    as_json: option.AsJson = False,
) -> None:
    """Write an anomalib checkpoint with the same scores.

    Example: blemish export-anomalib model out.ckpt
    """
    from blemish.detectors.registry import load
    from blemish.interop.anomalib.checkpoints import export_checkpoint

    path = export_checkpoint(load(model), out)
    megabytes = path.stat().st_size / 2**20
    say(as_json, {"checkpoint": str(path), "mb": megabytes}, f"Saved in {path}, {megabytes:.1f} MB.")


@app.command()
def compare(
    root: Annotated[Path, typer.Option(help="Folder of categories in MVTec AD's layout.")],
    categories: Annotated[list[str] | None, typer.Option(help="Names of categories; all by default.")] = None,
    model: Annotated[str, typer.Option(help="Detector: patchcore.")] = "patchcore",
    backbone: Annotated[str, typer.Option(help="Backbone that both support; both use the installed weights.")] = (
        "efficientnet_lite0"
    ),
    layers: option.Layers = "",
    image_size: Annotated[int, typer.Option(help="Side of the network input in pixels, for both.")] = 256,
    coreset_ratio: Annotated[float, typer.Option(help="Share of the patches that both memory banks keep.")] = 0.1,
    neighbors: Annotated[int, typer.Option(help="Neighbors in the memory bank that re-weight the image score.")] = 9,
    seed: option.Seed = 0,
    timed_picks: Annotated[
        int | None,
        typer.Option(help="Time only so many of anomalib's coreset picks and extrapolate; both then use our coreset."),
    ] = None,
    threads: option.Threads = None,
    json_out: option.JsonOut = None,
    chart: Annotated[Path | None, typer.Option(help="PNG file to write: a bar chart of the comparison.")] = None,
    cluster: option.Cluster = None,
) -> None:
    """Fit and test the installed anomalib and Blemish. Example: blemish compare --root R --categories grid"""
    from blemish.data.datasets import categories as all_categories
    from blemish.evaluation.results import write_text
    from blemish.interop.anomalib.compare import check_categories, table
    from blemish.interop.anomalib.compare import compare as run
    from blemish.interop.anomalib.engine import Settings

    if model != "patchcore":
        raise typer.BadParameter(f"{model} can't be compared; patchcore can", param_hint="--model")
    names = [name for part in categories or () for name in part.split(",")] or all_categories(root)
    check_categories(root, names)
    layer_names = tuple(layers.split(",")) if layers else None
    settings = Settings(backbone, layer_names, image_size, coreset_ratio, neighbors, seed, timed_picks, threads)
    elsewhere = None if cluster is None else partial(_measured_on, cluster)
    with only_ours():
        comparison = run(root, names, settings=settings, say=complain, measure_all=elsewhere)
    if json_out is not None:
        write_text(json_out, json.dumps(comparison.to_dict(), indent=1) + "\n")
    if chart is not None and comparison.categories:
        from blemish.data.outputs import save_output
        from blemish.interop.anomalib.compare_chart import draw

        save_output(chart, draw(comparison))
    say(False, None, *table(comparison))
    if comparison.failed:
        raise typer.Exit(int(ExitCode.ERROR))


def _measured_on(cluster: str, jobs: Sequence[CategoryJob]) -> Iterator[tuple[CategoryJob, Measured]]:
    """Yield each job and what a node of a cluster measured, as they end."""
    from blemish.cluster.exclusive import run_alone
    from blemish.cluster.tasks import TaskError
    from blemish.interop.anomalib.compare import Measured, measure

    files = {str(Path(job.root) / job.category): -1 for job in jobs}
    with closing(run_alone(measure, jobs, files, address=option.address_of(cluster))) as ended:
        for job, outcome in ended:
            yield job, Measured({}, outcome.text) if isinstance(outcome, TaskError) else outcome
