"""Checkpoints, scores and maps by one release of anomalib after another, with each release's default settings.

    python -m tests.anomalib_releases      # with a release of anomalib from 1.0 on in the environment

PatchCore is fitted, and EfficientAD (with random weights: training downloads) validated, by the release's own engine,
which sets thresholds and quantiles and writes the checkpoint. `anomalib_twins` describes the golden files.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from tests.anomalib_twins import N_OUTPUTS, pixels, scored, split, weights, write_golden, write_images

RELEASES = ("1.0.1", "1.1.3", "1.2.0", "2.0.0", "2.1.0", "2.2.0", "2.3.3", "2.4.2", "2.5.1", "2.6.2", "2.7.0")
MODELS = ("patchcore", "efficientad")
# Made by hand: the release's own checkpoints in other forms than the defaults.
VARIANTS: dict[str, dict[str, Any]] = {}


def case(model: str, release: str) -> str:
    """Return the name of a golden file: its model and release line."""
    return f"{model}-{release.rpartition('.')[0]}"


def datamodule(root: Path) -> Any:
    """Return the images in `root` as the release's MVTec AD, with batches of one."""
    from anomalib import data

    layout = getattr(data, "MVTecAD", None) or data.MVTec
    return layout(root=root, category="tiles", train_batch_size=1, eval_batch_size=1, num_workers=0)


def engine(root: Path) -> Any:
    """Return the release's engine."""
    from anomalib.engine import Engine

    return Engine(default_root_dir=root / "results", accelerator="cpu", logger=False)


def fitted_patchcore(root: Path) -> Any:
    """Return PatchCore, fitted: the release's defaults but for the backbone. The checkpoint is `root/model.ckpt`."""
    import torch
    from anomalib.models import Patchcore

    torch.manual_seed(0)
    model = Patchcore(backbone="resnet18", pre_trained=False, coreset_sampling_ratio=0.004)
    state = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in weights("resnet18").items()}
    model.model.feature_extractor.feature_extractor.load_state_dict(state, strict=False)
    fitting = engine(root)
    fitting.fit(model=model, datamodule=datamodule(root))
    fitting.trainer.save_checkpoint(root / "model.ckpt")
    return model.eval()


def validated_efficientad(root: Path) -> Any:
    """Return EfficientAD with our weights, its quantiles and thresholds from the release's validation."""
    import torch
    from anomalib.models import EfficientAd

    model = EfficientAd(teacher_out_channels=N_OUTPUTS)
    state = {name: torch.from_numpy(array) for name, array in weights("efficientad").items()}
    model.load_state_dict(state, strict=False)
    validation = engine(root)
    validation.validate(model=model, datamodule=datamodule(root))
    validation.trainer.save_checkpoint(root / "model.ckpt")
    return model.eval()


def raw(model: Any, rgb: np.ndarray[Any, Any]) -> tuple[float, np.ndarray[Any, Any]]:
    """Return the release's raw score and (h, w) map of an image, before its normalisation."""
    import torch

    processor = getattr(model, "pre_processor", None)
    transform = model.transform if processor is None else processor.transform
    with torch.no_grad():
        output = model.model(transform(pixels(rgb)))
    output = output if isinstance(output, dict) else output._asdict()
    score = output.get("pred_score")
    return float((output["anomaly_map"].max() if score is None else score).reshape(-1)[0]), output["anomaly_map"][
        0
    ].squeeze().numpy()


def main() -> None:
    import anomalib

    for name, make in (("patchcore", fitted_patchcore), ("efficientad", validated_efficientad)):
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            write_images(root)
            model = make(root)
            parts = split((root / "model.ckpt").read_bytes(), weights("resnet18" if name == "patchcore" else name))
        write_golden(case(name, anomalib.__version__), parts, [raw(model, rgb) for rgb in scored()])


if __name__ == "__main__":
    sys.exit(main())
