"""Settings of PaDiM."""

from __future__ import annotations

from dataclasses import dataclass

from blemish.detectors.backbone_settings import BackboneSettings
from blemish.detectors.settings import setting, whole


@dataclass(frozen=True, kw_only=True)
class PadimSettings(BackboneSettings):
    """Settings of `Padim`."""

    n_features: int = setting(
        100,
        "Features kept per patch, selected at random (Defard et al. 2021, section 3.1).",
        whole(1, 4096),
        option="n-features",
    )
