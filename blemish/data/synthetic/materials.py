"""Three synthetic materials with synthetic defects for the demo: woven wire, leather and printed tile.

Each material is a function `(rng, size, defect) -> (size, size, 3) RGB`, about 0 to 1, before the camera. It draws
the same surface for the same generator with and without a defect, so that their difference is the exact mask.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from blemish.data.synthetic.textures import REFERENCE_PX, Field, blob, curve, mix, noise, pose, rgb, shade, stroke


@dataclass(frozen=True)
class Defect:
    """A defect: its type, its strength from 0 to 1, and the seed of its position and shape."""

    kind: str
    strength: float
    seed: int


def grid(rng: np.random.Generator, size: int, defect: Defect | None = None) -> Field:
    """Return woven steel wire over a matt backdrop; defects: bent, broken, thread, rust."""
    scale = size / REFERENCE_PX
    pitch = 24 * scale * rng.uniform(0.995, 1.005)
    u, v = pose(rng, size, pitch, turn_degrees=1.0, warp_px=0.7)
    wires = _Wires(rng, size, u, v, pitch)
    local = None if defect is None else np.random.default_rng(defect.seed)
    if defect is not None and local is not None and defect.kind in {"bent", "broken"}:
        wires.damage(local, defect)
    scene = wires.draw(rng)
    if defect is None or local is None:
        return scene
    if defect.kind == "rust":
        patch = blob(local, size, (16 + 22 * defect.strength) * scale) * wires.cover
        patch *= np.clip(0.75 + 0.3 * noise(local, size, 5 * scale), 0, 1) * (0.35 + 0.6 * defect.strength)
        return mix(scene, scene * rgb(1.0, 0.62, 0.38) * 0.9, patch)
    if defect.kind == "thread":
        points = curve(local, size, (70 + 110 * defect.strength) * scale, bend=0.5)
        line = stroke(size, points, (1.3 + 1.5 * defect.strength) * scale)
        shadow = np.roll(cv2.GaussianBlur(line, (0, 0), 2.2 * scale), (round(3 * scale), round(2 * scale)), (0, 1))
        colour = rgb(*([0.75, 0.72, 0.66], [0.30, 0.33, 0.42], [0.52, 0.22, 0.18])[int(local.integers(3))])
        scene = scene * (1 - 0.5 * shadow[..., None])
        return mix(scene, colour * (0.85 + 0.1 * noise(local, size, 2 * scale))[..., None], line)
    return scene


class _Wires:
    """Geometry and shading of the woven wires of one image."""

    RADIUS = 0.255  # of the pitch
    RISE = 0.15  # how far a wire goes up and down, of the pitch

    def __init__(self, rng: np.random.Generator, size: int, u: Field, v: Field, pitch: float) -> None:
        self.size, self.u, self.v, self.pitch = size, u, v, pitch
        self.jitter = rng.normal(0, 0.018, (2, 128)).astype(np.float32)
        self.shine = rng.normal(1, 0.035, (2, 128)).astype(np.float32)
        self.hidden: Field | None = None
        self.extra: tuple[Field, Field, Field] | None = None
        self.cover = np.zeros_like(u)

    def damage(self, local: np.random.Generator, defect: Defect) -> None:
        """Bend or break one upright wire."""
        half = self.size / self.pitch / 2
        wire, at = round(local.uniform(-0.7, 0.7) * half), local.uniform(-0.7, 0.7) * half
        mine = np.round(self.u) == wire
        if defect.kind == "bent":
            push = local.choice([-1.0, 1.0]) * (0.22 + 0.5 * defect.strength)
            along = (self.v - at) / (0.9 + 0.6 * defect.strength)
            bump = push * np.exp(-along * along)
            lean = 2 * along * bump / (0.9 + 0.6 * defect.strength)
            self.hidden = mine
            across = (self.u - wire - self.jitter[0, wire % 128] - bump) / np.sqrt(1 + lean * lean)
            self.extra = (across, self.v + wire, self.shine[0, wire % 128])
        else:
            gap = np.abs(self.v - at) - (0.25 + 1.6 * defect.strength)
            ragged = 0.2 * np.sin(9 * self.u + local.uniform(0, 6)) * (self.u - wire)
            self.hidden = mine & (gap + ragged < 0)

    def draw(self, rng: np.random.Generator) -> Field:
        """Return the image: backdrop, shadow, and the topmost wire at each pixel."""
        i, j = np.round(self.u), np.round(self.v)
        upright = self._wire(self.u - i - self._of(self.jitter[0], i), self.v + i, self._of(self.shine[0], i), 0)
        flat = self._wire(self.v - j - self._of(self.jitter[1], j), self.u + j + 1, self._of(self.shine[1], j), 1)
        if self.hidden is not None:
            upright = (np.where(self.hidden, -9, upright[0]).astype(np.float32), upright[1])
        layers = [upright, flat]
        if self.extra is not None:
            layers.append(self._wire(*self.extra, 0))
        scale = self.size / REFERENCE_PX
        height, lit = layers[0]
        for other_height, other_lit in layers[1:]:
            lit = np.where(other_height > height, other_lit, lit)
            height = np.maximum(height, other_height)
        self.cover = (height > -1).astype(np.float32)
        streaks = noise(rng, self.size, 1.6 * scale, 26 * scale), noise(rng, self.size, 26 * scale, 1.6 * scale)
        lit *= 1 + 0.035 * np.where(height > flat[0], *streaks)
        backdrop = 0.30 + 0.012 * noise(rng, self.size, 90 * scale) + 0.006 * noise(rng, self.size, 2.5 * scale)
        shadow = np.roll(cv2.GaussianBlur(self.cover, (0, 0), 3 * scale), (round(5 * scale), round(4 * scale)), (0, 1))
        backdrop *= 1 - 0.55 * shadow
        cover = cv2.GaussianBlur(self.cover, (0, 0), 0.6 * scale)
        wire_rgb = lit[..., None] * rgb(1.0, 0.975, 0.93)
        return mix(backdrop[..., None] * rgb(0.95, 1.0, 1.06), wire_rgb, cover)

    def _of(self, table: Field, index: Field) -> Field:
        return table[index.astype(np.int32) % len(table)]

    def _wire(self, across: Field, phase: Field, shine: Field, axis: int) -> tuple[Field, Field]:
        """Return height (-9 outside wires) and brightness of wires at `across` pitches from their centre line."""
        n = across / self.RADIUS
        up = np.sqrt(np.clip(1 - n * n, 0, 1))
        z = self.RISE * np.cos(np.pi * phase)
        slope = self.RISE * np.pi * np.sin(np.pi * phase) * up
        length = np.sqrt(n * n + slope * slope + up * up) + 1e-6
        x, y = (n, slope) if axis == 0 else (slope, n)
        key = np.clip((-0.5 * x - 0.58 * y + 0.64 * up) / length, 0, 1)
        fill = np.clip((0.75 * x + 0.2 * y + 0.63 * up) / length, 0, 1)
        buried = np.clip(0.62 + 2.6 * z, 0.32, 1)
        key2 = key * key
        key8 = key2 * key2 * key2 * key2
        lit = (0.13 + 0.52 * key + 0.62 * key8 * key8 + 0.22 * fill * fill * fill) * buried * shine
        return np.where(np.abs(n) < 1, z + self.RADIUS * up, -9).astype(np.float32), lit.astype(np.float32)


def leather(rng: np.random.Generator, size: int, defect: Defect | None = None) -> Field:
    """Return pebbled brown leather; defects: scratch, hole, stain, fold."""
    scale = size / REFERENCE_PX
    grain = _pebbles(rng, size, 7.5 * scale)
    height = grain + 0.10 * noise(rng, size, 1.6 * scale)
    height += 0.35 * np.minimum(np.abs(noise(rng, size, 34 * scale)) * 3, 1) + 0.3 * noise(rng, size, 60 * scale)
    tone = 1 + 0.03 * noise(rng, size, 110 * scale) + 0.035 * noise(rng, size, 14 * scale)
    tone *= 0.72 + 0.28 * np.clip(grain, 0, 1)
    albedo = tone[..., None] * rgb(0.50, 0.30, 0.18) * (1 + rng.normal(0, 0.012, 3).astype(np.float32))
    if defect is not None:
        height, albedo = _defective_leather(np.random.default_rng(defect.seed), size, defect, height, albedo)
    return shade(height.astype(np.float32), albedo.astype(np.float32), relief=1.1 * scale, shine=0.10)


def _defective_leather(
    local: np.random.Generator, size: int, defect: Defect, height: Field, albedo: Field
) -> tuple[Field, Field]:
    scale, strength = size / REFERENCE_PX, defect.strength
    if defect.kind == "scratch":
        points = curve(local, size, (45 + 110 * strength) * scale, bend=0.25)
        line = stroke(size, points, (1.5 + 2.0 * strength) * scale)
        line *= np.clip(0.85 + 0.25 * noise(local, size, 6 * scale), 0.2, 1)
        pale = albedo * 1.3 + rgb(0.14, 0.12, 0.09)
        return height - 1.1 * line, mix(albedo, pale, line * (0.35 + 0.6 * strength))
    if defect.kind == "hole":
        spot = blob(local, size, (2.6 + 6.5 * strength) * scale, soft=0.22)
        rim = cv2.GaussianBlur(spot, (0, 0), 2.2 * scale)
        return height + 1.5 * rim - 3.5 * spot, mix(albedo, albedo * 0.16, spot)
    if defect.kind == "stain":
        spot = blob(local, size, (15 + 24 * strength) * scale, soft=0.25)
        edge = cv2.GaussianBlur(spot, (0, 0), 2 * scale) - cv2.GaussianBlur(spot, (0, 0), 5 * scale)
        amount = np.clip(spot * (0.20 + 0.38 * strength) + 0.9 * np.abs(edge) * spot, 0, 0.8)
        return height, albedo * (1 - amount[..., None] * rgb(0.75, 0.85, 0.9))
    points = curve(local, size, (110 + 150 * strength) * scale, bend=0.12)
    line = stroke(size, points, (1.8 + 1.7 * strength) * scale)
    bulge = cv2.GaussianBlur(line, (0, 0), 4 * scale)
    raised = height + (2 + 8 * strength) * bulge - (0.6 + 3 * strength) * line
    return raised, albedo * (1 - (0.08 + 0.25 * strength) * line)[..., None]


def _pebbles(rng: np.random.Generator, size: int, cell: float) -> Field:
    """Return the grain's height, 0 in the creases and about 1 on top: Voronoi cells of jittered points."""
    # Twice as fine as the image, since the cells' edges fall on whole pixels; wider than high, as hides stretch.
    fine = (2 * size, round(1.75 * size))
    step = 2 * cell
    rows, columns = round(fine[1] / step), round(fine[0] / step)
    y, x = np.mgrid[0:rows, 0:columns] + 0.5 + rng.uniform(-0.44, 0.44, (2, rows, columns))
    x[::2] += 0.5
    seeds = np.full(fine[::-1], 255, np.uint8)
    seeds[
        np.minimum((y * fine[1] / rows).astype(int), fine[1] - 1),
        np.minimum((x * fine[0] / columns).astype(int), fine[0] - 1),
    ] = 0
    _, owner = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    inside = np.ones(owner.shape, np.uint8)
    inside[:, 1:] &= owner[:, 1:] == owner[:, :-1]
    inside[1:] &= owner[1:] == owner[:-1]
    depth = cv2.distanceTransform(inside, cv2.DIST_L2, 3) / np.float32(0.32 * step)
    domes = cv2.GaussianBlur(1 - np.exp(-1.6 * depth), (0, 0), 0.11 * step)
    grain: Field = cv2.resize(domes, (size, size), interpolation=cv2.INTER_AREA)
    return grain


