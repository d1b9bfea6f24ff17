"""Teacher and student while they are trained: one network whose outputs can be cut into heads."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blemish.detectors.efficientad import winograd
from blemish.detectors.efficientad.devices import is_gpu, seeded
from blemish.detectors.efficientad.pdn import IMAGENET_MEAN, IMAGENET_STD, Size, autoencoder, import_torch, pdn


class Network:
    """A patch description network that can be run and trained.

    Args:
        weights: by the names of `pdn`.
        n_heads: into how many parts the outputs are cut.
        fast: whether convolutions are Winograd's: for float32 on a processor.
    """

    def __init__(
        self, weights: Mapping[str, NDArray[Any]], size: Size, *, n_heads: int, device: str, padding: bool, fast: bool
    ) -> None:
        torch = import_torch()
        n_outputs = len(list(weights.values())[-1])
        self.net = pdn(size, n_outputs, padding=padding)
        self.net.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in weights.items()})
        self.net.to(device)
        self._n = n_outputs // n_heads
        self._conv2d = winograd.conv2d if fast else torch.nn.functional.conv2d
        self._halved = is_gpu(device) and not padding
        modules: list[Any] = list(self.net)[1:]  # images come normalised
        *self._body, self.last = modules

    def features(self, x: Any) -> Any:
        """Return the inputs of the last convolution, (N, C, h, w), of images (N, H, W, 3) out of `normalised`."""
        torch = import_torch()
        x = x.permute(0, 3, 1, 2)
        for module in self._body:
            if isinstance(module, torch.nn.Conv2d):
                x = self._conv2d(x, module.weight, module.bias, padding=module.padding[0])
            elif self._halved and isinstance(module, torch.nn.AvgPool2d):
                x = halved(x)
            else:
                x = module(x)
        return x

    def head(self, features: Any, i: int) -> Any:
        """Return the outputs of head `i`, (N, h, w, C)."""
        part = slice(i * self._n, (i + 1) * self._n)
        return self._conv2d(features, self.last.weight[part], self.last.bias[part]).permute(0, 2, 3, 1)

    def weights(self) -> dict[str, NDArray[np.float32]]:
        """Return the weights by the names of `pdn`."""
        return arrays(self.net)


def halved(x: Any) -> Any:
    """Return the average pool of 2 x 2, (N, C, h, w), with a gradient that is faster on a GPU than AvgPool2d's.

    On an H200 AvgPool2d's gradient takes a sixth of a step where channels come last in memory.
    """
    torch = import_torch()
    n, channels, height, width = x.shape
    if height % 2 or width % 2:
        return torch.nn.functional.avg_pool2d(x, 2)
    fours = x.permute(0, 2, 3, 1).reshape(n, height // 2, 2, width // 2, 2, channels)
    return fours.mean((2, 4)).permute(0, 3, 1, 2)


def normalised(images: Any, device: str | None = None) -> Any:
    """Return images (N, H, W, 3) from 0 to 255 as float32 less ImageNet's mean, over its standard deviation.

    Args:
        device: where to; None for where a tensor is.
    """
    x = import_torch().as_tensor(images, device=device).float()
    mean, std = _imagenet(str(x.device))
    return (x - mean) / std


@lru_cache(maxsize=8)
def _imagenet(device: str) -> tuple[Any, Any]:
    """Return ImageNet's mean and standard deviation of pixels from 0 to 255, (3,) each."""
    torch = import_torch()
    return torch.tensor(IMAGENET_MEAN, device=device) * 255, torch.tensor(IMAGENET_STD, device=device) * 255


def new_weights(size: Size, n_outputs: int, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return initial weights of a student for teachers of `n_outputs`, and of an autoencoder, as torch draws them."""
    with seeded("cpu", seed):
        return arrays(pdn(size, 2 * n_outputs)), arrays(autoencoder(n_outputs))


def arrays(module: Any) -> dict[str, NDArray[np.float32]]:
    """Return a module's parameters by name, as float32 arrays."""
    return {name: value.detach().cpu().numpy().copy() for name, value in module.named_parameters()}
