"""Parameters out of the graphs that version 0.1.0 saved, whose constants are built here as it built them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from blemish.detectors.efficientad import version_1
from blemish.detectors.efficientad.pdn import CONVS, DECODER, ENCODER, IMAGENET_MEAN, IMAGENET_STD
from tests import random_weights

if TYPE_CHECKING:
    from blemish.detectors.efficientad.pdn import Size

N = 6
PER_CHANNEL = 255 * np.reshape(IMAGENET_STD, (1, 3, 1, 1))


def folded(state: dict[str, np.ndarray], size: Size, padding: bool) -> dict[str, np.ndarray]:
    """The constants of a graph of version 0.1.0 by its names."""
    first, *inner, last = (name for name, *_ in CONVS[size])
    pairs = {
        (part, name): (state[f"model.{part}.{name}.weight"], state[f"model.{part}.{name}.bias"])
        for part in ("teacher", "student")
        for name in (first, *inner, last)
    }
    weight, bias = (np.concatenate([pairs[part, first][i] for part in ("teacher", "student")]) for i in (0, 1))
    weight = weight / PER_CHANNEL
    if not padding:
        bias = bias - np.einsum("ocij,c->o", weight, 255 * np.array(IMAGENET_MEAN))
    constants = {"first.weight": weight, "first.bias": bias}
    mean, std = (state[f"model.mean_std.{name}"].reshape(-1) for name in ("mean", "std"))
    (teacher, teacher_bias), (student, student_bias) = pairs["teacher", last], pairs["student", last]
    both = np.concatenate([teacher / std[:, None, None, None], -student[:N]], axis=1)
    rest = {(f"{i}", name): pairs[part, name] for i, part in enumerate(("teacher", "student")) for name in inner}
    rest["", "difference"] = both, (teacher_bias - mean) / std - student_bias[:N]
    rest["", "second"] = student[N:], student_bias[N:]
    for i, ((number, name), (weight, bias)) in enumerate(rest.items()):
        if padding:
            prefix = f"{number}.{name}" if number else name
            constants |= {f"{prefix}.weight": weight, f"{prefix}.bias": bias}
        else:
            constants |= {f"tiles{3 * i}": weight.transpose(2, 3, 1, 0), f"tiles{3 * i + 1}": np.eye(3)}
            constants |= {f"tiles{3 * i + 2}": bias, f"places{i}": np.zeros(4)}
    for half, rows in (("encoder", ENCODER), ("decoder", DECODER)):
        for name, *_ in rows:
            for kind in ("weight", "bias"):
                array = state[f"model.ae.{half}.{name}.{kind}"]
                constants[f"{name}.{kind}"] = array / PER_CHANNEL if (name, kind) == ("enconv1", "weight") else array
    return constants


def graph(constants: dict[str, np.ndarray]) -> bytes:
    tensors = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in constants.items()]
    model: onnx.ModelProto = helper.make_model(helper.make_graph([], "graph", [], [], tensors))
    return model.SerializeToString()


@pytest.mark.parametrize("size", ["small", "medium"])
@pytest.mark.parametrize("padding", [False, True])
def test_folded_parameters_are_unfolded(size: Any, padding: bool):
    state = random_weights.efficientad(3, N, size)
    found = version_1.parameters(graph(folded(state, size, padding)), size, N)
    last = CONVS[size][-1][0]
    mean, std = (state[f"model.mean_std.{name}"].reshape(-1) for name in ("mean", "std"))
    expected = {
        name.removeprefix("model.").replace("ae.", "autoencoder.").replace("mean_std", "teacher"): array
        for name, array in state.items()
        if not name.startswith("model.quantiles")
    }
    assert found.keys() == expected.keys()
    # Normalised by its own mean and standard deviation, the teacher is the one that is written with 0 and 1.
    expected |= {"teacher.mean": np.zeros((1, N, 1, 1)), "teacher.std": np.ones((1, N, 1, 1))}
    shift = (expected[f"teacher.{last}.bias"] - mean) / std - expected[f"student.{last}.bias"][:N]
    expected[f"teacher.{last}.weight"] = expected[f"teacher.{last}.weight"] / std[:, None, None, None]
    expected[f"teacher.{last}.bias"] = shift
    expected[f"student.{last}.bias"] = np.concatenate([np.zeros(N), expected[f"student.{last}.bias"][N:]])
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-4, atol=1e-5, err_msg=name)
