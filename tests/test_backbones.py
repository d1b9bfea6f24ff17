"""Backbones by name: the embedded one on real photographs, what is said when weights are missing or wrong."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from sklearn.datasets import load_sample_image

from blemish import backbones
from blemish.errors import ModelFileError

# Row of ImageNet's 1000 classes, in the order that all these networks share.
PALACE = 698


def photograph(name: str, side: int) -> np.ndarray:
    picture = load_sample_image(name)
    height, width = picture.shape[:2]
    edge = min(height, width)
    top, left = (height - edge) // 2, (width - edge) // 2
    return cv2.resize(picture[top : top + edge, left : left + edge], (side, side), interpolation=cv2.INTER_AREA)


def test_default_is_there_with_known_layers():
    lite = backbones.build()
    assert (lite.name, lite.layers) == ("efficientnet_lite0", ("blocks.4", "blocks.10"))
    assert (lite.channels, lite.strides) == ((40, 112), (8, 16))
    assert lite.weights_sha256.startswith("579344248a93e230")


def test_same_bytes_every_time():
    assert backbones.build().model.SerializeToString() == backbones.build().model.SerializeToString()


def test_knows_a_palace_when_it_sees_one():
    """scikit-learn's china.jpg shows a Chinese palace."""
    running = backbones.session(backbones.build(layers=["logits"]).model.SerializeToString())
    logits = backbones.run(running, photograph("china.jpg", 224)[None])["logits"]
    assert logits.shape == (1, 1000)
    assert np.argmax(logits) == PALACE


def test_missing_weights_say_how_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setenv("BLEMISH_CACHE", str(tmp_path))
    with pytest.raises(ModelFileError, match=r"none on this machine. Run `blemish backbones fetch mobilenet_v2`\."):
        backbones.build("mobilenet_v2")
