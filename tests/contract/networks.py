"""A backbone and a teacher of our own, as small as the package takes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import safetensors.numpy
from onnx import TensorProto, helper, numpy_helper

LAYERS = ("fine", "coarse")
N_OUTPUTS = 384  # a teacher of another number is refused
LIVE = 6  # of the teacher's channels; the others are zero, so that a model folder can be packed
# PDN-S: name, inputs, outputs, side of the kernel (Batzner et al. 2024, table 6).
TEACHER = (("conv1", 3, 128, 4), ("conv2", 128, 256, 4), ("conv3", 256, 256, 3), ("conv4", 256, N_OUTPUTS, 4))


def write_backbone(path: Path) -> Path:
    """Write an ONNX network of two convolutions: "fine" has stride 4 and 8 channels, "coarse" stride 8 and 12."""
    rng = np.random.default_rng(0)

    def weights(*shape: int) -> np.ndarray:
        scale = 64 * int(np.sqrt(np.prod(shape[1:])))
        return (rng.integers(-64, 65, shape) / scale).astype(np.float32)

    tensors = {"k1": weights(8, 3, 4, 4), "k2": weights(12, 8, 2, 2)}
    nodes = [
        helper.make_node("Conv", ["image", "k1"], ["c1"], strides=[4, 4]),
        helper.make_node("Relu", ["c1"], [LAYERS[0]]),
        helper.make_node("Conv", [LAYERS[0], "k2"], ["c2"], strides=[2, 2]),
        helper.make_node("Relu", ["c2"], [LAYERS[1]]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ("n", 3, "h", "w"))],
        [helper.make_tensor_value_info(LAYERS[1], TensorProto.FLOAT, ("n", 12, "i", "j"))],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path


def write_teacher(path: Path) -> Path:
    """Write a PDN-S teacher with N_OUTPUTS outputs of which LIVE channels in each layer do something."""
    rng = np.random.default_rng(1)
    state: dict[str, np.ndarray] = {}
    for name, into, out, side in TEACHER:
        kernel = np.zeros((out, into, side, side), np.float32)
        n_live = out if out == N_OUTPUTS else LIVE
        live = kernel[:n_live, :LIVE]
        live[...] = rng.integers(-64, 65, live.shape) / (16 * np.sqrt(live[0].size))
        bias = np.zeros(out, np.float32)
        bias[:n_live] = rng.integers(0, 17, n_live) / 64
        state |= {f"{name}.weight": kernel, f"{name}.bias": bias}
    safetensors.numpy.save_file(state, path)
    return path


def write_resnet18(path: Path) -> Path:
    """Write a ResNet-18 in torchvision's layout of which LIVE channels in each layer do something."""
    rng = np.random.default_rng(2)
    state: dict[str, np.ndarray] = {}

    def conv(name: str, norm: str, out: int, into: int, side: int) -> None:
        kernel = np.zeros((out, into, side, side), np.float32)
        live = kernel[:LIVE, :LIVE]
        live[...] = rng.integers(-64, 65, live.shape) / (24 * np.sqrt(live[0].size))
        state[f"{name}.weight"] = kernel
        for part, value in (("weight", 1), ("bias", 0), ("running_mean", 0), ("running_var", 1)):
            state[f"{norm}.{part}"] = np.full(out, value, np.float32)
        state[f"{norm}.num_batches_tracked"] = np.array(1, np.int64)

    conv("conv1", "bn1", 64, 3, 7)
    for i, (into, out) in enumerate(((64, 64), (64, 128), (128, 256), (256, 512)), start=1):
        for block, first in ((f"layer{i}.0", into), (f"layer{i}.1", out)):
            conv(f"{block}.conv1", f"{block}.bn1", out, first, 3)
            conv(f"{block}.conv2", f"{block}.bn2", out, out, 3)
            if first != out:
                conv(f"{block}.downsample.0", f"{block}.downsample.1", out, first, 1)
    state |= {"fc.weight": np.zeros((10, 512), np.float32), "fc.bias": np.zeros(10, np.float32)}
    safetensors.numpy.save_file(state, path)
    return path
