"""The commands for people who come from anomalib: import, export-anomalib, compare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from blemish import cli_options as option
from blemish.console import say

app = typer.Typer()


@app.command("import")
def import_checkpoint(
    checkpoint: Path,
    out: Annotated[Path, typer.Argument(help="Model folder to write.")],
    good: Annotated[
        Path | None, typer.Option(help="Folder of good pictures to set thresholds by; better than the checkpoint's.")
    ] = None,
    false_alarm_rate: option.Rate = 0.01,
    threads: option.Threads = None,
    as_json: option.AsJson = False,
) -> None:
    """Make a model folder of an anomalib checkpoint. Example: blemish import lightning.ckpt model"""
    from blemish.console import Bars
    from blemish.datasets import open_dataset
    from blemish.interop.anomalib import import_checkpoint
    from blemish.modelfile import check_target

    check_target(out)
    pictures = open_dataset(good).train if good is not None else ()
    model = import_checkpoint(
        checkpoint, good=pictures, false_alarm_rate=false_alarm_rate, threads=threads, progress=Bars()
    )
    model.save(out)
    source = model.header()["provenance"]["thresholds_from"]
    lines = [f"Threshold {model.threshold:.3f}, from {source}. Saved in {out}."]
    if good is None:
        lines.insert(0, "It promises no false-alarm rate: give --good to set it by good pictures.")
    document = {"model": str(out), "detector": model.header()["detector"], "threshold": model.threshold}
    say(as_json, {**document, "thresholds_from": source}, *lines)
