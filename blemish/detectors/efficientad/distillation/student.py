"""The student of a distillation: a patch description network with batch norms, and its export as a teacher's weights.

The student has one output per channel of its targets. The projection to 384 features is one matrix, multiplied into the
last layer at the end: the same network for fewer operations.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from blemish._graphs.builder import fold_batch_norm
from blemish._validation.checks import blocks
from blemish.detectors.efficientad.pdn import CONVS, IMAGENET_MEAN, IMAGENET_STD, N_FEATURES, POOLED, Size
from blemish.types import Float32

if TYPE_CHECKING:
    import torch


def new_student(size: Size, n_channels: int, seed: int) -> torch.nn.Sequential:
    """Return an initialised network of `n_channels` outputs: convolutions, batch norms, ReLUs and pools by name.

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
            if conv.bias is not None:  # the last one starts at the targets' mean, 0
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


def normalised_kernels(size: Size) -> frozenset[str]:
    """Return the names of the kernels before a batch norm, whose norm has no effect."""
    return frozenset(f"{name}.weight" for name, *_ in CONVS[size][:-1])


def batch_of(
    crops: NDArray[np.uint8], features: NDArray[np.float16], rows: NDArray[np.int64], device: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return normalised images (B, 3, H, W) and targets (B, C, h, w) of the crops in `rows`, float32."""
    import torch

    rows = np.sort(rows)  # in the order of the file: fewer seeks
    mean, std = (255 * torch.tensor(v, device=device).view(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    images = torch.from_numpy(crops[rows]).to(device).permute(0, 3, 1, 2).float()
    images = ((images - mean) / std).contiguous(memory_format=torch.channels_last)
    targets = torch.from_numpy(features[rows]).to(device).float().permute(0, 3, 1, 2)
    return images, targets


def folded(network: torch.nn.Sequential, size: Size) -> dict[str, Float32]:
    """Return the weights with the batch norms folded in: float32 by the names of `pdn.pdn`."""
    state = {name: tensor.detach().float().cpu().numpy() for name, tensor in network.state_dict().items()}
    weights: dict[str, Float32] = {}
    for name, *_ in CONVS[size]:
        weight, norm = state[f"{name}.weight"], f"norm{name[-1]}"
        if f"{norm}.weight" in state:
            weights[f"{name}.weight"], weights[f"{name}.bias"] = fold_batch_norm(
                weight,
                np.zeros(len(weight), np.float32),
                gamma=state[f"{norm}.weight"],
                beta=state[f"{norm}.bias"],
                mean=state[f"{norm}.running_mean"],
                variance=state[f"{norm}.running_var"],
                epsilon=1e-5,
            )
        else:
            weights[f"{name}.weight"], weights[f"{name}.bias"] = np.ascontiguousarray(weight), state[f"{name}.bias"]
    return weights


def projected(state: dict[str, Float32], size: Size, to_384: Float32 | None) -> dict[str, Float32]:
    """Return the weights of a teacher of 384 outputs: the last layer times the projection (C, 384), if one is given."""
    if to_384 is None:
        return state
    last = CONVS[size][-1][0]
    weight = np.einsum("cf,cikl->fikl", to_384, state[f"{last}.weight"]).astype(np.float32)
    return {**state, f"{last}.weight": weight, f"{last}.bias": state[f"{last}.bias"] @ to_384}


def measure_norms(network: torch.nn.Sequential, batched: Iterable[torch.Tensor]) -> None:
    """Set each batch norm's statistics to their average over the batches, for the present weights."""
    import torch

    norms = [part for part in network if isinstance(part, torch.nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch: a cumulative average
    network.train()
    with torch.no_grad():
        for images in batched:
            network[:-1](images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def batches(rows: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
    """Return the rows in batches of at most `size`."""
    return [rows[part] for part in blocks(len(rows), size)]
