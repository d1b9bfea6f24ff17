"""Settings are checked when a detector is made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from blemish.detectors.efficientad.pdn import check_size
from blemish.detectors.efficientad.settings import EfficientAdSettings, check_budget
from blemish.errors import InputError
from tests.efficientad_models import small_efficientad, write_teacher


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_teacher(tmp_path_factory.mktemp("teacher"))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"model_size": "S"}, r'model_size: expected small or medium, got .S.\. Write model_size="small"'),
        ({"model_size": "large"}, "model_size: expected small or medium, got 'large'"),
        ({"image_size": 32}, "image: expected at least 33 x 33 pixels"),
        ({"image_size": 5000}, "image_size: expected a number from 32 to 4096, got 5000"),
        ({"center_crop": 128}, r"center_crop: expected at most \(48, 48\)"),
        ({"center_crop": 32}, "image: expected at least 33 x 33 pixels"),
        ({"lr": 0}, "lr: expected a number above 0"),
        ({"lr": -1.0}, "lr: expected a number from 0 to 1"),
        ({"weight_decay": 2}, "weight_decay: expected a number from 0 to 1"),
        ({"padding": "yes"}, "padding: expected True or False, got 'yes'"),
        ({"border": "black"}, "border: expected edge or zero or normal, got 'black'"),
        ({"max_steps": 0}, "max_steps: expected a whole number from 1"),
        ({"max_epochs": 2.5}, "max_epochs: expected a whole number from 1"),
        ({"batch_size": 0}, "batch_size: expected a whole number from 1"),
        ({"budget": "ten minutes"}, 'budget: expected a time such as "90s", "10m" or "1.5h"'),
        ({"budget": 0.5}, "budget: expected a number from 1"),
        ({"crop": 3}, "crop: expected a whole number from 4"),
        ({"crop": 8}, "crop: expected a multiple of 4 up to 4 outputs, got 8"),
        ({"crop": 4, "padding": True}, "crop: expected None with padding"),
        ({"holdout": 0}, "holdout: expected a number above 0"),
        ({"holdout": 0.9}, "holdout: expected a number from 0 to 0.8"),
        ({"false_positive_rate": 1.0}, "false_positive_rate: expected a number between 0 and 1"),
        ({"bit_depth": 8}, "bit_depth: expected a whole number from 9 to 16"),
        ({"seed": -1}, "seed: expected a whole number from 0"),
        ({"threads": 0}, "threads: expected a whole number from 1 to 256"),
        ({"teacher_out_channels": 128}, "teacher_out_channels: expected 32 as the teacher has, got 128"),
    ],
)
def test_what_cannot_be_is_refused(teacher: Path, changes: dict[str, Any], text: str):
    with pytest.raises(InputError, match=text):
        small_efficientad(teacher, **changes)


@pytest.mark.parametrize(
    ("images_hw", "expected"),
    [
        ([(500, 500)], (128, 128)),
        ([(512, 206), (510, 206)], (202, 81)),
        ([(300, 1200)], (64, 256)),
        ([(2000, 100)], (256, 64)),  # four to one at most
        ([(400, 400), (400, 800)], (128, 128)),  # no aspect ratio is shared
    ],
)
def test_one_number_is_an_area_in_the_aspect_ratio_of_the_images(
    teacher: Path, images_hw: list[tuple[int, int]], expected: tuple[int, int]
):
    settings = small_efficientad(teacher, image_size=128).settings
    assert settings.geometry(images_hw).network_hw == expected


def test_one_number_is_a_square_for_square_images_and_two_are_a_size(teacher: Path):
    assert small_efficientad(teacher).settings.geometry().network_hw == (48, 48)
    assert small_efficientad(teacher, image_size=(48, 64)).settings.geometry().network_hw == (48, 64)
    assert small_efficientad(teacher, image_size=64, center_crop=48).settings.geometry().network_hw == (48, 48)


@pytest.mark.parametrize(
    ("given", "seconds"), [("90s", 90), ("10m", 600), ("1.5 h", 5400), ("2min", 120), ("45", 45), (" 1H ", 3600)]
)
def test_times_are_read(given: str, seconds: float):
    assert check_budget("budget", given) == seconds


def test_sizes_have_todays_names():
    assert [check_size(size) for size in ("small", "medium")] == ["small", "medium"]


def test_folders_from_before_a_setting_have_the_value_that_stood_for_it(teacher: Path):
    settings = small_efficientad(teacher).settings
    stored = settings.to_dict()
    assert EfficientAdSettings.from_dict(stored).top_share == settings.top_share > 0
    del stored["top_share"]
    assert EfficientAdSettings.from_dict(stored).top_share == 0.0
    del stored["seed"]
    with pytest.raises(InputError, match="settings: expected"):
        EfficientAdSettings.from_dict(stored)
