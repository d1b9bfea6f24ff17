"""Procedural textures: smooth noise, lines, blobs, shading, and a camera model.

All randomness comes from the generator that the caller passes: the same generator gives the same image. Lengths are in
pixels; recipes give them for an image 384 px wide and scale them by `size / REFERENCE_PX`.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.floating[Any]]

REFERENCE_PX = 384


def rgb(red: float, green: float, blue: float) -> Field:
    """Return a colour as (3,) float32, 0 to 1."""
    return np.array([red, green, blue], np.float32)


def photograph(rng: np.random.Generator, scene: Field) -> Field:
    """Return the image of a scene by a line camera: uneven light, exposure, slight blur and shot noise; 0 to 255."""
    size = scene.shape[0]
    x, y = axes(size)
    gain = 1 + rng.normal(0, 0.025) + rng.normal(0, 0.03) * x + rng.normal(0, 0.03) * y - 0.05 * (x * x + y * y)
    tint = (1 + rng.normal(0, 0.006, 3)).astype(np.float32)
    exposed: Field = cv2.GaussianBlur(scene, (0, 0), rng.uniform(0.45, 0.65) * size / REFERENCE_PX)
    exposed *= (255 * gain).astype(np.float32)[..., None] * tint
    # Photons make bright pixels noisier.
    noise_level = 1.0 + 0.07 * np.sqrt(np.maximum(exposed[..., 1:2], 0))
    grain = rng.standard_normal(scene.shape, dtype=np.float32)
    grain *= noise_level
    grain += exposed
    return grain


def axes(size: int) -> tuple[Field, Field]:
    """Return x (1, size) and y (size, 1), -1 to 1 across the image."""
    axis = ((np.arange(size) + 0.5) / size * 2 - 1).astype(np.float32)
    return axis[None, :], axis[:, None]


def pose(
    rng: np.random.Generator, size: int, pitch: float, *, turn_degrees: float, warp_px: float, shift: float = 0.5
) -> tuple[Field, Field]:
    """Return pattern coordinates (u, v) of each pixel, in units of `pitch`, after a random rigid motion and warp.

    The shift is up to `shift` pitches; rotation and warp have standard deviations of `turn_degrees` and `warp_px`.
    """
    x, y = axes(size)
    turn = np.deg2rad(rng.normal(0, turn_degrees))
    offset, scale = rng.uniform(-shift, shift, 2), size / REFERENCE_PX
    warp = [warp_px * scale * noise(rng, size, 130 * scale) / pitch for _ in range(2)]
    half = size / 2 / pitch
    u = half * (np.cos(turn) * x - np.sin(turn) * y) + offset[0] + warp[0]
    v = half * (np.sin(turn) * x + np.cos(turn) * y) + offset[1] + warp[1]
    return u.astype(np.float32), v.astype(np.float32)


def noise(rng: np.random.Generator, size: int, cell: float, cell_y: float | None = None) -> Field:
    """Return (size, size) value noise of mean 0 and standard deviation about 1, features about `cell` px wide."""
    cells = cell, cell if cell_y is None else cell_y
    counts = [int(np.ceil(size / c)) + 1 for c in cells]
    small = rng.standard_normal((counts[1], counts[0]), dtype=np.float32)
    wide, high = (round(n * c) for n, c in zip(counts, cells, strict=True))
    x, y = (int(rng.integers(0, limit - size + 1)) for limit in (wide, high))
    # Cubic interpolation of independent values keeps about half of their variance.
    field: Field = cv2.resize(small, (wide, high), interpolation=cv2.INTER_CUBIC)[y : y + size, x : x + size]
    scaled: Field = field * np.float32(1.35)
    return scaled


def mix(below: Field, above: Field, amount: Field) -> Field:
    """Return the blend (H, W, 3) of `below`, where the (H, W) `amount` is 0, and `above`, where it is 1."""
    return below + (above - below) * amount[..., None]


def shade(height: Field, albedo: Field, *, relief: float, shine: float) -> Field:
    """Return a height field shaded by a light from the upper left: diffuse and specular reflection."""
    dx: Field = cv2.Sobel(height, cv2.CV_32F, 1, 0, ksize=3, scale=relief / 4)
    dy: Field = cv2.Sobel(height, cv2.CV_32F, 0, 1, ksize=3, scale=relief / 4)
    length = np.sqrt(dx * dx + dy * dy + 1)
    key: Field = np.clip((0.42 * dx + 0.5 * dy + 0.76) / length, 0, 1)
    gleam: Field = np.clip((0.22 * dx + 0.27 * dy + 0.94) / length, 0, 1)
    gleam = gleam * gleam * gleam
    for _ in range(3):  # to the power of 24: NumPy's own power takes ten times as long
        gleam = gleam * gleam
    lit: Field = albedo * (0.2 + 0.95 * key)[..., None] + (shine * gleam)[..., None]
    return lit


def curve(
    local: np.random.Generator,
    size: int,
    length: float,
    *,
    bend: float,
    jag: float = 0.0,
    start: Field | None = None,
) -> Field:
    """Return (n, 2) float points (x, y) of a random walk from `start`, or with its middle well inside the image."""
    n = 48
    heading = local.uniform(0, 2 * np.pi) + np.cumsum(local.normal(0, bend, n)) / 2.5
    steps = np.stack([np.cos(heading), np.sin(heading)], axis=1) * length / n
    points = np.cumsum(steps, axis=0) + jag * local.normal(0, 1, (n, 2))
    middle = local.uniform(0.2, 0.8, 2) * size
    points += (start - points[0]) if start is not None else (middle - points[n // 2])
    return points.astype(np.float32)


def stroke(size: int, points: Field, width: float) -> Field:
    """Return the antialiased coverage of a line, 0 to 1, thinner towards its ends."""
    fine, shift = 4, 4
    canvas = np.zeros((fine * size, fine * size), np.uint8)
    places = np.round(points * fine * 2**shift).astype(np.int32)
    for k in range(len(places) - 1):
        taper = np.sin(np.pi * (k + 1) / len(places)) ** 0.4
        thickness = max(1, round(fine * width * taper))
        cv2.line(canvas, places[k].tolist(), places[k + 1].tolist(), 255, thickness, cv2.LINE_8, shift)
    cover: Field = cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA).astype(np.float32)
    return cover / 255


def blob(local: np.random.Generator, size: int, radius: float, *, soft: float = 0.35) -> Field:
    """Return an irregular blob, 1 inside and 0 outside, with an edge `soft` radii wide, at a random place."""
    return blob_at(local, size, radius, local.uniform(0.12, 0.88, 2) * size, soft=soft)


def blob_at(local: np.random.Generator, size: int, radius: float, centre: Field, *, soft: float = 0.35) -> Field:
    """Return an irregular blob around `centre` (x, y), 1 inside and 0 outside, with an edge `soft` radii wide."""
    stretch, turn = local.uniform(0.75, 1.3), local.uniform(0, np.pi)
    x, y = np.arange(size)[None, :] - centre[0], np.arange(size)[:, None] - centre[1]
    a, b = np.cos(turn) * x + np.sin(turn) * y, np.cos(turn) * y - np.sin(turn) * x
    distance = np.sqrt((a * stretch) ** 2 + (b / stretch) ** 2) / radius
    uneven = 0.16 * noise(local, size, max(radius * 0.8, 2.0)) + 0.07 * noise(local, size, max(radius * 0.3, 1.5))
    t: Field = np.clip((1 - distance - uneven) / soft + 0.5, 0, 1)
    smooth: Field = (t * t * (3 - 2 * t)).astype(np.float32)
    return smooth
