"""Comparison of Blemish with the installed anomalib: same images, weights, size and coreset ratio, one process each."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from blemish._version import __version__
from blemish.errors import BlemishError, DataError, InputError, message
from blemish.interop.anomalib.engine import Settings, find_anomalib, shared_layers
from blemish.interop.anomalib.side import ANOMALIB, DEFAULTS, MB, SAME, SIDES
from blemish.runtime.cores import usable_cores

# The imports that a user's script starts with.
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
    """One line of the comparison: key in the JSON, name in the table, digits after the decimal point."""

    key: str
    name: str
    digits: int


METRICS = (Row("image_AUROC", "image AUROC", 4), Row("pixel_AUROC", "pixel AUROC", 4), Row("AUPRO", "AUPRO", 4))
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
class Comparison:
    """Measurements of all sides.

    Attributes:
        shared: side to numbers that do not depend on the category: import_s, install_mb.
        categories: category to side to numbers.
        failed: category to the reason why it has none.
    """

    settings: Settings
    environment: Mapping[str, str | int]
    shared: Mapping[str, Mapping[str, float]]
    categories: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)

    def numbers(self, category: str, side: str) -> dict[str, float]:
        """Return one side's numbers of one category by `Row.key`."""
        measured = self.categories[category][side]
        return {**self.shared.get(side, self.shared[SAME]), **measured["metrics"], **measured}

    def to_dict(self) -> dict[str, Any]:
        """Return the content of the JSON file."""
        ratios = {name: ratios_of(self, name) for name in self.categories}
        return {**asdict(self), "ratios": ratios}


class CategoryJob(NamedTuple):
    """The comparison of one category.

    Attributes:
        anomalib: the version that has to be installed where it is carried out.
    """

    category: str
    root: str
    settings: Settings
    anomalib: str


class Measured(NamedTuple):
    """What was measured of one category.

    Attributes:
        sides: side to numbers; empty if it failed.
        error: why it failed.
    """

    sides: Mapping[str, Mapping[str, Any]]
    error: str = ""


def compare(
    root: str | os.PathLike[str],
    categories: Sequence[str],
    *,
    settings: Settings,
    say: Callable[[str], object] = str,
    measure_all: Callable[[Sequence[CategoryJob]], Iterable[tuple[CategoryJob, Measured]]] | None = None,
) -> Comparison:
    """Return the comparison of the installed anomalib with Blemish on some categories; one that fails is left out.

    Per category: Blemish with the same settings, anomalib, Blemish with the same settings again, and Blemish with its
    defaults, each in a process of its own; of the two runs with the same settings the slower time counts. Metrics are
    Blemish's, on raw scores and maps of all sides.

    Args:
        measure_all: yields each job and what `measure` returned of it, elsewhere; None to measure one after the other
            here.

    Raises:
        InputError: if anomalib is not installed, or a side lacks a setting.
    """
    anomalib = find_anomalib()
    settings = replace(settings, layers=shared_layers(settings.backbone, settings.layers))
    environment: dict[str, str | int] = {
        "anomalib": anomalib,
        "blemish": __version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": usable_cores(),
    }
    jobs = [CategoryJob(category, os.path.abspath(root), settings, anomalib) for category in categories]  # noqa: PTH100
    sides, failed = dict[str, Mapping[str, Mapping[str, Any]]](), dict[str, str]()
    for job, measured in ((job, measure(job, say)) for job in jobs) if measure_all is None else measure_all(jobs):
        if measured.error:
            say(f"{job.category}: {measured.error}")
            failed[job.category] = measured.error
        else:
            say(f"{job.category}: done")
            sides[job.category] = measured.sides
    ordered = {category: sides[category] for category in categories if category in sides}
    return Comparison(settings, environment, _shared(say), ordered, failed)


def measure(job: CategoryJob, say: Callable[[str], object] = str) -> Measured:
    """Return the measurements of all sides on one category, or why there are none."""
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    try:
        if (found := find_anomalib()) != job.anomalib:
            raise InputError(message("anomalib", job.anomalib, found, todo="Install the same version on each node."))
        for side in (SAME, ANOMALIB, SAME, DEFAULTS):
            say(f"{job.category}: {NAMES[side]}")
            given = {"side": side, "root": job.root, "category": job.category, **asdict(job.settings)}
            runs[side].append(_run(given))
    except BlemishError as error:
        return Measured({}, str(error))
    return Measured({side: _slower(results) for side, results in runs.items()})


