"""Command of training images that look defective: list, draw, drop or confirm them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from blemish.cli import options as option
from blemish.cli.console import Bars, complain, say
from blemish.cli.exit_codes import finish

if TYPE_CHECKING:
    from collections.abc import Sequence

    from blemish.detectors.base import AnyDetector
    from blemish.types import Suspect

app = typer.Typer()
SHOWN = 10


@app.command()
def suspects(
    model: Path,
    images: Annotated[
        list[str] | None, typer.Argument(help="Training images to drop or confirm; all that are listed by default.")
    ] = None,
    drop: Annotated[
        bool,
        typer.Option(
            "--drop", help="Fit again without them; without the files of the others, remove their patches and scores."
        ),
    ] = False,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick", help="With --drop: remove their patches and scores without a new fit, in a second; PatchCore."
        ),
    ] = False,
    confirm: Annotated[bool, typer.Option("--confirm", help="Mark them as good: they are listed no more.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder to write a figure of each listed image to.")] = None,
    as_json: option.AsJson = False,
) -> None:
    """List good images that look defective, drop or confirm them. Example: blemish suspects model --out figures"""
    from blemish.detectors import registry
    from blemish.detectors.suspects import indices_of
    from blemish.errors import InputError, message

    if drop and confirm:
        raise InputError(message("suspects", "--drop or --confirm", "both", todo="Drop some, then confirm others."))
    if quick and not drop:
        raise InputError(message("suspects", "--drop with --quick", "--quick alone"))
    if images and not (drop or confirm):
        raise InputError(message("suspects", "--drop or --confirm", "images alone", todo="Say which."))
    detector = registry.load(model)
    listed = detector.suspects
    not_drawn = {} if out is None else draw(detector, listed, out)
    lines = lines_of(listed, len(listed)) or ["No good image looks defective."]
    document = {"threshold": detector.threshold, "suspects": [suspect._asdict() for suspect in listed]}
    chosen = images or [suspect.path for suspect in listed]
    if (drop or confirm) and chosen:
        changed, how = dropped(detector, chosen, quick=quick) if drop else (detector.confirmed(chosen), "")
        changed.save(model)
        training = detector.fitted.training
        chosen = [training.paths[i] for i in training.alike(indices_of(training, chosen))]
        count = "1 image" if len(chosen) == 1 else f"{len(chosen)} images"
        done = "Dropped" if drop else "Confirmed"
        lines.append(
            f"{done} {count}{how}. Threshold {changed.threshold:.3f}, was {detector.threshold:.3f}. Saved in {model}."
        )
        lines += lines_of(changed.suspects, SHOWN)
        remaining = [suspect._asdict() for suspect in changed.suspects]
        document |= {done.lower(): chosen, "threshold": changed.threshold, "suspects": remaining}
    say(as_json, document | {"not_drawn": not_drawn}, *lines)
    finish(unread=bool(not_drawn))


def dropped(detector: AnyDetector, chosen: Sequence[str], *, quick: bool) -> tuple[AnyDetector, str]:
    """Return the detector without some training images, and how: fitted again where the files of the others are."""
    from blemish.detectors.suspects import indices_of
    from blemish.errors import InputError, ModelFileError

    indices_of(detector.fitted.training, chosen)  # a path that is none is no reason to go on without a fit
    if not quick:
        try:
            return detector.update(without=chosen, progress=Bars()), " and fitted again"
        except (InputError, ModelFileError) as error:
            if detector.name != "patchcore":
                raise
            complain(f"warning: not fitted again: {error}")
    return detector.without(chosen), ": their patches and scores; statistics of all images stay"


def lines_of(listed: Sequence[Suspect], most: int) -> list[str]:
    """Return the lines that list at most so many suspects; none if there are none."""
    if not listed:
        return []
    head = "This good image looks defective" if len(listed) == 1 else f"These {len(listed)} good images look defective"
    more = [f"... and {len(listed) - most} more"] if len(listed) > most else []
    return [f"{head}: look at {'it' if len(listed) == 1 else 'them'}.", *map(_line, listed[:most]), *more]


def _line(suspect: Suspect) -> str:
    return (
        f"{suspect.measure:6} {suspect.score:8.3f} of {suspect.threshold:.3f}  p {suspect.p_value:.2g}  {suspect.path}"
    )


def after_fit(detector: AnyDetector, model: Path) -> list[str]:
    """Return the lines on suspects, and on a training set that no threshold should rest on, after a fit."""
    lines, listed = list(detector.training_warnings), detector.suspects
    if listed:
        lines += lines_of(listed, SHOWN)
        lines.append(
            f"`blemish suspects {model} --out FOLDER` draws them; with --drop they are removed, with --confirm kept."
        )
    return lines


def draw(detector: AnyDetector, listed: Sequence[Suspect], folder: Path) -> dict[str, str]:
    """Write a figure of each suspect, scored without them where the detector can; return those not drawn, and why."""
    from blemish._io.text import output_name
    from blemish.data.outputs import save_output
    from blemish.errors import ImageError, InputError, message
    from blemish.evaluation import load_nearest_good
    from blemish.imaging.decode import load
    from blemish.visualization import figure

    try:
        others = detector.without([suspect.path for suspect in listed])
    except InputError:
        others = detector
    training = detector.fitted.training
    not_drawn: dict[str, str] = {}
    files = dict(
        zip(training.paths, training.files(str(detector.fitted.provenance.get("training_sha256", ""))), strict=True)
    )
    for i, suspect in enumerate(listed):
        path = files[suspect.path]
        if path is None:
            got = "none, or another file of that name"
            not_drawn[suspect.path] = message("image", "the one that the model was fitted on", got, where=suspect.path)
            continue
        try:
            image = load(path, bit_depth=detector.bit_depth)
        except ImageError as error:
            not_drawn[suspect.path] = str(error)
            continue
        prediction = others.predict(image)
        good_image = load_nearest_good(prediction.nearest_good, detector.bit_depth)
        name = output_name(i, path, folder)
        save_output(folder / name, figure(image, prediction, title=path.name, good_image=good_image))
    for text in not_drawn.values():
        complain(f"error: {text}")
    return not_drawn
