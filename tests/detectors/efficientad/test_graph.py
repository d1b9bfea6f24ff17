"""The graph gives the maps that torch's networks give."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

from blemish import runtime
from blemish._graphs.safety import check_network
from blemish.detectors.efficientad import pdn
from blemish.detectors.efficientad.graph import Networks, efficientad_graph, parameters
from blemish.detectors.efficientad.maps import Maps, Quantiles
from blemish.detectors.efficientad.networks import arrays
from blemish.errors import InputError
from blemish.imaging.decode import load, resize
from blemish.imaging.geometry import Geometry
from tests.efficientad_models import N_OUTPUTS, narrow_networks, random_weights
from tests.lazy import torch


def networks(size: str = "small", padding: bool = False) -> Networks:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        autoencoder = arrays(pdn.autoencoder(N_OUTPUTS))
    rng = np.random.default_rng(0)
    mean, std = rng.normal(size=N_OUTPUTS).astype(np.float32), rng.uniform(0.5, 2, N_OUTPUTS).astype(np.float32)
    return Networks(
        random_weights(size, N_OUTPUTS), random_weights(size, 2 * N_OUTPUTS, 1), autoencoder, mean, std, size, padding
    )


def by_torch(given: Networks, images: np.ndarray) -> dict[str, np.ndarray]:
    """Run the three networks as their papers write them."""
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255

    def said(module, weights):
        module.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
        with torch.no_grad():
            return module.eval()(x)

    teacher = said(pdn.pdn(given.size, N_OUTPUTS, padding=given.padding), given.teacher)
    student = said(pdn.pdn(given.size, 2 * N_OUTPUTS, padding=given.padding), given.student)
    rebuilt = said(pdn.autoencoder(N_OUTPUTS, padding=given.padding), given.autoencoder)
    teacher = (teacher - torch.from_numpy(given.mean)[:, None, None]) / torch.from_numpy(given.std)[:, None, None]
    return {
        "student_map": (teacher - student[:, :N_OUTPUTS]).square().mean(1).numpy(),
        "autoencoder_map": (rebuilt - student[:, N_OUTPUTS:]).square().mean(1).numpy(),
    }


@pytest.mark.parametrize(
    ("size", "padding", "hw", "passes"),
    [
        ("small", False, (64, 64), True),
        ("small", False, (33, 50), True),
        ("small", False, (64, 48), False),
        ("small", True, (40, 48), True),
        ("medium", False, (41, 48), True),
        ("medium", True, (33, 33), False),
    ],
)
def test_maps_are_those_of_torch(size: str, padding: bool, hw: tuple[int, int], passes: bool):
    given = networks(size, padding)
    images = np.random.default_rng(2).integers(0, 256, (2, *hw, 3), np.uint8)
    model = efficientad_graph(given, hw)
    check_network(model, name="network.onnx", outputs=("student_map", "autoencoder_map"))
    found, expected = runtime.load(model, threads=1, passes=passes).run(images), by_torch(given, images)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-5 * value.max())


def test_a_graph_takes_only_its_size():
    running = runtime.load(efficientad_graph(networks(), (48, 48)), threads=1)
    with pytest.raises(InputError, match="image: expected uint8"):
        running.run(np.zeros((1, 64, 64, 3), np.uint8))


def test_too_small_an_image():
    with pytest.raises(InputError, match="image: expected at least 33 x 33 pixels"):
        efficientad_graph(networks(), (32, 64))


@pytest.mark.parametrize("padding", [False, True])
def test_the_graph_is_the_networks(padding: bool):
    """Each parameter once, under its own name, and one node for each operator of the paper."""
    given = networks(padding=padding)
    model = efficientad_graph(given, (64, 64))
    expected = {"teacher.mean": given.mean.reshape(1, -1, 1, 1), "teacher.std": given.std.reshape(1, -1, 1, 1)}
    for part, weights in (("teacher", given.teacher), ("student", given.student), ("autoencoder", given.autoencoder)):
        expected |= {f"{part}.{name}": array for name, array in weights.items()}
    found = parameters(model)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
    assert len(model) < 1.01 * sum(array.nbytes for array in expected.values())
    operators = Counter(node.op_type for node in onnx.load_from_string(model).graph.node)
    assert (operators["Conv"], operators["AveragePool"], operators["MatMul"]) == (2 * 4 + 6 + 8, 4, 0)


@pytest.fixture
def _full_width() -> Iterator[None]:
    with narrow_networks(1):
        yield


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.usefixtures("_full_width")
def test_scores_of_real_images_are_torchs_to_a_thousandth(data_root: Path):
    """The joined map's highest value, which is the score, of the graph's and of torch's maps."""
    given = networks()
    paths = sorted((data_root / "mvtec" / "bottle" / "test").glob("*/000.*"))
    assert paths
    images = np.stack([resize(load(path), (256, 256)) for path in paths])
    model = efficientad_graph(given, (256, 256))
    running = runtime.load(model)
    ours = [running.run(image[None]) for image in images]
    theirs = [by_torch(given, image[None]) for image in images]
    student, autoencoder = (
        Quantiles.of(np.concatenate([one[name] for one in theirs])) for name in ("student_map", "autoencoder_map")
    )
    maps = Maps(model, running, Geometry((256, 256)), student, autoencoder, padding=False, pad_maps=True, border="edge")
    for one, other in zip(ours, theirs, strict=True):
        scores = [maps.joined(x["student_map"][0], x["autoencoder_map"][0]).max() for x in (one, other)]
        assert scores[0] == pytest.approx(scores[1], abs=1e-3)
