"""Multiply-accumulate operations of a graph, counted from its shapes."""

from __future__ import annotations

import math

import numpy as np
import onnx

from blemish import runtime


def count_macs(model: onnx.ModelProto, image_hw: tuple[int, int]) -> int:
    """Products in the convolutions and matrix products for one image: each operator is made an output, and run."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    counted = [node for node in model.graph.node if node.op_type in {"Conv", "MatMul", "Gemm"}]
    sizes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    del model.graph.output[:]
    wanted = dict.fromkeys(name for node in counted for name in (*node.input[:2], *node.output) if name not in sizes)
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
    arrays = runtime.load(model, passes=False).run(np.zeros((1, *image_hw, 3), np.uint8))
    sizes |= {name: array.shape for name, array in arrays.items()}
    total = 0
    for node in counted:
        # Each output is a sum over the kernel of one group, or over the last axis of the first factor.
        terms = sizes[node.input[1]][1:] if node.op_type == "Conv" else sizes[node.input[0]][-1:]
        total += math.prod(sizes[node.output[0]]) * math.prod(terms)
    return total
