"""Commands of a store as a whole: store check, store snapshot, store restore."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from blemish.cli import options as option
from blemish.cli.console import say
from blemish.cli.search import ReadOnly, is_read_only, is_url, open_store
from blemish.errors import InputError, StoreError, message

app = typer.Typer(no_args_is_help=True, help="Check, save and restore a store of defects.")

StorePlace = Annotated[str, typer.Argument(help="Folder of the store, or URL of a Qdrant server (QDRANT_API_KEY).")]
MAX_NAMED = 5


@app.command()
def check(store: StorePlace, read_only: ReadOnly = False, as_json: option.AsJson = False) -> None:
    """Read all of a store, and compare it with what it acknowledged. Example: blemish store check s"""
    with open_store(store, None, read_only=read_only or is_read_only(store)) as opened_store:
        found = opened_store.check()
    document = {**found._asdict(), "whole": found.is_whole}
    summary = f"{found.regions} regions and {found.images} images, none lost or changed."
    say(as_json, document, *([summary] if found.is_whole else []))
    if not found.is_whole:
        todo = "Put back a snapshot (store restore), or save what is left (store snapshot --damaged) and restore that."
        got = _lost(found.lost, found.changed)
        raise StoreError(message("store", "all that it acknowledged", got, where=store, todo=todo))


@app.command()
def snapshot(
    store: StorePlace,
    file: Annotated[Path, typer.Argument(help="File to write; an old one is replaced.")],
    damaged: Annotated[
        bool, typer.Option("--damaged", help="Save what can still be read of a damaged folder, and name what is lost.")
    ] = False,
    read_only: ReadOnly = False,
    as_json: option.AsJson = False,
) -> None:
    """Save all regions, images and labels of a store into one file. Example: blemish store snapshot s s.snapshot"""
    if damaged:
        _snapshot_damaged(store, file, as_json)
        return
    with open_store(store, None, read_only=read_only or is_read_only(store)) as opened_store:
        n_points = opened_store.snapshot(file)
    say(as_json, {"saved": n_points, "file": str(file)}, f"{n_points} regions and images saved in {file}.")


@app.command()
def restore(
    file: Annotated[Path, typer.Argument(help="File that `store snapshot` wrote.")],
    store: StorePlace,
    as_json: option.AsJson = False,
) -> None:
    """Make a new store of a snapshot. Example: blemish store restore s.snapshot s2"""
    from blemish.search import restore as restore_store

    if is_url(store):
        n_points = restore_store(file, url=store, api_key=os.environ.get("QDRANT_API_KEY"))
    else:
        n_points = restore_store(file, store)
    say(as_json, {"restored": n_points, "store": store}, f"{n_points} regions and images restored in {store}.")


def _snapshot_damaged(store: str, file: Path, as_json: bool) -> None:
    from blemish.search import salvage

    if is_url(store):
        raise InputError(message("--damaged", "the folder of a store", "a server"))
    found = salvage(store, file)
    n_saved = found.n_points - len(found.changed)
    document = {"saved": n_saved, "file": str(file), "lost": list(found.lost), "changed": list(found.changed)}
    say(as_json, document, f"{n_saved} regions and images saved in {file}; {_lost(found.lost, found.changed)}.")


def _lost(lost: tuple[str, ...], changed: tuple[str, ...]) -> str:
    named = (lost + changed)[:MAX_NAMED]
    return f"{len(lost)} lost and {len(changed)} changed" + (f", such as {', '.join(named)}" if named else "")
