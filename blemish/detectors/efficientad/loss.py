"""EfficientAD's losses, and what an image goes through before the autoencoder sees it (Batzner et al. 2024)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from blemish.detectors.efficientad.pdn import import_torch

if TYPE_CHECKING:
    from blemish.types import Float32, UInt8

HARD_SHARE = 0.001  # the paper's p_hard of 0.999, section 3.2
# Where only some hundred steps are taken, a thousandth of the features teaches too little at first: on 11 bottles (crop
# 24, lr 1e-3) a student was after 50 steps at .98 of the teacher's variance, and at .83 if a tenth counted. From the
# first share to the paper's within so many steps, or within half of them all.
FIRST_SHARE, FIRST_STEPS = 0.1, 1000
JITTER = (0.8, 1.2)  # section 3.3; one of the three at a time, as in anomalib and nelson1425/efficientad.py
# How much each colour counts for grey: ITU-R BT.601, as Pillow and torchvision have it.
GREY = np.array([0.299, 0.587, 0.114], np.float32)


def hard_loss(distances: Any, share: float = HARD_SHARE) -> Any:
    """Return the mean of the squared distances at or above a quantile, their 0.999 quantile in the paper.

    Args:
        distances: squared, of any shape.
        share: of them that counts.

    Source: Batzner et al. 2024, section 3.2. The quantile lies between two values or on one; those from the upper on
        are the floor(share * (n - 1)) + 1 largest.
    """
    torch = import_torch()
    n = int(share * (distances.numel() - 1)) + 1
    return torch.topk(distances.reshape(-1), n, sorted=False).values.mean()


def hard_share(k: int, n_steps: int) -> float:
    """Return the share of features that counts in step `k` of `n_steps`: a tenth at first, soon a thousandth.

    Differs: the paper takes a thousandth from the first step on.

    >>> hard_share(0, 70_000), hard_share(1000, 70_000), hard_share(50, 100)
    (0.1, 0.001, 0.001)
    """
    done = min(1.0, k / min(FIRST_STEPS, max(n_steps / 2, 1)))
    return float(FIRST_SHARE * (HARD_SHARE / FIRST_SHARE) ** done) if done < 1 else HARD_SHARE


def jittered(rng: np.random.Generator, images: UInt8) -> Float32:
    """Return images with brightness, contrast or colour changed by up to a fifth, (N, h, w, 3) float32 to 255."""
    return np.stack([_jittered(rng, image.astype(np.float32)) for image in images])


def _jittered(rng: np.random.Generator, image: Float32) -> Float32:
    kind, factor = int(rng.integers(3)), np.float32(rng.uniform(*JITTER))
    changed = image * factor
    if kind:
        grey = image @ GREY
        changed += (1 - factor) * (grey.mean() if kind == 1 else grey[..., None])
    return np.asarray(np.clip(changed, 0, 255), np.float32)
