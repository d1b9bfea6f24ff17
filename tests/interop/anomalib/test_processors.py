"""Pre-processors of checkpoints: plain data of anomalib 2.7, and pickled objects of earlier versions."""

from __future__ import annotations

from typing import Any

import pytest

from blemish._io.safe_pickle import Inert
from blemish.errors import ModelFileError
from blemish.interop.anomalib.processors import IMAGENET, Preparation, preparation

V2 = "torchvision.transforms.v2"


def spec(name: str, **arguments: Any) -> dict[str, Any]:
    return {"class_path": f"{V2}.{name}", "init_args": arguments}


def checkpoint_of(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"anomalib_pre_processor_config": {"transform": spec("Compose", transforms=list(steps))}}


RESIZE = spec("Resize", size=[256, 320], interpolation="bilinear", max_size=None, antialias=True)
NORMALIZE = spec("Normalize", mean=[0.5, 0.4, 0.3], std=[0.1, 0.2, 0.3], inplace=False)


def read(checkpoint: dict[str, Any]) -> Preparation:
    return preparation(checkpoint, normalised=True, where="a.ckpt")


def test_plain_data():
    prepared = read(checkpoint_of(RESIZE, spec("CenterCrop", size=[224, 224]), NORMALIZE))
    assert prepared == Preparation((256, 320), (224, 224), (0.5, 0.4, 0.3), (0.1, 0.2, 0.3))


def test_without_normalize_pixels_are_unchanged():
    assert read(checkpoint_of(RESIZE)) == Preparation((256, 320), None, (0.0,) * 3, (1.0,) * 3)


def test_a_checkpoint_without_pre_processor_has_the_default():
    assert read({}) == Preparation((256, 256), None, *IMAGENET)
    assert read({"hyper_parameters": {"pre_processor": True}}) == Preparation((256, 256), None, *IMAGENET)
    assert preparation({}, normalised=False, where="a.ckpt").mean == (0.0,) * 3


def inert(name: str, **state: Any) -> Inert:
    read_object = Inert(name)
    read_object.state = state
    return read_object


def test_objects_of_older_versions_are_read_as_data():
    mode = Inert("torchvision.transforms.functional.InterpolationMode", ("bilinear",))
    steps = [
        inert(f"{V2}._geometry.Resize", size=[128, 128], interpolation=mode, antialias=True, _modules={}),
        inert(f"{V2}._misc.Normalize", mean=[0.5, 0.5, 0.5], std=[0.5, 0.5, 0.5], _modules={}),
    ]
    compose = inert(f"{V2}._container.Compose", transforms=steps, _modules={})
    processor = inert(
        "anomalib.pre_processing.PreProcessor", _modules={"transform": compose, "export_transform": compose}
    )
    prepared = read({"hyper_parameters": {"pre_processor": processor}})
    assert prepared == Preparation((128, 128), None, (0.5,) * 3, (0.5,) * 3)


@pytest.mark.parametrize(
    ("checkpoint", "text"),
    [
        (checkpoint_of(RESIZE, spec("SquarePad")), "got SquarePad, in a.ckpt. Such a detector can't be imported"),
        (checkpoint_of(RESIZE, RESIZE), "Resize, CenterCrop and Normalize, once each, got Resize"),
        (
            checkpoint_of(spec("Resize", size=[256, 256], antialias=False)),
            "a bilinear Resize with antialias, got another",
        ),
        (checkpoint_of(spec("Resize", size=[256, 256], interpolation="bicubic", antialias=True)), "a bilinear Resize"),
        (checkpoint_of(spec("Resize", size=256, antialias=True)), r"Resize to \(height, width\), got 256"),
        (checkpoint_of(RESIZE, spec("CenterCrop", size=["a", 1])), r"CenterCrop to \(height, width\), got \['a', 1\]"),
        (checkpoint_of(NORMALIZE), "a Resize, got Normalize"),
        (
            checkpoint_of(RESIZE, spec("Normalize", mean=[0.5], std=[1.0])),
            r"three numbers as mean of Normalize, got \[0.5\]",
        ),
        ({"hyper_parameters": {"pre_processor": Inert("my.PreProcessor")}}, "a Resize, got no known transform"),
    ],
)
def test_a_transform_that_a_model_folder_cannot_express_is_refused(checkpoint: dict[str, Any], text: str):
    with pytest.raises(ModelFileError, match=text):
        read(checkpoint)
