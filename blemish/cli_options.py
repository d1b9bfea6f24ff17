"""What the commands can be told, and the detector that follows from it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    backbone: str,
    layers: str,
    weights: Path | None,
    image_size: int,
    center_crop: int | None,
    coreset_ratio: float,
    coreset_size: int | None,
    neighbors: int,
    false_alarm_rate: float,
    bit_depth: int | None,
    seed: int,
    threads: int | None,
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
