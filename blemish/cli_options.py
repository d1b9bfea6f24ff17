"""What the commands can be told, and the detector that follows from it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

if TYPE_CHECKING:
    from blemish.patchcore import Patchcore

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Backbone = Annotated[str, typer.Option(help="A name out of `blemish backbones list`, or an ONNX file.")]
BitDepth = Annotated[int | None, typer.Option(help="Bits that 16-bit pictures really use: 12 for most cameras.")]
Category = Annotated[str | None, typer.Option(help="Category of a folder that holds several.")]
CenterCrop = Annotated[int | None, typer.Option(help="Side of the centre that is cut out; nothing is cut by default.")]
CoresetSize = Annotated[int | None, typer.Option(help="Number of good patches that the bank keeps, instead.")]
CsvOut = Annotated[Path | None, typer.Option("--csv", help="CSV file to write.")]
ImageSize = Annotated[int, typer.Option(help="Side of the network's input in pixels.")]
JsonOut = Annotated[Path | None, typer.Option("--json", help="JSON file to write.")]
Layers = Annotated[str, typer.Option(help="Layers of the backbone, with commas; empty for its usual ones.")]
Neighbors = Annotated[int, typer.Option(help="Bank rows that re-weight the image score; 1 for the plain maximum.")]
Rate = Annotated[float, typer.Option(help="Share of good pictures that may be called defective.")]
Ratio = Annotated[float, typer.Option(help="Share of good patches that the bank keeps.")]
ReportOut = Annotated[Path | None, typer.Option(help="HTML report to write.")]
Seed = Annotated[int, typer.Option(help="Of every random choice.")]
Threads = Annotated[int | None, typer.Option(help="For decoding and for the network; one per core by default.")]
Weights = Annotated[Path | None, typer.Option(help="Weight file of the backbone, instead of the installed one.")]


def patchcore(
    *,
    backbone: Backbone = "efficientnet_lite0",
    layers: Layers = "",
    weights: Weights = None,
    image_size: ImageSize = 320,
    center_crop: CenterCrop = None,
    coreset_ratio: Ratio = 0.02,
    coreset_size: CoresetSize = None,
    neighbors: Neighbors = 1,
    false_alarm_rate: Rate = 0.01,
    bit_depth: BitDepth = None,
    seed: Seed = 0,
    threads: Threads = None,
) -> Patchcore:
    """Return the detector that these options describe."""
    from blemish.patchcore import Patchcore

    return Patchcore(
        backbone=backbone,
        layers=tuple(layers.split(",")) if layers else None,
        weights=weights,
        image_size=image_size,
        center_crop=center_crop,
        coreset_sampling_ratio=coreset_ratio,
        coreset_size=coreset_size,
        num_neighbors=neighbors,
        false_alarm_rate=false_alarm_rate,
        bit_depth=bit_depth,
        seed=seed,
        threads=threads,
    )


def of_detector(command: Callable[..., None]) -> Callable[..., None]:
    """Return the command with the options of `patchcore` as its own; it gets `make`, which makes that detector."""
    # Typer reads signatures; the class is loaded only when a detector is made, and no option is of it.
    later = {"Patchcore": object}
    own, shared = (inspect.signature(function).parameters for function in (command, patchcore))
    hints = {**get_type_hints(command, localns=later, include_extras=True)}
    hints |= get_type_hints(patchcore, localns=later, include_extras=True)
    names = [*(name for name in own if name != "make"), *shared]
    parameters = {**own, **shared}

    @wraps(command)
    def run(**given: Any) -> None:
        command(make=partial(patchcore, **{name: given.pop(name) for name in shared}), **given)

    run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [parameters[name].replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY) for name in names]
    )
    run.__annotations__ = {name: hints[name] for name in names}
    return run
