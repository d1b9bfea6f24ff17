"""The commands about EfficientAD's teacher: distilling one, and what one of its outputs sees."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from blemish.cli import options as option
from blemish.cli.console import Bars, say
from blemish.errors import InputError, message

if TYPE_CHECKING:
    from blemish.ops.receptive_field import Layer

app = typer.Typer(no_args_is_help=True)
SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}
MODELS = {"efficientad-s": "small", "efficientad-m": "medium"}


def duration_s(text: str) -> float:
    """Return the seconds of `90s`, `10m`, `1.5h` or a plain number of seconds.

    Raises:
        InputError: if it is none of these.

    >>> duration_s("10m")
    600.0
    """
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smh]?)", text.strip().lower())
    if match is None or float(match[1]) <= 0:
        raise InputError(message("budget", "a time such as 90s, 10m or 1.5h", repr(text[:40])))
    return float(match[1]) * SECONDS[match[2]]


@app.command()
def distill(
    images: Path,
    out: Annotated[Path, typer.Option(help="Weights to write, ending in .safetensors; the card goes beside them.")],
    size: Annotated[str, typer.Option(help="The network: small (PDN-S) or medium (PDN-M).")] = "small",
    steps: Annotated[int | None, typer.Option(help="Updates of the weights; 2000 if there is no --budget.")] = None,
    budget: Annotated[
        str | None, typer.Option(help="Time for the steps instead, such as 30m; their number is planned.")
    ] = None,
    batch: Annotated[int, typer.Option(help="Crops per step.")] = 8,
    rate: Annotated[float, typer.Option(help="Share of their length that kernels move by in a step, at most.")] = 0.02,
    backbone: option.Backbone = "efficientnet_lite2",
    layers: Annotated[str, typer.Option(help="Its layers to learn, with commas.")] = "blocks.6,blocks.14",
    max_images: Annotated[int | None, typer.Option(help="Take only so many, in the order of their names.")] = None,
    image_licence: Annotated[str, typer.Option(help="Of the images, for the card.")] = "",
    work: Annotated[Path | None, typer.Option(help="Folder for crops, checkpoint and loss curve.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; a GPU where there is one.")] = None,
    threads: option.Threads = None,
    seed: option.Seed = 0,
    as_json: option.AsJson = False,
) -> None:
    """Make a teacher for EfficientAD from natural images and a pretrained network; goes on after a kill.

    Example: blemish distill photographs/ --out teacher.safetensors --budget 30m
    """
    from blemish.detectors.efficientad.distillation.distill import DistillSettings, distill
    from blemish.detectors.efficientad.distillation.targets import TargetSettings
    from blemish.detectors.efficientad.pdn import check_size

    budget_s = None if budget is None else duration_s(budget)
    planned = 2000 if steps is None and budget is None else steps
    settings = DistillSettings(check_size(size), planned, budget_s, batch=batch, rate=rate, seed=seed)
    names = tuple(name.strip() for name in layers.split(",") if name.strip())
    targets = TargetSettings(backbone, names, max_images=max_images, seed=seed)
    card = distill(
        images,
        out,
        settings=settings,
        targets=targets,
        work=work,
        device=device,
        licence=image_licence,
        threads=threads,
        progress=Lines(),
    )
    loss, left_out = card["loss"], card["images"]["left_out"]
    lines = [f"{left_out} images could not be read."] if left_out else []
    reached, nothing = loss["held_out_after_solving_last_layer"], loss["held_out_if_nothing_is_learnt"]
    lines.append(
        f"{card['network']} after {card['learning']['steps']} steps: held-out loss {reached:.3f},"
        f" {nothing:.3f} if nothing were learnt. Saved in {out}."
    )
    say(as_json, card, *lines)


class Lines:
    """Progress on stderr: bars on a terminal, else at most twenty lines a stage."""

    def __init__(self) -> None:
        self.bars = Bars()
        self.shown: dict[str, int] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Show that `done` of `total` are done; a stage is named by its text up to the first comma."""
        if sys.stderr.isatty():
            self.bars(stage, done, total)
            return
        name, part = stage.partition(",")[0], 20 * done // max(total, 1)
        if self.shown.get(name) != part:
            self.shown[name] = part
            print(f"{stage}: {done} of {total}", file=sys.stderr)