def tile(rng: np.random.Generator, size: int, defect: Defect | None = None) -> Field:
    """Return a speckled glazed tile with a two-colour print; defects: crack, chip, misprint, stain."""
    scale = size / REFERENCE_PX
    u, v = pose(rng, size, 128 * scale, turn_degrees=0.4, warp_px=0.5, shift=0.05)  # fixtures hold a tile to some 6 px
    ragged = 0.35 * noise(rng, size, 3 * scale) / 128
    ink = 0.9 + 0.05 * noise(rng, size, 2 * scale) + 0.03 * noise(rng, size, 30 * scale)
    blue, ochre = _print(u, v, ragged)
    local = None if defect is None else np.random.default_rng(defect.seed)
    if defect is not None and local is not None and defect.kind == "misprint":
        blue, ochre = _misprinted(local, size, defect, (u, v, ragged))
    glaze = rgb(0.90, 0.875, 0.815) * (1 + 0.01 * noise(rng, size, 70 * scale))[..., None]
    specks = np.zeros((size, size), np.float32)
    for cell, limit, dark in ((2.0, 1.55, 0.20), (3.0, 1.9, 0.26), (2.0, 1.7, -0.10)):
        specks += dark * np.clip(4 * (noise(rng, size, cell * scale) - limit), 0, 1)
    glaze = glaze * (1 - specks[..., None] * rgb(0.85, 1.0, 1.15))
    glaze = mix(glaze, glaze * rgb(0.30, 0.40, 0.62), blue * ink)
    glaze = mix(glaze, glaze * rgb(0.93, 0.68, 0.36), ochre * ink)
    height = 0.2 * noise(rng, size, 22 * scale) + 0.03 * noise(rng, size, 4 * scale)
    if defect is not None and local is not None and defect.kind != "misprint":
        height, glaze = _defective_tile(local, size, defect, height, glaze)
    return shade(height.astype(np.float32), glaze.astype(np.float32), relief=0.3 * scale, shine=0.05)


