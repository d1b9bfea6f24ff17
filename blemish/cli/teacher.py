"""Commands of EfficientAD's teacher and of receptive fields: distill, receptive-field."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from blemish.cli import options as option
from blemish.cli.console import Bars, complain, say
from blemish.cli.exit_codes import finish
from blemish.errors import InputError, message

if TYPE_CHECKING:
    from blemish.ops.receptive_field import Layer

app = typer.Typer(no_args_is_help=True)
MODELS = {"efficientad-s": "small", "efficientad-m": "medium"}


@app.command()
def distill(
    images: Path,
    out: Annotated[
        Path, typer.Option(help="Weights to write, ending in .safetensors; the model card is written beside them.")
    ],
    size: Annotated[str, typer.Option(help="The network: small (PDN-S) or medium (PDN-M).")] = "small",
    steps: Annotated[int | None, typer.Option(help="Training steps; 2000 without --budget.")] = None,
    budget: Annotated[
        str | None, typer.Option(help="Time for the training steps instead of their number, such as 30m.")
    ] = None,
    batch: Annotated[int, typer.Option(help="Crops per step.")] = 8,
    rate: Annotated[float, typer.Option(help="Largest update of a kernel in a step, as a share of its norm.")] = 0.02,
    backbone: option.Backbone = "efficientnet_lite2",
    layers: Annotated[
        str, typer.Option(help="Layers of the backbone to distill, separated by commas.")
    ] = "blocks.6,blocks.14",
    max_images: Annotated[int | None, typer.Option(help="Use only so many images, the first by name.")] = None,
    image_licence: Annotated[str, typer.Option(help="Licence of the images, for the model card.")] = "",
    work: Annotated[Path | None, typer.Option(help="Folder for crops, checkpoint and loss curve.")] = None,
    device: Annotated[
        str | None, typer.Option(help="Device to train on, cpu or cuda; a GPU if torch has one, by default.")
    ] = None,
    threads: option.Threads = None,
    seed: option.Seed = 0,
    as_json: option.AsJson = False,
) -> None:
    """Distill a teacher for EfficientAD. It learns from a pretrained network on natural images.

    An interrupted run resumes.

    Example: blemish distill photographs/ --out teacher.safetensors --budget 30m
    """
    from blemish.detectors.efficientad.distillation.distill import DistillSettings, distill
    from blemish.detectors.efficientad.distillation.targets import TargetSettings
    from blemish.detectors.efficientad.pdn import check_size
    from blemish.detectors.efficientad.settings import check_budget

    budget_s = check_budget("budget", budget)
    n_steps = 2000 if steps is None and budget is None else steps
    size = {"s": "small", "m": "medium"}.get(size, size)
    settings = DistillSettings(check_size(size), n_steps, budget_s, batch=batch, rate=rate, seed=seed)
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
        say=lambda problem: complain(f"error: {problem}"),
    )
    loss, left_out = card["loss"], card["images"]["left_out"]
    lines = [f"{left_out} images could not be read."] if left_out else []
    reached, baseline = loss["held_out_after_solving_last_layer"], loss["held_out_if_nothing_is_learnt"]
    lines.append(
        f"{card['network']} after {card['learning']['steps']} steps: held-out loss {reached:.3f},"
        f" {baseline:.3f} if nothing were learnt. Saved in {out}."
    )
    say(as_json, card, *lines)
    finish(unread=bool(left_out))


class Lines:
    """Progress on stderr: bars on a terminal, else at most twenty lines a stage."""

    def __init__(self) -> None:
        self.bars = Bars()
        self.shown: dict[str, int] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Show that `done` of `total` are done; the name of a stage is its text up to the first comma."""
        if sys.stderr.isatty():
            self.bars(stage, done, total)
            return
        name, part = stage.partition(",")[0], 20 * done // max(total, 1)
        if self.shown.get(name) != part:
            self.shown[name] = part
            complain(f"{stage}: {done} of {total}")


@app.command("receptive-field")
def receptive_field(
    stack: Annotated[str | None, typer.Argument(help="Layers, such as conv4,pool2/2,conv3/2p1.")] = None,
    model: Annotated[str | None, typer.Option(help="efficientad-s or efficientad-m.")] = None,
    padding: Annotated[bool, typer.Option(help="With --model: the network uses zero padding.")] = False,
    backbone: Annotated[str | None, typer.Option(help="Name from `blemish backbones list`, or an ONNX file.")] = None,
    layer: Annotated[
        str | None, typer.Option(help="Layer of the backbone; its last default layer if not given.")
    ] = None,
    size: Annotated[
        int | None, typer.Option(help="Side of the image in pixels; by default the receptive field of one output.")
    ] = None,
    image: Annotated[Path | None, typer.Option(help="Image to draw the receptive field on.")] = None,
    out: Annotated[Path | None, typer.Option(help="PNG file to write the drawing to.")] = None,
    cell: Annotated[
        str | None, typer.Option(help="Row and column of the output, such as 3,5; the central one by default.")
    ] = None,
    as_json: option.AsJson = False,
) -> None:
    """Derive the receptive field of a network's outputs. Each layer is one step of the derivation.

    Example: blemish receptive-field --model efficientad-s --image part.png --out field.png
    """
    from blemish.ops.receptive_field import derive, explain
    from blemish.ops.receptive_field import receptive_field as field_of

    name, layers = _network(stack, model, padding, backbone, layer)
    if (image is None) != (out is None):
        got = "--image alone" if out is None else "--out alone"
        raise InputError(message("drawing", "--image and --out together", got))
    steps = derive(layers, size)
    field = field_of(layers)
    drawing = None if image is None or out is None else str(_draw(layers, image, out, size, cell))
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
        "drawing": drawing,
    }
    say(as_json, document, f"{name}:", "", *explain(steps), *([f"Drawing: {drawing}"] if drawing else []))


def _network(
    stack: str | None, model: str | None, padding: bool, backbone: str | None, layer: str | None
) -> tuple[str, tuple[Layer, ...]]:
    """Return the name and the layers of the requested network."""
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

    name = model or "efficientad-s"
    if name not in MODELS:
        raise InputError(message("model", " or ".join(MODELS), repr(name)))
    size = "small" if MODELS[name] == "small" else "medium"
    return f"{name}, {'with' if padding else 'without'} padding", layers(size, padding=padding)  # type: ignore[arg-type]


def _draw(layers: tuple[Layer, ...], image: Path, out: Path, size: int | None, cell: str | None) -> Path:
    """Write a drawing of an output's receptive field on an image; return its path."""
    from blemish.data.outputs import save_output
    from blemish.imaging.decode import load, resize
    from blemish.ops.receptive_field import derive
    from blemish.ops.receptive_field import receptive_field as field_of
    from blemish.visualization import field_figure

    pixels = load(image)
    if size is not None:
        pixels = resize(pixels, (size, size))
    elif max(pixels.shape[:2]) > 256:
        scale = 256 / max(pixels.shape[:2])
        pixels = resize(pixels, (max(1, round(pixels.shape[0] * scale)), max(1, round(pixels.shape[1] * scale))))
    height, width = pixels.shape[:2]
    hw = derive(layers, height)[-1].size, derive(layers, width)[-1].size
    position = None
    if cell is not None:
        match = re.fullmatch(r"\s*([0-9]+)\s*,\s*([0-9]+)\s*", cell)
        if match is None:
            raise InputError(message("cell", "a row and a column such as 3,5", repr(cell[:40])))
        position = int(match[1]), int(match[2])
    return save_output(out, field_figure(pixels, field_of(layers), hw, position))
