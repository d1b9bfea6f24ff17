"""Near-duplicates among images: groups of which each shows one part, found by whitened cross-correlation.

Several shots of one part, frames of a video and copies of a file are not independent. Aligned parts look alike, too,
but not in their detail. A fingerprint is the detail of an image at 96 px, its local contrast equalised. What the images
have in common is taken out: their mean, and the power that they have at each frequency. The highest normalised
cross-correlation over small shifts is then mostly 0.0 to 0.5 for two parts, and 0.5 to 1.0 for two shots of one. What
links two images follows from the correlation of each with the others. Mirrored and turned copies, as augmentation makes
them, are found by comparing each image after each symmetry of its frame, too. Frames of a video or of a scan overlap:
they correlate at a larger shift.

Source: the correlation of phases, Kuglin and Hines 1975, whitened by the power spectrum of the set.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np

from blemish._validation.checks import blocks

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from blemish.types import Bool, Float32, Float64, Int64, UInt8

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
# Images that each mirrored or turned image is compared with, the nearest by their amplitudes.
N_NEAREST_TURNED = 3
# Images whose amplitudes are compared at a time, and spectra that are kept (75 MB).
_BLOCK, _N_KEPT = 32, 2048
# An image is linked to another if what they do not share, 1 - correlation, is less than half of what the image does
# not share with the nearest fifth of the others; or if the correlation is far above theirs: 5 times as far from the
# fifth as the fifth is from the middle, and at least LEAST. Chosen on shots made of good images of nine development
# sets.
HALF, FAR, LEAST = 0.5, 5.0, 0.35
# Shots of one part are linked in 39 to 100 % of all pairs, chains of other parts in 6 to 20 %.
LINKED_SHARE, LEAST_CHAIN = 0.3, 6
# In place of HALF: within chains, of frames that overlap, and of mirrored and turned copies (by their median
# correlation), as a round part is like any other one, turned. Chosen on copies of ten sets.
HALF_OF_STRICT = 0.3
# A lattice is like itself, turned or shifted.
LEAST_OF_TURNED, LEAST_OF_LATTICE = 0.4, 0.85
# Parts with a lattice (a grid, a weave) have peaks in the spectrum, not at the same frequencies in all images, and two
# parts correlate by them. Each amplitude is limited to the root mean square where the median kurtosis of amplitudes is
# above PEAKED. It is 2 of Gaussian noise, 27 of grids, and at most 3.7 of eight other development sets.
PEAKED, N_PEAKED = 10.0, 32
# With fewer images, the others do not tell what is common.
LEAST_IMAGES = 8
# Fewer groups say nothing of other parts: images count as parts then.
LEAST_GROUPS = 5
# Highest correlation at another shift, as a share of the highest, between frames that overlap.
SECOND_PEAK = 0.7
# Frames are linked that share three quarters or more. So many links away from the middle of a group, none is shared.
OVERLAPPING_LINKS = 4


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


class Symmetry(NamedTuple):
    """Of an image's frame: a reflection of its columns, or none, then quarter turns."""

    is_reflected: bool
    n_quarters: int

    def of(self, image: NDArray[np.int8]) -> NDArray[np.int8]:
        """Return the image, (h, w), after it."""
        return np.rot90(image[:, ::-1] if self.is_reflected else image, self.n_quarters)


IDENTITY = Symmetry(False, 0)
# The amplitudes of a spectrum do not tell half a turn. Only a square has those in the second half.
PAIRS = tuple((Symmetry(r, q), Symmetry(r, q + 2)) for q in (0, 1) for r in (False, True))


def near_duplicates(fingerprints: Sequence[NDArray[np.int8]], seed: int = 0) -> Int64:
    """Return the group of each image, (n,) int64: the index of the image that stands for it.

    That one shares nothing with images of other groups; in a chain of overlapping frames, others may.

    Args:
        fingerprints: of n images of one size.
        seed: of the images that each is compared with.

    Cost: 40 correlations of each image, 16 at any shift, 21 of its symmetries, and products of n x 576 values with
        themselves.
    """
    n = len(fingerprints)
    if n < LEAST_IMAGES:
        return np.arange(n)
    details = _Details(fingerprints)
    compared, correlations, limits, strict = _of_shots(details, seed)
    limits = np.where(_in_chains(details, _links(compared, correlations, limits), limits), strict, limits)
    links = _links(compared, correlations, limits)
    turned, correlations, limits_of_turned = _of_turned(details)
    links += _links(turned, correlations, np.maximum(limits, limits_of_turned))
    near = [others[: -min(N_RANDOM, n - 1)] for others in compared]
    shifted = [details.correlations_at_any_shift(i, others) for i, others in enumerate(near)]
    overlaps = _links(near, shifted, np.maximum(strict, LEAST_OF_LATTICE if details.is_lattice else LEAST))
    return spaced(merged(np.arange(n), links), overlaps)


