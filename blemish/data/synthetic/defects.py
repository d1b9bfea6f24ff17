"""Synthetic defects on good images, with exact masks: a stand-in for defective images that nobody has.

Each kind has a random size, place, shape and contrast, from barely to clearly visible. The detection rate of a detector
on them compares settings of a detector and thresholds; it is not the rate on real defects, which have their own kinds.

Sources: Li et al. 2021, "CutPaste: Self-supervised learning for anomaly detection and localization" (`cut_paste`,
`scar`); Zavrtanik et al. 2021, "DRAEM: A discriminatively trained reconstruction embedding for surface anomaly
detection" (`noise_blend`); Telea 2004, "An image inpainting technique based on the fast marching method" (`missing`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

from blemish._validation.checks import check_array, check_number, check_whole, describe
from blemish.data.synthetic.foreground import estimate_foreground, largest_channel
from blemish.data.synthetic.textures import blob_at, curve, noise, stroke
from blemish.errors import InputError, message

if TYPE_CHECKING:
    from blemish.types import Bool, Float32, UInt8

REFERENCE_PX = 512  # lengths in pixels are those of an image of 512 x 512
LEAST_SIDE = 32
VISIBLE = 2  # grey levels: a pixel is defective where a channel changes by more
VISIBLE_SHARE = 0.35  # of the change asked for: a defect with less in most of its area is drawn elsewhere
LEAST_PX = 4  # of a mask
CONTRASTS = 1.5, 16.0  # root mean square change over the local contrast, at strength 0 and 1
LEAST_CONTRAST = 6.0  # grey levels: that of a smooth surface, where the noise alone would be invisible
LARGEST_CHANGE = 100.0  # grey levels: more would be black or white whatever lies there
ATTEMPTS = 6
BACKGROUND_SHARE = 0.05  # of the defects may lie anywhere, the background included


class SyntheticDefect(NamedTuple):
    """One synthetic defect.

    Attributes:
        image: (H, W, 3) uint8, the image with the defect.
        mask: (H, W) bool, the pixels that differ from the good image.
        kind: one of `DEFECT_KINDS`.
        strength: 0 (barely visible) to 1 (clearly visible), as it was asked for.
        image_index: of the good image.
    """

    image: UInt8
    mask: Bool
    kind: str
    strength: float
    image_index: int


class _Scene(NamedTuple):
    """A good image: where its defects lie, and the image that patches are taken from."""

    image: UInt8
    source: UInt8
    foreground: Bool
    is_grey: bool
    scale: float  # pixels for each pixel of an image of 512 px

    def place(self, rng: np.random.Generator) -> tuple[int, int]:
        """Return a random pixel (x, y) of the foreground."""
        height, width = self.foreground.shape
        for _ in range(100):
            x, y = int(rng.integers(width)), int(rng.integers(height))
            if self.foreground[y, x]:
                return x, y
        places = np.flatnonzero(self.foreground)  # few: a list is quicker than more trials
        y, x = divmod(int(places[rng.integers(len(places))]), width)
        return x, y


class _Plan(NamedTuple):
    """Size, place and strength of one defect."""

    area_px: float
    strength: float
    centre: tuple[int, int]  # x, y

    @property
    def radius(self) -> float:
        return float(np.sqrt(self.area_px / np.pi))

    def levels(self, contrast: float) -> float:
        """Return the root mean square change in grey levels at this local contrast."""
        low, high = CONTRASTS
        return float(min(LARGEST_CHANGE, contrast * low * (high / low) ** self.strength))


class _Window(NamedTuple):
    """A square of `side` pixels around the centre of a defect, and the part of it inside the image."""

    left: int
    top: int
    side: int
    hw: tuple[int, int]  # of the image

    @property
    def of_image(self) -> tuple[slice, slice]:
        height, width = self.hw
        rows = slice(max(0, self.top), min(height, self.top + self.side))
        return rows, slice(max(0, self.left), min(width, self.left + self.side))

    def cut(self, square: Float32) -> Float32:
        """Return the part inside the image of an array of the whole square."""
        rows, columns = self.of_image
        return square[
            rows.start - self.top : rows.stop - self.top, columns.start - self.left : columns.stop - self.left
        ]


class _Layer(NamedTuple):
    """New content of a window, (h, w, 3) float32, and its coverage, (h, w) float32 from 0 to 1."""

    window: tuple[slice, slice]
    content: Float32
    coverage: Float32


_Kind = Callable[[np.random.Generator, _Scene, _Plan], _Layer]


def _square(scene: _Scene, plan: _Plan, side: float) -> _Window:
    size = 2 * int(np.ceil(side / 2)) + 1
    x, y = plan.centre
    return _Window(x - size // 2, y - size // 2, size, scene.image.shape[:2])


def _pixels(scene: _Scene, window: tuple[slice, slice]) -> Float32:
    return scene.image[window].astype(np.float32)


def _mean(pixels: Float32) -> Float32:
    return np.array(cv2.mean(pixels)[:3], np.float32)


def _local_contrast(scene: _Scene, window: tuple[slice, slice]) -> float:
    """Return the standard deviation of the structures finer than 16 px, robustly, in grey levels."""
    grey = cv2.cvtColor(np.ascontiguousarray(scene.image[window]), cv2.COLOR_RGB2GRAY).astype(np.float32)
    sigma = max(1.0, 8 * scene.scale)
    step = max(1, int(sigma / 4))
    smooth = cv2.GaussianBlur(grey[::step, ::step], (0, 0), sigma / step)
    # 1.25: standard deviation over mean absolute deviation of a normal distribution
    return max(LEAST_CONTRAST, 1.25 * float(np.abs(grey[::step, ::step] - smooth).mean()))


def _on_object(scene: _Scene, plan: _Plan, window: tuple[slice, slice], coverage: Float32) -> Float32:
    """Return the coverage on the foreground alone, if the centre of the defect is there."""
    x, y = plan.centre
    if not scene.foreground[y, x]:
        return coverage
    # An estimate of the outline is a few pixels off: a soft edge there looks less like a defect of its own.
    softened = cv2.GaussianBlur(scene.foreground[window].astype(np.float32), (0, 0), max(0.5, 1.5 * scene.scale))
    return coverage * np.asarray(softened, np.float32)


def _shift(
    rng: np.random.Generator, scene: _Scene, pixels: Float32, levels: float, tints: tuple[float, float] = (0.1, 0.6)
) -> Float32:
    """Return a random change of colour, (3,) float32 of root mean square `levels`; of brightness in a grey image."""
    brightness = float(pixels.mean())
    sign = float(rng.choice([-1.0, 1.0]))
    if not 0 <= brightness + sign * levels <= 255:
        sign = 1.0 if brightness < 128 else -1.0
    tint = np.zeros(3) if scene.is_grey else rng.normal(0, rng.choice(tints), 3)
    direction = sign + tint
    return np.asarray(levels * direction / np.sqrt(np.mean(direction**2)), np.float32)


def _transplant(scene: _Scene, square: _Window, start: tuple[int, int], turn: float = 0.0, mirror: int = 1) -> Float32:
    """Return pixels of the source around `start` (x, y), turned by `turn` radians, at the size of the window."""
    rows, columns = square.of_image
    to = np.array([square.left + square.side // 2 - columns.start, square.top + square.side // 2 - rows.start])
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) * [mirror, 1]
    matrix = np.column_stack([rotation, np.asarray(start) - rotation @ to])
    size = columns.stop - columns.start, rows.stop - rows.start
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    moved = cv2.warpAffine(scene.source, matrix, size, flags=flags, borderMode=cv2.BORDER_REFLECT_101)
    return np.asarray(moved, np.float32)


def _elsewhere(rng: np.random.Generator, scene: _Scene, plan: _Plan, distance: float) -> tuple[int, int]:
    """Return a pixel (x, y) of the foreground, `distance` from the defect if there is one."""
    places = [scene.place(rng) for _ in range(8)]
    far = [float(np.hypot(x - plan.centre[0], y - plan.centre[1])) for x, y in places]
    enough = [place for place, away in zip(places, far, strict=True) if away >= distance]
    return enough[0] if enough else places[int(np.argmax(far))]


def _jittered(rng: np.random.Generator, scene: _Scene, plan: _Plan, layer: _Layer) -> _Layer:
    """Return a layer with another contrast and colour, by which texture on equal texture becomes visible."""
    content = layer.content
    levels = plan.levels(_local_contrast(scene, layer.window)) * rng.uniform(0.5, 1)
    mean = _mean(content)
    jittered = mean + (content - mean) * np.float32(rng.uniform(0.8, 1.2)) + _shift(rng, scene, content, levels)
    return layer._replace(content=jittered.astype(np.float32))


def _rectangle(side: int, size: tuple[float, float], turn: float) -> Float32:
    """Return the antialiased coverage of a rectangle (width, height) in the middle of a square."""
    corners = cv2.boxPoints(((side / 2 - 0.5, side / 2 - 0.5), size, float(np.rad2deg(turn))))
    canvas = np.zeros((side, side), np.uint8)
    cv2.fillConvexPoly(canvas, np.round(corners * 16).astype(np.int32), 255, cv2.LINE_AA, 4)
    return np.asarray(canvas / np.float32(255), np.float32)


def _pasted(rng: np.random.Generator, scene: _Scene, plan: _Plan, size: tuple[float, float], turn: float) -> _Layer:
    square = _square(scene, plan, np.hypot(*size) + 2)
    coverage = square.cut(_rectangle(square.side, size, turn))
    start = _elsewhere(rng, scene, plan, max(size))
    content = _transplant(scene, square, start, turn, int(rng.choice([-1, 1])))
    return _jittered(rng, scene, plan, _Layer(square.of_image, content, coverage))


def _cut_paste(rng: np.random.Generator, scene: _Scene, plan: _Plan) -> _Layer:
    aspect = np.exp(rng.uniform(np.log(0.3), np.log(3.3)))  # Li et al. 2021, section 2.2
    width = float(np.sqrt(plan.area_px * aspect))
    return _pasted(rng, scene, plan, (width, plan.area_px / width), 0.0)


def _scar(rng: np.random.Generator, scene: _Scene, plan: _Plan) -> _Layer:
    aspect = rng.uniform(4, 12)
    length = min(float(np.sqrt(plan.area_px * aspect)), 0.9 * max(scene.image.shape))
    return _pasted(rng, scene, plan, (length, plan.area_px / length), rng.uniform(0, np.pi))


def _noise_blend(rng: np.random.Generator, scene: _Scene, plan: _Plan) -> _Layer:
    reach = 1.8 * plan.radius
    square = _square(scene, plan, 2 * reach)
    field = noise(rng, square.side, max(2.0, plan.radius * rng.uniform(0.35, 1.0)))
    axis = np.arange(square.side) - square.side // 2
    field = field - 3 * np.maximum(0, np.hypot(axis[:, None], axis) / reach - 0.4)  # fades out towards the window
    share = min(0.9, plan.area_px / square.side**2)
    coverage = np.clip((field - np.quantile(field, 1 - share)) / 0.3 + 0.5, 0, 1).astype(np.float32)
    window = square.of_image
    if rng.random() < 0.7:
        start = _elsewhere(rng, scene, plan, reach)
        content = _transplant(scene, square, start, rng.uniform(0, 2 * np.pi), int(rng.choice([-1, 1])))
    else:
        contrast = _local_contrast(scene, window) * rng.uniform(0.5, 2)
        texture = noise(rng, square.side, max(1.5, scene.scale * np.exp(rng.uniform(0, 3))))
        content = _mean(_pixels(scene, window)) + contrast * square.cut(texture.astype(np.float32))[..., None]
    coverage = _on_object(scene, plan, window, square.cut(coverage))
    return _jittered(rng, scene, plan, _Layer(window, content, coverage))


def _line(rng: np.random.Generator, scene: _Scene, plan: _Plan, *, branched: bool) -> _Layer:
    """Return a thin tapered line: an open random walk, jagged and branched if it is a crack."""
    width = max(1.0, scene.scale * rng.uniform(1, 3))
    length = min(plan.area_px / width, 0.9 * max(scene.image.shape))
    width = plan.area_px / length
    bend, jag = (rng.uniform(0.4, 0.8), 0.35 * length / 48) if branched else (rng.uniform(0.03, 0.3), 0.0)
    start = np.zeros(2, np.float32)
    lines = [curve(rng, 0, length, bend=bend, jag=jag, start=start)]
    if branched and rng.random() < 0.6:
        fork = lines[0][int(rng.integers(10, 38))]
        lines.append(curve(rng, 0, length * rng.uniform(0.2, 0.6), bend=bend, jag=jag / 2, start=fork))
    middle = lines[0][24]
    reach = max(float(np.abs(line - middle).max()) for line in lines) + width + 1
    square = _square(scene, plan, 2 * reach)
    drawn = [stroke(square.side, line - middle + square.side / 2, width) for line in lines]
    coverage = square.cut(np.maximum(drawn[0], drawn[-1]).astype(np.float32))
    window = square.of_image
    pixels = _pixels(scene, window)
    levels = plan.levels(_local_contrast(scene, window))
    shift = _shift(rng, scene, pixels, levels, (0.1, 0.1))
    if branched and rng.random() < 0.8 and pixels.mean() > levels:
        shift = -np.abs(shift)  # most cracks are dark
    return _Layer(window, pixels + shift, _on_object(scene, plan, window, coverage))


def _scratch(rng: np.random.Generator, scene: _Scene, plan: _Plan) -> _Layer:
    return _line(rng, scene, plan, branched=False)


def _crack(rng: np.random.Generator, scene: _Scene, plan: _Plan) -> _Layer:
    return _line(rng, scene, plan, branched=True)


def _blob(rng: np.random.Generator, scene: _Scene, plan: _Plan, soft: float) -> tuple[_Window, Float32]:
    """Return an irregular blob with an edge `soft` radii wide, and its window."""
    square = _square(scene, plan, (3.2 + soft) * plan.radius + 2)
    middle = np.full(2, square.side / 2 - 0.5)
    return square, square.cut(blob_at(rng, square.side, plan.radius, middle, soft=soft).astype(np.float32))


def _blur(rng: np.random.Generator, scene: _Scene, plan: _Plan) -> _Layer:
    square, coverage = _blob(rng, scene, plan, 0.6)
    window = square.of_image
    sigma = max(0.7, scene.scale * 2.5 * 5**plan.strength)
    content = cv2.GaussianBlur(_pixels(scene, window), (0, 0), sigma)
    return _Layer(window, content, _on_object(scene, plan, window, coverage))


def _colour(rng: np.random.Generator, scene: _Scene, plan: _Plan) -> _Layer:
    square, coverage = _blob(rng, scene, plan, rng.uniform(0.5, 1.2))
    window = square.of_image
    pixels = _pixels(scene, window)
    levels = plan.levels(_local_contrast(scene, window))
    coverage = _on_object(scene, plan, window, coverage)
    x, y = plan.centre  # brightness there says whether a stain can be darker or lighter
    content = pixels + _shift(rng, scene, _pixels(scene, (slice(y, y + 1), slice(x, x + 1))), levels)
    return _Layer(window, content, coverage)


def _missing(rng: np.random.Generator, scene: _Scene, plan: _Plan) -> _Layer:
    square, coverage = _blob(rng, scene, plan, 0.2)
    window = square.of_image
    height, width = coverage.shape
    shrink = min(1.0, 48 / max(height, width))  # the fill is smooth: fast marching at full size would take 20 ms
    size = max(1, round(width * shrink)), max(1, round(height * shrink))
    small = cv2.resize(scene.image[window], size, interpolation=cv2.INTER_AREA)
    unknown = (cv2.resize(coverage, size, interpolation=cv2.INTER_AREA) > 0.02).astype(np.uint8)
    filled = cv2.inpaint(small, unknown, 3, cv2.INPAINT_TELEA)
    content = cv2.resize(filled.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    return _Layer(window, content, coverage)


def _doubled(rng: np.random.Generator, scene: _Scene, plan: _Plan) -> _Layer:
    square, coverage = _blob(rng, scene, plan, 0.3)
    turn, distance = rng.uniform(0, 2 * np.pi), rng.uniform(0.8, 2.2) * plan.radius + 2
    x, y = plan.centre
    start = round(x + distance * np.cos(turn)), round(y + distance * np.sin(turn))
    own = scene._replace(source=scene.image)
    return _Layer(square.of_image, _transplant(own, square, start), coverage)


class _Recipe(NamedTuple):
    draw: _Kind
    areas: tuple[float, float]  # shares of the image, between which sizes are drawn
    # Sigma in px, before visibility is judged: noise copied onto equal noise is no visible change, a thin line is.
    smoothing: float


_RECIPES = {
    "cut_paste": _Recipe(_cut_paste, (0.0015, 0.05), 2.0),
    "scar": _Recipe(_scar, (0.001, 0.015), 2.0),
    "noise_blend": _Recipe(_noise_blend, (0.0015, 0.05), 2.0),
    "scratch": _Recipe(_scratch, (0.0005, 0.006), 0.0),
    "crack": _Recipe(_crack, (0.0005, 0.006), 0.0),
    "blur": _Recipe(_blur, (0.005, 0.05), 1.0),
    "colour": _Recipe(_colour, (0.0015, 0.05), 2.0),
    "missing": _Recipe(_missing, (0.003, 0.05), 2.0),
    "doubled": _Recipe(_doubled, (0.003, 0.05), 2.0),
}
DEFECT_KINDS: tuple[str, ...] = tuple(_RECIPES)
PASTED = "cut_paste", "scar", "noise_blend"  # the kinds that may take a patch of another image


def synthetic_defect(
    image: UInt8,
    kind: str,
    rng: np.random.Generator,
    *,
    source: UInt8 | None = None,
    foreground: Bool | None = None,
    area: float | None = None,
    strength: float | None = None,
) -> tuple[UInt8, Bool]:
    """Return a copy of a good image with one synthetic defect, (H, W, 3) uint8, and its exact mask, (H, W) bool.

    The mask is True exactly where the images differ: by more than 2 grey levels in some channel, in at least 4 pixels.
    A defect that would not be visible (a blur of a smooth surface) is drawn again elsewhere and stronger; if the kind
    cannot change the image at all, as in a constant image, the defect is a `colour` stain. Grey images stay grey.

    Args:
        image: (H, W, 3) uint8 RGB, from 32 px.
        kind: one of `DEFECT_KINDS`.
            "cut_paste": a rectangle from elsewhere, with another colour (Li et al. 2021); "scar": a thin rotated one.
            "noise_blend": thresholded smooth noise blends in texture from elsewhere, or noise (Zavrtanik et al. 2021).
            "scratch", "crack": a thin tapered line, smooth or jagged and branched.
            "blur": a blurred blob; "colour": a stain; "missing": a blob inpainted from its surroundings (Telea 2004);
            "doubled": a blob replaced by a copy of its neighborhood.
        rng: of size, place and shape; the same state gives the same bytes.
        source: (h, w, 3) uint8, another good image that patches are taken from; by default the image itself.
        foreground: (H, W) bool, where defects lie; by default `estimate_foreground(image)`. One defect in 20 lies
            anywhere.
        area: share of the image area, 0.0001 to 0.25; by default log-uniform: up to 0.05 from 0.0015, from 0.005 for a
            blur, from 0.003 for a missing or doubled part; 0.001 to 0.015 for scars, 0.0005 to 0.006 for lines.
        strength: 0 (barely visible) to 1 (clearly visible); by default uniform. The root mean square change is 1.5 to
            16 times the local contrast (of at least 6 grey levels), at most 100 grey levels, and at most all that the
            kind can change there. A blur has a sigma of 2.5 to 12.5 px in an image of 512 px.

    Raises:
        InputError: if the image is not uint8 (H, W, 3) from 32 px, there is no such kind, or a number is out of range.

    Cost: 6 to 14 ms of one core for an image of 512 px, by kind.
    """
    if kind not in DEFECT_KINDS:
        raise InputError(message("kind", f"one of {', '.join(DEFECT_KINDS)}", repr(kind)))
    scene = _scene(image, source, foreground)
    recipe = _RECIPES[kind]
    if area is None:
        area = float(np.exp(rng.uniform(*np.log(recipe.areas))))
    if strength is None:
        strength = float(rng.uniform())
    check_number("area", area, low=0.0001, high=0.25)
    check_number("strength", strength, low=0, high=1)
    # A line of 0.0001 of a small image would be no pixel at all.
    area_px = max(2.0 * LEAST_PX, area * scene.foreground.size)
    best, most = (image, np.zeros(scene.foreground.shape, np.bool_)), (0, 0)
    for attempt in range(ATTEMPTS):
        plan = _Plan(area_px, min(1.0, strength + 0.1 * max(0, attempt - 2)), _centre(rng, scene))
        drawn, visible_px = _drawn(scene, plan, recipe.draw(rng, scene, plan), recipe.smoothing)
        visibility = visible_px, int(drawn[1].sum())
        if visibility > most:
            best, most = drawn, visibility
        if visible_px >= max(LEAST_PX, 0.2 * area_px):
            break
    if most[1] < LEAST_PX:
        plan = _Plan(max(area_px, 64.0), 1.0, _centre(rng, scene))
        anywhere = scene._replace(foreground=np.ones_like(scene.foreground))
        best, _ = _drawn(scene, plan, _colour(rng, anywhere, plan), 0.0)
    return best


def synthetic_defects(images: Sequence[UInt8], n: int, seed: int = 0) -> Iterator[SyntheticDefect]:
    """Yield `n` good images with one synthetic defect each; kinds and images take turns.

    Defect i depends on the images, the seed and i alone: the first defects of a longer series are the same. Half of the
    patches are taken from another good image.

    Args:
        images: good images, each (H, W, 3) uint8 RGB; a sequence that reads them when they are asked for will do.
        n: number of defects, 1 or more.
        seed: of all randomness, 0 or more.

    Raises:
        InputError: if there are no images, or a number is out of range.
    """
    check_whole("n", n, 1, 10_000_000)
    check_whole("seed", seed, 0, 2**63)
    if not len(images):
        raise InputError(message("images", "at least 1 image", "none"))
    return (_numbered(images, seed, i) for i in range(n))


def _numbered(images: Sequence[UInt8], seed: int, i: int) -> SyntheticDefect:
    """Return defect `i` of a series."""
    turn, position = divmod(i, len(images))
    index = int(np.random.default_rng([seed, 0, turn]).permutation(len(images))[position])
    turn, position = divmod(i, len(DEFECT_KINDS))
    kind = DEFECT_KINDS[int(np.random.default_rng([seed, 1, turn]).permutation(len(DEFECT_KINDS))[position])]
    rng = np.random.default_rng([seed, 2, i])
    strength = float(rng.uniform())
    source = None
    if kind in PASTED and len(images) > 1 and rng.random() < 0.5:
        source = images[(index + int(rng.integers(1, len(images)))) % len(images)]
    image, mask = synthetic_defect(images[index], kind, rng, source=source, strength=strength)
    return SyntheticDefect(image, mask, kind, strength, index)


def _scene(image: UInt8, source: UInt8 | None, foreground: Bool | None) -> _Scene:
    """Return the checked image, with its foreground."""
    check_array("image", image, dtype=np.uint8, shape=("H", "W", 3))
    height, width = image.shape[:2]
    if min(height, width) < LEAST_SIDE:
        raise InputError(message("image", f"at least {LEAST_SIDE} px high and wide", describe(image)))
    red, green, blue = cv2.split(image)
    is_grey = np.array_equal(red, green) and np.array_equal(red, blue)
    if source is None:
        source = image
    check_array("source", source, dtype=np.uint8, shape=("h", "w", 3))
    if source.shape != image.shape:
        source = np.asarray(cv2.resize(source, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    if is_grey and source is not image:
        source = np.repeat(cv2.cvtColor(source, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    if foreground is None:
        foreground = estimate_foreground(image)
    check_array("foreground", foreground, dtype=np.bool_, shape=(height, width))
    if not foreground.any():
        raise InputError(message("foreground", "at least 1 pixel", "none"))
    return _Scene(image, source, foreground, is_grey, float(np.sqrt(height * width)) / REFERENCE_PX)


def _centre(rng: np.random.Generator, scene: _Scene) -> tuple[int, int]:
    """Return the centre (x, y) of a defect, with few exceptions on the foreground."""
    if rng.random() >= BACKGROUND_SHARE:
        return scene.place(rng)
    height, width = scene.foreground.shape
    return int(rng.integers(width)), int(rng.integers(height))


def _drawn(scene: _Scene, plan: _Plan, layer: _Layer, smoothing: float) -> tuple[tuple[UInt8, Bool], int]:
    """Return image and mask with a layer blended in, and the number of pixels that differ after smoothing.

    The contrast is that of the plan, or that of the full content if that is less.
    """
    pixels = _pixels(scene, layer.window)
    change = (layer.content - pixels) * layer.coverage[..., None]
    weight = float(np.square(layer.coverage).sum())
    mean_square = float(np.square(change).sum()) / (3 * weight) if weight else 0.0
    contrast = _local_contrast(scene, layer.window)
    levels = plan.levels(contrast)
    if mean_square > levels**2:
        change *= np.float32(levels / np.sqrt(mean_square))
    after = np.clip(pixels + change + 0.5, 0, 255).astype(np.uint8)
    difference = after.astype(np.float32) - pixels
    differs = largest_channel(np.abs(difference)) > VISIBLE
    image, mask = scene.image.copy(), np.zeros(scene.foreground.shape, np.bool_)
    image[layer.window][differs] = after[differs]
    mask[layer.window] = differs
    if smoothing:
        difference = cv2.GaussianBlur(difference, (0, 0), max(0.5, smoothing * scene.scale))
    enough = max(VISIBLE, VISIBLE_SHARE * min(levels, 2 * contrast))  # texture itself changes by no more
    visible = differs & (largest_channel(np.abs(difference)) > enough)
    return (image, mask), int(visible.sum())