def _print(u: Field, v: Field, ragged: Field) -> tuple[Field, Field]:
    """Return the coverage of blue and ochre ink, 0 to 1, at pattern coordinates."""
    x, y = np.abs(u - np.round(u)), np.abs(v - np.round(v))
    corner = np.sqrt((0.5 - x) ** 2 + (0.5 - y) ** 2) + 1e-6
    middle = np.sqrt(x * x + y * y) + 1e-6
    petals, lobes = _quarters(x, y, middle), _quarters(0.5 - x, 0.5 - y, corner)

    def drawn(distance: Field) -> Field:
        return np.clip(0.5 - (distance + ragged) * 100, 0, 1)

    rings = np.minimum(np.abs(corner - 0.43) - 0.020, np.abs(corner - 0.365) - 0.008)
    flower = np.minimum(np.abs(corner - 0.22 + 0.075 * lobes) - 0.013, corner - 0.045)
    heart = np.minimum(np.abs(middle - 0.155 - 0.05 * petals) - 0.012, middle - 0.032)
    blue = drawn(np.minimum(np.minimum(rings, heart), flower))
    buds = np.abs(corner - 0.16 + 0.075 * lobes) - 0.024
    # A dot in each gap of the ring; of the two in a quarter of the pattern the nearer one counts.
    low, high = np.minimum(x, y), np.maximum(x, y)
    dots = np.sqrt((high - 0.5) ** 2 + (low - 0.195) ** 2) - 0.03
    ochre = drawn(np.minimum(np.minimum(np.abs(middle - 0.085 - 0.03 * petals) - 0.026, buds), dots))
    return blue, ochre * (1 - blue)


