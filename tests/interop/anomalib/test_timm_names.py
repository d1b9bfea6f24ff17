"""Names in timm: every convolution of every network once, and the layers at the right blocks."""

from __future__ import annotations

import numpy as np
import pytest

from blemish import runtime
from blemish.backbones.architectures import NETWORKS, build_graph
from blemish.errors import InputError
from blemish.interop.anomalib.timm_names import (
    LITES,
    RESNETS,
    from_timm,
    set_normalisation,
    timm_name,
    timm_network,
    to_timm,
)
from tests import random_weights

MADE = {
    "resnet18": random_weights.resnet(1, depths=(2, 2, 2, 2), bottleneck=False),
    "resnet50": random_weights.resnet(1, depths=(3, 4, 6, 3), bottleneck=True),
    "tf_efficientnet_lite0": random_weights.efficientnet_lite(1),
    "tf_efficientnet_lite2": random_weights.efficientnet_lite(1, random_weights.LITE2_STAGES),
    "mobilenetv2_100": random_weights.mobilenet_v2(1),
}


@pytest.mark.parametrize("name", MADE)
def test_names_round_trip(name: str):
    network, state = timm_network(name), MADE[name]
    timm = to_timm(network, state)
    back = from_timm(network, timm)
    # The head, the classifier and counters, which no feature needs, are left out.
    left = {key for key in state if not key.endswith("num_batches_tracked")} - set(back)
    assert {key.partition(".")[0] for key in left} <= {"fc", "_fc", "_conv_head", "_bn1", "classifier", "features"}
    assert all(key.startswith("features.18") for key in left if key.startswith("features"))
    for key, array in back.items():
        np.testing.assert_array_equal(array, state[key])
    assert len(timm) == len(back) == 5 * len(network.convs)


@pytest.mark.parametrize(
    ("name", "timm", "blemish_name"),
    [
        ("tf_efficientnet_lite0", "blocks.2.1.conv_pwl.weight", "_blocks.4._project_conv.weight"),
        ("tf_efficientnet_lite0", "blocks.0.0.bn1.weight", "_blocks.0._bn1.weight"),
        ("mobilenetv2_100", "blocks.2.2.conv_pw.weight", "features.6.conv.0.0.weight"),
        ("mobilenetv2_100", "blocks.0.0.conv_pw.weight", "features.1.conv.1.weight"),
        ("resnet50", "layer1.0.downsample.1.bias", "layer1.0.downsample.1.bias"),
    ],
)
def test_names_of_blocks(name: str, timm: str, blemish_name: str):
    assert np.array_equal(to_timm(timm_network(name), MADE[name])[timm], MADE[name][blemish_name])


def test_feature_layers_precede_downsampling():
    assert timm_network("tf_efficientnet_lite0").layers["blocks.2"] == "blocks.4"
    assert timm_network("tf_efficientnet_lite0").layers["blocks.4"] == "blocks.10"
    assert timm_network("mobilenetv2_100").layers == {
        "blocks.0": "features.1",
        "blocks.1": "features.3",
        "blocks.2": "features.6",
        "blocks.4": "features.13",
        "blocks.6": "features.17",
    }


@pytest.mark.parametrize("name", [*RESNETS, *LITES, "mobilenetv2_100"])
def test_networks_by_name_and_tag(name: str):
    network = timm_network(f"{name}.some_tag_in1k")
    assert timm_name(network.name) == name
    assert NETWORKS.get(network.name, network.build) is network.build


def test_unknown_networks_are_refused():
    with pytest.raises(InputError, match=r"backbone: expected one of resnet18.*got 'vit_small'\. Fit with Blemish"):
        timm_network("vit_small")
    with pytest.raises(InputError, match=r"backbone: expected one of resnet18.*got 'mine'"):
        timm_name("mine")


def test_normalisation_of_a_graph():
    network, state = timm_network("resnet18"), MADE["resnet18"]
    image = random_weights.image(8, 64, 64)[:1] // 2
    shifted = image + np.uint8(9)
    model = build_graph(network.build, state, ("layer2",))
    plain = runtime.load(model).run(image)["layer2"]
    # Pixels and mean 9 brighter.
    set_normalisation(model, network, [number + 9 for number in network.mean], network.std)
    np.testing.assert_allclose(runtime.load(model).run(shifted)["layer2"], plain, atol=1e-4)
    # Pixels twice as bright, and twice the standard deviation.
    wide = build_graph(network.build, state, ("layer2",))
    set_normalisation(wide, network, (0.0,) * 3, [2 * number for number in network.std])
    narrow = build_graph(network.build, state, ("layer2",))
    set_normalisation(narrow, network, (0.0,) * 3, network.std)
    np.testing.assert_allclose(
        runtime.load(wide).run(image * np.uint8(2))["layer2"],
        runtime.load(narrow).run(image)["layer2"],
        atol=1e-4,
    )
