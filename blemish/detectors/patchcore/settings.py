"""What a PatchCore detector can be told: one frozen record, checked when it is made, written into every model."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from blemish._validation.checks import check_number, check_whole
from blemish.errors import InputError, message
from blemish.imaging.geometry import MAX_SIDE_PX, Geometry, choose_geometry
from blemish.ops.statistics import SCALINGS, Scaling

if TYPE_CHECKING:
    from collections.abc import Sequence

Arithmetic: TypeAlias = Literal["blemish", "anomalib"]
ARITHMETICS = ("blemish", "anomalib")
# A larger bank makes every prediction slower and, measured in benchmarks/ablation.py, hardly any better.
MAX_BANK_ROWS = 20_000


@dataclass(frozen=True)
class PatchcoreSettings:
    """Settings of `Patchcore`, which documents them; every one is in the model folder.

    Raises:
        InputError: if one is out of range.
    """

    backbone: str
    layers: tuple[str, ...]
    image_size: int | tuple[int, int]
    center_crop: int | tuple[int, int] | None
    coreset_sampling_ratio: float
    coreset_size: int | None
    num_neighbors: int
    pooling: int
    scaling: Scaling
    shrinkage: float
    position_sigma: float | None
    score_sigma: float
    score_fusion: bool
    map_sigma_px: float
    false_positive_rate: float
    bit_depth: int | None
    max_rows: int
    seed: int
    arithmetic: Arithmetic = "blemish"

    def __post_init__(self) -> None:
        """Check every number; names of backbones and layers are checked where they are looked up."""
        choices = {"scaling": SCALINGS, "arithmetic": ARITHMETICS, "score_fusion": (True, False)}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise InputError(message(name, " or ".join(map(str, allowed)), repr(getattr(self, name))))
        if self.coreset_sampling_ratio == 0:
            raise InputError(message("coreset_sampling_ratio", "a number above 0", "0"))
        limits: dict[str, tuple[float, float]] = {
            "coreset_sampling_ratio": (0, 1),
            "shrinkage": (0, 1000),
            "score_sigma": (0, 100),
            "map_sigma_px": (0, 100),
        }
        for name, (low, high) in limits.items():
            check_number(name, getattr(self, name), low=low, high=high)
        if self.position_sigma is not None:
            check_number("position_sigma", self.position_sigma, low=0, high=100)
        if self.score_fusion and self.arithmetic == "anomalib":
            raise InputError(message("score_fusion", "False with anomalib's arithmetic", "True"))
        check_whole("num_neighbors", self.num_neighbors, 1, 100)
        check_whole("pooling", self.pooling, 1, 15)
        if self.pooling % 2 == 0:
            raise InputError(message("pooling", "an odd number", str(self.pooling)))
        check_whole("max_rows", self.max_rows, 1000, 10**8)
        check_whole("seed", self.seed, 0, 2**63 - 1)
        if self.coreset_size is not None:
            check_whole("coreset_size", self.coreset_size, 1, self.max_rows // 2)
        if self.bit_depth is not None:
            check_whole("bit_depth", self.bit_depth, 9, 16)
        # Which geometry it will be depends on the images; what no image allows is refused here.
        choose_geometry([(1, 1)], self.image_size, None)
        choose_geometry([(1, 1)], (MAX_SIDE_PX, MAX_SIDE_PX), self.center_crop)

    def geometry(self, images_hw: Sequence[tuple[int, int]], image_hw: tuple[int, int] | None) -> Geometry:
        """Return what the network sees of images of these sizes.

        Args:
            images_hw: (height, width) of each.
            image_hw: the one size that the network takes, or None for any.
        """
        chosen = choose_geometry(images_hw, image_hw or self.image_size, self.center_crop)
        return replace(chosen, like_anomalib=self.arithmetic == "anomalib")

    def to_dict(self) -> dict[str, Any]:
        """Return what `model.json` holds."""
        return asdict(self)

    def bank_rows(self, n_rows: int) -> int:
        """Return how many of `n_rows` patches the bank keeps."""
        if self.coreset_size is not None:
            return min(self.coreset_size, n_rows)
        return max(1, min(int(self.coreset_sampling_ratio * n_rows), MAX_BANK_ROWS, self.max_rows // 2))
