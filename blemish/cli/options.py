"""Options of the command line; those of the detectors follow from their settings."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import Field
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from blemish.detectors.registry import DETECTORS, detector_type, settings_type
from blemish.detectors.settings import options

if TYPE_CHECKING:
    from blemish.detectors.base import AnyDetector

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Backbone = Annotated[str, typer.Option(help="Name from `blemish backbones list`, or an ONNX file.")]
Category = Annotated[str | None, typer.Option(help="Category, if the folder holds several.")]
CsvOut = Annotated[Path | None, typer.Option("--csv", help="CSV file to write.")]
JsonOut = Annotated[Path | None, typer.Option("--json", help="JSON file to write.")]
GroupBy = Annotated[
    str | None,
    typer.Option(
        help=r"Regular expression of the part that an image shows, such as 'part\d+', searched in its path; images of "
        "one part count once."
    ),
]
Layout = Annotated[
    str | None,
    typer.Option(help="Layout of a public data set to read the folder as, such as visa; recognized if not given."),
]
Layers = Annotated[
    str, typer.Option(help="Layers of the backbone, separated by commas; its default layers if not given.")
]
Model = Annotated[str, typer.Option(help=f"Detector: {', '.join(DETECTORS)}. EfficientAD needs torch.")]
Rate = Annotated[float, typer.Option(help="Share of good images that may be labelled defective.")]
ReportOut = Annotated[Path | None, typer.Option(help="HTML report to write.")]
Seed = Annotated[int, typer.Option(help="Seed of every random choice.")]
Threads = Annotated[int | None, typer.Option(help="Threads for decoding and for the network; one per core by default.")]
Cluster = Annotated[
    str | None,
    typer.Option(help="Ray cluster to work on: HOST:PORT, auto for this machine's, or local to start one here."),
]


def address_of(cluster: str) -> str | None:
    """Return the address that the functions of `blemish.cluster` take."""
    return None if cluster == "local" else cluster


def make_detector(model: str, given: Mapping[str, Any]) -> AnyDetector:
    """Return the detector `model` with the options that were given; None is one that was not.

    Raises:
        typer.BadParameter: if there is no such detector, or an option belongs to another one.
    """
    if model not in DETECTORS:
        known = ", ".join(DETECTORS)
        raise typer.BadParameter(f"{model} is no detector here; there are {known}", param_hint="--model")
    fields = options(settings_type(model))
    arguments = {}
    for name, value in given.items():
        if value is None:
            continue
        if name not in fields:
            owners = [other for other in DETECTORS if name in options(settings_type(other))]
            text = f"it is an option of {' and '.join(owners)}, and --model is {model}"
            raise typer.BadParameter(text, param_hint=f"--{name}")
        arguments[fields[name].name] = fields[name].metadata["option"].parse(value)
    return detector_type(model)(**arguments)


def of_detector(command: Callable[..., None]) -> Callable[..., None]:
    """Return the command with `--model` and the options of all detectors as its own; it gets `make`.

    On the command line each is None where it was not given: the detector's own default then holds.
    """
    # Not by get_type_hints, which on Python 3.10 hides an option whose default is None in an Optional of its own.
    own = inspect.signature(command, locals={"AnyDetector": Any}, eval_str=True).parameters
    parameters = [own[name] for name in own if name != "make"]
    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters.append(inspect.Parameter("model", keyword, default="patchcore", annotation=Model))
    annotations = _detector_options()
    arguments = {name.replace("-", "_"): name for name in annotations}
    for argument, name in arguments.items():
        parameters.append(inspect.Parameter(argument, keyword, default=None, annotation=annotations[name]))

    @wraps(command)
    def run(**given: Any) -> None:
        detector_options = {name: given.pop(argument) for argument, name in arguments.items()}
        command(make=partial(make_detector, given.pop("model"), detector_options), **given)

    run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [parameter.replace(kind=keyword) for parameter in parameters]
    )
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _detector_options() -> dict[str, Any]:
    """Return the annotation of each option of any detector: those of several detectors first."""
    fields = {model: options(settings_type(model)) for model in DETECTORS}
    names = dict.fromkeys(name for own in fields.values() for name in own)
    owners = {name: {model: own[name] for model, own in fields.items() if name in own} for name in names}
    # Sorting is stable: within a group the order is that of the detectors and of their fields.
    return {name: _annotation(name, owners[name]) for name in sorted(names, key=lambda name: -len(owners[name]))}


def _annotation(name: str, owners: Mapping[str, Field[Any]]) -> Any:
    """Return the annotation of an option; its help ends with the detectors that have it and their defaults."""
    defaults = {model: "" if field.default is None else f" {field.default}" for model, field in owners.items()}
    if len(owners) == len(DETECTORS) and len(set(defaults.values())) == 1:
        note = next(iter(defaults.values())).strip()
    else:
        note = ", ".join(f"{model}{default}" for model, default in defaults.items())
    field = next(iter(owners.values()))
    kind = field.metadata["option"].kind
    help_text = f"{field.metadata['help']} [{note}]" if note else field.metadata["help"]
    return Annotated[(Path if kind is os.PathLike else kind) | None, typer.Option(f"--{name}", help=help_text)]
