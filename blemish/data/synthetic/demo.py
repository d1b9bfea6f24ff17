"""Demo data set: three small synthetic categories in the layout of MVTec AD, with exact masks."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from blemish._io.files import atomic_write, save_error
from blemish._validation.checks import check_number
from blemish.data.synthetic.materials import MATERIALS, Defect
from blemish.data.synthetic.textures import REFERENCE_PX, photograph
from blemish.errors import InputError, SaveError, message
from blemish.runtime.cores import usable_cores
from blemish.types import Progress, no_progress

if TYPE_CHECKING:
    from numpy.typing import NDArray

CATEGORIES = tuple(MATERIALS)
MARKER = "blemish-demo.json"
VERSION = 1  # of the recipes: a folder of another version is rewritten
VISIBLE = 6 / 255  # a pixel is defective where the defect changes it by more; the camera's noise is about 1.7 / 255
# A camera's noise does not repeat: searching for repeats takes three times as long and saves a tenth.
FAST_PNG = (cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_HUFFMAN_ONLY)


@dataclass(frozen=True)
class _Settings:
    """Settings of a demo folder; the same settings give the same bytes."""

    seed: int
    image_size: int
    n_train: int
    n_test: int
    n_defective: int
    categories: tuple[str, ...]
    version: int = VERSION


@dataclass(frozen=True)
class _Image:
    """One image to render: its place in the data set, and kind and strength of its defect."""

    category: str
    split: str
    kind: str
    index: int
    strength: float = 0.0

    @property
    def path(self) -> str:
        return f"{self.category}/{self.split}/{self.kind}/{self.index:03d}.png"

    @property
    def mask_path(self) -> str | None:
        defective = self.kind != "good"
        return f"{self.category}/ground_truth/{self.kind}/{self.index:03d}_mask.png" if defective else None


def make_demo(
    folder: str | os.PathLike[str],
    *,
    seed: int = 0,
    image_size: int = REFERENCE_PX,
    n_train: int = 40,
    n_test: int = 12,
    n_defective: int = 6,
    categories: tuple[str, ...] = CATEGORIES,
    progress: Progress = no_progress,
) -> Path:
    """Write the demo's images and masks in the layout of MVTec AD; return the folder.

    A complete demo of the same settings is left as it is; a demo of other settings or an incomplete one is rewritten.
    The same settings give the same bytes (with the same NumPy and OpenCV).

    Args:
        folder: created if missing. Each category becomes a folder in it.
        seed: of all randomness, 0 or more.
        image_size: height and width in pixels, 64 to 4096.
        n_train: good training images of each category.
        n_test: good test images of each category.
        n_defective: test images of each defect type, from barely visible to obvious.
        categories: of "grid", "leather" and "tile".
        progress: called now and then as progress("drawing images", done, total).

    Raises:
        InputError: if a setting is out of range.
        SaveError: if the folder holds anything else, or cannot be written.

    Cost: 30 to 45 ms of one core for each image of 384 px, spread over up to four cores; 228 images by default.
    """
    check_number("seed", seed, low=0, high=2**63)
    check_number("image_size", image_size, low=64, high=4096)
    for name, value in (("n_train", n_train), ("n_test", n_test), ("n_defective", n_defective)):
        check_number(name, value, low=1, high=100_000)
    unknown = [category for category in categories if category not in MATERIALS]
    if unknown or not categories:
        raise InputError(message("categories", f"some of {', '.join(CATEGORIES)}", ", ".join(unknown) or "none"))
    settings = _Settings(seed, image_size, n_train, n_test, n_defective, tuple(dict.fromkeys(categories)))
    root = Path(folder)
    try:
        if _is_complete(root, settings):
            return root
        _clear(root)
        _write(root, settings, progress)
    except SaveError:
        raise
    except OSError as error:
        raise save_error("demo", root, error) from error
    return root


def render_demo(
    category: str, *, kind: str = "good", strength: float = 0.5, seed: int = 0, image_size: int = REFERENCE_PX
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Return one image, (H, W, 3) uint8 RGB, and its exact mask, (H, W) bool.

    Args:
        category: "grid", "leather" or "tile".
        kind: "good", or a defect type of that category.
        strength: visibility of the defect, 0 to 1.
        seed: of the surface, the defect and the camera.
        image_size: height and width in pixels.

    Raises:
        InputError: if there is no such category or defect type.
    """
    if category not in MATERIALS:
        raise InputError(message("category", f"one of {', '.join(CATEGORIES)}", repr(category)))
    material, kinds = MATERIALS[category]
    if kind not in ("good", *kinds):
        raise InputError(message("kind", f"one of good, {', '.join(kinds)}", repr(kind)))
    clean = material(np.random.default_rng([seed, 0]), image_size)
    if kind == "good":
        scene, mask = clean, np.zeros((image_size, image_size), np.bool_)
    else:
        scene, mask = _defective(category, kind, strength, seed, clean)
    shot = photograph(np.random.default_rng([seed, 1]), scene)
    return np.clip(shot + 0.5, 0, 255).astype(np.uint8), mask


