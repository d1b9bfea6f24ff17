"""Random weights in the key layouts of the pretrained networks, at an eighth of their widths: the same graph, fast.

NumPy alone makes them, so that the golden numbers (made with torch) and the test (without) see the same ones.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from blemish.detectors.efficientad.pdn import Size, autoencoder_shapes, pdn_shapes

State = dict[str, np.ndarray[Any, Any]]
LITE_STAGES = ((1, 3), (2, 3), (2, 5), (3, 3), (3, 5), (4, 5), (1, 3))  # Lite0: repeats, kernel
LITE2_STAGES = ((1, 3), (3, 3), (3, 5), (4, 3), (4, 5), (5, 5), (1, 3))  # depth 1.2, first and last stage fixed
LITE_WIDTHS = (2, 3, 5, 10, 14, 24, 40)
MOBILE_STAGES = ((1, 2, 1), (6, 3, 2), (6, 4, 3), (6, 8, 4), (6, 12, 3), (6, 20, 3), (6, 40, 1))  # t, c / 8, n


class _Maker:
    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.state: State = {}

    def conv(self, name: str, out: int, into: int, k: int) -> None:
        scale = np.sqrt(2 / (into * k * k))
        self.state[f"{name}.weight"] = (self.rng.standard_normal((out, into, k, k)) * scale).astype(np.float32)

    def norm(self, name: str, n: int) -> None:
        self.state[f"{name}.weight"] = self.rng.uniform(0.5, 1.5, n).astype(np.float32)
        self.state[f"{name}.bias"] = self.rng.normal(0, 0.3, n).astype(np.float32)
        self.state[f"{name}.running_mean"] = self.rng.normal(0, 0.3, n).astype(np.float32)
        self.state[f"{name}.running_var"] = self.rng.uniform(0.5, 1.5, n).astype(np.float32)
        self.state[f"{name}.num_batches_tracked"] = np.array(1, np.int64)

    def dense(self, name: str, out: int, into: int) -> None:
        self.state[f"{name}.weight"] = self.rng.normal(0, 0.1, (out, into)).astype(np.float32)
        self.state[f"{name}.bias"] = self.rng.normal(0, 0.1, out).astype(np.float32)


def efficientnet_lite(seed: int, stages: Iterable[tuple[int, int]] = LITE_STAGES) -> State:
    make = _Maker(seed)
    make.conv("_conv_stem", 4, 3, 3)
    make.norm("_bn0", 4)
    channels, i = 4, 0
    for (repeats, k), width in zip(stages, LITE_WIDTHS, strict=True):
        for _ in range(repeats):
            inner = channels * (6 if i else 1)
            if i:
                make.conv(f"_blocks.{i}._expand_conv", inner, channels, 1)
                make.norm(f"_blocks.{i}._bn0", inner)
            make.conv(f"_blocks.{i}._depthwise_conv", inner, 1, k)
            make.norm(f"_blocks.{i}._bn1", inner)
            make.conv(f"_blocks.{i}._project_conv", width, inner, 1)
            make.norm(f"_blocks.{i}._bn2", width)
            channels, i = width, i + 1
    make.conv("_conv_head", 160, channels, 1)
    make.norm("_bn1", 160)
    make.dense("_fc", 10, 160)
    return make.state


def mobilenet_v2(seed: int) -> State:
    make = _Maker(seed)
    make.conv("features.0.0", 4, 3, 3)
    make.norm("features.0.1", 4)
    channels, i = 4, 1
    for t, width, n in MOBILE_STAGES:
        for _ in range(n):
            inner = channels * t
            part = 0
            if t > 1:
                make.conv(f"features.{i}.conv.0.0", inner, channels, 1)
                make.norm(f"features.{i}.conv.0.1", inner)
                part = 1
            make.conv(f"features.{i}.conv.{part}.0", inner, 1, 3)
            make.norm(f"features.{i}.conv.{part}.1", inner)
            make.conv(f"features.{i}.conv.{part + 1}", width, inner, 1)
            make.norm(f"features.{i}.conv.{part + 2}", width)
            channels, i = width, i + 1
    make.conv("features.18.0", 160, channels, 1)
    make.norm("features.18.1", 160)
    make.dense("classifier.1", 10, 160)
    return make.state


def resnet(seed: int, *, depths: tuple[int, ...], bottleneck: bool, wide: int = 1, base: int = 8) -> State:
    """ResNet-18: (2, 2, 2, 2) without bottlenecks; ResNet-50: (3, 4, 6, 3) with; Wide-ResNet-50-2: wide=2.

    base: channels after the stem; 64 is the full width.
    """
    make = _Maker(seed)
    make.conv("conv1", base, 3, 7)
    make.norm("bn1", base)
    channels = base
    for layer, depth in enumerate(depths, start=1):
        width = base * 2 ** (layer - 1)
        out = width * (4 if bottleneck else 1)
        for i in range(depth):
            name = f"layer{layer}.{i}"
            inner = width * wide
            shapes = [(inner, channels, 1), (inner, inner, 3), (out, inner, 1)] if bottleneck else []
            for n, (to, into, k) in enumerate(shapes or [(width, channels, 3), (width, width, 3)], start=1):
                make.conv(f"{name}.conv{n}", to, into, k)
                make.norm(f"{name}.bn{n}", to)
            if i == 0 and (layer > 1 or channels != out):
                make.conv(f"{name}.downsample.0", out, channels, 1)
                make.norm(f"{name}.downsample.1", out)
            channels = out
    make.dense("fc", 10, channels)
    return make.state


def keras_resnet50(seed: int) -> State:
    """Keras's names and layout: kernels (k, k, in, out), convolutions with biases."""
    make = _Maker(seed)

    def conv(name: str, norm: str, out: int, into: int, k: int) -> None:
        make.conv(name, out, into, k)
        make.state[f"{name}/kernel"] = make.state.pop(f"{name}.weight").transpose(2, 3, 1, 0)
        make.state[f"{name}/bias"] = make.rng.normal(0, 0.3, out).astype(np.float32)
        make.norm(norm, out)
        del make.state[f"{norm}.num_batches_tracked"]
        for ours, theirs in (("weight", "gamma"), ("bias", "beta"), ("running_mean", "moving_mean")):
            make.state[f"{norm}/{theirs}"] = make.state.pop(f"{norm}.{ours}")
        make.state[f"{norm}/moving_variance"] = make.state.pop(f"{norm}.running_var")

    conv("conv1", "bn_conv1", 8, 3, 7)
    # Its inputs are not divided by a deviation, so that a random first layer must do it.
    make.state["conv1/kernel"] = make.state["conv1/kernel"] / np.float32(58)
    channels = 8
    for stage, depth in zip((2, 3, 4, 5), (3, 4, 6, 3), strict=True):
        width = 8 * 2 ** (stage - 2)
        for letter in "abcdef"[:depth]:
            name = f"{stage}{letter}_branch"
            conv(f"res{name}2a", f"bn{name}2a", width, channels, 1)
            conv(f"res{name}2b", f"bn{name}2b", width, width, 3)
            conv(f"res{name}2c", f"bn{name}2c", 4 * width, width, 1)
            if letter == "a":
                conv(f"res{name}1", f"bn{name}1", 4 * width, channels, 1)
            channels = 4 * width
    make.dense("fc1000", 10, channels)
    make.state["fc1000/kernel"] = make.state.pop("fc1000.weight").T
    make.state["fc1000/bias"] = make.state.pop("fc1000.bias")
    return make.state


