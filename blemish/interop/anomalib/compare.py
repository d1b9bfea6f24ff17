"""anomalib beside Blemish: the same images, weights, size and coreset ratio, each in its own process, in turns."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from blemish._version import __version__
from blemish.errors import DataError, InputError, message
from blemish.interop.anomalib.engine import find_anomalib, shared_layers
from blemish.interop.anomalib.installed import installed_mb
from blemish.interop.anomalib.side import ANOMALIB, DEFAULTS, SAME, SIDES

# What a script starts with.
IMPORTS = {
    ANOMALIB: (
        "from anomalib.data import MVTecAD; from anomalib.engine import Engine; from anomalib.models import Patchcore"
    ),
    SAME: "from blemish import Engine, MVTecAD, Patchcore",
}
N_IMPORTS = 3
NAMES = {ANOMALIB: "anomalib", SAME: "Blemish, same settings", DEFAULTS: "Blemish, its defaults"}


@dataclass(frozen=True)
class Row:
    """One line of the comparison.

    Attributes:
        key: in the JSON.
        name: in the table.
        digits: behind the point.
        less_is_better: whether a ratio says how many times less Blemish takes; metrics have none.
    """

    key: str
    name: str
    digits: int
    less_is_better: bool = True


METRICS = (
    Row("image_AUROC", "image AUROC", 4, False),
    Row("pixel_AUROC", "pixel AUROC", 4, False),
    Row("AUPRO", "AUPRO", 4, False),
)
COSTS = (
    Row("import_s", "import, s", 2),
    Row("fit_s", "fit, s", 1),
    Row("without_validation_s", "  without its validation, s", 1),
    Row("coreset_s", "  coreset, s", 1),
    Row("fit_cpu_s", "  fit, processor time, s", 1),
    Row("predict_ms", "predict an image, ms", 1),
    Row("predict_cpu_ms", "  predict, processor time, ms", 1),
    Row("peak_mb", "peak memory, MB", 0),
    Row("install_mb", "installed, MB", 0),
    Row("model_mb", "saved model, MB", 1),
)


@dataclass(frozen=True)
class Settings:
    """What both sides are told.

    Attributes:
        backbone: a network that both have, by our name; both get the weights that are here.
        layers: by our names; None for strides 8 and 16.
        image_size: side of the network's input.
        coreset_sampling_ratio: share of good patches that the bank keeps.
        num_neighbors: bank rows that re-weight the image score.
        seed: of each side's random choices.
        timed_picks: time so many of anomalib's picks and multiply, instead of hours of all of them; its bank then comes
            from our coreset, which picks the same rows. None to let it do all of its work.
        threads: of each side; None for one per core. 1 on a machine that others use: waiting for each other, threads
            take time that is neither side's.
    """

    backbone: str = "efficientnet_lite0"
    layers: tuple[str, ...] | None = None
    image_size: int = 256
    coreset_sampling_ratio: float = 0.1
    num_neighbors: int = 9
    seed: int = 0
    timed_picks: int | None = None
    threads: int | None = None


@dataclass(frozen=True)
class Comparison:
    """What was measured.

    Attributes:
        settings: what both sides were told.
        environment: versions and machine.
        shared: side to what does not depend on the category: import_s, install_mb.
        categories: category to side to numbers.
    """

    settings: Settings
    environment: Mapping[str, str | int]
    shared: Mapping[str, Mapping[str, float]]
    categories: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)

    def numbers(self, category: str, side: str) -> dict[str, float]:
        """Return one side's numbers of one category by `Row.key`, those that it has."""
        found = self.categories[category][side]
        return {**self.shared.get(side, self.shared[SAME]), **found["metrics"], **found}

    def to_dict(self) -> dict[str, Any]:
        """Return what the JSON file holds."""
        ratios = {name: ratios_of(self, name) for name in self.categories}
        return {**asdict(self), "ratios": ratios}


def compare(
    root: str | os.PathLike[str],
    categories: Sequence[str],
    *,
    settings: Settings,
    say: Callable[[str], object] = str,
) -> Comparison:
    """Return the comparison of the installed anomalib with Blemish on some categories.

    Per category: Blemish with the same settings, anomalib, Blemish with the same settings again, and Blemish with its
    defaults, each in a process of its own; of the two runs with the same settings the slower time counts. Metrics are
    computed by our code on raw scores and maps, for anomalib too.

    Args:
        root: folder of categories in MVTec AD's layout.
        categories: some of them.
        settings: what both sides are told.
        say: called with a line now and then.

    Raises:
        InputError: if anomalib is not installed, a setting is not one that both sides have, or a side failed.
    """
    anomalib = find_anomalib()
    settings = Settings(**{**asdict(settings), "layers": shared_layers(settings.backbone, settings.layers)})
    environment: dict[str, str | int] = {
        "anomalib": anomalib,
        "blemish": __version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": os.cpu_count() or 1,
    }
    measured: dict[str, Mapping[str, Mapping[str, Any]]] = {}
    for category in categories:
        runs: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
        for side in (SAME, ANOMALIB, SAME, DEFAULTS):
            say(f"{category}: {NAMES[side]}")
            runs[side].append(_run({"side": side, "root": str(root), "category": category, **asdict(settings)}))
        measured[category] = {side: _slower(found) for side, found in runs.items()}
    return Comparison(settings, environment, _shared(say), measured)


