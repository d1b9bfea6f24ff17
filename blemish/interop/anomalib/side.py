"""Measurement of one side of a comparison, in a process of its own for time and memory.

python -m blemish.interop.anomalib.side '{"side": "anomalib", "root": "DATA", "category": "grid", ...}' OUT.json
"""

from __future__ import annotations

import json
import re
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blemish.types import Sample

if TYPE_CHECKING:
    from blemish.detectors.predictor import Predictor

ANOMALIB, SAME, DEFAULTS = "anomalib", "same", "defaults"
SIDES = (ANOMALIB, SAME, DEFAULTS)
MB = 2**20


class Stages:
    """Progress callback that keeps the last time of each stage of a fit."""

    def __init__(self) -> None:
        self.last: dict[str, float] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Keep the time of a stage."""
        del done, total
        self.last[stage] = time.perf_counter()

    def coreset_s(self) -> float:
        """Return the seconds of the coreset, from the last image read to the last row selected."""
        return self.last["coreset"] - self.last["reading images"]


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Fit and evaluate one side, and return its measurements.

    Args:
        job: side, root, category, and the fields of a comparison's `Settings`.
    """
    from blemish.data.datasets import MVTecAD
    from blemish.evaluation.engine import Engine

    data = MVTecAD(job["root"], job["category"])
    before = _cpu_s()
    model, measured = _anomalib(job, data) if job["side"] == ANOMALIB else _blemish(job, data)
    measured |= {"fit_cpu_s": _cpu_s() - before + measured.pop("cpu_saved_s", 0.0), "peak_fit_mb": _peak_mb()}
    report = Engine().evaluate(model, data)
    measured["metrics"] = dict(report.metrics) if job["side"] != ANOMALIB else _without_rates(report.metrics)
    times = sorted(1000 * result.predict_s for result in report.tested)
    measured["predict_cpu_ms"] = _predict_cpu_ms(model, data.test)
    measured |= {"predict_ms": times[len(times) // 2], "peak_mb": _peak_mb(), "n_test": len(times)}
    measured["scores"] = [result.score for result in report.tested]
    if job["side"] == ANOMALIB:
        measured["own"] = model.test()  # type: ignore[attr-defined]
    with tempfile.TemporaryDirectory() as folder:
        saved = model.save(Path(folder) / "model")
        files = [saved] if saved.is_file() else list(saved.iterdir())
        measured["model_mb"] = sum(file.stat().st_size for file in files) / MB
    return measured


def _predict_cpu_ms(model: Predictor, samples: Sequence[Sample]) -> float:
    """Return the mean processor time of predicting an image, in ms, over 30 images."""
    chosen = samples[:: max(1, len(samples) // 30)]
    before = time.process_time()
    for sample in chosen:
        model.predict(sample)
    return 1000 * (time.process_time() - before) / len(chosen)


def _without_rates(metrics: Any) -> dict[str, float]:
    """Return metrics without those of anomalib's threshold, which was chosen on the test images."""
    return {name: value for name, value in metrics.items() if name not in {"false_positive_rate", "miss_rate"}}


def _anomalib(job: dict[str, Any], data: Any) -> tuple[Predictor, dict[str, Any]]:
    from blemish.interop.anomalib.engine import AnomalibPatchcore, Settings

    if job["threads"] is not None:
        import torch

        torch.set_num_threads(job["threads"])
    settings = Settings(**{name: job[name] for name in Settings.__dataclass_fields__})
    model = AnomalibPatchcore(job["root"], job["category"], settings)
    model.fit(data.train)
    return model, dict(model.timings)


def _blemish(job: dict[str, Any], data: Any) -> tuple[Predictor, dict[str, Any]]:
    from blemish.detectors.patchcore.detector import Patchcore
    from blemish.evaluation.engine import Engine
    from blemish.interop.anomalib.engine import shared_layers

    if job["side"] == SAME:
        model = Patchcore(
            backbone=job["backbone"],
            layers=shared_layers(job["backbone"], job["layers"]),
            image_size=(job["image_size"], job["image_size"]),
            coreset_sampling_ratio=job["coreset_sampling_ratio"],
            num_neighbors=job["num_neighbors"],
            pooling=3,
            count_padding=True,
            scaling="none",
            position_sigma=None,
            seed=job["seed"],
            score_fusion=False,
            top_share=0.0,
            threads=job["threads"],
        )
    else:
        model = Patchcore(seed=job["seed"], threads=job["threads"])
    stages = Stages()
    start = time.perf_counter()
    Engine(progress=stages).fit(model, data)
    measured = {"fit_s": time.perf_counter() - start, "coreset_s": stages.coreset_s()}
    return model, {**measured, "n_bank": len(model.fitted.source)}


def _peak_mb() -> float:
    """Return the peak memory of this process, in MB."""
    status = Path("/proc/self/status")
    if status.exists():
        # ru_maxrss includes the memory of the parent process before exec.
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="ascii"))[1]) / 1024  # type: ignore[index]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (MB if sys.platform == "darwin" else 1024)


def _cpu_s() -> float:
    """Return the processor time of this process and its threads, in seconds."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Run the job of the command line and write its measurements."""
    Path(sys.argv[2]).write_text(json.dumps(run(json.loads(sys.argv[1]))), encoding="utf-8")


if __name__ == "__main__":
    main()
