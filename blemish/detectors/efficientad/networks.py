"""Teacher and student while they are trained, on tiles or by plain convolutions, with one face for both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from blemish.detectors.efficientad import pdn_tiles
from blemish.detectors.efficientad.devices import is_gpu, seeded
from blemish.detectors.efficientad.pdn import Size, autoencoder, import_torch, pdn

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Network(Protocol):
    """A patch description network that can be run and trained.

    Results are in an order of their own, the same for all networks of one kind: `ordered` brings features into it.
    """

    def features(self, x: Any, n_hw: tuple[int, int]) -> Any:
        """Return what comes before the last convolution, of images out of `pdn_tiles.normalised`."""

    def head(self, features: Any, i: int) -> Any:
        """Return what head `i` makes of some or all of these images' features."""

    def images(self, features: Any, start: int, end: int) -> Any:
        """Return the features of some images."""

    def ordered(self, planes: Any) -> Any:
        """Return (N, h, w, C) in the order of results."""

    def planes(self, result: Any, hw: tuple[int, int]) -> Any:
        """Return a result as (N, h, w, C)."""

    def tensors(self) -> list[Any]:
        """Return what is learnt."""

    def weights(self) -> dict[str, NDArray[np.float32]]:
        """Return the weights by the names of `pdn`."""


class Tiled:
    """On Winograd's tiles: without padding, in float32.

    Args:
        weights: by the names of `pdn`.
        size: "small" or "medium".
        n_heads: into how many parts the outputs are cut.
        device: where it runs.
    """

    def __init__(self, weights: Mapping[str, NDArray[Any]], size: Size, *, n_heads: int, device: str) -> None:
        self.params = pdn_tiles.to_params(weights, n_heads=n_heads, device=device)
        self.size = size

    def features(self, x: Any, n_hw: tuple[int, int]) -> Any:
        """Return tiles."""
        return pdn_tiles.trunk(self.params, x, n_hw)

    def head(self, features: Any, i: int) -> Any:
        """Return tiles."""
        return pdn_tiles.head(self.params, features, i)

    def images(self, features: Any, start: int, end: int) -> Any:
        """Return tiles."""
        return features[:, :, start:end]

    def ordered(self, planes: Any) -> Any:
        """Return tiles; rows and columns must be multiples of four."""
        return pdn_tiles.to_tiles(planes)

    def planes(self, result: Any, hw: tuple[int, int]) -> Any:
        """Return tiles as planes."""
        return pdn_tiles.from_tiles(result, hw)

    def tensors(self) -> list[Any]:
        """Return all weights."""
        return self.params.tensors()

    def weights(self) -> dict[str, NDArray[np.float32]]:
        """Return the weights by the names of `pdn`."""
        return pdn_tiles.from_params(self.params, self.size)


class Plain:
    """By torch's own convolutions: with padding, and on a GPU.

    Args:
        weights: by the names of `pdn`.
        size: "small" or "medium".
        n_heads: into how many parts the outputs are cut.
        device: where it runs.
        padding: whether it pads.
    """

    def __init__(
        self, weights: Mapping[str, NDArray[Any]], size: Size, *, n_heads: int, device: str, padding: bool
    ) -> None:
        torch = import_torch()
        n_outputs = len(list(weights.values())[-1])
        net = pdn(size, n_outputs, padding=padding)
        net.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in weights.items()})
        self.net = net.to(device)
        self._n = n_outputs // n_heads
        modules: list[Any] = list(self.net)[1:]  # images come normalised
        if is_gpu(device) and not padding:
            modules = [halved if isinstance(module, torch.nn.AvgPool2d) else module for module in modules]
        *self._trunk, self._last = modules

    def features(self, x: Any, n_hw: tuple[int, int]) -> Any:  # noqa: ARG002 - tiles need it
        """Return (N, C, h, w)."""
        x = x.permute(0, 3, 1, 2)
        for module in self._trunk:
            x = module(x)
        return x

    def head(self, features: Any, i: int) -> Any:
        """Return (N, C, h, w)."""
        torch = import_torch()
        part = slice(i * self._n, (i + 1) * self._n)
        return torch.nn.functional.conv2d(features, self._last.weight[part], self._last.bias[part])

    def images(self, features: Any, start: int, end: int) -> Any:
        """Return (N, C, h, w)."""
        return features[start:end]

    def ordered(self, planes: Any) -> Any:
        """Return (N, C, h, w)."""
        return planes.permute(0, 3, 1, 2)

    def planes(self, result: Any, hw: tuple[int, int]) -> Any:
        """Return (N, h, w, C)."""
        return result.permute(0, 2, 3, 1)[:, : hw[0], : hw[1]]

    def tensors(self) -> list[Any]:
        """Return all weights."""
        return list(self.net.parameters())

    def weights(self) -> dict[str, NDArray[np.float32]]:
        """Return the weights by the names of `pdn`."""
        return arrays(self.net)


def halved(x: Any) -> Any:
    """Return the means of 2 x 2 outputs, (N, C, h, w), as AvgPool2d has them, whose gradient is slow on a GPU.

    On an H200 it takes a sixth of a step where channels come last in memory.
    """
    torch = import_torch()
    n, channels, height, width = x.shape
    if height % 2 or width % 2:
        return torch.nn.functional.avg_pool2d(x, 2)
    fours = x.permute(0, 2, 3, 1).reshape(n, height // 2, 2, width // 2, 2, channels)
    return fours.mean((2, 4)).permute(0, 3, 1, 2)


def network(
    weights: Mapping[str, NDArray[Any]], size: Size, *, n_heads: int, device: str, padding: bool, tiled: bool
) -> Network:
    """Return a network: on tiles, which is for processors and no padding, or by plain convolutions."""
    if tiled:
        return Tiled(weights, size, n_heads=n_heads, device=device)
    return Plain(weights, size, n_heads=n_heads, device=device, padding=padding)


def new_weights(size: Size, n_outputs: int, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the weights of a new student for teachers of `n_outputs`, and of a new autoencoder; torch's own start."""
    with seeded("cpu", seed):
        return arrays(pdn(size, 2 * n_outputs)), arrays(autoencoder(n_outputs))


def arrays(module: Any) -> dict[str, NDArray[np.float32]]:
    """Return a module's parameters by name, as float32 arrays."""
    return {name: value.detach().cpu().numpy().copy() for name, value in module.named_parameters()}
