"""A first guess of a teacher's kernels without a gradient, layer by layer, so that learning starts from something.

The first layer's kernels are whitened patches of pictures. Every other layer's are the directions of its inputs that
tell most about the targets at the same place (canonical correlations), each with both signs, since a ReLU follows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from blemish.pdn import CONVS, Size, layers
from blemish.receptive_field import Field, receptive_field
from blemish.trainee import rows_apart

if TYPE_CHECKING:
    import torch

Batches = Callable[[], Iterable[tuple["torch.Tensor", "torch.Tensor"]]]
DAMPING = 1e-3  # of the inputs' covariance, times its mean diagonal
LEAST_VARIANCE = 1e-3  # of a layer's output, in shares of the mean one
FIRST_DAMPING = 0.05  # whitening fully would make the first layer see mostly the camera's noise


def first_guess(network: torch.nn.Sequential, size: Size, batches: Batches, seed: int) -> None:
    """Set every kernel but the last, and the batch norms' statistics.

    Args:
        network: out of `blemish.trainee.trainee`.
        size: its size.
        batches: called once per layer for pictures and targets.
        seed: of the patches that become kernels, and of mixtures where there are more kernels than directions.

    Source: Coates, Ng and Lee 2011 (AISTATS, single-layer networks) for the first layer; Hotelling 1936 for the others.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    last = CONVS[size][-1][0]
    field, names = Field(), [name for name, _ in network.named_children()]
    for layer in layers(size):
        field = field.behind(layer)
        if layer.name == last or not layer.name.startswith("conv"):
            continue
        conv = network.get_submodule(layer.name)
        assert isinstance(conv, torch.nn.Conv2d)
        body = torch.nn.Sequential(*list(network)[: names.index(layer.name)]).eval()
        covariance, cross, mean, some = _statistics(body, conv, batches, field, generator)
        made = (
            _patches(covariance, mean, some, conv)
            if field.size == layer.kernel
            else _directions(covariance, cross, conv, generator)
        )
        with torch.no_grad():
            conv.weight.copy_(made.T.reshape(conv.weight.shape))
            _centre(network.get_submodule(f"norm{layer.name[-1]}"), made, mean, covariance)
    network.train()


def _statistics(
    body: torch.nn.Sequential, conv: torch.nn.Conv2d, batches: Batches, field: Field, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return covariance, covariance with the targets, and mean of a layer's inputs, and some inputs themselves."""
    import torch

    n, kept = 0, []
    gram = cross = total = total_wanted = torch.zeros(())
    with torch.no_grad():
        for images, wanted in batches():
            columns = torch.nn.functional.unfold(body(images), conv.kernel_size)
            side = images.shape[2]
            across = (side - field.size) // field.stride + 1
            columns = columns.view(len(images), columns.shape[1], across, -1)
            at = places_of(field, wanted.shape[2])
            places = torch.tensor(at, device=columns.device)
            rows, targets = rows_apart(columns[:, :, places][:, :, :, places]), rows_apart(wanted)
            gram = gram + (rows.T @ rows).double()
            cross = cross + (rows.T @ targets).double()
            total, total_wanted, n = total + rows.sum(0).double(), total_wanted + targets.sum(0).double(), n + len(rows)
            kept.append(rows[torch.randint(len(rows), (16,), generator=generator)])
    mean = total / n
    return gram / n - torch.outer(mean, mean), cross / n - torch.outer(mean, total_wanted / n), mean, torch.cat(kept)


def places_of(field: Field, n_outputs: int) -> list[int]:
    """Return, for each output of the network, the place of a layer whose field's middle is nearest to that output's.

    >>> places_of(Field(11, 2, 0), 3)
    [5, 7, 9]
    """
    whole = receptive_field(layers())
    return [math.ceil((whole.centre + whole.stride * p - field.centre) / field.stride - 0.5) for p in range(n_outputs)]


def _damped(covariance: torch.Tensor, share: float) -> torch.Tensor:
    import torch

    return covariance + share * covariance.diagonal().mean() * torch.eye(
        len(covariance), dtype=covariance.dtype, device=covariance.device
    )


def _patches(covariance: torch.Tensor, mean: torch.Tensor, some: torch.Tensor, conv: torch.nn.Conv2d) -> torch.Tensor:
    """Return (inputs, outputs) kernels: patches of pictures, whitened, each with both signs."""
    import torch

    half = conv.out_channels // 2
    chosen = (some.double() - mean)[torch.linspace(0, len(some) - 1, half).long()]
    kernels = torch.linalg.solve(_damped(covariance, FIRST_DAMPING), chosen.T)
    return torch.cat([kernels, -kernels], 1).float()


def _directions(
    covariance: torch.Tensor, cross: torch.Tensor, conv: torch.nn.Conv2d, generator: torch.Generator
) -> torch.Tensor:
    """Return (inputs, outputs) kernels: what tells most about the targets, each with both signs."""
    import torch

    half = conv.out_channels // 2
    root = torch.linalg.cholesky(_damped(covariance, DAMPING))
    found, _, _ = torch.linalg.svd(torch.linalg.solve_triangular(root, cross, upper=False), full_matrices=False)
    if found.shape[1] < half:
        mixing = torch.randn(found.shape[1], half - found.shape[1], generator=generator).to(found)
        found = torch.cat([found, found @ (mixing / mixing.norm(dim=0))], 1)
    kernels = torch.linalg.solve_triangular(root.T, found[:, :half], upper=True)
    return torch.cat([kernels, -kernels], 1).float()


def _centre(norm: torch.nn.Module, kernels: torch.Tensor, mean: torch.Tensor, covariance: torch.Tensor) -> None:
    """Give a batch norm the mean and variance of what comes out of the layer before it."""
    import torch

    assert isinstance(norm, torch.nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.copy_(mean.float() @ kernels)
    variance = ((kernels.T.double() @ covariance) * kernels.T.double()).sum(1).float()
    # Where pictures are few or plain, some directions do not vary at all, and rounding makes that a little less.
    norm.running_var.copy_(variance.clamp(min=LEAST_VARIANCE * float(variance.mean())))
