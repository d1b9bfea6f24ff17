"""Checkpoints, scores and maps of the real anomalib, of reproducible images and weights.

    python -m tests.anomalib_twins patchcore     # in an environment with anomalib 2.7: benchmarks/torchvision_shim.py
    python -m tests.anomalib_twins efficientad
    python -m tests.anomalib_twins older         # with anomalib 2.6, which pickles the pre-processor itself

This module wrote `tests/golden/anomalib`, so that other tests run without anomalib. A checkpoint is kept without its
large tensors: `checkpoint` restores these from NumPy's random numbers or the embedded backbone's package.
"""

from __future__ import annotations

import io
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from blemish._io.torch_file import read_checkpoint
from tests import random_weights

GOLDEN = Path(__file__).parent / "golden" / "anomalib"
SIZES = ((256, 256), (300, 400), (180, 140), (512, 640))
N_TRAIN = 4
STEP = 8  # of the map's pixels that are kept
LARGE = 1000  # bytes of a tensor from which on it is made again, if it can be
HUGE = 1_000_000  # bytes of a tensor of which one number alone is kept
N_OUTPUTS = 24  # of EfficientAD's teacher: 384 in the paper; the arithmetic is the same
LITE_STD = (128 / 255,) * 3
LITE_MEAN = (127 / 255,) * 3


def image(number: int, height: int, width: int) -> np.ndarray[Any, Any]:
    """Image `number` of one material, uint8 (height, width, 3): the same tiles, other noise, brighter by number."""
    tiles = random_weights.image(8, height, width)[0].astype(int)
    noise = np.random.default_rng(number).integers(-20, 20, (height, width, 3))
    return np.clip(tiles + noise + 3 * number, 0, 255).astype(np.uint8)


def scored() -> list[np.ndarray[Any, Any]]:
    """The images that are scored: of each size, with a square of other tiles, each its own."""
    images = [image(100 + i, *size) for i, size in enumerate(SIZES)]
    for i, defective in enumerate(images):
        side = 24 + 8 * i
        defective[40 : 40 + side, 50 : 50 + side] = random_weights.image(20 + i, side, side)[0]
    return images


def weights(case: str) -> dict[str, np.ndarray[Any, Any]]:
    """The weights of a case, by the checkpoint's names."""
    if case.startswith("efficientad"):
        return random_weights.efficientad(5, N_OUTPUTS)
    if case in {"resnet18", "older"} or case.startswith("patchcore"):
        return random_weights.resnet(3, depths=(2, 2, 2, 2), bottleneck=False, base=64)
    from blemish.backbones.weights import load_weights
    from blemish.interop.anomalib.timm_names import timm_network, to_timm

    return to_timm(timm_network("tf_efficientnet_lite0"), load_weights("efficientnet_lite0")[0])


def checkpoint(case: str, path: Path) -> Path:
    """Write the checkpoint that anomalib wrote for `case`, byte for byte in its content, and return its path."""
    golden = np.load(GOLDEN / f"{case}.npz")
    made = weights(case)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", golden["pickle"].tobytes())
        file.writestr("archive/version", b"3\n")  # which torch asks for
        for entry in golden.files:
            kind, _, key = entry.partition("/")
            if kind == "kept":
                file.writestr(f"archive/data/{key}", golden[entry].tobytes())
            elif kind == "made":
                file.writestr(f"archive/data/{key}", made[str(golden[entry])].tobytes())
    return path


