"""Coordinate transform from image to network input, and back from the patch grid to image pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from blemish._validation.checks import check_number
from blemish.errors import InputError, message
from blemish.imaging.anomaly_map import anomalib_map, smooth, upsample
from blemish.imaging.resize import resize
from blemish.types import Float32, UInt8

# Strides of every backbone's layers divide it; other sizes would cut the coarse grid differently from the fine one.
MULTIPLE_PX = 32
MAX_SIDE_PX = 4096
SAME_ASPECT = 1.05
Upsampling = Literal["bilinear", "nearest"]


class MapRule(NamedTuple):
    """How a map on the patch grid comes to the size of the network's input.

    Attributes:
        upsampling: "bilinear" (Roth et al. 2022, section 3.3), or "nearest" as anomalib 2.7's PatchCore does.
        sigma_px: standard deviation of the Gaussian filter behind it, in pixels of the network's input; 0 for none.
    """

    upsampling: Upsampling = "bilinear"
    sigma_px: float = 4.0  # Roth et al. 2022, section 3.3


BILINEAR = MapRule()


@dataclass(frozen=True)
class Geometry:
    """Preprocessing of an image: antialiased resize to exactly `resize_hw`, then a centre crop if `crop_hw` is set.

    Attributes:
        crop_hw: (height, width) of the centre that the network sees, or None for all of it.
        resize_in_graph: whether the network's graph resizes and crops, in float32, as in imported models.
        map_rule: from the patch grid back to the network's input.
    """

    resize_hw: tuple[int, int]
    crop_hw: tuple[int, int] | None = None
    resize_in_graph: bool = False
    map_rule: MapRule = BILINEAR

    @property
    def network_hw(self) -> tuple[int, int]:
        """The (height, width) of the network's input."""
        return self.crop_hw or self.resize_hw

    def prepare(self, image: UInt8) -> UInt8:
        """Return the network's input, uint8 (h, w, 3), of an image, uint8 (H, W, 3)."""
        if self.resize_in_graph:
            return image
        resized = resize(image, self.resize_hw)
        top, left = self.corner
        height, width = self.network_hw
        return np.ascontiguousarray(resized[top : top + height, left : left + width])

    def restore(self, patch_map: Float32, image_hw: tuple[int, int]) -> Float32:
        """Return the anomaly map, (H, W) float32 at the image's size, of an (h, w) float32 patch map of 0 or more.

        It is smoothed at the network's size: smoothing at the image's size costs many times as much, for a difference
        below 1 % of the map's range.
        """
        return self.to_image(self.network_map(patch_map), image_hw)

    def network_map(self, patch_map: Float32) -> Float32:
        """Return the map at the size of the network's input of a map on the patch grid: upsampled and smoothed."""
        upsampling, sigma_px = self.map_rule
        if upsampling == "nearest":
            return anomalib_map(patch_map, self.network_hw, sigma_px)
        return smooth(upsample(patch_map, self.network_hw), sigma_px)

    def to_image(self, network_map: Float32, image_hw: tuple[int, int]) -> Float32:
        """Return the (H, W) float32 map at the image's size of one at the network's; 0 outside of a crop."""
        if self.crop_hw is None:
            return upsample(network_map, image_hw)
        resized = np.zeros(self.resize_hw, np.float32)
        top, left = self.corner
        resized[top : top + network_map.shape[0], left : left + network_map.shape[1]] = network_map
        return upsample(resized, image_hw)

    def patch_box(
        self, row: int, column: int, grid_hw: tuple[int, int], image_hw: tuple[int, int]
    ) -> tuple[int, int, int, int]:
        """Return the box (x, y, width, height), in image pixels, of one cell of the patch grid."""
        sides = []
        for k, cell in enumerate((row, column)):
            scale = image_hw[k] / self.resize_hw[k]
            step = self.network_hw[k] / grid_hw[k]
            low, high = ((self.corner[k] + (cell + edge) * step) * scale for edge in (0, 1))
            first = min(int(low), image_hw[k] - 1)
            sides.append((first, max(1, round(high) - first)))
        (y, height), (x, width) = sides
        return x, y, width, height

    @property
    def corner(self) -> tuple[int, int]:
        """The (top, left) of the crop in the resized image."""
        return tuple((size - crop) // 2 for size, crop in zip(self.resize_hw, self.network_hw, strict=True))  # type: ignore[return-value]


def choose_geometry(
    images_hw: Sequence[tuple[int, int]],
    image_size: int | tuple[int, int],
    center_crop: int | tuple[int, int] | None,
    *,
    patch_px: int | None = None,
    multiple_px: int = MULTIPLE_PX,
) -> Geometry:
    """Return the geometry for images of these sizes.

    Args:
        image_size: (height, width) of the network's input, or one number n: then about n * n pixels, in the images'
            own aspect ratio if they share one (within 5 %), else square.
        center_crop: (height, width), or one number for a square; None for no crop.
        patch_px: side of a transformer's patches, of which the network's input must be multiples; None for any size.
        multiple_px: of which the sides are multiples that are chosen by one number.

    Raises:
        InputError: if a size is out of range or no multiple of `patch_px`, or the crop is larger than the resized
            image.

    >>> choose_geometry([(1080, 1920)], 320, None).resize_hw
    (256, 416)
    >>> choose_geometry([(900, 900)], (256, 256), 224).crop_hw
    (224, 224)
    """
    if isinstance(image_size, tuple):
        resize_hw = _check_pair("image_size", image_size)
    else:
        side = int(check_number("image_size", image_size, low=MULTIPLE_PX, high=MAX_SIDE_PX))
        aspects = [height / width for height, width in images_hw]
        shared = max(aspects) / min(aspects) <= SAME_ASPECT
        aspect = float(np.median(aspects)) if shared else 1.0
        step = patch_px or multiple_px
        resize_hw = _rounded(side * aspect**0.5, step), _rounded(side / aspect**0.5, step)
    if center_crop is None:
        return Geometry(_check_patches("image_size", resize_hw, patch_px))
    pair = center_crop if isinstance(center_crop, tuple) else (center_crop, center_crop)
    crop_hw = _check_pair("center_crop", pair)
    if crop_hw[0] > resize_hw[0] or crop_hw[1] > resize_hw[1]:
        todo = "Raise image_size, or give a smaller crop."
        raise InputError(message("center_crop", f"at most {resize_hw}", str(crop_hw), todo=todo))
    return Geometry(resize_hw, _check_patches("center_crop", crop_hw, patch_px))


def is_size_of(resize_hw: tuple[int, int], side: int, multiple_px: int = MULTIPLE_PX) -> bool:
    """Return whether `choose_geometry` resizes images of some aspect ratio to this size, given one number.

    >>> is_size_of((256, 416), 320), is_size_of((256, 256), 320)
    (True, False)
    """
    if any(size % multiple_px for size in resize_hw):
        return False
    half = multiple_px / 2
    (low, high), (short, long) = ((0 if n <= MULTIPLE_PX else n - half, n + half) for n in resize_hw)
    return bool(max(low, side * side / long) <= min(high, side * side / max(short, 1e-9)))


def _rounded(size: float, step: int) -> int:
    return max(-(-MULTIPLE_PX // step), round(size / step)) * step


def _check_patches(name: str, hw: tuple[int, int], patch_px: int | None) -> tuple[int, int]:
    """Return (height, width) in pixels; InputError if they are not multiples of `patch_px`."""
    if patch_px is not None and any(side % patch_px for side in hw):
        nearest = tuple(_rounded(side, patch_px) for side in hw)
        expected = f"multiples of {patch_px} px, the side of the backbone's patches"
        raise InputError(message(name, expected, str(hw), todo=f"Give {nearest}."))
    return hw


def _check_pair(name: str, pair: tuple[int, ...]) -> tuple[int, int]:
    if len(pair) != 2:
        raise InputError(message(name, "one number or (height, width)", str(pair)))
    height, width = (int(check_number(name, size, low=MULTIPLE_PX, high=MAX_SIDE_PX)) for size in pair)
    return height, width
