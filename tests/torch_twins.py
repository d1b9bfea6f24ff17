"""The pretrained networks as plain torch modules, written from the papers, and the golden numbers that they make.

    python -m tests.torch_twins            # with torch 2.13 and pytest; needs the Lite0 package too

No other test needs torch: `tests/golden/backbones.npz` is what this module wrote.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import random_weights

torch = pytest.importorskip("torch", reason="torch is not needed: the golden numbers are in tests/golden")
nn = torch.nn
functional = torch.nn.functional

GOLDEN = Path(__file__).parent / "golden" / "backbones.npz"
N_SAMPLED = 24


class SameConv(nn.Conv2d):
    """TensorFlow's SAME: the output has ceil(size / stride) rows; what must be padded for it, the odd one last."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pads = []
        for size, k, s in zip(x.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
            total = max((-(-size // s) - 1) * s + k - size, 0)
            pads += [total // 2, total - total // 2]
        padded = functional.pad(x, pads, "constant" if self.padding_mode == "zeros" else self.padding_mode)
        return functional.conv2d(padded, self.weight, None, self.stride, 0, 1, self.groups)


class LiteBlock(nn.Module):
    def __init__(self, into: int, out: int, k: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = into * expansion
        self.residual = stride == 1 and into == out
        if expansion > 1:
            self._expand_conv = SameConv(into, inner, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(inner, eps=1e-3)
        self._depthwise_conv = SameConv(inner, inner, k, stride, groups=inner, bias=False)
        self._bn1 = nn.BatchNorm2d(inner, eps=1e-3)
        self._project_conv = SameConv(inner, out, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(out, eps=1e-3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = functional.relu6(self._bn0(self._expand_conv(x))) if hasattr(self, "_expand_conv") else x
        y = functional.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.residual else y


class EfficientNetLite(nn.Module):
    """widths: stem, seven stages, head; stages: (repeats, kernel, stride)."""

    def __init__(self, widths: tuple[int, ...], repeats: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self._conv_stem = SameConv(3, widths[0], 3, 2, bias=False)
        self._bn0 = nn.BatchNorm2d(widths[0], eps=1e-3)
        blocks = []
        stages = zip((3, 3, 5, 3, 5, 5, 3), (1, 2, 2, 2, 1, 2, 1), (1, 6, 6, 6, 6, 6, 6), strict=True)
        for s, (k, stride, expansion) in enumerate(stages):
            into, out = widths[s : s + 2]
            blocks += [LiteBlock(out if i else into, out, k, 1 if i else stride, expansion) for i in range(repeats[s])]
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = SameConv(widths[7], widths[8], 1, bias=False)
        self._bn1 = nn.BatchNorm2d(widths[8], eps=1e-3)
        self._fc = nn.Linear(widths[8], classes)

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        x = (image.permute(0, 3, 1, 2) - 127) / 128
        x = functional.relu6(self._bn0(self._conv_stem(x)))
        maps = {}
        for i, block in enumerate(self._blocks):
            x = maps[f"blocks.{i}"] = block(x)
        x = maps["head"] = functional.relu6(self._bn1(self._conv_head(x)))
        maps["logits"] = self._fc(x.mean((2, 3)))
        return maps


def _imagenet(image: torch.Tensor) -> torch.Tensor:
    mean = torch.tensor([0.485, 0.456, 0.406], dtype=image.dtype)
    std = torch.tensor([0.229, 0.224, 0.225], dtype=image.dtype)
    return ((image / 255 - mean) / std).permute(0, 3, 1, 2)


class InvertedResidual(nn.Module):
    def __init__(self, into: int, out: int, stride: int, t: int) -> None:
        super().__init__()
        inner = into * t
        self.residual = stride == 1 and into == out
        parts: list[nn.Module] = []
        if t > 1:
            parts.append(nn.Sequential(nn.Conv2d(into, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU6()))
        depthwise = nn.Conv2d(inner, inner, 3, stride, 1, groups=inner, bias=False)
        parts.append(nn.Sequential(depthwise, nn.BatchNorm2d(inner), nn.ReLU6()))
        self.conv = nn.Sequential(*parts, nn.Conv2d(inner, out, 1, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileNetV2(nn.Module):
    """widths: stem, seven stages, head."""

    def __init__(self, widths: tuple[int, ...], classes: int) -> None:
        super().__init__()
        stem = nn.Conv2d(3, widths[0], 3, 2, 1, bias=False)
        features: list[nn.Module] = [nn.Sequential(stem, nn.BatchNorm2d(widths[0]), nn.ReLU6())]
        stages = ((1, 1, 1), (6, 2, 2), (6, 3, 2), (6, 4, 2), (6, 3, 1), (6, 3, 2), (6, 1, 1))
        for s, (t, n, stride) in enumerate(stages):
            features += [InvertedResidual(widths[s + bool(i)], widths[s + 1], 1 if i else stride, t) for i in range(n)]
        head = nn.Conv2d(widths[7], widths[8], 1, bias=False)
        features.append(nn.Sequential(head, nn.BatchNorm2d(widths[8]), nn.ReLU6()))
        self.features = nn.Sequential(*features)
        self.classifier = nn.Sequential(nn.Dropout(), nn.Linear(widths[8], classes))

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        x, maps = _imagenet(image), {}
        for i, part in enumerate(self.features):
            x = maps[f"features.{i}"] = part(x)
        maps["logits"] = self.classifier(x.mean((2, 3)))
        return maps


class ResBlock(nn.Module):
    def __init__(self, into: int, out: int, inner: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        if bottleneck:
            self.conv1 = nn.Conv2d(into, inner, 1, bias=False)
            self.conv2 = nn.Conv2d(inner, inner, 3, stride, 1, bias=False)
            self.conv3 = nn.Conv2d(inner, out, 1, bias=False)
            self.bn3 = nn.BatchNorm2d(out)
        else:
            self.conv1 = nn.Conv2d(into, inner, 3, stride, 1, bias=False)
            self.conv2 = nn.Conv2d(inner, out, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(self.conv1.out_channels)
        self.bn2 = nn.BatchNorm2d(self.conv2.out_channels)
        self.downsample = None
        if stride > 1 or into != out:
            self.downsample = nn.Sequential(nn.Conv2d(into, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        if hasattr(self, "conv3"):
            y = self.bn3(self.conv3(functional.relu(y)))
        return functional.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    def __init__(self, base: int, depths: tuple[int, ...], bottleneck: bool, wide: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, base, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(base)
        into = base
        for n, depth in enumerate(depths):
            width, blocks = base * 2**n, []
            out = width * (4 if bottleneck else 1)
            for i in range(depth):
                blocks.append(ResBlock(into, out, width * wide, 2 if n and not i else 1, bottleneck))
                into = out
            self.add_module(f"layer{n + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(into, classes)

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        x = functional.max_pool2d(functional.relu(self.bn1(self.conv1(_imagenet(image)))), 3, 2, 1)
        maps = {}
        for n in range(1, 5):
            x = maps[f"layer{n}"] = getattr(self, f"layer{n}")(x)
        maps["logits"] = self.fc(x.mean((2, 3)))
        return maps


class LayerScale(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gamma


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        weights = (q * (c // self.heads) ** -0.5 @ k.transpose(-2, -1)).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(b, n, c))


class TransformerBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        self.mlp = nn.Sequential()
        self.mlp.add_module("fc1", nn.Linear(width, 4 * width))
        self.mlp.add_module("act", nn.GELU())
        self.mlp.add_module("fc2", nn.Linear(4 * width, width))
        self.ls1, self.ls2 = LayerScale(width), LayerScale(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class Dinov2(nn.Module):
    """Oquab et al. 2023; position embeddings as Meta's dinov2_vits14: scale factor (n + .1) / 37, not antialiased."""

    def __init__(self, width: int, depth: int, heads: int, patch: int = 14, grid: int = 37) -> None:
        super().__init__()
        self.patch, self.grid = patch, grid
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + grid * grid, width))
        self.mask_token = nn.Parameter(torch.zeros(1, width))
        self.patch_embed = nn.Sequential()
        self.patch_embed.add_module("proj", nn.Conv2d(3, width, patch, patch))
        self.blocks = nn.ModuleList([TransformerBlock(width, heads) for _ in range(depth)])
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def positions(self, h: int, w: int) -> torch.Tensor:
        if (h, w) == (self.grid, self.grid):
            return self.pos_embed
        patches = self.pos_embed[:, 1:].reshape(1, self.grid, self.grid, -1).permute(0, 3, 1, 2)
        factors = ((h + 0.1) / self.grid, (w + 0.1) / self.grid)
        patches = functional.interpolate(patches, scale_factor=factors, mode="bicubic")
        assert patches.shape[2:] == (h, w)
        return torch.cat([self.pos_embed[:, :1], patches.flatten(2).transpose(1, 2)], 1)

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.patch_embed(_imagenet(image))
        h, w = x.shape[2:]
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x.flatten(2).transpose(1, 2)], 1) + self.positions(h, w)
        tokens = {}
        for i, block in enumerate(self.blocks, start=1):
            x = tokens[f"block{i}"] = block(x)
        tokens["norm"] = self.norm(x)
        return {name: y[:, 1:].transpose(1, 2).unflatten(2, (h, w)) for name, y in tokens.items()}


class KerasResNet50:
    """keras-applications' resnet50.py, read aloud: BGR, zero padding before conv1 and before the pool."""

    def __init__(self, state: dict[str, np.ndarray[Any, Any]]) -> None:
        self.state = {name: torch.from_numpy(np.array(array)).double() for name, array in state.items()}

    def conv(self, x: torch.Tensor, name: str, norm: str, stride: int = 1, pad: int = 0) -> torch.Tensor:
        s = self.state
        y = functional.conv2d(x, s[f"{name}/kernel"].permute(3, 2, 0, 1), s[f"{name}/bias"], stride, pad)
        n = [s[f"{norm}/{part}"] for part in ("moving_mean", "moving_variance", "gamma", "beta")]
        return functional.batch_norm(y, *n, training=False, eps=1e-3)

    def __call__(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        x = image.flip(3) - torch.tensor([103.939, 116.779, 123.68], dtype=image.dtype)
        x = functional.pad(x.permute(0, 3, 1, 2), (3, 3, 3, 3))
        x = functional.relu(self.conv(x, "conv1", "bn_conv1", 2))
        x = functional.max_pool2d(functional.pad(x, (1, 1, 1, 1)), 3, 2)
        maps = {}
        for stage, letters in ((2, "abc"), (3, "abcd"), (4, "abcdef"), (5, "abc")):
            for letter in letters:
                stride = 2 if letter == "a" and stage > 2 else 1
                a, b, c, d = (f"{stage}{letter}_branch{part}" for part in ("2a", "2b", "2c", "1"))
                y = functional.relu(self.conv(x, f"res{a}", f"bn{a}", stride))
                y = functional.relu(self.conv(y, f"res{b}", f"bn{b}", pad=1))
                y = self.conv(y, f"res{c}", f"bn{c}")
                x = functional.relu(y + (self.conv(x, f"res{d}", f"bn{d}", stride) if letter == "a" else x))
            maps[f"layer{stage - 1}"] = x
        maps["logits"] = x.mean((2, 3)) @ self.state["fc1000/kernel"] + self.state["fc1000/bias"]
        return maps


LITES = {  # widths, repeats
    "lite0": ((32, 16, 24, 40, 80, 112, 192, 320, 1280), (1, 2, 2, 3, 3, 4, 1)),
    "lite1": ((32, 16, 24, 40, 80, 112, 192, 320, 1280), (1, 3, 3, 4, 4, 5, 1)),
    "lite2": ((32, 16, 24, 48, 88, 120, 208, 352, 1280), (1, 3, 3, 4, 4, 5, 1)),
}


def loaded(network: nn.Module, state: dict[str, Any]) -> nn.Module:
    """The network in double precision with these weights: every key must match."""
    network.load_state_dict({name: torch.as_tensor(array) for name, array in state.items()})
    return network.double().eval()


def twins() -> dict[str, Any]:
    """The golden cases: the networks that `tests.random_weights` has weights for."""
    r = random_weights
    small = (4, *r.LITE_WIDTHS, 160)
    return {
        "lite0": loaded(EfficientNetLite(small, (1, 2, 2, 3, 3, 4, 1), 10), r.efficientnet_lite(1)),
        "lite2": loaded(EfficientNetLite(small, (1, 3, 3, 4, 4, 5, 1), 10), r.efficientnet_lite(2, r.LITE2_STAGES)),
        "mobilenet_v2": loaded(MobileNetV2((4, 2, 3, 4, 8, 12, 20, 40, 160), 10), r.mobilenet_v2(3)),
        "resnet18": loaded(ResNet(8, (2, 2, 2, 2), False, 1, 10), r.resnet(4, depths=(2, 2, 2, 2), bottleneck=False)),
        "resnet50": loaded(ResNet(8, (3, 4, 6, 3), True, 1, 10), r.resnet(5, depths=(3, 4, 6, 3), bottleneck=True)),
        "wide_resnet50_2": loaded(
            ResNet(8, (3, 4, 6, 3), True, 2, 10), r.resnet(6, depths=(3, 4, 6, 3), bottleneck=True, wide=2)
        ),
        "keras_resnet50": KerasResNet50(r.keras_resnet50(7)),
    }


def with_padding(network: nn.Module, mode: str) -> nn.Module:
    """The network with another kind of padding around every convolution: "reflect" or "replicate"."""
    for part in network.modules():
        if isinstance(part, nn.Conv2d):
            part.padding_mode = mode
    return network


def outputs(network: Any, image: np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]]:
    with torch.no_grad():
        maps = network(torch.from_numpy(image).double())
    return {name: array.numpy() for name, array in maps.items()}


def sampled(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The numbers of an array that the golden file keeps: evenly spread over it, first and last among them."""
    return array.ravel()[np.linspace(0, array.size - 1, N_SAMPLED).astype(int)]


def goldens() -> dict[str, np.ndarray[Any, Any]]:
    """Every array of the golden file."""
    from blemish.backbones.registry import find

    golden = {}
    found = find("efficientnet_lite0")
    assert found is not None
    state = torch.load(found[0], weights_only=True)
    networks = twins()
    for name in ("lite0", "resnet18"):
        networks[f"{name}-reflect"] = with_padding(twins()[name], "reflect")
        networks[f"{name}-edge"] = with_padding(twins()[name], "replicate")
    networks |= {"efficientnet_lite0": loaded(EfficientNetLite(*LITES["lite0"], 1000), state)}
    sizes = dict.fromkeys(networks, ((96, 128), (97, 131)))
    networks["dinov2"] = loaded(Dinov2(48, 12, 6), random_weights.dinov2(9))
    sizes["dinov2"] = ((98, 126), (126, 70), (518, 518))
    for name, network in networks.items():
        for height, width in sizes[name]:
            maps = outputs(network, random_weights.image(8, height, width))
            key = f"{name}/{height}x{width}"
            golden[f"{key}/layers"] = np.array(list(maps))
            golden[f"{key}/values"] = np.array([sampled(array) for array in maps.values()], np.float32)
            golden[f"{key}/shapes"] = np.array([(*array.shape, 0, 0)[:4] for array in maps.values()], np.int32)
            golden[f"{key}/scales"] = np.array([np.abs(array).max() for array in maps.values()], np.float32)
    return golden


def main() -> None:
    golden = goldens()
    np.savez_compressed(GOLDEN, **golden)
    print(f"{len(golden)} arrays, {GOLDEN.stat().st_size} bytes")  # noqa: T201


if __name__ == "__main__":
    main()
