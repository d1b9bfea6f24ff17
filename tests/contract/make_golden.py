"""Makes the frozen model folders in `golden/` and what they say of the drawn images.

    OMP_NUM_THREADS=1 python -m tests.contract.make_golden FOLDER

Run it only with the version that a frozen folder is to speak for: what 0.1.0 wrote must load and predict the same for
ever, so `golden/` is never made again by newer code; a new format gets a folder of its own beside it.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from blemish import EfficientAd, Patchcore, Prediction
from tests.contract import drawn, names, networks
from tests.contract.command_line import call

N_TRAIN = 24
SEED = 0


def main(folder: Path) -> None:
    folder = folder.resolve()
    images = drawn.golden_images()
    with tempfile.TemporaryDirectory() as work, contextlib.chdir(work):
        good = drawn.write_good(Path("good"), N_TRAIN)
        made = {
            "patchcore": patchcore(good),
            "patchcore_patches": patchcore(good, num_neighbors=3, position_sigma=None, **names.settings(fusion=False)),
            "patchcore_anomalib": imported(patchcore_as_anomalib(good), Patchcore),
            "efficientad": efficientad(good),
            "efficientad_anomalib": imported(
                efficientad(good, border="zero", map_sigma_px=0.0, solve_last=True), EfficientAd
            ),
        }
        for name, model in made.items():
            saved = model.save(Path("models") / name)
            loaded = type(model).load(saved, threads=1)
            store(folder, name, saved, {key: loaded.predict(image) for key, image in images.items()})
    np.savez_compressed(folder / "images.npz", **images)


def patchcore(good: list[Path], **changes: Any) -> Patchcore:
    backbone = networks.write_backbone(Path("tiny.onnx"))
    told = {"backbone": backbone, "layers": networks.LAYERS, "image_size": 64, "seed": SEED, "threads": 1}
    return Patchcore(**{**told, **names.settings(rate=0.05), **changes}).fit(good)


def patchcore_as_anomalib(good: list[Path]) -> Patchcore:
    """Of a ResNet-18 of our own: only networks that anomalib has too go there and back."""
    told: dict[str, Any] = {
        "backbone": "resnet18",
        "weights": networks.write_resnet18(Path("resnet18.safetensors")),
        "image_size": (72, 72),
        "center_crop": (64, 64),
        "num_neighbors": 3,
        "pooling": 3,
        "scaling": "none",
        "position_sigma": None,
        "arithmetic": "anomalib",
        "seed": SEED,
        "threads": 1,
        "coreset_sampling_ratio": 0.01,
    }
    return Patchcore(**told, **names.settings(rate=0.05)).fit(good)


def efficientad(good: list[Path], **changes: Any) -> EfficientAd:
    told: dict[str, Any] = {
        "teacher": networks.write_teacher(Path("teacher.safetensors")), "image_size": 64, "max_steps": 40, "lr": 1e-3,
        "holdout": 0.5, "device": "cpu", "seed": SEED, "threads": 1,
    }  # fmt: skip
    with few_live_channels():
        return EfficientAd(**{**told, **names.settings(rate=0.1), **changes}).fit(good)


def imported(model: Any, kind: type[Any]) -> Any:
    """The same detector by way of an anomalib checkpoint."""
    shutil.rmtree("out", ignore_errors=True)
    model.save("out/model")
    for arguments in (("export-anomalib", "out/model", "out/model.ckpt"), ("import", "out/model.ckpt", "out/again")):
        code, _, said = call(*arguments)
        assert code == 0, said
    return kind.load("out/again", threads=1)


@contextlib.contextmanager
def few_live_channels() -> Iterator[None]:
    """New convolutions have zeros but in a few channels, which training leaves so: the folder packs to a fiftieth."""
    import torch

    usual: Callable[[Any], None] = torch.nn.Conv2d.reset_parameters

    def lean(conv: Any) -> None:
        live_out = networks.LIVE if conv.out_channels in {32, 64, 128, 256} else conv.out_channels
        live_in = min(networks.LIVE, conv.in_channels)
        kernel = torch.empty(live_out, live_in, *conv.kernel_size)
        torch.nn.init.kaiming_uniform_(kernel, nonlinearity="relu")
        with torch.no_grad():
            conv.weight.zero_()
            conv.bias.zero_()
            conv.weight[:live_out, :live_in] = kernel

    torch.nn.Conv2d.reset_parameters = lean
    try:
        yield
    finally:
        torch.nn.Conv2d.reset_parameters = usual


def store(folder: Path, name: str, saved: Path, found: dict[str, Prediction]) -> None:
    """Write a model folder, packed, and its predictions."""
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / f"{name}.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as file:
        for path in sorted(saved.iterdir()):
            file.writestr(zipfile.ZipInfo(path.name, (1980, 1, 1, 0, 0, 0)), path.read_bytes(), zipfile.ZIP_DEFLATED)
    kept: dict[str, Any] = {}
    for key, one in found.items():
        fields = {
            "score": one.score,
            "label": one.label,
            "threshold": one.threshold,
            "pixel_threshold": one.pixel_threshold,
            "p_value": one.p_value,
            "anomaly_map": one.anomaly_map,
            "mask": one.mask,
            "peak_xy": one.peak_xy,
            "boxes": np.array([region.box for region in one.regions], int).reshape(-1, 4),
            "components": sorted(names.components_of(one).values()),
        }
        if one.nearest_good is not None:
            fields |= {"nearest_path": one.nearest_good.path, "nearest_box": one.nearest_good.box}
        kept |= {f"{key}/{field}": np.asarray(value) for field, value in fields.items()}
    np.savez_compressed(folder / f"{name}.npz", **kept)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
