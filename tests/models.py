"""Small model folders for tests: a network that averages and a bank of two rows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from blemish.modelfolder.folder import header_digest, save_model


def network(
    *, dtype: int = TensorProto.UINT8, shape: tuple[Any, ...] = ("B", "H", "W", 3), output: str = "features"
) -> onnx.ModelProto:
    """Return a graph from `image` to one float output `(B, 3, h, w)`."""
    image = helper.make_tensor_value_info("image", dtype, shape)
    features = helper.make_tensor_value_info(output, TensorProto.FLOAT, ("B", 3, "h", "w"))
    nodes = [
        helper.make_node("Cast", ["image"], ["cast"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["cast"], ["nchw"], perm=[0, 3, 1, 2]),
        helper.make_node("Mul", ["nchw", "scale"], [output]),
    ]
    scale = helper.make_tensor("scale", TensorProto.FLOAT, [1], [0.5])
    graph = helper.make_graph(nodes, "g", [image], [features], [scale])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def header(**changes: Any) -> dict[str, Any]:
    """Return a complete header with some fields changed."""
    fields = {
        "detector": "patchcore",
        "settings": {"coreset_sampling_ratio": 0.1, "layers": ["a", "b"]},
        "input": {"image_size": 256},
        "thresholds": {"image": 1.25, "scores": [0.1, 1 / 3, 1e-7]},
        "provenance": {"seed": 0, "backbone": "lite0", "backbone_sha256": "0" * 64, "n_training_files": 3},
    }
    return {**fields, **changes}


def bank(value: float = 1.0) -> dict[str, dict[str, Any]]:
    """Return a memory bank of two equal rows."""
    rows = np.full((2, 3), value, np.float32)
    return {"bank.safetensors": {"memory_bank": rows, "source": np.zeros((2, 3), np.int32)}}


def save_small(folder: Path, value: float = 1.0) -> Path:
    """Save a small model whose bank holds `value`."""
    return save_model(folder, header=header(), network=network().SerializeToString(), tensors=bank(value))


def rewrite(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change model.json, which nothing signs."""
    path = folder / "model.json"
    header = json.loads(path.read_text())
    change(header)
    if "digest" in header:  # as an attacker would
        header["digest"] = header_digest(header)
    path.write_text(json.dumps(header))


def replace_file(folder: Path, name: str, data: bytes) -> None:
    """Replace a file and its SHA-256, as an attacker would."""
    (folder / name).write_bytes(data)
    rewrite(folder, lambda header: header["files"].update({name: hashlib.sha256(data).hexdigest()}))
