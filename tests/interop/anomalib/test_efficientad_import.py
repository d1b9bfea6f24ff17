"""Imported EfficientAD checkpoints: anomalib's own maps without torch, and refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blemish.detectors.efficientad.detector import EfficientAd
from blemish.errors import InputError, ModelFileError
from blemish.interop.anomalib.efficientad import import_efficientad
from blemish.interop.anomalib.source import Source
from tests.anomalib_twins import GOLDEN, STEP, checkpoint, image, scored
from tests.torch_files import load_checkpoint


def imported(tree: dict[str, Any], **changes: Any) -> EfficientAd:
    return import_efficientad(Source(tree, **{"where": "model.ckpt", "sha256": "0" * 64, "threads": 2, **changes}))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint("efficientad", tmp_path_factory.mktemp("checkpoint") / "model.ckpt")


@pytest.fixture
def tree(path: Path) -> dict[str, Any]:
    return load_checkpoint(path, allow_unknown=True)


@pytest.mark.slow
def test_maps_are_anomalibs(tree: dict[str, Any]):
    golden = np.load(GOLDEN / "efficientad.npz")
    model = imported(tree)
    for scored_image, score, kept in zip(scored(), golden["scores"], golden["maps"], strict=True):
        prediction, maps = model.predict(scored_image), model.fitted.maps
        assert prediction.score == pytest.approx(score, abs=1e-5)
        anomaly_map = maps.joined(*maps.raw(maps.geometry.prepare(scored_image)))
        np.testing.assert_allclose(anomaly_map[::STEP, ::STEP], kept, atol=1e-5)
        assert prediction.anomaly_map.shape == scored_image.shape[:2]


@pytest.mark.slow
def test_an_import_is_saved_and_loaded_like_any_model(tree: dict[str, Any], tmp_path: Path):
    model = imported(tree)
    again = EfficientAd.load(model.save(tmp_path / "model"))
    scored_image = scored()[1]
    np.testing.assert_array_equal(again.predict(scored_image).anomaly_map, model.predict(scored_image).anomaly_map)
    assert again.header()["provenance"]["imported_from"] == "anomalib EfficientAD, model.ckpt"
    assert again.fitted.geometry.resize_in_graph
    assert again.fitted.geometry.map_rule.sigma_px == 0
    assert again.threshold == 0.75


@pytest.mark.slow
def test_good_images_set_the_threshold(tree: dict[str, Any]):
    good = [image(30 + i, 256, 300) for i in range(3)]
    model = imported(tree, good=good, false_positive_rate=0.3)
    assert model.calibration.scores == pytest.approx(sorted(model.predict(scored_image).score for scored_image in good))
    assert model.header()["provenance"]["thresholds_from"] == "3 good images"


def without(tree: dict[str, Any], name: str) -> None:
    del tree["state_dict"][name]


def put(tree: dict[str, Any], name: str, value: Any) -> None:
    tree["state_dict"][name] = value


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda t: without(t, "model.mean_std.std"), "mean_std: .* got none, in model.ckpt"),
        (
            lambda t: put(t, "model.mean_std.std", np.zeros((1, 24, 1, 1), np.float32)),
            "got zeros: the model was not trained",
        ),
        (
            lambda t: put(t, "model.quantiles.qb_st", np.array(0.0, np.float32)),
            r"quantiles: expected two rising numbers, got .* Train it to the end of an epoch",
        ),
        (
            lambda t: put(t, "post_processor._image_threshold", np.array(np.nan, np.float32)),
            "thresholds: .*none yet.*--good",
        ),
        (lambda t: without(t, "model.student.conv2.bias"), "PDN small student: .*no conv2.bias.*model.ckpt"),
        (lambda t: without(t, "model.ae.encoder.enconv1.bias"), "autoencoder: .*model.ckpt"),
    ],
)
def test_checkpoints_that_cannot_be_imported_are_refused(tree: dict[str, Any], change: Any, text: str):
    change(tree)
    with pytest.raises(ModelFileError, match=text):
        imported(tree)


def test_a_normalize_is_refused_as_anomalib_does(tree: dict[str, Any]):
    steps = tree["anomalib_pre_processor_config"]["transform"]["init_args"]["transforms"]
    numbers = {"mean": [0.5] * 3, "std": [0.5] * 3}
    steps.append({"class_path": "torchvision.transforms.v2.Normalize", "init_args": numbers})
    with pytest.raises(ModelFileError, match=r"pre_processor: expected no Normalize, got one, in model.ckpt\. Effi"):
        imported(tree)


@pytest.mark.slow
def test_refitting_an_import_asks_for_its_teacher(tree: dict[str, Any]):
    pytest.importorskip("torch", reason="torch is not installed: without it there is no fitting at all")
    with pytest.raises((InputError, ModelFileError), match="teacher"):
        imported(tree).fit([image(i, 64, 64) for i in range(4)])
