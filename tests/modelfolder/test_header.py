"""What every detector's folder has in common is read strictly; the detectors' own tests show the rest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from blemish.errors import InputError, ModelFileError
from blemish.modelfolder.folder import load_model
from blemish.modelfolder.header import read_fitted, stored_settings, stored_training
from tests.models import save_small


@dataclass
class Settings:
    sides: tuple[int, int]
    seed: int


def test_settings_are_those_of_the_class():
    assert stored_settings({"sides": [3, 4], "seed": 1}, Settings) == {"sides": (3, 4), "seed": 1}
    for wrong in ({"seed": 1}, {"sides": [3, 4], "seed": 1, "more": 2}):
        with pytest.raises(InputError, match="settings: expected seed, sides, got"):
            stored_settings(wrong, Settings)


@pytest.mark.parametrize("wrong", [{}, [{"path": 3, "height_width": [1, 1]}], [{"path": "a", "height_width": [0, 1]}]])
def test_training_images_are_names_and_sizes(wrong: Any):
    assert stored_training([{"path": "a.png", "height_width": [2, 3]}]) == (("a.png",), ((2, 3),))
    with pytest.raises(InputError, match=r"training|path|height_width"):
        stored_training(wrong)


def test_another_detector_is_refused_before_anything_is_read(tmp_path: Path):
    model = load_model(save_small(tmp_path / "model"))
    with pytest.raises(ModelFileError, match="detector: expected efficientad, got 'patchcore'"):
        read_fitted(model, "efficientad", "an EfficientAD model", lambda: pytest.fail("it was read"))


def test_what_goes_wrong_inside_is_an_error_of_the_folder(tmp_path: Path):
    model = load_model(save_small(tmp_path / "model"))
    with pytest.raises(ModelFileError, match=r"model\.json: expected a model, got KeyError: 'bank'"):
        read_fitted(model, "patchcore", "a model", lambda: {}["bank"])