def _quarters(x: Field, y: Field, radius: Field) -> Field:
    """Return the cosine of four times the angle of (x, y)."""
    cosine = (x * x - y * y) / (radius * radius)
    return 2 * cosine * cosine - 1


def _misprinted(
    local: np.random.Generator, size: int, defect: Defect, place: tuple[Field, Field, Field]
) -> tuple[Field, Field]:
    """Return the inks with one misprint: a void, a shifted band, a smear, or colours out of register."""
    scale, strength = size / REFERENCE_PX, defect.strength
    u, v, ragged = place
    blue, ochre = _print(u, v, ragged)
    kind = defect.seed % 4
    if kind == 0:
        keep = 1 - blob(local, size, (14 + 30 * strength) * scale, soft=0.3) * (0.55 + 0.45 * strength)
        return blue * keep, ochre * keep
    if kind == 1:
        middle, half = local.uniform(0.2, 0.8) * size, (6 + 20 * strength) * scale
        band = (np.abs(np.arange(size) - middle) < half)[:, None]
        slipped = _print((u + (0.025 + 0.06 * strength)).astype(np.float32), v, ragged)
        return np.where(band, slipped[0], blue), np.where(band, slipped[1], ochre)
    if kind == 2:
        region = blob(local, size, (30 + 26 * strength) * scale, soft=0.5)
        length = round((9 + 24 * strength) * scale) | 1
        pulled = [cv2.blur(layer, (length, 1), anchor=(length - 1, 0)) for layer in (blue, ochre)]
        return blue + region * np.maximum(pulled[0] - blue, 0), ochre + region * np.maximum(pulled[1] - ochre, 0)
    shift = (0.02 + 0.045 * strength) * np.exp(1j * local.uniform(0, 2 * np.pi))
    moved = _print((u + shift.real).astype(np.float32), (v + shift.imag).astype(np.float32), ragged)[1]
    return blue, moved


