"""Penalty images (Batzner et al. 2024, section 3.2): random parts of a folder's photographs, or dead-leaves images."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from pathlib import Path

import cv2
import numpy as np

from blemish.data.discovery import IMAGE_ENDINGS, list_images, no_images
from blemish.data.synthetic.textures import noise
from blemish.errors import DataError, ImageError, message
from blemish.imaging.decode import load
from blemish.imaging.resize import resize
from blemish.types import Float32, Problem, UInt8

GREY_SHARE = 0.3  # nelson1425/efficientad.py and anomalib: RandomGrayscale(0.3)
ZOOM = 2  # the image over the networks' input, before a part is cut out: the same programs
N_DRAWN = 48  # images
N_LEAVES = (60, 500)  # of an image


class Penalty(ABC):
    """A source of penalty images, twice as large as the networks' input.

    Attributes:
        problems: the images that could not be read; others take their place.
    """

    def __init__(self, image_hw: tuple[int, int]) -> None:
        self.problems: list[Problem] = []
        self._hw = ZOOM * image_hw[0], ZOOM * image_hw[1]

    @abstractmethod
    def _image(self, rng: np.random.Generator) -> UInt8:
        """Return a random image."""

    def parts(self, rng: np.random.Generator, n: int, hw: tuple[int, int]) -> UInt8:
        """Return `n` random parts of random images, (n, h, w, 3) uint8; DataError if none can be read."""
        return np.stack([_part(rng, self._image(rng), hw) for _ in range(n)])


class PenaltyFolder(Penalty):
    """Photographs of a folder and its sub-folders, read when they are drawn; DataError if there are none."""

    def __init__(self, folder: str | os.PathLike[str], image_hw: tuple[int, int]) -> None:
        super().__init__(image_hw)
        self.folder = Path(folder)
        if not self.folder.is_dir():
            got = "a file" if self.folder.exists() else "nothing there"
            raise DataError(message("imagenet_dir", "a folder of photographs", got, where=self.folder))
        self._paths, _ = list_images(self.folder, IMAGE_ENDINGS)
        self._broken: set[Path] = set()
        if not self._paths:
            raise no_images("imagenet_dir", [self.folder], IMAGE_ENDINGS)

    def _image(self, rng: np.random.Generator) -> UInt8:
        while len(self._broken) < len(self._paths):
            # Broken ones stay in the list: a random index is the same image in a resumed run.
            path = self._paths[int(rng.integers(len(self._paths)))]
            if path in self._broken:
                continue
            try:
                return resize(load(path), self._hw)
            except ImageError as error:
                self.problems.append(Problem(path, "unreadable", f"{error} It was left out of the penalty images."))
                self._broken.add(path)
        todo = "Give a folder with photographs that open, or none: then images are drawn."
        got = f"{len(self.problems)} broken, the first: {self.problems[0].text}"
        raise DataError(message("imagenet_dir", "an image that can be read", got, where=self.folder, todo=todo))


class DrawnPenalty(Penalty):
    """Dead-leaves images: occluding shapes of all sizes, each of a random colour and texture.

    Edges, corners, gradients and textures occur at all scales, as in photographs.

    Source: Lee, Mumford & Huang 2001, "Occlusion models for natural images"; Baradad et al. 2021 (arXiv 2106.05963)
    train networks on such images.
    """

    def __init__(self, image_hw: tuple[int, int], seed: int) -> None:
        super().__init__(image_hw)
        self._seed = seed
        self._images: dict[int, UInt8] = {}

    def _image(self, rng: np.random.Generator) -> UInt8:
        i = int(rng.integers(N_DRAWN))
        if i not in self._images:
            self._images[i] = dead_leaves(np.random.default_rng([self._seed, i]), self._hw)
        return self._images[i]


def dead_leaves(rng: np.random.Generator, hw: tuple[int, int]) -> UInt8:
    """Return a dead-leaves image, (h, w, 3) uint8."""
    height, width = hw
    side = max(hw)
    textures = [_texture(rng, side) for _ in range(4)]
    image = textures[0][:height, :width].copy()
    # Density between 1 / r^3, where every size covers as much, and the few large objects in front of photographs.
    low, high = 4.0, side / 3
    radii = 1 / (1 / high + rng.random(int(rng.integers(*N_LEAVES))) * (1 / low - 1 / high))
    for radius in radii:
        x, y, reach = int(rng.integers(width)), int(rng.integers(height)), int(radius) + 2
        top, left = max(0, y - reach), max(0, x - reach)
        window = image[top : y + reach, left : x + reach]
        inside = _leaf(rng, window.shape[:2], (x - left, y - top), float(radius))[..., None]
        texture = textures[int(rng.integers(4))][top : y + reach, left : x + reach][: len(window), : window.shape[1]]
        colour = _colour(rng)
        window += (colour + np.float32(rng.choice([0.0, 0.4, 0.8])) * (texture - colour) - window) * inside
    image = cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.4, 1.2)))
    image += rng.normal(0, rng.uniform(0, 6), image.shape).astype(np.float32)
    return np.asarray(np.clip(image, 0, 255).astype(np.uint8))


def _colour(rng: np.random.Generator) -> Float32:
    """Return a colour from 0 to 255 with a photograph's low saturation."""
    grey = rng.uniform(10, 245)
    colour = grey + rng.normal(0, 1, 3) * rng.choice([8.0, 25.0, 70.0])
    return np.asarray(np.clip(colour, 0, 255), np.float32)


