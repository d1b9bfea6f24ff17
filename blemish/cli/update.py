"""Command of a model that learns from reviewed images: update."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from blemish.cli import options as option
from blemish.cli.console import Bars, complain, say
from blemish.cli.exit_codes import finish
from blemish.cli.suspects import after_fit

app = typer.Typer()


@app.command()
def update(
    model: Path,
    reviewed: Annotated[
        Path,
        typer.Argument(help="Images that people looked at: a folder of good ones, or of good and defective ones."),
    ],
    out: Annotated[Path, typer.Option(help="Model folder to write; the old one stays as it is.")],
    threads: option.Threads = None,
    as_json: option.AsJson = False,
) -> None:
    """Learn the good images of a review, as a new model. Example: blemish update model reviewed/ --out model-2"""
    from blemish.data.datasets import open_dataset
    from blemish.detectors import registry
    from blemish.errors import InputError, message
    from blemish.evaluation.thresholds import threshold_fields, threshold_sentence
    from blemish.evaluation.versions import compare_versions
    from blemish.modelfolder.folder import check_target
    from blemish.search.encoder import prepare_defect_search

    if out.resolve() == model.resolve():
        todo = "Compare the two first; replace the old folder when the new one is better."
        raise InputError(message("out", "another folder than the model's", str(out), todo=todo))
    check_target(out)
    before = registry.load(model, threads=threads)
    dataset = open_dataset(reviewed)
    good = [sample for sample in (*dataset.train, *dataset.test) if not sample.is_defective]
    defective = [sample for sample in dataset.test if sample.is_defective]
    after = before.update(good, progress=Bars())
    prepare_defect_search(after, progress=Bars())
    after.save(out)
    versions = compare_versions(before, after, good, defective, progress=Bars())
    problems = {str(problem.path): problem.text for problem in (*versions.problems, *after.problems)}
    left_out = list(problems.values())
    for line in left_out:
        complain(line)
    document = {
        "model": str(out),
        **threshold_fields(after.calibration),
        "learnt": after.fitted.provenance["n_reviewed"],
        **versions.to_dict(),
        "notes": list(after.notes),
        "left_out": left_out,
        "suspects": [suspect._asdict() for suspect in after.suspects],
    }
    lines = [f"Learnt {after.fitted.provenance['n_reviewed']} images.", *versions.lines(), *after_fit(after, out)]
    lines += [*after.notes, f"{threshold_sentence(after.calibration)} Saved in {out}."]
    say(as_json, document, *lines)
    finish(unread=bool(left_out))
