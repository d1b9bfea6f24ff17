"""Command of the thresholds of a model: thresholds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from blemish.cli import options as option
from blemish.cli.console import Bars, say
from blemish.cli.exit_codes import finish

if TYPE_CHECKING:
    from blemish.detectors.base import AnyDetector
    from blemish.evaluation.thresholds import Evidence, ThresholdRow

app = typer.Typer()


@app.command()
def thresholds(
    model: Path,
    good: Annotated[Path | None, typer.Option(help="Good images that were not used for the fit.")] = None,
    labelled: Annotated[Path | None, typer.Option(help="Defective images, or a data set with some.")] = None,
    rate: Annotated[
        float | None, typer.Option("--set", help="Move the model's thresholds to this false positive rate, and save.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Figure to write.")] = None,
    threads: option.Threads = None,
    as_json: option.AsJson = False,
) -> None:
    """Show thresholds by false positive rate, and move them. Example: blemish thresholds model --labelled defects/"""
    from blemish.data.outputs import save_output
    from blemish.detectors import registry
    from blemish.evaluation.thresholds import collect
    from blemish.visualization.rate_chart import rate_figure

    detector = registry.load(model, threads=threads)
    if rate is not None:
        if good or labelled or out:
            raise typer.BadParameter("it goes alone: the table is of the rates before", param_hint="--set")
        _move(detector, model, rate, as_json)
        return
    evidence = collect(detector, good=good, labelled=labelled, progress=Bars())
    rows, best = evidence.rows(), evidence.recommended()
    if out is not None:
        strips = {
            "good, calibration": detector.calibration.scores.tolist(),
            "good, held-out": [item.score for item in evidence.good],
            "synthetic defects": [item.score for item in evidence.synthetic],
            "labelled defects": [item.score for item in evidence.labelled],
        }
        save_output(out, rate_figure(detector.calibration, strips))
    document = {
        "model": str(model),
        "false_positive_rate": detector.false_positive_rate,
        "rates": [row.to_dict() for row in rows],
        "recommended": None if best is None else best.calibration.false_positive_rate,
        "notes": list(evidence.notes),
        "left_out": [problem.text for problem in evidence.problems],
    }
    say(as_json, document, *_lines(rows, evidence, best, model))
    finish(unread=bool(evidence.problems))


def _move(detector: AnyDetector, model: Path, rate: float, as_json: bool) -> None:
    from blemish.evaluation.thresholds import threshold_fields, threshold_sentence

    detector.set_false_positive_rate(rate)
    detector.save(model)
    document = {"model": str(model), "false_positive_rate": rate, **threshold_fields(detector.calibration)}
    say(as_json, document, f"{threshold_sentence(detector.calibration)} Saved in {model}.")


def _lines(rows: list[ThresholdRow], evidence: Evidence, best: ThresholdRow | None, model: Path) -> list[str]:
    from blemish.evaluation.thresholds import ENOUGH, RATES
    from blemish.ops.conformal import percent

    used = [kind for kind in ("good", "synthetic", "labelled") if getattr(rows[0], kind).n]
    lines = [f"{'rate':8}{'threshold':>10}  {'false positives (90 %)':24}" + "".join(f"{kind:>14}" for kind in used)]
    lines += [_line(row, used, evidence.calibration.false_positive_rate) for row in rows]
    lines += _by_kind(rows)
    lines += [*(problem.text for problem in evidence.problems), *evidence.notes]
    if best is not None:
        chosen, (low, high) = best.calibration.false_positive_rate, best.labelled.interval
        found = f"{best.labelled.n_above} of {best.labelled.n} ({100 * low:.0f} to {percent(high)} of such defects)"
        rule = f"the lowest that finds {percent(ENOUGH)} of the labelled defects that {percent(RATES[-1])} finds"
        lines += [f"Recommended: {percent(chosen)}, {rule}. It finds {found}."]
        lines += [f"Set it: blemish thresholds {model} --set {chosen:g}"]
    elif evidence.labelled:
        lines.append(f"No labelled defect is found at {percent(RATES[-1])}: no threshold helps.")
    return lines


def _line(row: ThresholdRow, used: list[str], current: float) -> str:
    from blemish.evaluation.thresholds import interval_text
    from blemish.ops.conformal import percent

    calibration, counts = row.calibration, [getattr(row, kind) for kind in used]
    expected = f"{percent(calibration.false_positive_rate_promised)} ({interval_text(calibration)})"
    above = "".join(f"{f'{count.n_above} of {count.n}':>14}" for count in counts)
    now = "  (now)" if calibration.false_positive_rate == current else ""
    return f"{percent(calibration.false_positive_rate):8}{calibration.threshold:10.4g}  {expected:24}{above}{now}"


def _by_kind(rows: list[ThresholdRow]) -> list[str]:
    from blemish.ops.conformal import percent

    if not rows[0].synthetic.n:
        return []
    head = "".join(f"{percent(row.calibration.false_positive_rate):>8}" for row in rows)
    lines = ["", f"{'Synthetic defects found':24}{head}{'of':>8}"]
    for kind, count in rows[0].synthetic_by_kind.items():
        found = "".join(f"{row.synthetic_by_kind[kind].n_above:>8}" for row in rows)
        lines.append(f"{kind:24}{found}{count.n:>8}")
    return [*lines, ""]
