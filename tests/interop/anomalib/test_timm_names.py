"""timm's names and ours: every convolution of every network once, and the layers at the right blocks."""

from __future__ import annotations

import numpy as np
import pytest

from blemish import runtime
from blemish.backbones.architectures import NETWORKS, build_graph
from blemish.errors import InputError
from blemish.interop.anomalib.timm_names import LITES, RESNETS, network, renormalised, timm_name, to_ours, to_timm
from tests import random_weights

MADE = {
    "resnet18": random_weights.resnet(1, depths=(2, 2, 2, 2), bottleneck=False),
    "resnet50": random_weights.resnet(1, depths=(3, 4, 6, 3), bottleneck=True),
    "tf_efficientnet_lite0": random_weights.efficientnet_lite(1),
    "tf_efficientnet_lite2": random_weights.efficientnet_lite(1, random_weights.LITE2_STAGES),
    "mobilenetv2_100": random_weights.mobilenet_v2(1),
}


@pytest.mark.parametrize("name", MADE)
def test_there_and_back_is_the_same(name: str):
    found, state = network(name), MADE[name]
    theirs = to_timm(found, state)
    back = to_ours(found, theirs)
    # What is left out: the head and the classifier, which no feature needs, and counters.
    left = {key for key in state if not key.endswith("num_batches_tracked")} - set(back)
    assert {key.partition(".")[0] for key in left} <= {"fc", "_fc", "_conv_head", "_bn1", "classifier", "features"}
    assert all(key.startswith("features.18") for key in left if key.startswith("features"))
    for key, array in back.items():
        np.testing.assert_array_equal(array, state[key])
    assert len(theirs) == len(back) == 5 * len(found.convs)


@pytest.mark.parametrize(
    ("name", "theirs", "ours"),
    [
        ("tf_efficientnet_lite0", "blocks.2.1.conv_pwl.weight", "_blocks.4._project_conv.weight"),
        ("tf_efficientnet_lite0", "blocks.0.0.bn1.weight", "_blocks.0._bn1.weight"),
        ("mobilenetv2_100", "blocks.2.2.conv_pw.weight", "features.6.conv.0.0.weight"),
        ("mobilenetv2_100", "blocks.0.0.conv_pw.weight", "features.1.conv.1.weight"),
        ("resnet50", "layer1.0.downsample.1.bias", "layer1.0.downsample.1.bias"),
    ],
)
def test_names_are_where_they_should_be(name: str, theirs: str, ours: str):
    assert np.array_equal(to_timm(network(name), MADE[name])[theirs], MADE[name][ours])


def test_layers_are_those_before_the_image_is_halved():
    assert network("tf_efficientnet_lite0").layers["blocks.2"] == "blocks.4"
    assert network("tf_efficientnet_lite0").layers["blocks.4"] == "blocks.10"
    assert network("mobilenetv2_100").layers == {
        "blocks.0": "features.1",
        "blocks.1": "features.3",
        "blocks.2": "features.6",
        "blocks.4": "features.13",
        "blocks.6": "features.17",
    }


@pytest.mark.parametrize("name", [*RESNETS, *LITES, "mobilenetv2_100"])
def test_what_we_have_is_found_by_our_name(name: str):
    found = network(f"{name}.some_tag_in1k")
    assert timm_name(found.name) == name
    assert NETWORKS.get(found.name, found.build) is found.build


def test_unknown_networks_are_refused():
    with pytest.raises(InputError, match=r"backbone: expected one of resnet18.*got 'vit_small'\. Fit with Blemish"):
        network("vit_small")
    with pytest.raises(InputError, match=r"backbone: expected one of resnet18.*got 'mine'"):
        timm_name("mine")


def test_a_graph_takes_other_means_and_deviations():
    found, state = network("resnet18"), MADE["resnet18"]
    image = random_weights.image(8, 64, 64)[:1] // 2
    shifted = image + np.uint8(9)
    model = build_graph(found.build, state, ("layer2",))
    plain = runtime.load(model).run(image)["layer2"]
    # Pixels that are 9 brighter, and a mean that is.
    renormalised(model, found, [number + 9 for number in found.mean], found.std)
    np.testing.assert_allclose(runtime.load(model).run(shifted)["layer2"], plain, atol=1e-4)
    # Pixels twice as bright, and a deviation that is twice as large.
    wide = build_graph(found.build, state, ("layer2",))
    renormalised(wide, found, (0.0,) * 3, [2 * number for number in found.std])
    narrow = build_graph(found.build, state, ("layer2",))
    renormalised(narrow, found, (0.0,) * 3, found.std)
    np.testing.assert_allclose(
        runtime.load(wide).run(image * np.uint8(2))["layer2"],
        runtime.load(narrow).run(image)["layer2"],
        atol=1e-4,
    )
