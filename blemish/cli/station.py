"""Command of the inspection station: station."""

from __future__ import annotations

import getpass
import os
import sys
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from blemish.cli.console import complain, print_line
from blemish.cli.exit_codes import finish
from blemish.errors import InputError, install, message

if TYPE_CHECKING:
    from blemish.station import InspectionService

app = typer.Typer()
NEEDED = ("fastapi", "uvicorn", "python_multipart", "prometheus_client", "argon2")
PASSWORD = "BLEMISH_PASSWORD"


@app.command()
def station(
    models: Annotated[list[str] | None, typer.Argument(help="Model folders, FOLDER or NAME=FOLDER.")] = None,
    records: Annotated[
        Path | None, typer.Option(help="Folder of the records; station by default, station-demo for the demo.")
    ] = None,
    demo: Annotated[bool, typer.Option("--demo", help="Show a line of drawn parts, with models.")] = False,
    host: Annotated[str, typer.Option(help="Address to listen on; this machine alone by default.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 for any.")] = 8470,
    watch: Annotated[Path | None, typer.Option(help="Folder whose new images are inspected.")] = None,
    watch_model: Annotated[str | None, typer.Option(help="Model for the watched folder, if there are several.")] = None,
    shadow: Annotated[
        list[str] | None,
        typer.Option(help="NAME=FOLDER: run this model beside the one in service as NAME, without changing answers."),
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Images inspected at once; two by default.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of each worker; the cores by default.")] = None,
    max_days: Annotated[
        float | None, typer.Option(help="Remove inspections without a review after so many days.")
    ] = None,
    max_gb: Annotated[float | None, typer.Option(help="Remove the oldest without a review beyond this size.")] = None,
    add_user: Annotated[
        str | None,
        typer.Option(help=f"Add a user or change one, and end; the password is asked for, or read from {PASSWORD}."),
    ] = None,
    role: Annotated[str, typer.Option(help="Role of that user: viewer, operator or admin.")] = "operator",
    remove_user: Annotated[str | None, typer.Option(help="Remove a user, and end.")] = None,
    token: Annotated[str | None, typer.Option(help="Print a new token for a user, for programs, and end.")] = None,
    export: Annotated[Path | None, typer.Option(help="New folder to write inspections to, and end.")] = None,
    export_format: Annotated[
        str,
        typer.Option(
            "--format",
            help="Of that: folders (reviewed images in the layout of MVTec AD), coco (all images with the model's "
            "regions) or csv (a table).",
        ),
    ] = "folders",
    insecure: Annotated[bool, typer.Option("--insecure", help="Listen beyond this machine without users.")] = False,
) -> None:
    """Run an inspection station with a page for operators. Example: blemish station --demo"""
    _check_installed()
    from blemish.station import InspectionService, StationSettings
    from blemish.station.web.options import WebOptions
    from blemish.station.web.server import check_options, serve

    settings = StationSettings(
        n_workers=workers,
        threads=threads,
        max_age_days=max_days,
        max_total_bytes=None if max_gb is None else int(max_gb * 1e9),
    )
    options = WebOptions(host=host, port=port, insecure=insecure)
    folder = records or Path("station-demo" if demo else "station")
    with ExitStack() as stack:
        folders = _folders(models or []) | (_demo_models(folder) if demo else {})
        service = stack.enter_context(
            InspectionService(folder / "records" if demo else folder, folders, settings=settings)
        )
        if add_user or remove_user or token:
            _change_users(service, add=add_user, role=role, remove=remove_user, token=token)
            finish()
            return
        if export is not None:
            _export(service, export, export_format)
            return
        for name, path in _folders(shadow or []).items():
            service.shadows.start(name, path, who="command line")
        check_options(service, options)
        if demo:
            _demo_line(stack, service, folder)
        if watch is not None:
            _watch(stack, service, watch, watch_model)
        serve(service, options, started=lambda address: print_line(f"The station is at {address}"))
    finish()


def _check_installed() -> None:
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        todo = f"{install('blemish[station]')}."
        raise InputError(message("station", "its packages", f"no {', '.join(missing)}", todo=todo))


def _folders(models: list[str]) -> dict[str, Path]:
    """Return name to folder of models that are given as FOLDER or NAME=FOLDER."""
    folders: dict[str, Path] = {}
    for given in models:
        name, sign, folder = given.partition("=")
        path = Path(folder if sign else given)
        key = name if sign else path.resolve().name
        if key in folders:
            raise typer.BadParameter(f"{key} comes twice; name them: A={folders[key]} B={path}", param_hint="MODELS")
        folders[key] = path
    return folders


def _demo_models(folder: Path) -> dict[str, Path]:
    from blemish.cli.console import Bars
    from blemish.station.demo import prepare

    if not (folder / "models").is_dir():
        complain("Drawing parts and fitting two models: about half a minute.")
    return prepare(folder, progress=Bars())


def _demo_line(stack: ExitStack, service: InspectionService, folder: Path) -> None:
    from blemish.station.demo import DemoLine

    stack.callback(DemoLine(service, folder).close)


def _watch(stack: ExitStack, service: InspectionService, folder: Path, model: str | None) -> None:
    from blemish.station.watch import Watch

    service.model(model)
    if not folder.is_dir():
        complain(f"{folder} is no folder yet: it is looked for.")
    stack.callback(Watch(service, folder, model=model).close)


def _change_users(
    service: InspectionService, *, add: str | None, role: str, remove: str | None, token: str | None
) -> None:
    from blemish.station.users import Users

    users, who = Users(service.database), "command line"
    if add is not None:
        users.add(add, _password(add), role, who=who)
        print_line(f"{add} is {role}.")
    if remove is not None:
        users.remove(remove, who=who)
        print_line(f"{remove} is removed.")
    if token is not None:
        print_line(users.new_token(token, who=who))


def _export(service: InspectionService, folder: Path, layout: str) -> None:
    from blemish._io.files import atomic_write
    from blemish.station import InspectionFilter

    if layout == "csv":
        table = atomic_write(folder / "inspections.csv", service.export_csv(InspectionFilter()).encode(), name="table")
        print_line(f"Written: {table}")
        finish()
        return
    if layout not in {"folders", "coco"}:
        raise typer.BadParameter(f"{layout} is none of folders, coco, csv", param_hint="--format")
    write = service.export_folders if layout == "folders" else service.export_coco
    done = write(folder, InspectionFilter())
    print_line(f"{done.n} inspections are in {folder}.")
    for text in done.left_out:
        complain(text)
    finish(unread=bool(done.left_out))


def _password(name: str) -> str:
    given = os.environ.get(PASSWORD)
    if given is not None:
        return given
    if not sys.stdin.isatty():
        todo = f"Set {PASSWORD}, or run it in a terminal."
        raise InputError(message("password", "a terminal to ask for it", "none", todo=todo))
    return getpass.getpass(f"Password of {name}: ")