def _defective_tile(
    local: np.random.Generator, size: int, defect: Defect, height: Field, glaze: Field
) -> tuple[Field, Field]:
    scale, strength = size / REFERENCE_PX, defect.strength
    if defect.kind == "crack":
        points = curve(local, size, (90 + 190 * strength) * scale, bend=0.25, jag=1.6 * scale)
        line = stroke(size, points, (0.9 + 1.4 * strength) * scale)
        for _ in range(round(2.4 * strength)):
            start = points[local.integers(len(points) // 4, 3 * len(points) // 4)]
            twig = curve(local, size, (30 + 40 * strength) * scale, bend=0.3, jag=1.6 * scale, start=start)
            line = np.maximum(line, stroke(size, twig, (0.6 + 0.7 * strength) * scale))
        return height - 4 * line, mix(glaze, glaze * rgb(0.34, 0.30, 0.27), line * (0.5 + 0.5 * strength))
    if defect.kind == "chip":
        radius = (3.5 + 13 * strength) * scale
        spot = blob(local, size, radius, soft=0.06)
        body = rgb(0.62, 0.40, 0.28) * (0.9 + 0.10 * noise(local, size, 2.2 * scale))[..., None]
        pit = cv2.GaussianBlur(spot, (0, 0), 1.2 * scale) + 0.6 * cv2.GaussianBlur(spot, (0, 0), radius / 2)
        return height - 5 * pit * (1 + 0.15 * noise(local, size, 4 * scale)), mix(glaze, body, spot)
    spot = blob(local, size, (17 + 26 * strength) * scale, soft=0.3)
    ring = np.clip(4 * spot * (1 - spot), 0, 1)
    amount = (0.22 + 0.32 * strength) * spot * (0.8 + 0.2 * noise(local, size, 18 * scale)) + 0.22 * ring
    return height, glaze * (1 - amount[..., None] * rgb(0.55, 0.8, 1.35))


Material = Callable[..., "Field"]
MATERIALS: dict[str, tuple[Material, tuple[str, ...]]] = {
    "grid": (grid, ("bent", "broken", "rust", "thread")),
    "leather": (leather, ("fold", "hole", "scratch", "stain")),
    "tile": (tile, ("chip", "crack", "misprint", "stain")),
}