def _of_shots(details: _Details, seed: int) -> tuple[list[Int64], list[Float32], Float64, Float64]:
    """Return the images that each is compared with as it is, their correlations, its limit and a strict one."""
    rng = np.random.default_rng([seed, 5])
    compared = [_compared(alike, i, rng) for i, alike in details.alike(IDENTITY)]
    correlations = [details.correlations(i, IDENTITY, others) for i, others in enumerate(compared)]
    limits, strict = (
        np.array([_limit(row[-N_RANDOM:], 0.8, half, LEAST) for row in correlations]) for half in (HALF, HALF_OF_STRICT)
    )
    return compared, correlations, limits, strict


def _of_turned(details: _Details) -> tuple[list[Int64], list[Float32], Float64]:
    """Return the images that each is compared with mirrored, turned by quarters or both, and likewise."""
    compared: list[list[Int64]] = [[] for _ in range(details.n)]
    correlations: list[list[Float32]] = [[] for _ in range(details.n)]
    for pair in PAIRS if details.is_square else PAIRS[:2]:
        for i, alike in details.alike(pair[0]):
            nearest = _nearest(alike, i, N_NEAREST_TURNED)
            for symmetry in pair if pair[0] != IDENTITY else pair[1:]:
                compared[i].append(nearest)
                correlations[i].append(details.correlations(i, symmetry, nearest))
    rows = [np.concatenate(row) for row in correlations]
    least = LEAST_OF_LATTICE if details.is_lattice else LEAST_OF_TURNED
    # Up to a third of them may be copies.
    limits = np.array([_limit(row, 0.5, HALF_OF_STRICT, least) for row in rows])
    return [np.concatenate(row) for row in compared], rows, limits


def _in_chains(details: _Details, links: list[tuple[int, int]], limits: Float64) -> Bool:
    """Return which images are in a group in which few pairs are linked, (n,) bool: a chain of different parts."""
    groups = merged(np.arange(details.n), links)
    found = np.zeros(details.n, np.bool_)
    rng = np.random.default_rng(details.n)
    for group in np.flatnonzero(np.bincount(groups, minlength=details.n) >= LEAST_CHAIN):
        members = np.flatnonzero(groups == group)
        some = rng.permutation(members)[:N_RANDOM]
        above = [details.correlations(i, IDENTITY, some) > np.maximum(limits[i], limits[some]) for i in some]
        n_linked = np.count_nonzero(above) - len(some)  # not with themselves
        found[members] = n_linked < LINKED_SHARE * len(some) * (len(some) - 1)
    return found


def _links(compared: list[Int64], correlations: list[Float32], limits: Float64) -> list[tuple[int, int]]:
    """Return the pairs whose correlation is above the limits of both."""
    return [
        (i, j)
        for i, (others, row) in enumerate(zip(compared, correlations, strict=True))
        for j in others[row > np.maximum(limits[i], limits[others])].tolist()
    ]


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


def spaced(groups: Int64, links: Sequence[tuple[int, int]], n_links: int = OVERLAPPING_LINKS) -> Int64:
    """Return groups joined around images that are more than twice `n_links` links apart, each by that image's index.

    Whatever is within `n_links` links of such an image is in its group; what lies between two joins the nearer.

    Args:
        groups: (n,) int64, of images, each by one of them.
        links: pairs of images of groups that overlap.
        n_links: the radius of a group.

    >>> spaced(np.arange(6), [(0, 1), (1, 2), (2, 3), (3, 4)], n_links=1).tolist()
    [0, 0, 3, 3, 3, 5]
    """
    beside: dict[int, set[int]] = {int(group): set() for group in groups}
    for i, j in links:
        a, b = int(groups[i]), int(groups[j])
        if a != b:
            beside[a].add(b)
            beside[b].add(a)
    joined: dict[int, int] = {}
    for group in sorted(beside):
        near = {group}
        edge = near
        for _ in range(n_links):
            edge = set().union(*(beside[x] for x in edge)) - near
            near |= edge
        if not near & joined.keys():
            joined.update(dict.fromkeys(near, group))
    edge = set(joined)
    while edge:
        found = {x: joined[a] for a in sorted(edge) for x in beside[a] if x not in joined}
        joined.update(found)
        edge = set(found)
    return np.array([joined[int(group)] for group in groups], np.int64)


