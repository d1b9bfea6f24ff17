"""PatchCore of the installed anomalib as a detector."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from blemish import MVTecAD, Patchcore
from blemish.data.synthetic.demo import make_demo
from blemish.errors import InputError
from blemish.evaluation.engine import Engine
from blemish.interop.anomalib import import_checkpoint
from blemish.interop.anomalib.engine import AnomalibPatchcore, Settings, shared_layers
from tests.real_anomalib import runs_anomalib


def test_shared_layers():
    assert shared_layers("efficientnet_lite0", None) == ("blocks.4", "blocks.10")
    assert shared_layers("mobilenet_v2", None) == ("features.6", "features.13")
    assert shared_layers("resnet50", ["layer1"]) == ("layer1",)
    assert shared_layers("resnet50", None) == ("layer2", "layer3")
    with pytest.raises(InputError, match=r"layers: expected some of blocks.0, blocks.2, .*, got blocks.7"):
        shared_layers("efficientnet_lite0", ["blocks.4", "blocks.7"])
    with pytest.raises(InputError, match="backbone: expected one of"):
        shared_layers("my.onnx", None)


@runs_anomalib
def test_an_import_predicts_like_anomalib(tmp_path: Path):
    root = make_demo(tmp_path / "demo", image_size=128, n_train=5, n_test=2, n_defective=1, categories=("tile",))
    original = AnomalibPatchcore(root, "tile", Settings(image_size=96, coreset_sampling_ratio=1.0, num_neighbors=5))
    data = MVTecAD(root, "tile")
    Engine().fit(original, data)
    imported = import_checkpoint(original.save(tmp_path / "original.ckpt"), good=[sample.path for sample in data.train])
    assert isinstance(imported, Patchcore)
    # With every patch in the bank no coreset is selected: all must agree.
    assert original.timings["n_bank"] == len(imported.fitted.source) == 5 * 12 * 12
    for sample in data.test:
        prediction, expected = imported.predict(sample), original.predict(sample)
        assert prediction.score == pytest.approx(expected.score, rel=1e-4)
        np.testing.assert_allclose(prediction.anomaly_map, expected.anomaly_map, atol=1e-4 * expected.anomaly_map.max())
    own = original.test()
    assert own.keys() == {"image_AUROC", "image_F1Score", "pixel_AUROC", "pixel_F1Score"}
    report = Engine().evaluate(original, data)
    assert report.metrics["image_AUROC"] == pytest.approx(Engine().evaluate(imported, data).metrics["image_AUROC"])
    assert original.save(tmp_path / "saved").stat().st_size > 1e6
    assert original.timings["coreset_s"] < original.timings["without_validation_s"] < original.timings["fit_s"]
