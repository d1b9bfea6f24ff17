"""What the commands can be told, and the detector that follows from it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from copy import copy
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_type_hints

import typer

if TYPE_CHECKING:
    from blemish.detectors.efficientad.detector import EfficientAd
    from blemish.detectors.patchcore.detector import Patchcore

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Backbone = Annotated[str, typer.Option(help="A name out of `blemish backbones list`, or an ONNX file.")]
BatchSize = Annotated[int, typer.Option(help="Good images a training step.")]
BitDepth = Annotated[int | None, typer.Option(help="Bits that 16-bit images really use: 12 for most cameras.")]
Budget = Annotated[str, typer.Option(help="Time for the whole fit, such as 10m: plans steps and parts of images.")]
Category = Annotated[str | None, typer.Option(help="Category of a folder that holds several.")]
CenterCrop = Annotated[int | None, typer.Option(help="Side of the centre that is cut out; nothing is cut by default.")]
CheckpointFile = Annotated[Path | None, typer.Option(help="File for the training's state; goes on from it if there.")]
CoresetSize = Annotated[int | None, typer.Option(help="Number of good patches that the bank keeps, instead.")]
Crop = Annotated[int | None, typer.Option(help="Outputs a side that a step looks at; all by default, or as planned.")]
CsvOut = Annotated[Path | None, typer.Option("--csv", help="CSV file to write.")]
Device = Annotated[str, typer.Option(help="Where to train, such as cpu or cuda; a GPU where there is one.")]
Holdout = Annotated[float, typer.Option(help="Share of good images kept for quantiles and the threshold.")]
ImageSize = Annotated[int, typer.Option(help="Side of the network's input in pixels.")]
JsonOut = Annotated[Path | None, typer.Option("--json", help="JSON file to write.")]
Layers = Annotated[str, typer.Option(help="Layers of the backbone, with commas; empty for its usual ones.")]
LearningRate = Annotated[float, typer.Option(help="Adam's learning rate.")]
MaxEpochs = Annotated[int | None, typer.Option(help="Train at most so many times each image.")]
MaxSteps = Annotated[int, typer.Option(help="Train at most so many steps.")]
Model = Annotated[str, typer.Option(help="The detector: patchcore or efficientad, which trains and needs torch.")]
ModelSize = Annotated[str, typer.Option(help="Networks: small or medium.")]
Neighbors = Annotated[int, typer.Option(help="Bank rows that re-weight the image score; 1 for the plain maximum.")]
PenaltyIn = Annotated[Path | None, typer.Option(help="Photographs of other things; some are drawn if none are given.")]
Rate = Annotated[float, typer.Option(help="Share of good images that may be called defective.")]
Ratio = Annotated[float, typer.Option(help="Share of good patches that the bank keeps.")]
ReportOut = Annotated[Path | None, typer.Option(help="HTML report to write.")]
Seed = Annotated[int, typer.Option(help="Of every random choice.")]
TeacherFile = Annotated[Path | None, typer.Option(help="Weights of a teacher, instead of the ones in the package.")]
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
    false_positive_rate: Rate = 0.01,
    bit_depth: BitDepth = None,
    seed: Seed = 0,
    threads: Threads = None,
) -> Patchcore:
    """Return the detector that these options describe."""
    from blemish.detectors.patchcore.detector import Patchcore

    return Patchcore(
        backbone=backbone,
        layers=tuple(layers.split(",")) if layers else None,
        weights=weights,
        image_size=image_size,
        center_crop=center_crop,
        coreset_sampling_ratio=coreset_ratio,
        coreset_size=coreset_size,
        num_neighbors=neighbors,
        false_positive_rate=false_positive_rate,
        bit_depth=bit_depth,
        seed=seed,
        threads=threads,
    )


def efficientad(
    *,
    model_size: ModelSize = "small",
    teacher: TeacherFile = None,
    image_size: ImageSize = 256,
    center_crop: CenterCrop = None,
    budget: Budget = "",
    max_steps: MaxSteps = 70_000,
    max_epochs: MaxEpochs = None,
    batch_size: BatchSize = 1,
    crop: Crop = None,
    lr: LearningRate = 1e-4,
    holdout: Holdout = 0.2,
    penalty: PenaltyIn = None,
    checkpoint: CheckpointFile = None,
    device: Device = "",
    false_positive_rate: Rate = 0.01,
    bit_depth: BitDepth = None,
    seed: Seed = 0,
    threads: Threads = None,
) -> EfficientAd:
    """Return the detector that these options describe."""
    from blemish.detectors.efficientad.detector import EfficientAd

    return EfficientAd(
        model_size=model_size,
        teacher=teacher,
        image_size=image_size,
        center_crop=center_crop,
        budget=budget or None,
        max_steps=max_steps,
        max_epochs=max_epochs,
        batch_size=batch_size,
        crop=crop,
        lr=lr,
        holdout=holdout,
        imagenet_dir=penalty,
        checkpoint=checkpoint,
        device=device or None,
        false_positive_rate=false_positive_rate,
        bit_depth=bit_depth,
        seed=seed,
        threads=threads,
    )


MAKERS: dict[str, Callable[..., Any]] = {"patchcore": patchcore, "efficientad": efficientad}


def make_detector(model: str, given: Mapping[str, Any]) -> Any:
    """Return the detector `model` with the options that were given; None is one that was not.

    Raises:
        typer.BadParameter: if there is no such detector, or an option is of another one.
    """
    if model not in MAKERS:
        raise typer.BadParameter(f"{model} is no detector here; there are {' and '.join(MAKERS)}", param_hint="--model")
    own = inspect.signature(MAKERS[model]).parameters
    chosen = {name: value for name, value in given.items() if value is not None}
    for name in chosen:
        if name not in own:
            other = next(kind for kind, maker in MAKERS.items() if name in inspect.signature(maker).parameters)
            text = f"it is an option of {other}, and --model is {model}"
            raise typer.BadParameter(text, param_hint=f"--{name.replace('_', '-')}")
    return MAKERS[model](**chosen)


def of_detector(command: Callable[..., None]) -> Callable[..., None]:
    """Return the command with `--model` and the options of all detectors as its own; it gets `make`.

    An option's default is that of the detector: on the command line it is None, which says that it was not given.
    """
    own = inspect.signature(command).parameters
    hints = _hints(command)
    parameters = [own[name].replace(annotation=hints[name]) for name in own if name != "make"]
    kinds = inspect.Parameter.KEYWORD_ONLY
    parameters.append(inspect.Parameter("model", kinds, default="patchcore", annotation=Model))
    shared = _shared_options()
    parameters += [inspect.Parameter(name, kinds, default=None, annotation=hint) for name, hint in shared.items()]

    @wraps(command)
    def run(**given: Any) -> None:
        options = {name: given.pop(name) for name in shared}
        command(make=partial(make_detector, given.pop("model"), options), **given)

    run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [parameter.replace(kind=kinds) for parameter in parameters]
    )
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """Return a function's annotations; the detectors' classes are loaded only when one is made."""
    later = {"Patchcore": object, "EfficientAd": object, "Calibrated": object}
    return get_type_hints(function, localns=later, include_extras=True)


def _shared_options() -> dict[str, Any]:
    """Return each option of any detector, None where it is not given, its help with the detectors' defaults."""
    found: dict[str, Any] = {}
    for name in dict.fromkeys(name for maker in MAKERS.values() for name in inspect.signature(maker).parameters):
        makers = {kind: maker for kind, maker in MAKERS.items() if name in inspect.signature(maker).parameters}
        kind, info = get_args(_hints(next(iter(makers.values())))[name])
        defaults = {kind: inspect.signature(maker).parameters[name].default for kind, maker in makers.items()}
        told = {of: "" if value in (None, "") else f" {value}" for of, value in defaults.items()}
        if len(makers) < len(MAKERS):
            note = ", ".join(f"{of}{value}" for of, value in told.items())
        elif len(set(told.values())) == 1:
            note = next(iter(told.values())).strip()
        else:
            note = ", ".join(f"{of}{value}" for of, value in told.items())
        changed = copy(info)
        changed.help = f"{info.help} [{note}]" if note else info.help
        found[name] = Annotated[kind | None, changed]
    return found
