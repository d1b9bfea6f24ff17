"""Settings of detectors on features of a pretrained backbone."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from blemish.backbones.registry import DEFAULT
from blemish.detectors.settings import CROP_HELP, SIZE_HELP, Settings, crop_size, network_size, path, setting
from blemish.errors import InputError, message

if TYPE_CHECKING:
    from blemish.backbones.backbone import Backbone
    from blemish.data.training_images import TrainingImages
    from blemish.imaging.geometry import Geometry

# Measured: interpreter, libraries, the embedded network and the images decoded ahead.
BASE_BYTES = 300 * 2**20
# More scores would not move the threshold at a false positive rate of 1 %, and each costs a search or a pass.
MAX_CALIBRATION = 1000
# With fewer images a fit takes seconds, and an estimate of its time is not worth a pilot.
LEAST_TIMED = 100

Own = TypeVar("Own", bound="BackboneSettings")


def layer_names(name: str, value: Any) -> tuple[str, ...] | None:
    """Return names of layers as a tuple, None for the backbone's default layers."""
    if value is None:
        return None
    if isinstance(value, str) or not value or not all(isinstance(layer, str) for layer in value):
        raise InputError(message(name, "names", repr(value)))
    return tuple(value)


def backbone_name(name: str, value: Any) -> str:
    """Return a backbone's name or path as text."""
    if not isinstance(value, (str, os.PathLike)):
        raise InputError(message(name, "a name or an ONNX file", repr(value)))
    return str(os.fspath(value))


def pretrained(name: str, value: Any) -> bool:
    """Return True; anything else is refused."""
    if value is not True:
        todo = "Leave it out; for weights of your own give weights=, or an ONNX file as backbone=."
        raise InputError(message(name, "True", str(value), todo=todo))
    return True


@dataclass(frozen=True, kw_only=True)
class BackboneSettings(Settings):
    """Settings of a detector on a pretrained backbone."""

    backbone: str | os.PathLike[str] = setting(
        DEFAULT, "Name from `blemish backbones list`, or an ONNX file.", backbone_name, option="backbone"
    )
    layers: Sequence[str] | None = setting(
        None,
        "Layers of the backbone, finest first (with commas on the command line); its default layers if not given.",
        layer_names,
        option="layers",
        kind=str,
        parse=lambda text: text.split(","),
    )
    weights: str | os.PathLike[str] | None = setting(
        None,
        "Weight file of a named backbone; the installed or fetched one by default.",
        path,
        option="weights",
        kind=os.PathLike,
        stored=False,
    )
    pre_trained: bool = setting(True, "True: random weights are refused.", pretrained, stored=False)
    image_size: int | tuple[int, int] = setting(320, SIZE_HELP, network_size, option="image-size")
    center_crop: int | tuple[int, int] | None = setting(None, CROP_HELP, crop_size, option="center-crop", kind=int)

    def geometry(self, images_hw: Sequence[tuple[int, int]], backbone: Backbone | None) -> Geometry:
        """Return the geometry for images of these sizes.

        Args:
            backbone: whose input size or patches are kept to; None for one that takes any size.

        Raises:
            InputError: if the size is none that the backbone takes.
        """
        from blemish.imaging.geometry import choose_geometry

        if backbone is None:
            return choose_geometry(images_hw, self.image_size, self.center_crop)
        size = backbone.image_hw or self.image_size
        return choose_geometry(images_hw, size, self.center_crop, patch_px=backbone.patch_px)

    def load_pretrained(self) -> Backbone:
        """Return the backbone."""
        from blemish.backbones.backbone import build

        return build(self.backbone, layers=self.layers, weights=self.weights)

    def completed(self: Own, pretrained: Backbone) -> Own:
        """Return the settings with the names of the backbone's layers."""
        return replace(self, layers=pretrained.layers)

    def area_px(self, backbone: Backbone) -> int:
        """Return about how many pixels the network's input has."""
        size = backbone.image_hw or self.center_crop or self.image_size
        return size[0] * size[1] if isinstance(size, tuple) else size * size


def provenance_of(
    settings: BackboneSettings, backbone: Backbone, images: TrainingImages, fit_s: float
) -> dict[str, str | int | float]:
    """Return seed, hashes, counts and time of a fit, for `model.json`."""
    return {
        "seed": settings.seed,
        "backbone": backbone.name,
        "backbone_sha256": backbone.weights_sha256,
        "n_training_files": len(images),
        "training_sha256": images.sha256,
        "fit_s": round(fit_s, 3),
    }
