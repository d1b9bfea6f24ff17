"""Small images of one textured material, good and scratched, for tests that fit a detector."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from blemish import Patchcore

if TYPE_CHECKING:
    from blemish.types import Bool, UInt8

SIDE = 96
N_GOOD = 12
# Every setting is written down, so that tests say the same whatever the defaults become.
SETTINGS: dict[str, Any] = {
    "backbone": "efficientnet_lite0",
    "layers": ("blocks.4", "blocks.10"),
    "image_size": 96,
    "center_crop": None,
    "coreset_sampling_ratio": 0.1,
    "coreset_size": None,
    "num_neighbors": 1,
    "pooling": 3,
    "count_padding": False,
    "scaling": "whiten",
    "defect_axes": 0,
    "position_sigma": 1.0,
    "top_share": 0.0,
    "score_fusion": False,
    "false_positive_rate": 0.1,
    "calibration": "conformal",
    "bit_depth": None,
    "max_rows": 500_000,
    "seed": 0,
    "threads": 2,
}


def small_patchcore(**changes: Any) -> Patchcore:
    return Patchcore(**{**SETTINGS, **changes})


def good(seed: int, height: int = SIDE, width: int = SIDE) -> UInt8:
    """Coloured stripes with a phase, a light and a noise of their own, (height, width, 3) uint8."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / SIDE
    wave = np.sin(2 * np.pi * (6 * x + 2 * y) + rng.uniform(-0.5, 0.5))
    image = 110 + 45 * wave[..., None] * (1.0, 0.7, 0.4) + rng.uniform(-5, 5) + rng.normal(0, 4, (height, width, 3))
    return np.clip(image, 0, 255).astype(np.uint8)


def goods(n: int = N_GOOD) -> list[UInt8]:
    return [good(seed) for seed in range(n)]


def scratched(seed: int, height: int = SIDE, width: int = SIDE) -> tuple[UInt8, Bool]:
    """A good image with one bright scratch, and the mask of that."""
    drawn = np.zeros((height, width), np.uint8)
    left, top = width // 4, height // 3
    cv2.line(drawn, (left, top), (left + width // 4, top + height // 5), 255, max(3, height // 24))
    image = good(seed, height, width)
    image[drawn > 0] = (250, 240, 60)
    return image, drawn > 0


def write(path: Path, image: np.ndarray) -> Path:
    """Write (H, W), (H, W, 3) RGB or bool pixels as PNG; any file name will do."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = image.astype(np.uint8) * 255 if image.dtype == bool else image
    ok, data = cv2.imencode(".png", stored[..., ::-1] if stored.ndim == 3 else stored)
    assert ok
    path.write_bytes(data.tobytes())
    return path


def write_goods(folder: Path, n: int = N_GOOD) -> list[Path]:
    return [write(folder / f"{seed:03}.png", image) for seed, image in enumerate(goods(n))]


def cut_off(path: Path, image: UInt8) -> Path:
    """Write an image whose header is whole and whose pixels are not: it is found broken only when it is decoded."""
    data = write(path, image).read_bytes()
    place = data.index(b"IDAT") + 40
    path.write_bytes(data[:place] + b"\xff" * 400 + data[place + 400 :])
    return path


def touch(root: Path, *names: str) -> Path:
    """Make empty files: nothing here looks inside them."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root
