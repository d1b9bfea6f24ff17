"""Near-duplicates among images: groups of which each shows one part, found by whitened cross-correlation.

Several shots of one part, frames of a video and copies of a file are not independent. Aligned parts look alike, too,
but not in their detail. A fingerprint is the detail of an image at 96 px, its local contrast equalised. What the images
have in common is taken out: their mean, and the power that they have at each frequency. The highest normalised
cross-correlation over small shifts is then mostly 0.0 to 0.5 for two parts, and 0.5 to 1.0 for two shots of one. What
links two images follows from the correlation of each with the others.

Source: the correlation of phases, Kuglin and Hines 1975, whitened by the power spectrum of the set.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from blemish.types import Float32, Int64, UInt8

SIDE_PX = 96
# Smaller images have too little detail to tell parts apart.
LEAST_SIDE_PX = 32
# Standard deviations, in pixels of the fingerprint, of the high-pass filter and of the local contrast.
DETAIL_SIGMA, CONTRAST_SIGMA = 2.0, 4.0
# Share of the mean power that is added to the power of each frequency.
FLOOR = 0.1
# Largest shift between two shots, 4 % of the image.
MAX_SHIFT_PX = 4
# Images that each is compared with: the nearest by their amplitudes, its neighbors by name, and others at random.
N_NEAREST, N_BESIDE, N_RANDOM = 12, 2, 24
# An image is linked to another if what they do not share, 1 - correlation, is less than half of what the image does
# not share with the nearest fifth of the others; or if the correlation is far above theirs: 5 times as far from the
# fifth as the fifth is from the middle, and at least LEAST. Chosen on shots made of good images of nine development
# sets.
HALF, FAR, LEAST = 0.5, 5.0, 0.35
# Parts with a lattice (a grid, a weave) have peaks in the spectrum, not at the same frequencies in all images, and two
# parts correlate by them. Each amplitude is limited to the root mean square where the median kurtosis of amplitudes is
# above PEAKED. It is 2 of Gaussian noise, 27 of grids, and at most 3.7 of eight other development sets.
PEAKED, N_PEAKED = 10.0, 32
# With fewer images, the others do not tell what is common.
LEAST_IMAGES = 8


def fingerprint(image: UInt8) -> NDArray[np.int8]:
    """Return the detail of an image, (h, w, 3) uint8, as int8 with `SIDE_PX` on its longer side."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    scale = SIDE_PX / max(grey.shape)
    height, width = (max(2 * MAX_SHIFT_PX, round(scale * side)) for side in grey.shape)
    grey = cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA)
    detail = grey - cv2.GaussianBlur(grey, (0, 0), DETAIL_SIGMA)
    contrast = np.sqrt(cv2.GaussianBlur(detail * detail, (0, 0), CONTRAST_SIGMA))
    quantised: NDArray[np.int8] = np.clip(np.round(32 * detail / (contrast + 1)), -127, 127).astype(np.int8)
    return quantised


def near_duplicates(fingerprints: Sequence[NDArray[np.int8]], seed: int = 0) -> Int64:
    """Return the group of each image, (n,) int64: the lowest index of its group.

    Args:
        fingerprints: of n images of one size.
        seed: of the images that each is compared with.

    Cost: 40 correlations of each image by FFT, and a product of n x 576 values with themselves, in blocks.
    """
    n = len(fingerprints)
    if n < LEAST_IMAGES:
        return np.arange(n)
    details = _Details(fingerprints)
    compared = _compared(details.amplitudes(), seed)
    correlations = [details.correlations(i, others) for i, others in enumerate(compared)]
    limits = np.array([_limit(row[-N_RANDOM:]) for row in correlations])
    links = [
        (i, j)
        for i, (others, row) in enumerate(zip(compared, correlations, strict=True))
        for j, correlation in zip(others.tolist(), row.tolist(), strict=True)
        if correlation > max(limits[i], limits[j])
    ]
    return merged(np.arange(n), links)


def merged(groups: Int64, links: Sequence[tuple[int, int]]) -> Int64:
    """Return the groups of images, each by its lowest index, after linking pairs (union-find).

    >>> merged(np.arange(5), [(3, 1), (4, 3)]).tolist()
    [0, 1, 2, 1, 1]
    """
    parent = groups.tolist()

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = i = parent[parent[i]]
        return i

    for i, j in links:
        a, b = root(i), root(j)
        parent[max(a, b)] = min(a, b)
    return np.array([root(i) for i in range(len(parent))], np.int64)


