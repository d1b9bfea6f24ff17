"""Settings: what is refused, in which words, and how many rows a bank keeps."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from blemish.detectors.patchcore.settings import MAX_BANK_ROWS, PatchcoreSettings
from blemish.errors import InputError
from tests.images import SETTINGS


def made(**changes: Any) -> PatchcoreSettings:
    settings: dict[str, Any] = {**SETTINGS, "threads": None, "max_rows": 10_000, **changes}
    return PatchcoreSettings(**settings)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"scaling": "zca"}, "scaling: expected none or standard or whiten, got 'zca'"),
        ({"scaling": ["none"]}, "scaling: expected none or standard or whiten"),
        ({"coreset_sampling_ratio": 0}, "coreset_sampling_ratio: expected a number above 0, got 0"),
        ({"coreset_sampling_ratio": 1.5}, "coreset_sampling_ratio: expected a number from 0 to 1, got 1.5"),
        ({"coreset_sampling_ratio": -0.1}, "coreset_sampling_ratio: expected a number from 0 to 1"),
        ({"coreset_sampling_ratio": float("nan")}, "coreset_sampling_ratio: expected a number from 0 to 1, got nan"),
        ({"coreset_size": 0}, "coreset_size: expected .* from 1 to 5000, got 0"),
        ({"coreset_size": 5001}, "coreset_size: expected .* from 1 to 5000, got 5001"),
        ({"num_neighbors": 0}, "num_neighbors: expected .* from 1 to 100, got 0"),
        ({"num_neighbors": True}, "num_neighbors: expected .* from 1 to 100, got True"),
        ({"num_neighbors": "9"}, "num_neighbors: expected .* from 1 to 100, got '9'"),
        ({"num_neighbors": 2.5}, "num_neighbors: expected a whole number from 1 to 100, got 2.5"),
        ({"coreset_size": 10.5}, "coreset_size: expected a whole number from 1 to 5000, got 10.5"),
        ({"max_rows": 2000.5}, "max_rows: expected a whole number from 1000 to 100000000, got 2000.5"),
        ({"seed": 0.5}, "seed: expected a whole number from 0 to .*, got 0.5"),
        ({"pooling": 3.0}, "pooling: expected a whole number from 1 to 15, got 3.0"),
        ({"pooling": 4}, "pooling: expected an odd number, got 4"),
        ({"pooling": 17}, "pooling: expected .* from 1 to 15, got 17"),
        ({"position_sigma": -1}, "position_sigma: expected a number from 0 to 100, got -1"),
        ({"score_fusion": 1}, "score_fusion: expected True or False, got 1"),
        ({"threads": 0}, "threads: expected a whole number from 1 to 256, got 0"),
        ({"false_positive_rate": 1}, "false_positive_rate: expected"),
        ({"layers": []}, r"layers: expected names, got \[\]"),
        ({"layers": [3]}, r"layers: expected names, got \[3\]"),
        ({"backbone": 3}, "backbone: expected a name or an ONNX file, got 3"),
        ({"weights": 3}, "weights: expected a path, got 3"),
        ({"max_rows": 10}, "max_rows: expected .* from 1000 to 100000000, got 10"),
        ({"seed": -1}, "seed: expected .* from 0 to .*, got -1"),
        ({"seed": None}, "seed: expected .* from 0 to .*, got None"),
        ({"bit_depth": 8}, "bit_depth: expected a whole number from 9 to 16, got 8"),
        ({"image_size": 10}, "image_size: expected a number from 32 to 4096, got 10"),
        ({"image_size": "64"}, "image_size: expected a number from 32 to 4096, got '64'"),
        ({"image_size": None}, "image_size: expected a number from 32 to 4096, got None"),
        ({"image_size": (64,)}, "image_size: expected one number or .*, got \\(64,\\)"),
        ({"center_crop": 8}, "center_crop: expected a number from 32 to 4096, got 8"),
        ({"center_crop": (64, "x")}, "center_crop: expected a number from 32 to 4096, got 'x'"),
        ({"bit_depth": "12"}, "bit_depth: expected a whole number from 9 to 16, got '12'"),
    ],
)
def test_what_is_out_of_range_is_named(change: dict[str, Any], text: str):
    with pytest.raises(InputError, match=text):
        made(**change)


def test_what_is_in_range_is_taken():
    made(position_sigma=None, coreset_size=5000, num_neighbors=100, seed=2**63 - 1, bit_depth=12, scaling="none")


@pytest.mark.parametrize(
    ("change", "n_rows", "kept", "why"),
    [
        ({}, 1000, 100, "the share"),
        ({}, 5, 1, "at least one"),
        ({"coreset_sampling_ratio": 1}, 800, 800, "all"),
        ({"coreset_size": 30}, 1000, 30, "the number asked for"),
        ({"coreset_size": 30}, 20, 20, "no more than there are"),
        ({}, 900_000, 5000, "half of what is held while fitting"),
        ({"max_rows": 10**6}, 900_000, MAX_BANK_ROWS, "no larger than a bank may be"),
    ],
)
def test_rows_of_the_bank(change: dict[str, Any], n_rows: int, kept: int, why: str):
    assert made(**change).bank_rows(n_rows) == kept, why


def test_every_setting_fits_in_json():
    settings = made(image_size=(64, 96), center_crop=(32, 64))
    stored = json.loads(json.dumps(settings.to_dict()))
    unstored = {"weights", "pre_trained", "threads"}
    assert set(stored) == {field.name for field in dataclasses.fields(PatchcoreSettings)} - unstored
    assert PatchcoreSettings.from_dict(stored) == settings
    for wrong in ({**stored, "more": 2}, {"seed": 1}):
        with pytest.raises(InputError, match=r"settings: expected backbone, .*top_share, got"):
            PatchcoreSettings.from_dict(wrong)