class _Details:
    """Whitened spectra of fingerprints, without what they have in common."""

    def __init__(self, fingerprints: Sequence[NDArray[np.int8]]) -> None:
        self._prints = fingerprints
        self.n = n = len(fingerprints)
        height, width = fingerprints[0].shape
        self.is_square = height == width
        self._mean = sum(np.asarray(x, np.float32) for x in fingerprints) / np.float32(n)
        self._window = np.outer(np.hanning(height), np.hanning(width)).astype(np.float32)
        self._gain: Float32 = np.ones((height, width // 2 + 1), np.float32)
        self.is_lattice = False
        # Parseval: all frequencies but the first column count twice, and the last one if the width is even.
        self._weights = np.full(width // 2 + 1, 2, np.float32)
        self._weights[[0, -1] if width % 2 == 0 else [0]] = 1
        shifts = np.r_[-MAX_SHIFT_PX : MAX_SHIFT_PX + 1]
        self._to_rows = _waves(np.fft.fftfreq(height), shifts).T
        self._to_columns = _waves(np.fft.rfftfreq(width), shifts)
        power = np.mean([np.square(np.abs(self._spectrum(i))) for i in range(n)], axis=0)
        # Copies of one image share everything: what is left is then zero, and correlates with nothing.
        self._gain = (1 / np.sqrt(power + FLOOR * power.mean() + 1e-6)).astype(np.float32)
        some = range(0, n, -(-n // N_PEAKED))
        self.is_lattice = float(np.median([_kurtosis(self._spectrum(i)) for i in some])) > PEAKED
        self._kept = lru_cache(_N_KEPT)(self._spectrum)
        self._amplitudes = np.stack([_bands(self._kept(i)) for i in range(n)])

    def alike(self, symmetry: Symmetry) -> Iterator[tuple[int, Float32]]:
        """Return index and likeness of each image after a symmetry to all images, (n,) float32, by amplitudes.

        A shift does not change these.
        """
        for part in blocks(self.n, _BLOCK):
            chosen = range(part.start, part.stop)
            bands = np.stack([_bands(self._after(i, symmetry)) for i in chosen])
            yield from zip(chosen, bands @ self._amplitudes.T, strict=True)

    def correlations(self, i: int, symmetry: Symmetry, others: Int64) -> Float32:
        """Return the highest correlation over small shifts of an image, after a symmetry, with others, (n,) float32."""
        one, spectra = self._after(i, symmetry), np.stack([self._kept(j) for j in others.tolist()])
        weighted = np.conj(spectra) * (one * self._weights)
        # An inverse transform at the small shifts alone.
        shifted = (self._to_rows @ (weighted @ self._to_columns)).real
        norms = np.sqrt(self._power(spectra) * self._power(one))
        found: Float32 = (shifted.max(axis=(1, 2)) / np.maximum(norms, 1e-9)).astype(np.float32)
        return found

    def correlations_at_any_shift(self, i: int, others: Int64) -> Float32:
        """Return the highest correlation of an image with others, over all shifts, (n,) float32.

        It is 0 where another shift has nearly as high a one: an edge that both have, or a lattice.
        """
        one, spectra = self._kept(i), np.stack([self._kept(j) for j in others.tolist()])
        shifted = self._mean.size * np.fft.irfft2(np.conj(spectra) * one, s=self._mean.shape)
        norms = np.sqrt(self._power(spectra) * self._power(one))
        found: Float32 = (shifted.max(axis=(1, 2)) / np.maximum(norms, 1e-9)).astype(np.float32)
        for row in np.flatnonzero(found > LEAST).tolist():
            found[row] *= _is_single_peak(shifted[row])
        return found

    def _power(self, spectra: NDArray[np.complex64]) -> Float32:
        power: Float32 = (np.square(np.abs(spectra)) * self._weights).sum(axis=(-2, -1))
        return power

    def _after(self, i: int, symmetry: Symmetry) -> NDArray[np.complex64]:
        """Return the spectrum of an image after a symmetry."""
        return self._kept(i) if symmetry == IDENTITY else self._spectrum(i, symmetry)

    def _spectrum(self, i: int, symmetry: Symmetry = IDENTITY) -> NDArray[np.complex64]:
        """Return the whitened spectrum of an image after a symmetry, (h, w // 2 + 1)."""
        detail = symmetry.of(self._prints[i]) - self._mean
        detail -= detail.mean()
        spectrum = (np.fft.rfft2(detail * self._window) * self._gain).astype(np.complex64)
        return _limited(spectrum) if self.is_lattice else spectrum


def _is_single_peak(correlations: Float64) -> bool:
    """Return whether all other correlations, by shift, (h, w), are well below the highest one and those beside it."""
    place = np.unravel_index(int(correlations.argmax()), correlations.shape)
    around = np.roll(correlations, (MAX_SHIFT_PX - place[0], MAX_SHIFT_PX - place[1]), axis=(0, 1))
    highest = float(around[MAX_SHIFT_PX, MAX_SHIFT_PX])
    around[: 2 * MAX_SHIFT_PX + 1, : 2 * MAX_SHIFT_PX + 1] = -np.inf
    return bool(around.max() <= SECOND_PEAK * highest)


def _waves(frequencies: NDArray[np.floating[Any]], shifts: Int64) -> NDArray[np.complex64]:
    """Return what takes a spectrum to its signal at some shifts, (frequencies, shifts)."""
    waves: NDArray[np.complex64] = np.exp(2j * np.pi * frequencies[:, None] * shifts).astype(np.complex64)
    return waves


def _bands(spectrum: NDArray[np.complex64]) -> Float32:
    """Return the amplitudes of a spectrum in 24 x 24 bands of frequency, (576,) float32 of length 1."""
    amplitude = np.ascontiguousarray(np.fft.fftshift(np.abs(spectrum), axes=0), np.float32)
    bands = cv2.resize(amplitude, (24, 24), interpolation=cv2.INTER_AREA).reshape(-1)
    scaled: Float32 = bands / np.float32(max(float(np.linalg.norm(bands)), 1e-12))
    return scaled


def _kurtosis(spectrum: NDArray[np.complex64]) -> float:
    """Return the mean fourth power of the amplitudes over the square of their mean power; 0 where there are none."""
    power = np.square(np.abs(spectrum, dtype=np.float64))
    return float(np.square(power).mean() / max(float(power.mean()) ** 2, 1e-12))


def _limited(spectrum: NDArray[np.complex64]) -> NDArray[np.complex64]:
    """Return a spectrum whose amplitudes are at most their root mean square, phases as they are."""
    amplitudes = np.abs(spectrum)
    limit = np.sqrt(np.square(amplitudes).mean())
    limited: NDArray[np.complex64] = (spectrum * np.minimum(1, limit / np.maximum(amplitudes, 1e-9))).astype(
        np.complex64
    )
    return limited


def _compared(alike: Float32, i: int, rng: np.random.Generator) -> Int64:
    """Return the images that an image is compared with, the random ones last."""
    n = len(alike)
    beside = [j for j in range(i - N_BESIDE, i + N_BESIDE + 1) if 0 <= j < n and j != i]
    random = rng.choice(n - 1, min(N_RANDOM, n - 1), replace=False)
    random += random >= i
    near = np.unique(np.concatenate([_nearest(alike, i, N_NEAREST), beside]))
    return np.concatenate([near, random]).astype(np.int64)


def _nearest(alike: Float32, i: int, count: int) -> Int64:
    """Return so many images, the most alike to an image but for itself."""
    less = -alike
    less[i] = np.inf
    count = min(count, len(alike) - 1)
    return np.argpartition(less, count - 1)[:count].astype(np.int64)


def _limit(correlations: Float32, share: float, half: float, least: float) -> float:
    """Return the correlation above which an image is linked, by a quantile of its correlations with other parts.

    Args:
        correlations: with images most of which show other parts.
        share: of these below the quantile.
        half: largest share of what the image does not share with that quantile.
        least: lowest limit.
    """
    middle, high = np.quantile(correlations, (share - 0.3, share))
    return float(max(least, min(1 - half * (1 - high), high + FAR * (high - middle))))
