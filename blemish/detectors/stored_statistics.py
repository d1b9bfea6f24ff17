"""Distance statistics in a model folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from blemish._validation.checks import describe
from blemish.errors import ModelFileError, message
from blemish.ops.distance_statistics import DistanceStatistics

if TYPE_CHECKING:
    from blemish.modelfolder.folder import ModelFolder

# Dividing by less could overflow.
LEAST_SPREAD = 1e-12


def read_statistics(
    model: ModelFolder,
    place: tuple[str, str],
    grid_hw: tuple[int, ...],
    *,
    wanted: bool,
    setting: str = "position_sigma",
    border: bool = False,
) -> DistanceStatistics | None:
    """Return the distance statistics in a model folder; None where its settings ask for none.

    Args:
        model: the folder.
        place: a safetensors file, which need not be there, and the tensor: `DistanceStatistics.stacked`.
        grid_hw: of the network.
        wanted: whether there must be statistics, else there must be none.
        setting: that says so, for the error.
        border: whether those of the border may be among them.

    Raises:
        ModelFileError: if there are others than wanted, or values that would make nonsense of a score.
    """
    file, name = place
    stacked = model.tensors.get(file, {}).get(name)
    got = "nothing" if stacked is None else describe(stacked)

    def refusal(expected: str, got: str) -> ModelFileError:
        return ModelFileError(message(name, expected, got, where=model.path / file, todo="Fit again."))

    if not wanted:
        if stacked is not None:
            raise refusal(f"nothing as {setting} is not set", got)
        return None
    n_maps = 5 if border and stacked is not None and len(stacked) == 5 else 3  # 0.1.0 had none of the border
    shape = (n_maps, *grid_hw)
    if stacked is None or stacked.shape != shape or stacked.dtype != np.float32 or not np.isfinite(stacked).all():
        raise refusal(f"float32 {shape} as {setting} is set", got)
    deviations = stacked[1::3]
    if stacked.min() < 0 or deviations.min() < LEAST_SPREAD or not stacked.max() <= 1 / LEAST_SPREAD:
        expected = f"distances of 0 or more, and deviations of at least {LEAST_SPREAD}"
        spread = f"{deviations.min()} to {deviations.max()}"
        raise refusal(expected, f"{stacked[0].min()} to {stacked[0].max()}, and {spread}")
    return DistanceStatistics(*stacked)