def dinov2(seed: int, *, width: int = 48, depth: int = 12, grid: int = 37) -> State:
    """A DINOv2 network in the keys of Meta's checkpoint."""
    make = _Maker(seed)
    state, rng = make.state, make.rng

    def linear(name: str, out: int, into: int) -> None:
        state[f"{name}.weight"] = rng.normal(0, into**-0.5, (out, into)).astype(np.float32)
        state[f"{name}.bias"] = rng.normal(0, 0.3, out).astype(np.float32)

    def norm(name: str) -> None:
        state[f"{name}.weight"] = rng.uniform(0.5, 1.5, width).astype(np.float32)
        state[f"{name}.bias"] = rng.normal(0, 0.3, width).astype(np.float32)

    state["cls_token"] = rng.standard_normal((1, 1, width)).astype(np.float32)
    state["pos_embed"] = rng.standard_normal((1, 1 + grid**2, width)).astype(np.float32)
    state["mask_token"] = np.zeros((1, width), np.float32)
    make.conv("patch_embed.proj", width, 3, 14)
    state["patch_embed.proj.bias"] = rng.normal(0, 0.3, width).astype(np.float32)
    for i in range(depth):
        for part, shape in (("attn.qkv", (3, 1)), ("attn.proj", (1, 1)), ("mlp.fc1", (4, 1)), ("mlp.fc2", (1, 4))):
            linear(f"blocks.{i}.{part}", shape[0] * width, shape[1] * width)
        for n in (1, 2):
            norm(f"blocks.{i}.norm{n}")
            state[f"blocks.{i}.ls{n}.gamma"] = rng.uniform(-0.5, 0.5, width).astype(np.float32)
    norm("norm")
    return state


