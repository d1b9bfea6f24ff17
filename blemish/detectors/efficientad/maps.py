"""Quantile normalisation and fusion of EfficientAD's two maps (Batzner et al. 2024, section 3.4)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from blemish import runtime
from blemish._validation.checks import describe
from blemish.detectors.efficientad.graph import OUTPUTS
from blemish.detectors.efficientad.pdn import FIELD_PX, STRIDE_PX
from blemish.detectors.graph_parts import axis_matrices
from blemish.errors import ModelFileError, message
from blemish.imaging.anomaly_map import mean_of_highest, smooth, upsample
from blemish.types import Float32, UInt8

if TYPE_CHECKING:
    from blemish.detectors.efficientad.settings import Border, EfficientAdSettings
    from blemish.imaging.geometry import Geometry
    from blemish.ops.distance_statistics import DistanceStatistics

LOW, HIGH = 0.9, 0.995  # Batzner et al. 2024, section 3.4
AT_HIGH = 0.1  # value of the higher quantile after normalisation
PAD = 4  # cells that anomalib and nelson1425 add on every side: 56 to 64
LEAST_SPREAD = 1e-6  # of the higher quantile: maps of constant images have none


class Quantiles(NamedTuple):
    """The 0.9 and 0.995 quantiles of one map over good images, on the network's own grid."""

    low: float
    high: float

    @classmethod
    def of(cls, maps: Float32) -> Quantiles:
        """Return the quantiles of some images' maps, (N, h, w) float32."""
        low, high = (float(value) for value in np.quantile(maps, (LOW, HIGH)))
        return cls(low, max(high, low + max(LEAST_SPREAD * abs(low), 1e-12)))

    def normalised(self, values: Float32) -> Float32:
        """Return values with `low` at 0 and `high` at 0.1."""
        scaled: Float32 = (values - np.float32(self.low)) * np.float32(AT_HIGH / (self.high - self.low))
        return scaled


UNKNOWN = Quantiles(0.0, 1.0)  # before they are measured


@dataclass(frozen=True)
class Maps:
    """The network, and the fusion of its two maps.

    Attributes:
        padding: whether the networks pad, so that their maps cover the whole image.
        pad_maps: whether maps are laid where their cells lie; False stretches them over the image.
        border: padding around the maps then: "edge" repeats the outermost cell, "zero" puts 0 into the raw maps
            as anomalib does, "normal" puts 0 into the joined map as nelson1425 does.
        share: weight of the autoencoder's map, the student's is the rest: half in Batzner et al. 2024.
        top_share: share of the cells, the highest, whose mean is in the image score; 0 for the highest value alone.
        statistics: of good images' cells at each position; score and map are of z-scores then. None for plain cells.
        cells_hw: size of the networks' own grid, (h, w), as `open_maps` found it.
    """

    model: bytes
    running: runtime.Session
    geometry: Geometry
    student: Quantiles
    autoencoder: Quantiles
    padding: bool
    pad_maps: bool
    border: Border
    share: float = 0.5
    top_share: float = 0.0
    statistics: DistanceStatistics | None = None
    cells_hw: tuple[int, int] = (0, 0)

    def raw(self, network_input: UInt8) -> tuple[Float32, Float32]:
        """Return both maps, (h, w) float32, of one input of the network, (H, W, 3) uint8."""
        found = self.running.run(network_input[None])
        student, autoencoder = (found[name][0] for name in OUTPUTS)
        return student, autoencoder

    def joined(self, student: Float32, autoencoder: Float32) -> Float32:
        """Return the weighted mean of the normalised maps at the size of the network's input."""
        return self.at_input_size(self.smooth(self._mean(student, autoencoder)), self._border_value())

    def anomaly_map(self, student: Float32, autoencoder: Float32) -> Float32:
        """Return the map at the size of the network's input: of z-scores where there are statistics, else joined."""
        if self.statistics is None:
            return self.joined(student, autoencoder)
        return self.at_input_size(self.statistics.z_scores(self.cells(student, autoencoder)))

    def at_input_size(self, cells: Float32, around: float = 0.0) -> Float32:
        """Return cells of the networks' own grid, (h, w) float32, at the size of the network's input.

        Args:
            cells: smoothed.
            around: value of the border where it is not that of the outermost cells.
        """
        hw = self.geometry.network_hw
        if self.padding or not self.pad_maps:
            return upsample(cells, hw)
        if self.border == "edge":
            return placed(cells, hw)
        return upsample(np.pad(cells, PAD, constant_values=around).astype(np.float32), hw)

    def cells(self, student: Float32, autoencoder: Float32) -> Float32:
        """Return the smoothed joined map on the networks' own grid, (h, w) float32, 0 where both raw maps are 0."""
        return self.smooth(self._mean(student, autoencoder) - np.float32(self.zero))

    def score(self, student: Float32, autoencoder: Float32) -> float:
        """Return the image score: that of the cells, or of their z-scores, or the highest value of the joined map.

        Differs: the paper takes the highest value, as `top_share` 0 does.
        """
        if not self.top_share:
            return float(self.joined(student, autoencoder).max())
        cells = self.cells(student, autoencoder)
        return self.cell_score(cells if self.statistics is None else self.statistics.z_scores(cells))

    def cell_score(self, cells: Float32) -> float:
        """Return the geometric mean of the highest cells' mean and of the mean of all, (h, w) float32.

        Small defects raise the first, those that spread over the image the second.
        """
        product = mean_of_highest(cells, self.top_share) * float(cells.mean(dtype=np.float64))
        return float(np.sqrt(max(product, 0.0)))

    @property
    def zero(self) -> float:
        """The value of the joined map where both raw maps are 0."""
        nothing = np.zeros(1, np.float32)
        return float(self._mean(nothing, nothing)[0])

    def placement(self, cells_hw: tuple[int, int]) -> tuple[Float32, Float32, float]:
        """Return the anomaly map as products, for export: rows, columns and a value.

        The map at the size of the network's input is rows @ (cells - value) @ columns.T + value, of z-scores where
        there are statistics, else of mean normalised maps, which are smoothed by it too.
        """
        hw = self.geometry.network_hw
        height, width = cells_hw
        identities = np.eye(height, dtype=np.float32), np.eye(width, dtype=np.float32)
        rows, columns = identities if self.statistics is not None else axis_matrices(self.smooth, cells_hw)
        if self.padding or not self.pad_maps or self.border == "edge":
            lay = placed if self.pad_maps and not self.padding else upsample
            tall, wide = axis_matrices(lambda cells: lay(cells, hw), cells_hw)
            return tall @ rows, wide @ columns, 0.0
        tall, wide = axis_matrices(lambda cells: upsample(cells, hw), (height + 2 * PAD, width + 2 * PAD))
        value = self._border_value() if self.statistics is None else 0.0
        return tall[:, PAD:-PAD] @ rows, wide[:, PAD:-PAD] @ columns, value

    def smooth(self, cells: Float32) -> Float32:
        """Return smoothed cells of the networks' own grid, (h, w) float32."""
        return smooth(cells, self.geometry.map_rule.sigma_px / STRIDE_PX)

    def _border_value(self) -> float:
        """Return the value that is padded around the joined map."""
        return self.zero if self.border == "zero" else 0.0

    def _mean(self, student: Float32, autoencoder: Float32) -> Float32:
        share = np.float32(self.share)
        first, second = self.student.normalised(student), self.autoencoder.normalised(autoencoder)
        mean: Float32 = (1 - share) * first + share * second
        return mean