def _texture(rng: np.random.Generator, side: int) -> Float32:
    """Return noise of several scales between two random colours, (side, side, 3) float32."""
    field = np.zeros((side, side), np.float32)
    for cell in 2.0 ** rng.uniform(1, 7, 3):
        stretch = 2.0 ** rng.uniform(-1.5, 1.5)
        field += np.float32(rng.uniform(0.2, 1)) * noise(rng, side, cell * stretch, cell / stretch).astype(np.float32)
    dark, light = _colour(rng), _colour(rng)
    mixed = dark + (light - dark) * np.clip(field / 4 + 0.5, 0, 1)[..., None]
    return np.asarray(mixed, np.float32)


def _leaf(rng: np.random.Generator, hw: tuple[int, ...], centre: tuple[int, int], radius: float) -> Float32:
    """Return the coverage of each pixel by an ellipse, a polygon or a bar, (h, w) float32 from 0 to 1."""
    mask = np.zeros(hw, np.uint8)
    kind, turn = int(rng.integers(3)), float(rng.uniform(0, 180))
    if kind == 0:
        sides = max(1, int(radius)), max(1, int(radius * rng.uniform(0.3, 1)))
        cv2.ellipse(mask, centre, sides, turn, 0, 360, 255, -1, cv2.LINE_AA)
    else:
        bar = np.array([0.15, np.pi - 0.15, np.pi + 0.15, -0.15])
        angles = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(3, 8)))) if kind == 1 else bar
        points = radius * np.column_stack([np.cos(angles + turn), np.sin(angles + turn)]) + centre
        cv2.fillPoly(mask, [np.round(points).astype(np.int32)], 255, cv2.LINE_AA)
    return np.asarray(mask / 255, np.float32)


def _part(rng: np.random.Generator, image: UInt8, hw: tuple[int, int]) -> UInt8:
    """Return a random part, grey in three of ten cases, (h, w, 3) uint8."""
    top, left = (int(rng.integers(whole - part + 1)) for whole, part in zip(image.shape[:2], hw, strict=True))
    part = image[top : top + hw[0], left : left + hw[1]]
    if rng.random() < GREY_SHARE:
        grey = cv2.cvtColor(np.ascontiguousarray(part), cv2.COLOR_RGB2GRAY)
        part = np.repeat(grey[..., None], 3, axis=2)
    return part


def penalty_images(folder: str | os.PathLike[str] | None, image_hw: tuple[int, int], seed: int) -> Penalty:
    """Return the penalty images of a folder, or dead-leaves images where it is None."""
    return DrawnPenalty(image_hw, seed) if folder is None else PenaltyFolder(folder, image_hw)
