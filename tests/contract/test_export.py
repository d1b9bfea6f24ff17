"""Exported graphs predict what the model does: each kind of detector, and folders of version 0.1.0."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest

import blemish
from blemish import runtime
from blemish.exporters.graph import OUTPUTS, exported_graph
from blemish.imaging.decode import read_image
from tests.contract import drawn

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
@pytest.mark.parametrize("to", ["onnx", "openvino"])
def test_each_kind_of_detector_is_exported_and_verified(case: Case, to: str, tmp_path: Path):
    if to == "openvino" and find_spec("openvino") is None:
        pytest.skip("openvino is not installed")
    out = tmp_path / ("model.onnx" if to == "onnx" else "model.xml")
    assert blemish.export(case.saved, out, to=to, threads=1).ok
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (50, 70, 3)).astype(np.uint8), drawn.good(70), drawn.scratched(71)]
    result = blemish.verify(out, images, threads=1)
    assert result.ok, result
    assert result.n_images == 3


@pytest.mark.slow
def test_efficientad_is_on_tiles_unless_it_is_to_be_plain(cases: Callable[[str], Case], tmp_path: Path):
    model = cases("EfficientAd").fitted
    images = [drawn.good(70), drawn.good(71)]
    blemish.export(model, tmp_path / "tiled.onnx", images=images, threads=1)
    blemish.export(model, tmp_path / "plain.onnx", images=images, plain=True, threads=1)
    tiled, plain = (runtime.load((tmp_path / name).read_bytes(), passes=False) for name in ("tiled.onnx", "plain.onnx"))
    assert count_convolutions(tmp_path / "tiled.onnx") < count_convolutions(tmp_path / "plain.onnx")
    batch = np.stack(images)
    np.testing.assert_allclose(tiled.run(batch)["score"], plain.run(batch)["score"], rtol=1e-4)
    assert tiled.metadata == plain.metadata


def count_convolutions(path: Path) -> int:
    return sum(node.op_type == "Conv" for node in onnx.load(path).graph.node)