def _slower(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the first run's results with the larger of each time and of memory."""
    slower = dict(runs[0])
    for name in slower:
        if name.endswith(("_s", "_ms", "_mb")):
            slower[name] = max(run[name] for run in runs)
    return slower


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


def _run(job: Mapping[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        _python(["-m", "blemish.interop.anomalib.side", json.dumps(job), str(out)], threads=job["threads"])
        measured: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return measured


def _python(arguments: Sequence[str], *, threads: int | None = None) -> str:
    # OpenMP (torch) and OpenBLAS (NumPy) read these when they are loaded.
    limits = {} if threads is None else dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    # Warnings of other packages would hide the error of a side that fails.
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **limits},
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["nothing"]
        raise InputError(message("comparison", "each side to run to its end", lines[-1][:300]))
    return done.stdout


def ratios_of(comparison: Comparison, category: str) -> dict[str, dict[str, float]]:
    """Return the ratio anomalib / Blemish of each cost, for Blemish with the same settings and with its defaults.

    Fits are compared as each library's `Engine.fit`: anomalib's ends with the validation that sets its thresholds,
    Blemish's with its calibration. anomalib's fit without validation is a row of its own.
    """
    anomalib = comparison.numbers(category, ANOMALIB)
    ratios: dict[str, dict[str, float]] = {}
    for side in (SAME, DEFAULTS):
        blemish = comparison.numbers(category, side)
        blemish["without_validation_s"] = blemish["fit_s"]
        ratios[side] = {
            row.key: anomalib[row.key] / blemish[row.key] for row in COSTS if row.key in anomalib and row.key in blemish
        }
    return ratios


def table(comparison: Comparison) -> list[str]:
    """Return the lines of the table: a block per category, a column per side, ratios after Blemish's numbers."""
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
    """Return settings, versions and threads in one line."""
    settings, environment = comparison.settings, comparison.environment
    text = (
        f"{settings.backbone}, layers {', '.join(settings.layers or ())}, {settings.image_size} px, coreset "
        f"{100 * settings.coreset_sampling_ratio:g} %, {settings.num_neighbors} neighbours"
    )
    versions = f"anomalib {environment['anomalib']}, Blemish {environment['blemish']}, Python {environment['python']}"
    threads = settings.threads or environment["cores"]
    return f"{text}; {versions}, {threads} thread{'s' if threads != 1 else ''}"


def check_categories(root: Path, categories: Sequence[str]) -> None:
    """Check, before the first fit, that each category has test images. DataError if a category is absent or has no test
    images.
    """
    from blemish.data.datasets import MVTecAD

    for category in categories:
        if not MVTecAD(root, category).test:
            raise DataError(message("test images", "at least one", "none", where=root / category))


def installed_mb(package: str) -> float | None:
    """Return the installed size, in MB, of a package and its requirements; None if it is not installed.

    Extras count where a requirement names them. Compiled files (.pyc) count.
    """
    names = requirements(package)
    return sum(_bytes(name) for name in names) / MB if names else None


def requirements(package: str) -> set[str]:
    """Return the names of a package and of all installed packages that it requires, directly or not."""
    from packaging.requirements import Requirement

    seen: set[tuple[str, str]] = set()
    waiting = [(package, "")]
    while waiting:
        name, extra = waiting.pop()
        key = _normalized(name), extra
        if key in seen:
            continue
        try:
            required = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        seen.add(key)
        for text in required:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                waiting += [(requirement.name, wanted) for wanted in ("", *requirement.extras)]
    return {name for name, _ in seen}


def _bytes(name: str) -> int:
    distribution = importlib.metadata.distribution(name)
    paths = {Path(str(distribution.locate_file(file))) for file in distribution.files or ()}
    folders = {path.parent for path in paths if path.suffix == ".py"}
    paths |= {cached for folder in folders for cached in (folder / "__pycache__").glob("*.pyc")}
    return sum(path.stat().st_size for path in paths if path.is_file())


def _normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
