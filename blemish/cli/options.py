"""Options of the command line; those of the detectors follow from their settings."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from blemish.detectors.registry import DETECTORS, detector_type
from blemish.detectors.settings import options

if TYPE_CHECKING:
    from blemish.detectors.base import AnyDetector

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Backbone = Annotated[str, typer.Option(help="A name out of `blemish backbones list`, or an ONNX file.")]
Category = Annotated[str | None, typer.Option(help="Category of a folder that holds several.")]
CsvOut = Annotated[Path | None, typer.Option("--csv", help="CSV file to write.")]
JsonOut = Annotated[Path | None, typer.Option("--json", help="JSON file to write.")]
Layers = Annotated[str, typer.Option(help="Layers of the backbone, with commas; empty for its usual ones.")]
Model = Annotated[str, typer.Option(help=f"The detector: {', '.join(DETECTORS)}. EfficientAD trains and needs torch.")]
Rate = Annotated[float, typer.Option(help="Share of good images that may be called defective.")]
ReportOut = Annotated[Path | None, typer.Option(help="HTML report to write.")]
Seed = Annotated[int, typer.Option(help="Seed of every random choice.")]
Threads = Annotated[int | None, typer.Option(help="For decoding and for the network; one per core by default.")]


def make_detector(model: str, given: Mapping[str, Any]) -> AnyDetector:
    """Return the detector `model` with the options that were given; None is one that was not.

    Raises:
        typer.BadParameter: if there is no such detector, or an option is of another one.
    """
    if model not in DETECTORS:
        known = ", ".join(DETECTORS)
        raise typer.BadParameter(f"{model} is no detector here; there are {known}", param_hint="--model")
    kind = detector_type(model)
    own = options(kind.settings_type)
    chosen = {}
    for name, value in given.items():
        if value is None:
            continue
        if name not in own:
            others = [other for other in DETECTORS if name in options(detector_type(other).settings_type)]
            text = f"it is an option of {' and '.join(others)}, and --model is {model}"
            raise typer.BadParameter(text, param_hint=f"--{name}")
        chosen[own[name].name] = own[name].metadata["option"].parse(value)
    return kind(**chosen)


def of_detector(command: Callable[..., None]) -> Callable[..., None]:
    """Return the command with `--model` and the options of all detectors as its own; it gets `make`.

    On the command line each is None where it was not given: the detector's own default then holds.
    """
    own = inspect.signature(command).parameters
    hints = get_type_hints(command, localns={"AnyDetector": Any}, include_extras=True)
    parameters = [own[name].replace(annotation=hints[name]) for name in own if name != "make"]
    kinds = inspect.Parameter.KEYWORD_ONLY
    parameters.append(inspect.Parameter("model", kinds, default="patchcore", annotation=Model))
    shared = _detector_options()
    arguments = {name.replace("-", "_"): name for name in shared}
    for argument, name in arguments.items():
        parameters.append(inspect.Parameter(argument, kinds, default=None, annotation=shared[name]))

    @wraps(command)
    def run(**given: Any) -> None:
        chosen = {name: given.pop(argument) for argument, name in arguments.items()}
        command(make=partial(make_detector, given.pop("model"), chosen), **given)

    run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [parameter.replace(kind=kinds) for parameter in parameters]
    )
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _detector_options() -> dict[str, Any]:
    """Return each option of any detector with its help, which says whose it is and what their defaults are."""
    fields = {model: options(detector_type(model).settings_type) for model in DETECTORS}
    found: dict[str, Any] = {}
    for name in dict.fromkeys(name for own in fields.values() for name in own):
        owners = {model: own[name] for model, own in fields.items() if name in own}
        defaults = {model: "" if f.default is None else f" {f.default}" for model, f in owners.items()}
        if len(owners) == len(DETECTORS) and len(set(defaults.values())) == 1:
            note = next(iter(defaults.values())).strip()
        else:
            note = ", ".join(f"{model}{value}" for model, value in defaults.items())
        field = next(iter(owners.values()))
        kind = field.metadata["option"].kind
        help_text = f"{field.metadata['help']} [{note}]" if note else field.metadata["help"]
        hint = Path if kind is os.PathLike else kind
        found[name] = Annotated[hint | None, typer.Option(f"--{name}", help=help_text)]
    return found
