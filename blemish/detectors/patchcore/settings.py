"""Settings of PatchCore."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from blemish.detectors.backbone_settings import BackboneSettings
from blemish.detectors.settings import flag, number, one_of, setting, whole

if TYPE_CHECKING:
    from blemish.backbones.backbone import Backbone
    from blemish.ops.statistics import Scaling

# Of fewer good images all axes are kept: the quietest ones among them are not those of new images, which would score
# higher than they do.
LEAST_FOR_AXES = 50
# A larger bank makes every prediction slower and, measured in benchmarks/ablation.py, hardly any better.
MAX_BANK_ROWS = 20_000


def scaling_name(name: str, value: Any) -> Scaling:
    """Return the name of a scaling of features, or raise."""
    from blemish.ops.statistics import SCALINGS

    checked: Scaling = one_of(*SCALINGS)(name, value)
    return checked


@dataclass(frozen=True, kw_only=True)
class PatchcoreSettings(BackboneSettings):
    """Settings of `Patchcore`."""

    coreset_sampling_ratio: float = setting(
        0.02,
        "Share of the patches that the memory bank keeps; at most 20,000 patches.",
        number(0, 1, positive=True),
        option="coreset-ratio",
    )
    coreset_size: int | None = setting(
        None,
        "Number of patches that the memory bank keeps; replaces the share.",
        lambda _, value: value,  # checked with max_rows
        option="coreset-size",
        kind=int,
    )
    num_neighbors: int = setting(
        1,
        "Neighbors in the memory bank that re-weight the image score (Roth et al. 2022, equation 7); 1 for the plain "
        "maximum.",
        whole(1, 100),
        option="neighbors",
    )
    pooling: int = setting(
        1,
        "Side of the neighborhood that a patch feature is averaged over, in cells of its layer.",
        whole(1, 15, odd=True),
    )
    count_padding: bool = setting(
        False,
        "Whether the averages of `pooling` count zeros around a layer, as anomalib's do: features and distances at the "
        "border of the image are then smaller.",
        flag,
        absent=False,
    )
    scaling: Scaling = setting(
        "whiten",
        "Scaling of the features: whiten (also removes correlations), standard (unit variance) or none.",
        scaling_name,
    )
    defect_axes: int = setting(
        128,
        "Axes of whitened features that are kept and weighted: those along which synthetic defects on the good images "
        "show most; 0 for all, without weights, as with fewer than 50 good images.",
        whole(0, 10_000),
        option="defect-axes",
        absent=0,
    )
    position_sigma: float | None = setting(
        1.0,
        "Standard deviation, in cells, of the Gaussian that smooths the per-position distance statistics, by which "
        "distances are normalised; None for plain distances.",
        number(0, 100, optional=True),
    )
    top_share: float = setting(
        0.01,
        "Share of the patches, the highest, whose mean is the patch score; 0 for the maximum alone, as in the paper.",
        number(0, 1),
        option="top-share",
    )
    score_fusion: bool = setting(
        True,
        "Whether the image score adds a global descriptor (Rippel et al. 2021) to the patch score, and a per-position "
        "Gaussian (Defard et al. 2021) where synthetic defects on good images show that position counts.",
        flag,
    )
    max_rows: int = setting(
        900_000,
        "Patches in memory during the fit; more are reduced in chunks as they come, and up to 1,000 images are read "
        "again to calibrate.",
        whole(1000, 10**8),
    )

    def check_together(self) -> None:
        """Raise InputError if the memory bank is larger than half of the patches in memory."""
        if self.coreset_size is not None:
            whole(1, self.max_rows // 2)("coreset_size", self.coreset_size)

    def n_features(self, backbone: Backbone, n_images: int) -> int:
        """Return how many features a patch has, where so many good images are fitted."""
        n = sum(backbone.channels)
        has_axes = self.scaling == "whiten" and self.defect_axes and n_images >= LEAST_FOR_AXES
        return min(self.defect_axes, n) if has_axes else n

    def bank_rows(self, n_rows: int) -> int:
        """Return how many of `n_rows` patches the memory bank keeps."""
        if self.coreset_size is not None:
            return min(self.coreset_size, n_rows)
        return max(1, min(int(self.coreset_sampling_ratio * n_rows), MAX_BANK_ROWS, self.max_rows // 2))
