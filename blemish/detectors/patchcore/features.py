"""The scaling of PatchCore's patch features, learnt from some good images and from synthetic defects on them."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

import cv2
import numpy as np

from blemish.backbones.embedding import Extractor, embedding_graph
from blemish.data.synthetic.defects import synthetic_defects
from blemish.detectors.patchcore.settings import LEAST_FOR_AXES
from blemish.ops.oriented_axes import oriented_axes
from blemish.ops.statistics import Moments
from blemish.types import Float32

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from blemish.backbones.backbone import Backbone
    from blemish.data.synthetic.defects import SyntheticDefect
    from blemish.detectors.patchcore.settings import PatchcoreSettings
    from blemish.errors import ImageError
    from blemish.ops.statistics import Affine
    from blemish.types import Progress, UInt8

# Images that the scaling is learnt from, evenly among all: 100,000 patches of 320 x 320 pixels.
N_LEARNT = 64
# Share of the mean eigenvalue added to each in whitening; .01 to 1 measured alike (benchmarks/ablation.py).
SHRINKAGE = 0.1
# Share of a patch's pixels from which on a synthetic defect counts as in it.
LEAST_COVERED = 0.3
STAGE = "learning features"


def extractor_of(
    settings: PatchcoreSettings, backbone: Backbone, scaling: Affine | None, part_axes: Affine | None = None
) -> Extractor:
    """Return the extractor of scaled features; without a scaling, of the network's own."""
    pooling, count_padding = settings.pooling, settings.count_padding
    graph = embedding_graph(
        backbone, pooling=pooling, scaling=scaling, part_axes=part_axes, count_padding=count_padding
    )
    return Extractor(graph.SerializeToString(), threads=settings.n_threads)


def learnt_scaling(
    settings: PatchcoreSettings,
    backbone: Backbone,
    decoded: Iterator[UInt8 | ImageError],
    progress: Progress,
    *,
    least: int = LEAST_FOR_AXES,
) -> Affine | None:
    """Return the linear map of patch features; None for none, and where no image can be decoded.

    Args:
        settings: of the detector.
        backbone: the pretrained network.
        decoded: network inputs of the good images, in the order of `learnt_order`; no more than needed are taken.
        progress: called as progress(stage, done, total).
        least: images from which on axes are learnt.

    Raises:
        InputError: if the network does not take images of this size.
    """
    if settings.scaling == "none":
        return None
    inputs = list(islice((image for image in decoded if isinstance(image, np.ndarray)), N_LEARNT))
    if not inputs:
        return None
    n_axes = settings.defect_axes if settings.scaling == "whiten" and len(inputs) >= least else 0
    # Other defects than those by which position is judged.
    defects = synthetic_defects(inputs, len(inputs), seed=settings.seed + 1) if n_axes else ()
    raw = extractor_of(settings, backbone, None)
    moments, differences = patch_statistics(raw, inputs, defects, progress)
    whitening = moments.scaling(settings.scaling, SHRINKAGE)
    if len(differences) == 0:
        return whitening
    return oriented_axes(whitening, differences, n_axes)


def patch_statistics(
    raw: Extractor, inputs: Sequence[UInt8], defects: Iterable[SyntheticDefect], progress: Progress
) -> tuple[Moments, Float32]:
    """Return the moments of good patches, and what synthetic defects change in the features of patches, (n, D).

    Args:
        raw: of features as they come from the network.
        inputs: network inputs of good images.
        defects: on these.
        progress: called as progress(stage, done, total).
    """
    of_images: list[list[SyntheticDefect]] = [[] for _ in inputs]
    for defect in defects:
        of_images[defect.image_index].append(defect)
    moments, differences = Moments(), list[Float32]()
    for done, (image, of_image) in enumerate(zip(inputs, of_images, strict=True), start=1):
        features = raw.features(image)
        moments.add(features.reshape(-1, features.shape[2]))
        differences += (_difference(raw, features, defect) for defect in of_image)
        progress(STAGE, done, len(inputs))
    return moments, np.concatenate([features[0, :0], *differences])


def learnt_order(n_images: int) -> list[int]:
    """Return the order in which images are learnt from: `N_LEARNT` evenly chosen ones, then the others.

    >>> learnt_order(127)[:4]
    [0, 2, 4, 6]
    """
    chosen = np.unique(np.linspace(0, n_images - 1, min(n_images, N_LEARNT)).astype(int))
    return [*chosen.tolist(), *np.setdiff1d(np.arange(n_images), chosen).tolist()]


def _difference(raw: Extractor, features: Float32, defect: SyntheticDefect) -> Float32:
    """Return what a synthetic defect changes in the features of the patches that it covers, (n, D)."""
    height, width, _ = features.shape
    covered = cv2.resize(defect.mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    changed: Float32 = (raw.features(defect.image) - features)[covered > LEAST_COVERED]
    return changed
