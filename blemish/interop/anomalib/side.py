"""One side of a comparison, in a process of its own, so that its time and memory are its own.

python -m blemish.interop.anomalib.side '{"side": "anomalib", "root": "DATA", "category": "grid", ...}' OUT.json
"""

from __future__ import annotations

import json
import re
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from blemish.detectors.base import Predictor
    from blemish.types import Sample

ANOMALIB, SAME, DEFAULTS = "anomalib", "same", "defaults"
SIDES = (ANOMALIB, SAME, DEFAULTS)
MB = 2**20


class Stages:
    """Notes when each stage of a fit was last heard of: progress as detectors report it."""

    def __init__(self) -> None:
        self.last: dict[str, float] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Take progress."""
        del done, total
        self.last[stage] = time.perf_counter()

    def coreset_s(self) -> float:
        """Return how long the coreset took: from the last patch collected to the last row chosen."""
        return self.last["coreset"] - self.last["collecting patches"]


def run(told: dict[str, Any]) -> dict[str, Any]:
    """Fit and test one side, and return what was measured.

    Args:
        told: side, root, category, and what `Settings` of a comparison holds.
    """
    from blemish.data.datasets import MVTecAD
    from blemish.evaluation.engine import Engine

    data = MVTecAD(told["root"], told["category"])
    before = _cpu_s()
    model, found = _anomalib(told, data) if told["side"] == ANOMALIB else _blemish(told, data)
    found |= {"fit_cpu_s": _cpu_s() - before + found.pop("cpu_saved_s", 0.0), "peak_fit_mb": _peak_mb()}
    report = Engine().evaluate(model, data)
    found["metrics"] = dict(report.metrics) if told["side"] != ANOMALIB else _without_rates(report.metrics)
    times = sorted(1000 * one.predict_s for one in report.tested)
    found["predict_cpu_ms"] = _predict_cpu_ms(model, data.test)
    found |= {"predict_ms": times[len(times) // 2], "peak_mb": _peak_mb(), "n_test": len(times)}
    found["scores"] = [one.score for one in report.tested]
    if told["side"] == ANOMALIB:
        found["own"] = model.test()  # type: ignore[attr-defined]
    with tempfile.TemporaryDirectory() as folder:
        saved = model.save(Path(folder) / "model")
        files = [saved] if saved.is_file() else list(saved.iterdir())
        found["model_mb"] = sum(file.stat().st_size for file in files) / MB
    return found


def _predict_cpu_ms(model: Predictor, samples: Sequence[Sample]) -> float:
    """Return the milliseconds of processor time that an image takes, mean of 30: other programs change it little."""
    chosen = samples[:: max(1, len(samples) // 30)]
    before = time.process_time()
    for sample in chosen:
        model.predict(sample)
    return 1000 * (time.process_time() - before) / len(chosen)


def _without_rates(metrics: Any) -> dict[str, float]:
    """Leave out what anomalib's threshold gives: it was chosen on these very images."""
    return {name: value for name, value in metrics.items() if name not in {"false_positive_rate", "miss_rate"}}


def _anomalib(told: dict[str, Any], data: Any) -> tuple[Predictor, dict[str, Any]]:
    from blemish.interop.anomalib.engine import AnomalibPatchcore

    names = ("backbone", "layers", "image_size", "coreset_sampling_ratio", "num_neighbors", "seed", "timed_picks")
    _set_torch_threads(told["threads"])
    model = AnomalibPatchcore(told["root"], told["category"], **{name: told[name] for name in names})
    model.fit(data.train)
    return model, dict(model.timings)


def _set_torch_threads(threads: int | None) -> None:
    import torch

    if threads is not None:
        torch.set_num_threads(threads)


def _blemish(told: dict[str, Any], data: Any) -> tuple[Predictor, dict[str, Any]]:
    from blemish.detectors.patchcore.detector import Patchcore
    from blemish.evaluation.engine import Engine
    from blemish.interop.anomalib.engine import shared_layers

    if told["side"] == SAME:
        model = Patchcore(
            backbone=told["backbone"],
            layers=shared_layers(told["backbone"], told["layers"]),
            image_size=(told["image_size"], told["image_size"]),
            coreset_sampling_ratio=told["coreset_sampling_ratio"],
            num_neighbors=told["num_neighbors"],
            pooling=3,
            scaling="none",
            position_sigma=None,
            seed=told["seed"],
            score_fusion=False,
            threads=told["threads"],
        )
    else:
        model = Patchcore(seed=told["seed"], threads=told["threads"])
    stages = Stages()
    start = time.perf_counter()
    Engine(progress=stages).fit(model, data)
    found = {"fit_s": time.perf_counter() - start, "coreset_s": stages.coreset_s()}
    return model, {**found, "n_bank": len(model.fitted.source)}


def _peak_mb() -> float:
    """Return the most memory that this process has held, in MB."""
    status = Path("/proc/self/status")
    if status.exists():
        # ru_maxrss would count what the process that started this one held.
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="ascii"))[1]) / 1024  # type: ignore[index]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (MB if sys.platform == "darwin" else 1024)


def _cpu_s() -> float:
    """Return the processor time that this process and its threads have taken."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Do what the command line says."""
    Path(sys.argv[2]).write_text(json.dumps(run(json.loads(sys.argv[1]))), encoding="utf-8")


if __name__ == "__main__":
    main()
