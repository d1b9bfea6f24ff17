"""How a checkpoint's images are prepared: plain data of anomalib 2.7, pickled objects of the versions before."""

from __future__ import annotations

from typing import Any

import pytest

from blemish._io.safe_pickle import Inert
from blemish.errors import ModelFileError
from blemish.interop.anomalib.preprocessing import IMAGENET, Preparation, preparation

V2 = "torchvision.transforms.v2"


def spec(name: str, **arguments: Any) -> dict[str, Any]:
    return {"class_path": f"{V2}.{name}", "init_args": arguments}


def told(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"anomalib_pre_processor_config": {"transform": spec("Compose", transforms=list(steps))}}


RESIZE = spec("Resize", size=[256, 320], interpolation="bilinear", max_size=None, antialias=True)
NORMALIZE = spec("Normalize", mean=[0.5, 0.4, 0.3], std=[0.1, 0.2, 0.3], inplace=False)


def read(checkpoint: dict[str, Any]) -> Preparation:
    return preparation(checkpoint, normalised=True, where="a.ckpt")


def test_plain_data():
    found = read(told(RESIZE, spec("CenterCrop", size=[224, 224]), NORMALIZE))
    assert found == Preparation((256, 320), (224, 224), (0.5, 0.4, 0.3), (0.1, 0.2, 0.3))


def test_without_normalize_pixels_stay_as_they_are():
    assert read(told(RESIZE)) == Preparation((256, 320), None, (0.0,) * 3, (1.0,) * 3)


def test_nothing_said_is_the_default():
    assert read({}) == Preparation((256, 256), None, *IMAGENET)
    assert read({"hyper_parameters": {"pre_processor": True}}) == Preparation((256, 256), None, *IMAGENET)
    assert preparation({}, normalised=False, where="a.ckpt").mean == (0.0,) * 3


def inert(name: str, **state: Any) -> Inert:
    found = Inert(name)
    found.state = state
    return found


def test_objects_of_older_versions_are_read_as_data():
    mode = Inert("torchvision.transforms.functional.InterpolationMode", ("bilinear",))
    steps = [
        inert(f"{V2}._geometry.Resize", size=[128, 128], interpolation=mode, antialias=True, _modules={}),
        inert(f"{V2}._misc.Normalize", mean=[0.5, 0.5, 0.5], std=[0.5, 0.5, 0.5], _modules={}),
    ]
    compose = inert(f"{V2}._container.Compose", transforms=steps, _modules={})
    whole = inert("anomalib.pre_processing.PreProcessor", _modules={"transform": compose, "export_transform": compose})
    found = read({"hyper_parameters": {"pre_processor": whole}})
    assert found == Preparation((128, 128), None, (0.5,) * 3, (0.5,) * 3)


@pytest.mark.parametrize(
    ("checkpoint", "text"),
    [
        (told(RESIZE, spec("SquarePad")), "got SquarePad, in a.ckpt. Such a detector can't be imported"),
        (told(RESIZE, RESIZE), "Resize, CenterCrop and Normalize, once each, got Resize"),
        (told(spec("Resize", size=[256, 256], antialias=False)), "a bilinear Resize with antialias, got another"),
        (told(spec("Resize", size=[256, 256], interpolation="bicubic", antialias=True)), "a bilinear Resize"),
        (told(spec("Resize", size=256, antialias=True)), r"Resize to \(height, width\), got 256"),
        (told(RESIZE, spec("CenterCrop", size=["a", 1])), r"CenterCrop to \(height, width\), got \['a', 1\]"),
        (told(NORMALIZE), "a Resize, got Normalize"),
        (told(RESIZE, spec("Normalize", mean=[0.5], std=[1.0])), r"three numbers as mean of Normalize, got \[0.5\]"),
        ({"hyper_parameters": {"pre_processor": Inert("my.PreProcessor")}}, "a Resize, got nothing that is known"),
    ],
)
def test_what_a_model_folder_cannot_express_is_refused(checkpoint: dict[str, Any], text: str):
    with pytest.raises(ModelFileError, match=text):
        read(checkpoint)
