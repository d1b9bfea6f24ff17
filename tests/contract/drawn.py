"""Images of one made-up material, drawn by integers alone: every machine and every NumPy makes the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np

Array: TypeAlias = "np.ndarray[Any, np.dtype[Any]]"
SIDE = 64


def good(seed: int, height: int = SIDE, width: int = SIDE) -> Array:
    """Slanted stripes with a phase, a light and a noise of their own, (height, width, 3) uint8."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    phase, light = int(rng.integers(0, 4)), int(rng.integers(-6, 7))
    wave = np.abs((3 * x + y + phase) % 36 - 18)
    image = 70 + light + wave[..., None] * np.array([5, 4, 2]) + rng.integers(-6, 7, (height, width, 3))
    return np.clip(image, 0, 255).astype(np.uint8)


def mark(image: Array) -> Array:
    """The mask of the scratch of an image of this size, (height, width) bool."""
    height, width = image.shape[:2]
    drawn = np.zeros((height, width), bool)
    top, left = height // 3, width // 4
    drawn[top : top + max(3, height // 10), left : left + width // 3] = True
    return drawn


def scratched(seed: int, height: int = SIDE, width: int = SIDE) -> Array:
    """A good image with one bright bar."""
    image = good(seed, height, width)
    image[mark(image)] = (250, 240, 60)
    return image


def blotched(seed: int, height: int = SIDE, width: int = SIDE) -> Array:
    """A good image with one dark disc."""
    image = good(seed, height, width)
    y, x = np.mgrid[:height, :width]
    image[(y - height * 5 // 8) ** 2 + (x - width * 5 // 8) ** 2 < (height // 8) ** 2] = (10, 12, 40)
    return image


def golden_images() -> dict[str, Array]:
    """What the frozen models judge: several sizes, shapes and kinds."""
    return {
        "good": good(900),
        "scratched": scratched(901),
        "wide": scratched(902, 48, 96),
        "tall_larger_than_input": blotched(903, 130, 90),
        "smaller_than_input": good(904, 36, 40),
        "grey": scratched(905).mean(axis=2).astype(np.uint8),
        "black": np.zeros((50, 60, 3), np.uint8),
    }


def write(path: Path, image: Array) -> Path:
    """Write (H, W), (H, W, 3) RGB or bool pixels as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = image.astype(np.uint8) * 255 if image.dtype == bool else image
    ok, data = cv2.imencode(".png", stored[..., ::-1] if stored.ndim == 3 else stored)
    assert ok
    path.write_bytes(data.tobytes())
    return path


def write_good(folder: Path, n: int) -> list[Path]:
    """Write the good images 0 to n - 1."""
    return [write(folder / f"{seed:03}.png", good(seed)) for seed in range(n)]


def write_category(root: Path, name: str, n_train: int = 8) -> Path:
    """Write a category in the layout of MVTec AD: good, scratched and blotched images, masks of the scratches."""
    write_good(root / name / "train" / "good", n_train)
    for i in range(3):
        write(root / name / "test" / "good" / f"{i:03}.png", good(500 + i))
        write(root / name / "test" / "scratch" / f"{i:03}.png", scratched(600 + i))
        write(root / name / "ground_truth" / "scratch" / f"{i:03}_mask.png", mark(scratched(600 + i)))
    return root


def cut_off(path: Path) -> Path:
    """Write a PNG whose header is whole and whose pixels are not: it is found broken only when it is decoded."""
    data = write(path, good(77)).read_bytes()
    place = data.index(b"IDAT") + 40
    path.write_bytes(data[:place] + b"\xff" * 400 + data[place + 400 :])
    return path