class _Details:
    """Spectra of fingerprints, without what they have in common."""

    def __init__(self, fingerprints: Sequence[NDArray[np.int8]]) -> None:
        self._prints = fingerprints
        height, width = self._hw = fingerprints[0].shape
        self._mean = sum(np.asarray(x, np.float32) for x in fingerprints) / np.float32(len(fingerprints))
        self._window = np.outer(np.hanning(height), np.hanning(width)).astype(np.float32)
        self._gain: Float32 = np.ones((height, width // 2 + 1), np.float32)
        self._is_limited = False
        power = np.mean([np.square(np.abs(self.spectra([i]))[0]) for i in range(len(fingerprints))], axis=0)
        # Copies of one image share everything: what is left is then zero, and correlates with nothing.
        self._gain = (1 / np.sqrt(power + FLOOR * power.mean() + 1e-6)).astype(np.float32)
        some = range(0, len(fingerprints), -(-len(fingerprints) // N_PEAKED))
        self._is_limited = float(np.median([_kurtosis(self.spectra([i])[0]) for i in some])) > PEAKED

    def spectra(self, chosen: Sequence[int] | Int64) -> NDArray[np.complex64]:
        """Return the whitened spectra of some images, (n, h, w // 2 + 1)."""
        details = np.stack([self._prints[i] for i in chosen]).astype(np.float32) - self._mean
        details -= details.mean(axis=(1, 2), keepdims=True)
        spectra: NDArray[np.complex64] = (np.fft.rfft2(details * self._window) * self._gain).astype(np.complex64)
        return _limited(spectra) if self._is_limited else spectra

    def amplitudes(self) -> Float32:
        """Return the (n, 576) float32 amplitudes, which a shift does not change, in 24 x 24 bands of frequency."""
        rows = []
        for i in range(len(self._prints)):
            amplitude = np.fft.fftshift(np.abs(self.spectra([i])[0]), axes=0)
            bands = cv2.resize(np.ascontiguousarray(amplitude, np.float32), (24, 24), interpolation=cv2.INTER_AREA)
            rows.append(bands.reshape(-1) / max(float(np.linalg.norm(bands)), 1e-12))
        return np.stack(rows)

    def correlations(self, i: int, others: Int64) -> Float32:
        """Return the highest correlation over small shifts of an image with each of some others, (n,) float32."""
        spectra = self.spectra([i, *others.tolist()])
        # Parseval: all frequencies but the first column count twice, and the last one if the width is even.
        weights = np.full(spectra.shape[2], 2.0)
        weights[0] = 1
        if self._hw[1] % 2 == 0:
            weights[-1] = 1
        size = self._hw[0] * self._hw[1]
        norms = np.sqrt((np.square(np.abs(spectra)) * weights).sum(axis=(1, 2)) / size)
        shifted = np.fft.irfft2(spectra[0] * np.conj(spectra[1:]), s=self._hw)
        near = np.r_[-MAX_SHIFT_PX : MAX_SHIFT_PX + 1]
        highest = shifted[:, near][:, :, near].max(axis=(1, 2))
        found: Float32 = (highest / np.maximum(norms[0] * norms[1:], 1e-9)).astype(np.float32)
        return found


def _kurtosis(spectrum: NDArray[np.complex64]) -> float:
    """Return the mean fourth power of the amplitudes over the square of their mean power; 0 where there are none."""
    power = np.square(np.abs(spectrum, dtype=np.float64))
    return float(np.square(power).mean() / max(float(power.mean()) ** 2, 1e-12))


def _limited(spectra: NDArray[np.complex64]) -> NDArray[np.complex64]:
    """Return spectra (n, h, w) whose amplitudes are at most the root mean square of each, phases as they are."""
    amplitudes = np.abs(spectra)
    limits = np.sqrt(np.square(amplitudes).mean(axis=(1, 2), keepdims=True))
    limited: NDArray[np.complex64] = (spectra * np.minimum(1, limits / np.maximum(amplitudes, 1e-9))).astype(
        np.complex64
    )
    return limited


def _compared(amplitudes: Float32, seed: int) -> list[Int64]:
    """Return the images that each image is compared with, the random ones last."""
    n = len(amplitudes)
    rng = np.random.default_rng([seed, 5])
    result = []
    for i in range(n):
        alike = amplitudes @ amplitudes[i]
        alike[i] = -np.inf
        nearest = np.argpartition(-alike, min(N_NEAREST, n - 1) - 1)[:N_NEAREST]
        beside = [j for j in range(i - N_BESIDE, i + N_BESIDE + 1) if 0 <= j < n and j != i]
        random = rng.choice(n - 1, min(N_RANDOM, n - 1), replace=False)
        random += random >= i
        near = np.unique(np.concatenate([nearest, beside]))
        result.append(np.concatenate([near[near != i], random]).astype(np.int64))
    return result


def _limit(correlations: Float32) -> float:
    """Return the correlation above which an image is linked, by its correlations with others at random."""
    middle, fifth = np.quantile(correlations, (0.5, 0.8))
    half = 1 - HALF * (1 - fifth)
    return float(min(half, max(LEAST, fifth + FAR * (fifth - middle))))
