"""A patch description network while it learns: with batch norms, without the teacher's last projection, and as weights.

What learns has an output per channel of its targets. Projecting them to 384 features is one matrix, which is multiplied
into the last layer at the end: the same network for fewer operations.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from blemish._graphs.builder import fold_batch_norm
from blemish._validation.checks import blocks
from blemish.detectors.efficientad.pdn import CONVS, IMAGENET_MEAN, IMAGENET_STD, N_FEATURES, POOLED, Size

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from blemish.types import Float32


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
    """Return normalised images (B, 3, H, W) and targets (B, C, h, w) of some crops, float32."""
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


def measure_norms(network: torch.nn.Sequential, batched: Iterable[torch.Tensor]) -> None:
    """Set each batch norm's statistics to the plain average over some batches, as the weights stand now."""
    import torch

    norms = [part for part in network if isinstance(part, torch.nn.BatchNorm2d)]
    usual = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch: a cumulative average
    network.train()
    with torch.no_grad():
        for images in batched:
            network[:-1](images)
    for norm, momentum in zip(norms, usual, strict=True):
        norm.momentum = momentum


def batches(rows: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
    """Return rows cut into pieces of at most `size`."""
    return [rows[part] for part in blocks(len(rows), size)]
