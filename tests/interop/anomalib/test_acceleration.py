"""Accelerated Patchcore of anomalib: the same rows, the same scores."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from blemish.errors import InputError
from blemish.interop.anomalib.acceleration import accelerate
from blemish.ops.coreset import greedy_coreset
from tests.anomalib_twins import image, raw, scored
from tests.real_anomalib import runs_anomalib


def farthest_first(features: np.ndarray[Any, Any], n: int, first: int) -> list[int]:
    chosen = [first]
    distances = np.full(len(features), np.inf)
    while len(chosen) < n:
        distances = np.minimum(distances, np.linalg.norm(features - features[chosen[-1]], axis=1))
        chosen.append(int(distances.argmax()))
    return chosen


@pytest.mark.parametrize("first", [0, 1, 7, 499])
def test_the_coreset_starts_at_the_given_row(first: int, rng: np.random.Generator):
    features = rng.normal(size=(500, 12)).astype(np.float32)
    assert greedy_coreset(features, 60, first=first).tolist() == farthest_first(features.astype(float), 60, first)


@pytest.mark.parametrize("model", [object(), None])
def test_another_object_is_refused(model: Any):
    with pytest.raises(InputError, match=r"model: expected anomalib's Patchcore, got .*Give anomalib.models.Patchcore"):
        accelerate(model)


def anomalibs() -> Any:
    import torch
    from anomalib.models import Patchcore

    torch.manual_seed(1)
    return Patchcore(backbone="resnet18", pre_trained=False, coreset_sampling_ratio=0.02, visualizer=False)


def fitted(model: Any) -> Any:
    import torch

    model.train()
    for i in range(3):
        pixels = torch.from_numpy(image(i, 128, 160)).permute(2, 0, 1)[None].float() / 255
        model.model(model.pre_processor.transform(pixels))
    torch.manual_seed(2)
    np.random.seed(2)  # noqa: NPY002  scikit-learn, in anomalib's projection, draws from NumPy's global state
    model.fit()
    return model.eval()


@runs_anomalib
def test_an_accelerated_model_is_the_same_model():
    import torch

    plain, fast = fitted(anomalibs()), fitted(accelerate(anomalibs()))
    torch.testing.assert_close(fast.model.memory_bank, plain.model.memory_bank, rtol=0, atol=0)
    for scored_image in scored():
        (score, anomaly_map), (expected, expected_map) = raw(fast, scored_image), raw(plain, scored_image)
        assert score == pytest.approx(expected, rel=1e-4)
        np.testing.assert_allclose(anomaly_map, expected_map, atol=1e-4 * expected_map.max())


@runs_anomalib
def test_a_fitted_model_is_searched_faster():
    import torch

    model = fitted(anomalibs())
    expected = raw(model, scored()[0])[0]
    assert raw(accelerate(model), scored()[0])[0] == pytest.approx(expected, rel=1e-4)
    # A new bank is searched at once.
    model.model.memory_bank = model.model.memory_bank + 1000
    far = raw(model, scored()[0])[0]
    assert far > 10 * expected
    with torch.no_grad():
        model.model.memory_bank -= 1000
    assert raw(model, scored()[0])[0] == pytest.approx(expected, rel=1e-3)
