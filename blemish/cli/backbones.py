"""Commands of the pretrained networks: backbones list, backbones fetch."""

from __future__ import annotations

from typing import Annotated

import typer

from blemish.cli import options as option
from blemish.cli.console import complain, say

app = typer.Typer(no_args_is_help=True, help="List pretrained networks, and fetch their weights.")


@app.command("list")
def list_backbones(as_json: option.AsJson = False) -> None:
    """List the networks. Example: blemish backbones list"""
    from blemish.backbones import available

    rows = [
        {
            "name": net.name,
            "licence": net.licence,
            "mb": net.download_mb,
            "gmac": net.gmac,
            "present": net.present,
            "source": net.source,
        }
        for net in available()
    ]
    lines = [
        f"{row['name']:20} {'here' if row['present'] else '-':5} {row['mb']:6} MB {row['gmac']:5} GMAC  "
        f"{row['licence']:13} {row['source']}"
        for row in rows
    ]
    say(as_json, rows, *lines)


@app.command("fetch")
def fetch_backbone(
    name: str,
    url: Annotated[str | None, typer.Option(help="Another place for the same file.")] = None,
    as_json: option.AsJson = False,
) -> None:
    """Download a network's weights and check their hash. Example: blemish backbones fetch resnet50"""
    from blemish.backbones import fetch

    def announce(_: str, done: int, total: int) -> None:
        if not done:
            complain(f"Downloading {total / 1e6:.1f} MB.")

    path = fetch(name, url=url, progress=announce)
    say(as_json, {"name": name, "path": str(path)}, str(path))