def split(data: bytes, made: dict[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
    """Return a checkpoint's pickle and tensors, those that can be made again by their names alone.

    A single number that is a view of a huge tensor (thresholds of anomalib 1.x) is kept, the rest of that is zeroed.
    """
    names = {array.tobytes(): name for name, array in made.items() if array.nbytes >= LARGE}
    single = list(read_checkpoint(data, where="", allow_unknown=True)["state_dict"].values())
    numbers = np.array([value for value in single if isinstance(value, np.ndarray) and value.ndim == 0], np.float32)
    parts: dict[str, np.ndarray[Any, Any]] = {}
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        for member in file.namelist():
            content = file.read(member)
            if member.endswith("/data.pkl"):
                parts["pickle"] = np.frombuffer(content, np.uint8)
            elif "/data/" in member:
                key = member.rpartition("/")[2]
                again = names.get(content)
                if not again and len(content) > HUGE:
                    values = np.frombuffer(content, np.float32)
                    content = np.where(np.isin(values, numbers), values, np.float32(0)).tobytes()
                parts[f"made/{key}" if again else f"kept/{key}"] = (
                    np.array(again) if again else np.frombuffer(content, np.uint8)
                )
    return parts


def write_images(root: Path) -> None:
    """Write a category of the images in MVTec AD's layout."""
    from tests.images import write

    for i in range(N_TRAIN):
        write(root / "tiles" / "train" / "good" / f"{i:03}.png", image(i, *SIZES[i % len(SIZES)]))
    for i, defective in enumerate(scored()):
        write(root / "tiles" / "test" / "square" / f"{i:03}.png", defective)
        mask = np.zeros(defective.shape[:2], bool)
        mask[40 : 64 + 8 * i, 50 : 74 + 8 * i] = True
        write(root / "tiles" / "ground_truth" / "square" / f"{i:03}_mask.png", mask)
        write(root / "tiles" / "test" / "good" / f"{i:03}.png", image(50 + i, *SIZES[i]))


def fitted_patchcore(case: str, root: Path) -> Any:
    """Return anomalib's PatchCore, fitted on the images in `root` by its own engine."""
    import torch
    from anomalib.data import MVTecAD
    from anomalib.engine import Engine
    from anomalib.models import Patchcore
    from anomalib.pre_processing import PreProcessor
    from torchvision.transforms.v2 import CenterCrop, Compose, Normalize, Resize

    torch.manual_seed(0)
    arguments: dict[str, Any] = {"backbone": "resnet18", "coreset_sampling_ratio": 0.01}
    if case == "older":
        steps = [Resize((256, 256), antialias=True), CenterCrop((224, 224)), Normalize(mean=[0.5] * 3, std=[0.25] * 3)]
        arguments["pre_processor"] = PreProcessor(transform=Compose(steps))
    if case == "lite0":
        steps = [Resize((256, 256), antialias=True), CenterCrop((224, 224)), Normalize(mean=LITE_MEAN, std=LITE_STD)]
        arguments = {"backbone": "tf_efficientnet_lite0", "layers": ("blocks.2", "blocks.4"), "num_neighbors": 3}
        arguments |= {"coreset_sampling_ratio": 0.03, "pre_processor": PreProcessor(transform=Compose(steps))}
    model = Patchcore(**arguments, pre_trained=False, visualizer=False)
    state = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in weights(case).items()}
    model.model.feature_extractor.feature_extractor.load_state_dict(state, strict=False)
    engine = Engine(default_root_dir=root / "results", accelerator="cpu", logger=False, enable_progress_bar=False)
    batches = {"train_batch_size": 1, "eval_batch_size": 1, "num_workers": 0}
    engine.fit(model=model, datamodule=MVTecAD(root=root, category="tiles", **batches))
    engine.trainer.save_checkpoint(root / "model.ckpt")
    return model.eval()


def raw(model: Any, rgb: np.ndarray[Any, Any]) -> tuple[float, np.ndarray[Any, Any]]:
    """Return anomalib's raw score and (h, w) map of an image, before its normalisation."""
    import torch

    with torch.no_grad():
        output = model.model(model.pre_processor.transform(pixels(rgb)))
    return float(output.pred_score.reshape(-1)[0]), output.anomaly_map[0].squeeze().numpy()


def write_patchcore(case: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_images(root)
        model = fitted_patchcore(case, root)
        parts = split((root / "model.ckpt").read_bytes(), weights(case))
    write_golden(case, parts, [raw(model, rgb) for rgb in scored()])


def filled_efficientad(path: Path) -> Any:
    """Return anomalib's EfficientAD with our weights and quantiles that it took itself; its checkpoint goes to `path`.

    It is not trained: that takes its teacher and Imagenette from the network, and changes nothing in how it predicts.
    """
    import torch
    from anomalib.models import EfficientAd
    from lightning.pytorch import Trainer

    model = EfficientAd(teacher_out_channels=N_OUTPUTS, visualizer=False)
    state = {name: torch.from_numpy(array) for name, array in weights("efficientad").items()}
    model.load_state_dict(state, strict=False)
    model.eval()
    maps = [model.model.get_maps(model.pre_processor.transform(pixels(image(i, 256, 256)))) for i in range(N_TRAIN)]
    for i, kind in enumerate(("st", "ae")):
        values = torch.cat([pair[i] for pair in maps]).flatten()
        for end, share in (("a", 0.9), ("b", 0.995)):
            model.model.quantiles[f"q{end}_{kind}"].data = torch.quantile(values, share)
    model.post_processor._image_threshold.fill_(0.75)
    model.post_processor._pixel_threshold.fill_(0.5)
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.strategy.connect(model)
    trainer.save_checkpoint(path)
    return model


def pixels(rgb: np.ndarray[Any, Any]) -> Any:
    """An image as anomalib.data.utils.read_image gives it."""
    import torch

    return torch.from_numpy(rgb).permute(2, 0, 1)[None].float() / 255


def write_efficientad() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.ckpt"
        model = filled_efficientad(path)
        results = [raw(model, rgb) for rgb in scored()]
        write_golden("efficientad", split(path.read_bytes(), weights("efficientad")), results)


def write_golden(
    case: str, parts: dict[str, np.ndarray[Any, Any]], results: list[tuple[float, np.ndarray[Any, Any]]]
) -> None:
    parts["scores"] = np.array([score for score, _ in results])
    parts["maps"] = np.stack([part[::STEP, ::STEP] for _, part in results])
    GOLDEN.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(GOLDEN / f"{case}.npz", **parts)
    print(case, parts["scores"], (GOLDEN / f"{case}.npz").stat().st_size)


if __name__ == "__main__":
    if sys.argv[1] == "efficientad":
        write_efficientad()
    else:
        for chosen in {"patchcore": ("resnet18", "lite0"), "older": ("older",)}[sys.argv[1]]:
            write_patchcore(chosen)
