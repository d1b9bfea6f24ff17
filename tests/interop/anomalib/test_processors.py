"""Pre-processors of checkpoints: plain data of anomalib 2.7, and pickled objects of earlier versions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from blemish._io.safe_pickle import Global, Inert
from blemish.errors import ModelFileError
from blemish.interop.anomalib.processors import IMAGENET, Preparation, preparation

if TYPE_CHECKING:
    from blemish.interop.anomalib.releases import Line

V2 = "torchvision.transforms.v2"


def spec(name: str, **arguments: Any) -> dict[str, Any]:
    return {"class_path": f"{V2}.{name}", "init_args": arguments}


def checkpoint_of(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"anomalib_pre_processor_config": {"transform": spec("Compose", transforms=list(steps))}}


RESIZE = spec("Resize", size=[256, 320], interpolation="bilinear", max_size=None, antialias=True)
NORMALIZE = spec("Normalize", mean=[0.5, 0.4, 0.3], std=[0.1, 0.2, 0.3], inplace=False)


def inert(name: str, **state: Any) -> Inert:
    read_object = Inert(name)
    read_object.state = state
    return read_object


DEFAULT = Preparation((256, 256), None, *IMAGENET)


def read(checkpoint: dict[str, Any], line: Line = "2.7") -> Preparation:
    return preparation(checkpoint, line, default=lambda: DEFAULT, where="a.ckpt")


def object_of(*steps: Inert) -> dict[str, Any]:
    """The checkpoint of anomalib 1.x with a transform, a pickled object."""
    return {"transform": inert(f"{V2}._container.Compose", transforms=list(steps), _modules={})}


def test_plain_data():
    prepared = read(checkpoint_of(RESIZE, spec("CenterCrop", size=[224, 224]), NORMALIZE))
    assert prepared == Preparation((256, 320), (224, 224), (0.5, 0.4, 0.3), (0.1, 0.2, 0.3))


def test_without_normalize_pixels_are_unchanged():
    assert read(checkpoint_of(RESIZE)) == Preparation((256, 320), None, (0.0,) * 3, (1.0,) * 3)


def test_the_default_is_asked_for_by_name():
    assert read({"hyper_parameters": {"pre_processor": True}}, "2.0 to 2.6") == DEFAULT


@pytest.mark.parametrize(
    ("checkpoint", "line"),
    [
        ({"transform": None}, "1.x"),
        ({"hyper_parameters": {"pre_processor": False}}, "2.0 to 2.6"),
        ({"hyper_parameters": {"pre_processor": None}}, "2.0 to 2.6"),
        ({"anomalib_pre_processor_config": {"transform": None}}, "2.7"),  # one that anomalib could not write
        ({"anomalib_components_enabled": {"pre_processor": True}}, "2.7"),  # the user's own
        ({**checkpoint_of(RESIZE), "anomalib_components_enabled": {"pre_processor": False}}, "2.7"),
    ],
)
def test_a_checkpoint_without_a_transform_is_refused(checkpoint: dict[str, Any], line: Line):
    with pytest.raises(ModelFileError, match=rf"a transform of images, got none, in a checkpoint of anomalib {line}"):
        read(checkpoint, line)


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
    prepared = read({"hyper_parameters": {"pre_processor": processor}}, "2.0 to 2.6")
    assert prepared == Preparation((128, 128), None, (0.5,) * 3, (0.5,) * 3)
    assert read({"transform": compose}, "1.x") == prepared


@pytest.mark.parametrize(
    ("checkpoint", "text"),
    [
        (checkpoint_of(RESIZE, spec("SquarePad")), "got SquarePad, in a.ckpt. Such a detector can't be imported"),
        (checkpoint_of(RESIZE, RESIZE), "CenterCrop, Normalize, once each and in this order, got Resize after Resize"),
        (
            checkpoint_of(spec("CenterCrop", size=[300, 300]), RESIZE),
            "once each and in this order, got Resize after CenterCrop",
        ),
        (checkpoint_of(NORMALIZE, RESIZE), "once each and in this order, got Resize after Normalize"),
        (
            checkpoint_of(RESIZE, spec("CenterCrop", size=[300, 300])),
            r"a CenterCrop within \(256, 320\), got \(300, 300",
        ),
        (
            checkpoint_of(RESIZE, spec("ToDtype", dtype="torch.uint8")),
            "images of float32, got ToDtype to 'torch.uint8'",
        ),
        (
            checkpoint_of(spec("Resize", size=[256, 256], antialias=False)),
            "a bilinear Resize with antialias, got antialias=False",
        ),
        (
            checkpoint_of(spec("Resize", size=[256, 256], antialias="warn")),  # torchvision 0.15: not antialiased
            "a bilinear Resize with antialias, got antialias='warn'",
        ),
        (
            checkpoint_of({"class_path": "my.transforms.Resize", "init_args": RESIZE["init_args"]}),
            "of torchvision, got my.transforms.Resize",
        ),
        (checkpoint_of(spec("Resize", size=[256, 256], interpolation="bicubic", antialias=True)), "a bilinear Resize"),
        (checkpoint_of(spec("Resize", size=256, antialias=True)), r"Resize to \(height, width\), got 256"),
        (checkpoint_of(RESIZE, spec("CenterCrop", size=["a", 1])), r"CenterCrop to \(height, width\), got \['a', 1\]"),
        (checkpoint_of(NORMALIZE), "a Resize, got Normalize"),
        (
            checkpoint_of(RESIZE, spec("Normalize", mean=[0.5], std=[1.0])),
            r"three numbers as mean of Normalize, got \[0.5\]",
        ),
        (checkpoint_of(RESIZE, spec("Normalize", mean=[0.5] * 3)), "three numbers as std of Normalize, got None"),
        (checkpoint_of(RESIZE, spec("Normalize", mean=[0.5] * 3, std=[0.0] * 3)), "deviations above 0 in Normalize"),
    ],
)
def test_a_transform_that_a_model_folder_cannot_express_is_refused(checkpoint: dict[str, Any], text: str):
    with pytest.raises(ModelFileError, match=text):
        read(checkpoint)


@pytest.mark.parametrize(
    ("step", "text"),
    [
        (inert("my.PreProcessor"), "of torchvision, got my.PreProcessor"),
        (inert("albumentations.Resize", size=[256, 256]), "of torchvision, got albumentations.Resize"),
        (inert(f"{V2}._color.RandomInvert"), "of torchvision, got RandomInvert"),
        (inert(f"{V2}._misc.ToDtype", dtype=Global("torch.uint8", Inert)), "images of float32, got ToDtype"),
    ],
)
def test_an_object_of_another_kind_is_refused(step: Inert, text: str):
    with pytest.raises(ModelFileError, match=text):
        read(object_of(step), "1.x")


def test_transforms_that_change_no_pixel_are_passed():
    resize = inert(f"{V2}._geometry.Resize", size=[128, 96], interpolation="bilinear", antialias=True)
    steps = [
        inert(f"{V2}._type_conversion.ToImage"),
        inert(f"{V2}._misc.ToDtype", dtype=Global("torch.float32", Inert)),
        resize,
    ]
    assert read(object_of(*steps), "1.x") == Preparation((128, 96), None, (0.0,) * 3, (1.0,) * 3)
