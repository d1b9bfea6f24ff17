"""Exported graphs predict what the model does: each kind of detector, and folders of version 0.1.0."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from blemish import runtime
from blemish.exporters.graph import OUTPUTS, exported_graph
from blemish.imaging.decode import read_image

if TYPE_CHECKING:
    from tests.contract.conftest import Case, Frozen


@pytest.mark.slow
def test_frozen_models(frozen: Frozen):
    model = frozen.kind.load(frozen.folder, threads=1)
    session = runtime.load(exported_graph(model), threads=1, passes=False)
    for key, given in frozen.images.items():
        image = read_image(given, None)
        expected = model.predict(image)
        result = {name: values[0] for name, values in session.run(image[None]).items()}
        assert list(result) == list(OUTPUTS)
        np.testing.assert_allclose(result["score"], expected.score, rtol=1e-5, err_msg=key)
        np.testing.assert_allclose(result["p_value"], expected.p_value, rtol=1e-5, err_msg=key)
        peak = float(np.abs(expected.anomaly_map).max())
        np.testing.assert_allclose(result["anomaly_map"], expected.anomaly_map, rtol=0, atol=1e-5 * peak, err_msg=key)
        clear = np.abs(expected.anomaly_map - expected.pixel_threshold) > 1e-5 * peak
        np.testing.assert_array_equal(result["mask"][clear], expected.mask[clear], err_msg=key)
        assert result["label"] == expected.label, key


@pytest.mark.slow
def test_each_kind_of_detector_can_be_exported(case: Case, rng: np.random.Generator):
    session = runtime.load(exported_graph(case.fitted), threads=1, passes=False)
    images = rng.integers(0, 256, (2, 50, 70, 3)).astype(np.uint8)
    expected = [case.fitted.predict(image) for image in images]
    result = session.run(images)
    np.testing.assert_allclose(result["score"], [one.score for one in expected], rtol=1e-4)
    assert result["label"].tolist() == [one.label for one in expected]