def _defective(
    category: str, kind: str, strength: float, seed: int, clean: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Return the surface with its defect, and the mask of visible differences from the clean one."""
    size = clean.shape[0]
    scale = size / REFERENCE_PX
    # A defect may lie where it is invisible, such as a void in the print where nothing is printed: then another is
    # drawn, a little stronger each time.
    for attempt in range(20):
        defect = Defect(kind, min(1.0, strength + 0.05 * attempt), seed + 8000 * attempt)
        scene = MATERIALS[category][0](np.random.default_rng([seed, 0]), size, defect)
        changed = (np.abs(scene - clean).max(axis=2) > VISIBLE).astype(np.uint8)
        gap = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (round(8 * scale) | 1,) * 2)
        mask = cv2.morphologyEx(changed, cv2.MORPH_CLOSE, gap).astype(np.bool_)
        if mask.sum() >= max(5.0, 20 * scale * scale):
            break
    return scene, mask


def _images(settings: _Settings) -> Iterator[_Image]:
    for category in settings.categories:
        for index in range(settings.n_train):
            yield _Image(category, "train", "good", index)
        for index in range(settings.n_test):
            yield _Image(category, "test", "good", index)
        for kind in MATERIALS[category][1]:
            for index in range(settings.n_defective):
                yield _Image(category, "test", kind, index, (index + 0.5) / settings.n_defective)


def _paths(settings: _Settings) -> Iterator[str]:
    for image in _images(settings):
        yield image.path
        if image.mask_path is not None:
            yield image.mask_path


def _is_complete(root: Path, settings: _Settings) -> bool:
    marker = _marker(root)
    if marker is None or marker != {"complete": True, **_plain(settings)}:
        return False
    return all((root / path).is_file() for path in _paths(settings))


def _plain(settings: _Settings) -> dict[str, Any]:
    return {**asdict(settings), "categories": list(settings.categories)}


def _marker(root: Path) -> dict[str, Any] | None:
    """Return the settings in the folder's marker, or None if there is no marker."""
    try:
        content = json.loads((root / MARKER).read_bytes()[:10_000])
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _clear(root: Path) -> None:
    """Remove an earlier demo's files; raise if the folder is not a demo's and not empty."""
    if root.exists() and not root.is_dir():
        raise SaveError(message("demo", "a folder", "a file", where=root, todo="Choose another folder."))
    if not root.is_dir() or not any(root.iterdir()):
        return
    marker = _marker(root)
    if marker is None:
        names = sorted(path.name for path in root.iterdir())[:3]
        todo = "Choose an empty or new folder: files that are not the demo's are never overwritten."
        raise SaveError(message("demo", "an empty folder", f"one with {', '.join(names)}", where=root, todo=todo))
    for category in CATEGORIES:
        for pattern in ("train/good", "test/*", "ground_truth/*"):
            for path in (root / category).glob(f"{pattern}/*.png"):
                if path.stem.removesuffix("_mask").isdigit():
                    path.unlink()
        # Folders of this or another version that are empty now; a user's own files and their folders stay.
        folders = sorted((path for path in (root / category).rglob("*") if path.is_dir()), reverse=True)
        for path in (*folders, root / category):
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()


def _write(root: Path, settings: _Settings, progress: Progress) -> None:
    root.mkdir(parents=True, exist_ok=True)
    content = _plain(settings)
    # Marked before the first image, so that the folder of an interrupted run is recognised.
    atomic_write(root / MARKER, json.dumps({**content, "complete": False}, indent=1).encode(), name="demo")
    images = list(_images(settings))
    # NumPy and OpenCV release the interpreter lock while they draw; each image has generators of its own.
    pool = ThreadPoolExecutor(min(4, usable_cores()))
    try:
        for done, _ in enumerate(pool.map(lambda image: _make(root, settings, image), images)):
            progress("drawing images", done + 1, len(images))
    finally:
        pool.shutdown(cancel_futures=True)
    atomic_write(root / MARKER, json.dumps({**content, "complete": True}, indent=1).encode(), name="demo")


def _make(root: Path, settings: _Settings, image: _Image) -> None:
    name = zlib.crc32(image.path.encode())  # seeds do not depend on the number of images
    seed = int(np.random.SeedSequence([settings.seed, name]).generate_state(1)[0])
    pixels, mask = render_demo(
        image.category,
        kind=image.kind,
        strength=image.strength,
        # Consecutive defects of a type differ in their variant too, such as the four variants of misprint.
        seed=seed // 4 * 4 + image.index % 4,
        image_size=settings.image_size,
    )
    _write_png(root / image.path, cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), FAST_PNG)
    if image.mask_path is not None:
        _write_png(root / image.mask_path, mask.astype(np.uint8) * np.uint8(255))


def _write_png(path: Path, image: NDArray[np.uint8], options: tuple[int, ...] = ()) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    ok, data = cv2.imencode(".png", image, options)
    assert ok, "OpenCV always has a PNG writer"
    # cv2.imwrite reports no full disk, and fails on non-ASCII names on Windows.
    path.write_bytes(data.tobytes())
