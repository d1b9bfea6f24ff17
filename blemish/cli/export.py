"""Commands of other runtimes: export, verify."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from blemish.cli import options as option
from blemish.cli.console import Bars, say
from blemish.cli.exit_codes import finish

if TYPE_CHECKING:
    from collections.abc import Sequence

    from blemish.exporters import Verification
    from blemish.types import Problem

app = typer.Typer()


@app.command()
def export(
    model: Path,
    out: Annotated[Path, typer.Option(help="File to write, ending in .onnx, or in .xml for OpenVINO.")],
    to: Annotated[str, typer.Option(help="Format: onnx or openvino.")] = "onnx",
    image_size: Annotated[
        str | None,
        typer.Option(
            help="Height and width of all images, such as 1080x1920, for a graph of fixed sizes; any by default."
        ),
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Good images to compare on; up to 50 of the calibration set by default.")
    ] = None,
    plain: Annotated[
        bool,
        typer.Option("--plain", help="Keep textbook convolutions, for engines such as TensorRT; only of EfficientAD."),
    ] = False,
    int8: Annotated[
        bool,
        typer.Option("--int8", help="Search PatchCore's memory bank by 8-bit integers; exact distances of a few rows."),
    ] = False,
    threads: option.Threads = None,
    as_json: option.AsJson = False,
) -> None:
    """Export a model as one graph for other runtimes. Example: blemish export model --out model.onnx"""
    from blemish.cli.detect import complain_of, image_paths
    from blemish.exporters import export as export_model

    size = None if image_size is None else _size(image_size)
    paths, left_out = (None, []) if images is None else image_paths([images])
    result = export_model(
        model, out, to=to, image_hw=size, images=paths, plain=plain, int8=int8, threads=threads, progress=Bars()
    )
    say(as_json, _document(result, left_out), *_lines(result), f"Saved in {out}.")
    complain_of(left_out)
    finish(unread=bool(result.problems))


@app.command()
def verify(
    exported: Path,
    images: list[Path],
    model: Annotated[
        Path | None, typer.Option(help="Model folder that was exported; by default the one that the file names.")
    ] = None,
    device: Annotated[str, typer.Option(help="Device that the exported model runs on: cpu, cuda, gpu.")] = "cpu",
    threads: option.Threads = None,
    as_json: option.AsJson = False,
) -> None:
    """Compare an exported model with its model folder. Example: blemish verify model.onnx images/"""
    from blemish.cli.detect import complain_of, image_paths
    from blemish.exporters import verify as verify_model

    paths, left_out = image_paths(images)
    result = verify_model(exported, paths, model=model, device=device, threads=threads, progress=Bars())
    say(as_json, _document(result, left_out), *_lines(result))
    complain_of(left_out)
    finish(unread=bool(result.problems), defect=not result.ok)


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch("([0-9]{1,5})x([0-9]{1,5})", text, re.ASCII)
    if match is None:
        raise typer.BadParameter(f"{text!r} is no height and width such as 1080x1920", param_hint="--image-size")
    return int(match[1]), int(match[2])


def _lines(result: Verification) -> list[str]:
    return [*(problem.text for problem in result.problems), str(result)]


def _document(result: Verification, left_out: Sequence[Problem]) -> dict[str, Any]:
    return {
        "exported": str(result.path),
        "ok": result.ok,
        "n_images": result.n_images,
        "score_difference": result.score_difference,
        "map_difference": result.map_difference,
        "bound": result.bound,
        "labels_differ": len(result.labels_differ),
        "left_out": [problem.text for problem in result.problems],
        "not_read": [str(problem.path) for problem in left_out],
    }
