"""A network that gives NaN for some images only: no image is good because a comparison with NaN is False."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from blemish import Patchcore
from blemish.errors import ModelFileError
from tests.detectors.test_fusion import fusion_of
from tests.images import good, goods, small_patchcore
from tests.models import replace_file


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = small_patchcore(score_fusion=True).fit(goods(12))
    return model.save(tmp_path_factory.mktemp("finite") / "model")


def with_nan(folder: Path, output: str) -> Path:
    """Change the network: an output is NaN (0 / 0) where the image has a pixel of 250 or more, else as before."""
    model = onnx.load(folder / "network.onnx")
    next(node for node in model.graph.node if output in node.output).output[0] = "known"
    limit, one = numpy_helper.from_array(np.float32(250), "limit"), numpy_helper.from_array(np.float32(1), "unit")
    model.graph.initializer.extend([limit, one])
    model.graph.node.extend(
        [
            helper.make_node("Cast", ["image"], ["levels"], to=1),
            helper.make_node("ReduceMax", ["levels"], ["brightest"], keepdims=0),
            helper.make_node("Less", ["brightest", "limit"], ["is dark"]),
            helper.make_node("Cast", ["is dark"], ["factor"], to=1),
            helper.make_node("Div", ["factor", "factor"], ["one or nan"]),
            helper.make_node("Mul", ["known", "one or nan"], [output]),
        ]
    )
    replace_file(folder, "network.onnx", model.SerializeToString())
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("output", ["features", "summary"])
def test_nan_for_some_images_is_an_error(output: str, saved: Path, tmp_path: Path):
    plain = Patchcore.load(saved)
    model = Patchcore.load(with_nan(Path(shutil.copytree(saved, tmp_path / "m")), output))
    dark = np.minimum(good(50), 249)
    assert model.predict(dark).score == plain.predict(dark).score
    bright = good(51)
    bright[:24, :24] = 255
    with pytest.raises(ModelFileError, match=r"expected (finite features|a finite number).*made to mislead: fit again"):
        model.predict(bright)


@pytest.mark.parametrize("name", ["patch", "image"])
def test_a_component_that_is_no_number_is_an_error(name: str):
    fusion, summaries = fusion_of({"patch": 1.0, "image": 1.0})
    patch_score = np.nan if name == "patch" else 1.0
    summary = summaries[0] * np.float32(np.nan) if name == "image" else summaries[0]
    with pytest.raises(ModelFileError, match=rf"^{name} score: expected a finite number, got nan"):
        fusion.components(patch_score, None, summary)


@pytest.mark.slow
@pytest.mark.parametrize(("score", "value"), [(np.nan, 0.0), (np.inf, 0.0), (1.0, np.nan), (1.0, np.inf)])
def test_a_score_or_map_that_is_no_number_is_an_error(score: float, value: float, saved: Path, monkeypatch):
    model = Patchcore.load(saved)
    monkeypatch.setattr(model._state.scorer, "image_score", lambda *_: score)
    monkeypatch.setattr(type(model._state.fusion), "components", lambda *_: {"patch": score})
    if not np.isfinite(value):
        scores = model._score

        def broken(image, network_input, state):
            scored = scores(image, network_input, state)
            scored.anomaly_map[3, 4] = value
            return scored

        monkeypatch.setattr(model, "_score", broken)
    with pytest.raises(ModelFileError, match=r"^score: expected a finite score and map, got "):
        model.predict(good(1))


@pytest.mark.slow
def test_images_that_do_not_fit_into_memory_are_left_out(saved: Path, monkeypatch):
    from blemish.detectors import base

    model = Patchcore.load(saved)
    kept, images = base.read_image, [good(i) for i in range(3)]

    def read(image, *arguments, **given):
        if image is images[1]:
            raise MemoryError
        return kept(image, *arguments, **given)

    monkeypatch.setattr(base, "read_image", read)
    first, second, third = model.predict_many(images)
    assert first.score >= 0
    assert third.score >= 0
    assert "does not fit into memory" in second.text