def _slower(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the first run's results with the larger of each time and of memory."""
    found = dict(runs[0])
    for name in found:
        if name.endswith(("_s", "_ms", "_mb")):
            found[name] = max(run[name] for run in runs)
    return found


def _shared(say: Callable[[str], object]) -> dict[str, dict[str, float]]:
    say("imports")
    times: dict[str, list[float]] = {side: [] for side in IMPORTS}
    for _ in range(N_IMPORTS):
        for side, taken in times.items():
            taken.append(_import_s(IMPORTS[side]))
    shared = {side: {"import_s": statistics.median(taken)} for side, taken in times.items()}
    for side, package in ((ANOMALIB, "anomalib"), (SAME, "blemish")):
        size = installed_mb(package)
        if size is not None:
            shared[side]["install_mb"] = size
    return shared


def _import_s(code: str) -> float:
    timed = f"import time; start = time.perf_counter(); {code}; print(time.perf_counter() - start)"
    return float(_python(["-c", timed]).splitlines()[-1])


def _run(told: Mapping[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        _python(["-m", "blemish.interop.anomalib.side", json.dumps(told), str(out)], threads=told["threads"])
        found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return found


def _python(arguments: Sequence[str], *, threads: int | None = None) -> str:
    # OpenMP and OpenBLAS, under torch and NumPy, read these when they are loaded.
    limits = {} if threads is None else dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    # Warnings of other packages would only bury what a side says when it fails.
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **limits},
    )
    if done.returncode:
        said = done.stderr.strip().splitlines()[-1:] or ["nothing"]
        raise InputError(message("comparison", "each side to run to its end", said[0][:300]))
    return done.stdout


def ratios_of(comparison: Comparison, category: str) -> dict[str, dict[str, float]]:
    """Return, for both ways to run Blemish, how many times less each cost is than anomalib's.

    Fits are compared as each library's `Engine.fit`: anomalib's ends with a validation that sets its thresholds, ours
    with a calibration that sets ours. A coreset or fit of anomalib's "without validation" is shown beside it.
    """
    theirs = comparison.numbers(category, ANOMALIB)
    found: dict[str, dict[str, float]] = {}
    for side in (SAME, DEFAULTS):
        ours = comparison.numbers(category, side)
        ours["without_validation_s"] = ours["fit_s"]
        found[side] = {
            row.key: theirs[row.key] / ours[row.key] for row in COSTS if row.key in theirs and row.key in ours
        }
    return found


def table(comparison: Comparison) -> list[str]:
    """Return the lines of the table: a block per category, a column per side, ratios behind Blemish's numbers."""
    lines = [header(comparison)]
    for category in comparison.categories:
        sides = {side: comparison.numbers(category, side) for side in SIDES}
        ratios = ratios_of(comparison, category)
        lines += ["", f"{category:28}" + "".join(f"{NAMES[side]:>28}" for side in SIDES)]
        for row in (*METRICS, *COSTS):
            cells = []
            for side in SIDES:
                value = sides[side].get(row.key)
                text = "-" if value is None else f"{value:.{row.digits}f}"
                ratio = ratios.get(side, {}).get(row.key)
                cells.append(f"{text}{f'  ({ratio:.1f} x)' if ratio else '':>12}")
            lines.append(f"{row.name:28}" + "".join(f"{cell:>28}" for cell in cells))
        if comparison.settings.timed_picks is not None:
            n_bank = comparison.categories[category][ANOMALIB]["n_bank"]
            lines.append(f"anomalib's coreset and fit: {comparison.settings.timed_picks} of {n_bank:.0f} picks timed")
        own = comparison.categories[category][ANOMALIB]["own"]
        lines.append("anomalib itself reports: " + ", ".join(f"{name} {value:.4f}" for name, value in own.items()))
    return lines


def header(comparison: Comparison) -> str:
    """Return one line that says what was compared with what."""
    told, around = comparison.settings, comparison.environment
    settings = (
        f"{told.backbone}, layers {', '.join(told.layers or ())}, {told.image_size} px, coreset "
        f"{100 * told.coreset_sampling_ratio:g} %, {told.num_neighbors} neighbours"
    )
    versions = f"anomalib {around['anomalib']}, Blemish {around['blemish']}, Python {around['python']}"
    return f"{settings}; {versions}, {told.threads or around['cores']} threads"


def check_categories(root: Path, categories: Sequence[str]) -> None:
    """Raise unless each category is there: better known before the first fit than after.

    Raises:
        DataError: as `MVTecAD` says, or if there are no test images.
    """
    from blemish.data.datasets import MVTecAD

    for category in categories:
        if not MVTecAD(root, category).test:
            raise DataError(message("test images", "at least one", "none", where=root / category))
