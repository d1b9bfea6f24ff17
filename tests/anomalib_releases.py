"""Checkpoints, scores and maps by one release of anomalib after another, with each release's default settings.

    python -m tests.anomalib_releases      # with a release of anomalib from 0.7 on in the environment

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


# Changes of anomalib 0.7's default configuration: our images and weights, and one processor.
CHANGED = {
    "batch_size: 32": "batch_size: 1",
    "num_workers: 8": "num_workers: 0",
    "backbone: wide_resnet50_2": "backbone: resnet18",
    "pre_trained: true": "pre_trained: false",
    "sampling_ratio: 0.1": "sampling_ratio: 0.004",
    "accelerator: auto": "accelerator: cpu",
    "save_images: True": "save_images: False",
    "log_images: True": "log_images: False",
    "category: bottle": "category: tiles",
    "path: ./datasets/MVTec": "path: {root}",
    "path: ./results": "path: {root}/results",
}


def write_before_1_0() -> None:
    """Write the golden file of anomalib 0.7, which is refused: its configuration file, Lightning 1.9 and transforms."""
    import anomalib
    import torch
    from anomalib.config import get_configurable_parameters
    from anomalib.data import get_datamodule
    from anomalib.models import get_model
    from anomalib.utils.callbacks import get_callbacks
    from pytorch_lightning import Trainer

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_images(root)
        text = (Path(anomalib.__file__).parent / "models/patchcore/config.yaml").read_text(encoding="utf-8")
        for old, new in CHANGED.items():
            text = text.replace(old, new.format(root=root))
        (root / "config.yaml").write_text(text, encoding="utf-8")
        config = get_configurable_parameters(model_name="patchcore", config_path=str(root / "config.yaml"))
        torch.manual_seed(0)
        data, model = get_datamodule(config), get_model(config)
        state = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in weights("resnet18").items()}
        model.model.feature_extractor.feature_extractor.load_state_dict(state, strict=False)
        trainer = Trainer(**config.trainer, logger=False, callbacks=get_callbacks(config))
        trainer.fit(model=model, datamodule=data)
        trainer.save_checkpoint(root / "model.ckpt")
        parts = split((root / "model.ckpt").read_bytes(), weights("resnet18"))
        model.eval()
        results = []
        for rgb in scored():
            with torch.no_grad():
                anomaly_map, score = model.model(data.test_data.transform(image=rgb)["image"][None])
            results.append((float(score.reshape(-1)[0]), anomaly_map[0].squeeze().numpy()))
    write_golden(case("patchcore", anomalib.__version__), parts, results)


def main() -> None:
    import anomalib

    if anomalib.__version__.startswith("0."):
        write_before_1_0()
        return
    for name, make in (("patchcore", fitted_patchcore), ("efficientad", validated_efficientad)):
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            write_images(root)
            model = make(root)
            parts = split((root / "model.ckpt").read_bytes(), weights("resnet18" if name == "patchcore" else name))
        write_golden(case(name, anomalib.__version__), parts, [raw(model, rgb) for rgb in scored()])


if __name__ == "__main__":
    sys.exit(main())