def in_hugging_face_keys(state: State) -> State:
    """The same DINOv2 network in the keys of Hugging Face's Dinov2Model."""
    names = {
        "cls_token": "embeddings.cls_token",
        "pos_embed": "embeddings.position_embeddings",
        "mask_token": "embeddings.mask_token",
        "register_tokens": "embeddings.register_tokens",
        "patch_embed.proj": "embeddings.patch_embeddings.projection",
        "norm": "layernorm",
    }
    parts = {"attn.proj": "attention.output.dense", "ls1.gamma": "layer_scale1.lambda1"}
    parts |= {"ls2.gamma": "layer_scale2.lambda1"}
    renamed: State = {}
    for name, array in state.items():
        stem, _, kind = name.rpartition(".")
        if not name.startswith("blocks."):
            renamed[names.get(name) or f"{names[stem]}.{kind}"] = array
            continue
        _, i, part = name.split(".", 2)
        layer, (stem, _, kind) = f"encoder.layer.{i}", part.rpartition(".")
        if stem == "attn.qkv":
            for which, rows in zip(("query", "key", "value"), np.split(array, 3), strict=True):
                renamed[f"{layer}.attention.attention.{which}.{kind}"] = rows
        else:
            renamed[f"{layer}.{parts.get(part) or f'{parts.get(stem, stem)}.{kind}'}"] = array
    return renamed


def efficientad(seed: int, n_outputs: int, size: Size = "small") -> State:
    """EfficientAD in the layout of anomalib's checkpoints, with mean and deviation of the teacher's outputs."""
    make = _Maker(seed)
    parts = {"teacher": pdn_shapes(size, n_outputs), "student": pdn_shapes(size, 2 * n_outputs)}
    for network, shapes in {**parts, "ae": autoencoder_shapes(n_outputs)}.items():
        for name, shape in shapes.items():
            scale = np.sqrt(2 / np.prod(shape[1:])) if len(shape) == 4 else 0.1
            made = make.rng.standard_normal(shape, np.float32) * np.float32(scale)
            make.state[f"model.{network}.{name}"] = made
    shape = (1, n_outputs, 1, 1)
    make.state["model.mean_std.mean"] = make.rng.normal(0, 0.3, shape).astype(np.float32)
    make.state["model.mean_std.std"] = make.rng.uniform(0.5, 1.5, shape).astype(np.float32)
    return make.state


def image(seed: int, height: int, width: int) -> np.ndarray[Any, Any]:
    """Coloured tiles with noise, (2, H, W, 3) uint8, by integers alone: no machine rounds them otherwise."""
    rng = np.random.default_rng(seed)
    tiles = rng.integers(20, 236, (2, -(-height // 12), -(-width // 12), 3)).repeat(12, 1).repeat(12, 2)
    return (tiles[:, :height, :width] + rng.integers(-20, 20, (2, height, width, 3))).astype(np.uint8)