@app.command("receptive-field")
def receptive_field(
    stack: Annotated[str | None, typer.Argument(help="Layers, such as conv4,pool2/2,conv3/2p1.")] = None,
    model: Annotated[str | None, typer.Option(help="efficientad-s or efficientad-m.")] = None,
    padding: Annotated[bool, typer.Option(help="With --model: the network pads.")] = False,
    backbone: Annotated[
        str | None, typer.Option(help="A name out of `blemish backbones list`, or an ONNX file.")
    ] = None,
    layer: Annotated[str | None, typer.Option(help="Which of its layers.")] = None,
    size: Annotated[int | None, typer.Option(help="Side of the image; by default what one output sees.")] = None,
    image: Annotated[Path | None, typer.Option(help="Image to draw the field of an output on.")] = None,
    out: Annotated[Path | None, typer.Option(help="Where to write that drawing, a PNG.")] = None,
    cell: Annotated[str | None, typer.Option(help="Row and column of the output, such as 3,5; the middle one.")] = None,
    as_json: option.AsJson = False,
) -> None:
    """Derive, step by step, which patch of the image one output of a network describes.

    Example: blemish receptive-field --model efficientad-s --image part.png --out field.png
    """
    from blemish.ops.receptive_field import derive, explain
    from blemish.ops.receptive_field import receptive_field as field_of

    name, layers = _chosen(stack, model, padding, backbone, layer)
    if (image is None) != (out is None):
        got = "--image alone" if out is None else "--out alone"
        raise InputError(message("drawing", "--image and --out together", got))
    steps = derive(layers, size)
    field = field_of(layers)
    drawn = None if image is None or out is None else str(_draw(layers, image, out, size, cell))
    rows = [
        {"name": step.name, "map": step.size, "sees_px": step.field.size, "stride_px": step.field.stride}
        for step in steps
    ]
    document: dict[str, Any] = {
        "network": name,
        "receptive_field_px": field.size,
        "stride_px": field.stride,
        "first_px": field.first,
        "first_centre_px": field.centre,
        "steps": rows,
        "drawing": drawn,
    }
    say(as_json, document, f"{name}:", "", *explain(steps), *([f"Drawing: {drawn}"] if drawn else []))


def _chosen(
    stack: str | None, model: str | None, padding: bool, backbone: str | None, layer: str | None
) -> tuple[str, tuple[Layer, ...]]:
    """Return the name and the layers of what was asked for."""
    given = [name for name, value in (("a stack", stack), ("--model", model), ("--backbone", backbone)) if value]
    if len(given) > 1:
        raise InputError(message("network", "a stack, --model or --backbone", " and ".join(given)))
    if stack:
        from blemish.ops.receptive_field import parse_stack

        return stack, parse_stack(stack)
    if backbone:
        from blemish._graphs.receptive_field import graph_stack
        from blemish.backbones.backbone import build

        built = build(backbone, layers=[layer] if layer else None)
        last = built.layers[-1]
        return f"{built.name}, layer {last}", graph_stack(built.model, last)
    from blemish.detectors.efficientad.pdn import layers

    chosen = model or "efficientad-s"
    if chosen not in MODELS:
        raise InputError(message("model", " or ".join(MODELS), repr(chosen)))
    size = "small" if MODELS[chosen] == "small" else "medium"
    return f"{chosen}, {'with' if padding else 'without'} padding", layers(size, padding=padding)  # type: ignore[arg-type]


def _draw(layers: tuple[Layer, ...], image: Path, out: Path, size: int | None, cell: str | None) -> Path:
    """Write the drawing of an output's field on an image; return its path."""
    from blemish.imaging.decode import load, resize, save
    from blemish.ops.receptive_field import derive
    from blemish.ops.receptive_field import receptive_field as field_of
    from blemish.visualization import field_figure

    shown = load(image)
    if size is not None:
        shown = resize(shown, (size, size))
    elif max(shown.shape[:2]) > 256:
        by = 256 / max(shown.shape[:2])
        shown = resize(shown, (max(1, round(shown.shape[0] * by)), max(1, round(shown.shape[1] * by))))
    height, width = shown.shape[0], shown.shape[1]
    hw = derive(layers, height)[-1].size, derive(layers, width)[-1].size
    place = None
    if cell is not None:
        match = re.fullmatch(r"\s*([0-9]+)\s*,\s*([0-9]+)\s*", cell)
        if match is None:
            raise InputError(message("cell", "a row and a column such as 3,5", repr(cell[:40])))
        place = int(match[1]), int(match[2])
    return save(out, field_figure(shown, field_of(layers), hw, place))