def placed(cells: Float32, hw: tuple[int, int]) -> Float32:
    """Return the map of a network without padding, each cell at its place, the outermost repeated beyond them.

    Cell i sees pixels 4 i to 4 i + 32, so that its middle is pixel 4 i + 16.
    """
    height, width = (_between(n, size) for n, size in zip(cells.shape, hw, strict=True))
    found: Float32 = height @ cells @ width.T
    return found


def _between(n_cells: int, n_pixels: int) -> Float32:
    """Return the weights of linear interpolation, (n_pixels, n_cells) float32."""
    at = np.clip((np.arange(n_pixels) - FIELD_PX // 2) / STRIDE_PX, 0, n_cells - 1)
    low = np.minimum(at.astype(np.int64), max(n_cells - 2, 0))
    share = (at - low).astype(np.float32)
    weights = np.zeros((n_pixels, n_cells), np.float32)
    weights[np.arange(n_pixels), low] = 1 - share
    weights[np.arange(n_pixels), np.minimum(low + 1, n_cells - 1)] += share
    return weights


def open_maps(
    model: bytes,
    geometry: Geometry,
    settings: EfficientAdSettings,
    *,
    threads: int,
    student: Quantiles = UNKNOWN,
    autoencoder: Quantiles = UNKNOWN,
    share: float = 0.5,
) -> Maps:
    """Return a network with its maps, without statistics, checked by a run on a black image."""
    running = runtime.load(model, threads=threads)
    rule = settings.padding, settings.pad_maps, settings.border
    maps = Maps(model, running, geometry, student, autoencoder, *rule, share, settings.top_share)
    found = running.run(np.zeros((1, *geometry.network_hw, 3), np.uint8))
    shapes = [describe(found.get(name)) for name in OUTPUTS]
    arrays = [found[name] for name in OUTPUTS if name in found]
    good = len(arrays) == 2 and all(
        array.ndim == 3 and array.dtype == np.float32 and array.size and len(array) == 1 and np.isfinite(array).all()
        for array in arrays
    )
    if not good or arrays[0].shape != arrays[1].shape:
        raise ModelFileError(message("network.onnx", "two finite float32 maps (1, h, w)", " and ".join(shapes)))
    return replace(maps, cells_hw=arrays[0].shape[1:])
