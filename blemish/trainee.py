"""A patch description network while it learns: with batch norms, without the teacher's last projection, and as weights.

What learns has an output per channel of its targets. Projecting them to 384 features is one matrix, which is multiplied
into the last layer at the end: the same network for fewer operations.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from blemish.arrays import blocks
from blemish.graphs import fold_batch_norm
from blemish.pdn import CONVS, IMAGENET_MEAN, IMAGENET_STD, N_FEATURES, POOLED, Size

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from blemish.records import Float32

# Of the last layer's solution towards what was learnt; the best on held-out crops is taken.
SHRINKAGES = (0.01, 0.1, 1.0, 10.0)


def trainee(size: Size, n_channels: int, seed: int) -> torch.nn.Sequential:
    """Return a new network that learns `n_channels` targets: convolutions, batch norms, ReLUs and pools by their names.

    It takes normalised float32 (B, 3, H, W), channels last in memory.
    """
    import torch
    from torch import nn

    generator = torch.Generator().manual_seed(seed)
    parts: list[tuple[str, nn.Module]] = []
    channels = 3
    for name, width, kernel, _ in CONVS[size]:
        is_last = name == CONVS[size][-1][0]
        outputs = n_channels if is_last else width or N_FEATURES
        conv = nn.Conv2d(channels, outputs, kernel, bias=is_last)
        with torch.no_grad():
            conv.weight.normal_(0, (channels * kernel * kernel) ** -0.5, generator=generator)
            if conv.bias is not None:  # the last one says nothing at first: the mean, not noise
                conv.weight.zero_()
                conv.bias.zero_()
        parts.append((name, conv))
        if not is_last:
            parts += [(f"norm{name[-1]}", nn.BatchNorm2d(outputs)), (f"relu{name[-1]}", nn.ReLU())]
        if name in POOLED:
            parts.append((f"pool{name[-1]}", nn.AvgPool2d(2)))
        channels = outputs
    network = nn.Sequential(OrderedDict(parts))
    for part in network:
        if isinstance(part, nn.Conv2d):
            part.weight.data = part.weight.data.contiguous(memory_format=torch.channels_last)
    return network


def turned(size: Size) -> frozenset[str]:
    """Return the names of the kernels whose length does not matter, since a batch norm follows."""
    return frozenset(f"{name}.weight" for name, *_ in CONVS[size][:-1])


def batch_of(
    crops: NDArray[np.uint8], features: NDArray[np.float16], rows: NDArray[np.int64], device: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return normalised pictures (B, 3, H, W) and targets (B, C, h, w) of some crops, float32."""
    import torch

    rows = np.sort(rows)  # in the order of the file: fewer seeks, and a batch has no order
    mean, std = (255 * torch.tensor(v, device=device).view(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    images = torch.from_numpy(crops[rows]).to(device).permute(0, 3, 1, 2).float()
    images = ((images - mean) / std).contiguous(memory_format=torch.channels_last)
    wanted = torch.from_numpy(features[rows]).to(device).float().permute(0, 3, 1, 2)
    return images, wanted


def folded(network: torch.nn.Sequential, size: Size) -> dict[str, Float32]:
    """Return the weights with the batch norms folded in: float32 by the names of `blemish.pdn.pdn`."""
    state = {name: tensor.detach().float().cpu().numpy() for name, tensor in network.state_dict().items()}
    made: dict[str, Float32] = {}
    for name, *_ in CONVS[size]:
        weight, norm = state[f"{name}.weight"], f"norm{name[-1]}"
        if f"{norm}.weight" in state:
            made[f"{name}.weight"], made[f"{name}.bias"] = fold_batch_norm(
                weight,
                np.zeros(len(weight), np.float32),
                gamma=state[f"{norm}.weight"],
                beta=state[f"{norm}.bias"],
                mean=state[f"{norm}.running_mean"],
                variance=state[f"{norm}.running_var"],
                epsilon=1e-5,
            )
        else:
            made[f"{name}.weight"], made[f"{name}.bias"] = np.ascontiguousarray(weight), state[f"{name}.bias"]
    return made


def projected(state: dict[str, Float32], size: Size, to_384: Float32 | None) -> dict[str, Float32]:
    """Return the weights of a teacher with 384 outputs: the projection (C, 384) multiplied into the last layer."""
    if to_384 is None:
        return state
    last = CONVS[size][-1][0]
    weight = np.einsum("cf,cikl->fikl", to_384, state[f"{last}.weight"]).astype(np.float32)
    return {**state, f"{last}.weight": weight, f"{last}.bias": state[f"{last}.bias"] @ to_384}


def measure_norms(network: torch.nn.Sequential, pictures: Iterable[torch.Tensor]) -> None:
    """Set each batch norm's statistics to the plain average over some batches, as the weights stand now."""
    import torch

    norms = [part for part in network if isinstance(part, torch.nn.BatchNorm2d)]
    usual = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch: a cumulative average
    network.train()
    with torch.no_grad():
        for images in pictures:
            network[:-1](images)
    for norm, momentum in zip(norms, usual, strict=True):
        norm.momentum = momentum


def refit(
    network: torch.nn.Sequential,
    fit_on: Iterable[tuple[torch.Tensor, torch.Tensor]],
    judge_on: list[tuple[torch.Tensor, torch.Tensor]],
) -> tuple[float, float]:
    """Solve the last layer by least squares, keep what is best on other crops; return the loss there before and after.

    The solution is shrunk towards the weights that are there, by one of several amounts.

    Args:
        network: in evaluation mode; its last layer is changed.
        fit_on: pictures and targets to solve on, batch by batch.
        judge_on: others, to choose the amount on.

    Cost: (inputs of the last layer)^2 operations per output: 4096 inputs for PDN-S.
    """
    import torch

    body, last = network[:-1], network[-1]
    assert isinstance(last, torch.nn.Conv2d)
    assert last.bias is not None
    weight, bias = last.weight.detach().clone(), last.bias.detach().clone()
    with torch.no_grad():
        system = _LeastSquares(weight[0].numel() + 1, len(weight), weight.device)
        for images, wanted in fit_on:
            inside = body(images)
            error = wanted - last(inside)
            columns = torch.nn.functional.unfold(inside, last.kernel_size)
            columns = columns.view(*columns.shape[:2], *error.shape[2:])
            left, right = (rows_apart(one) for one in (columns, error))
            system.add(torch.cat([left, torch.ones_like(left[:, :1])], 1), right)
        before = loss_of(network, judge_on)
        best = before, weight, bias
        for shrinkage in SHRINKAGES:
            change = system.solve(shrinkage)
            last.weight.copy_(weight + change[:-1].T.reshape(weight.shape))
            last.bias.copy_(bias + change[-1])
            loss = loss_of(network, judge_on)
            if loss < best[0]:
                best = loss, last.weight.detach().clone(), last.bias.detach().clone()
        last.weight.copy_(best[1])
        last.bias.copy_(best[2])
    return before, best[0]


def rows_apart(maps: torch.Tensor) -> torch.Tensor:
    """Return every second row and column of (B, C, h, w) maps as (n, C) rows: neighbours say nearly the same."""
    return maps[:, :, ::2, ::2].permute(0, 2, 3, 1).flatten(0, 2)


class _LeastSquares:
    """Rows and what they should give, and the map that does it best, by whichever of two equal ways is smaller."""

    def __init__(self, n_inputs: int, n_outputs: int, device: torch.device) -> None:
        self.shape, self.device = (n_inputs, n_outputs), device
        self.rows: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.sums: tuple[torch.Tensor, torch.Tensor] | None = None

    def add(self, columns: torch.Tensor, wanted: torch.Tensor) -> None:
        """Take (n, inputs) and (n, outputs) rows; beyond as many rows as inputs, only their products are kept."""
        import torch

        self.rows.append((columns, wanted))
        if self.sums is None and sum(len(one) for one, _ in self.rows) > self.shape[0]:
            self.sums = (
                torch.zeros(self.shape[0], self.shape[0], dtype=torch.float64, device=self.device),
                torch.zeros(*self.shape, dtype=torch.float64, device=self.device),
            )
        if self.sums is not None:
            for left, right in self.rows:
                self.sums[0].add_(left.T @ left)
                self.sums[1].add_(left.T @ right)
            self.rows = []

    def solve(self, shrinkage: float) -> torch.Tensor:
        """Return the (inputs, outputs) map, shrunk by a multiple of the inputs' mean square."""
        import torch

        if self.sums is not None:
            gram, cross = self.sums
            return torch.cholesky_solve(cross, torch.linalg.cholesky(self._damped(gram, shrinkage))).float()
        columns, wanted = (torch.cat([row[i] for row in self.rows]).double() for i in (0, 1))
        kernel = self._damped(columns @ columns.T, shrinkage)
        return (columns.T @ torch.cholesky_solve(wanted, torch.linalg.cholesky(kernel))).float()

    def _damped(self, gram: torch.Tensor, shrinkage: float) -> torch.Tensor:
        import torch

        scale = gram.diagonal().sum() / self.shape[0]
        return gram + shrinkage * scale * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)


def loss_of(network: torch.nn.Sequential, batches: list[tuple[torch.Tensor, torch.Tensor]]) -> float:
    """Return the mean squared error over some batches."""
    import torch

    total, n = 0.0, 0
    with torch.no_grad():
        for images, wanted in batches:
            total += float((network(images) - wanted).square().sum())
            n += wanted.numel()
    return total / n


def batches(rows: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
    """Return rows cut into pieces of at most `size`."""
    return [rows[part] for part in blocks(len(rows), size)]
