"""Imported PatchCore checkpoints: anomalib's own scores and maps, and refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blemish.detectors.patchcore.detector import Patchcore
from blemish.errors import InputError, ModelFileError
from blemish.imaging.decode import load
from blemish.interop.anomalib.patchcore import MEMORY_BANK, import_patchcore
from blemish.interop.anomalib.source import Source
from tests.anomalib_twins import GOLDEN, N_TRAIN, SIZES, STEP, checkpoint, image, scored
from tests.torch_files import load_checkpoint

CASES = ("resnet18", "lite0", "older")


def imported(tree: dict[str, Any], **changes: Any) -> Patchcore:
    return import_patchcore(Source(tree, **{"where": "model.ckpt", "sha256": "0" * 64, "threads": 2, **changes}))


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def path(case: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(case, tmp_path_factory.mktemp("checkpoint") / "model.ckpt")


@pytest.fixture
def tree(path: Path) -> dict[str, Any]:
    return load_checkpoint(path, allow_unknown=True)


@pytest.mark.slow
def test_scores_and_maps_are_anomalibs(case: str, tree: dict[str, Any]):
    golden = np.load(GOLDEN / f"{case}.npz")
    model = imported(tree)
    for scored_image, score, kept in zip(scored(), golden["scores"], golden["maps"], strict=True):
        prediction = model.predict(scored_image)
        assert prediction.score == pytest.approx(score, rel=1e-5)
        # anomalib's map has the size of the network's input.
        geometry, features = model.fitted.geometry, model.fitted.extractor.features(scored_image)
        anomaly_map = geometry.network_map(model.fitted.scorer.distances(features).distances)
        np.testing.assert_allclose(anomaly_map[::STEP, ::STEP], kept, atol=1e-4 * kept.max())
        assert prediction.anomaly_map.shape == scored_image.shape[:2]


@pytest.mark.slow
def test_an_import_is_saved_and_loaded_like_any_model(tree: dict[str, Any], tmp_path: Path):
    model = imported(tree)
    again = Patchcore.load(model.save(tmp_path / "model"))
    scored_image = scored()[1]
    np.testing.assert_array_equal(again.predict(scored_image).anomaly_map, model.predict(scored_image).anomaly_map)
    assert again.predict(scored_image).nearest_good is None
    assert again.header()["provenance"]["imported_from"] == "anomalib PatchCore, model.ckpt"
    assert again.fitted.geometry.resize_in_graph
    assert again.fitted.geometry.map_rule == ("nearest", 4.0)


@pytest.mark.slow
def test_thresholds_are_the_checkpoints_without_good_images(tree: dict[str, Any]):
    model = imported(tree)
    assert model.threshold == pytest.approx(float(tree["state_dict"]["post_processor._image_threshold"]))
    assert model.pixel_threshold == pytest.approx(float(tree["state_dict"]["post_processor._pixel_threshold"]))
    assert model.header()["provenance"]["thresholds_from"] == "the checkpoint"


@pytest.mark.slow
def test_a_checkpoint_without_thresholds_asks_for_good_images(tree: dict[str, Any]):
    tree["state_dict"]["post_processor._image_threshold"] = np.array(np.nan, np.float32)
    with pytest.raises(ModelFileError, match=r"thresholds: .*none yet, in model.ckpt\. Give good images.*--good"):
        imported(tree)


@pytest.mark.slow
def test_training_images_are_scored_without_their_bank_rows(tree: dict[str, Any]):
    train = [image(i, *SIZES[i % len(SIZES)]) for i in range(N_TRAIN)]
    model = imported(tree, good=train, false_positive_rate=0.2)
    source = model.fitted.source
    assert (source >= 0).all()
    geometry, extractor = model.fitted.geometry, model.fitted.extractor
    for row in (0, len(source) // 2, len(source) - 1):
        i, y, x = source[row]
        features = extractor.features(geometry.prepare(train[i]))
        np.testing.assert_allclose(features[y, x], model.fitted.scorer.index.memory_bank[row], rtol=1e-3, atol=1e-4)
    # Each was scored against the rows of the others alone: with its own it scores lower.
    with_own = sorted(model.predict(scored_image).score for scored_image in train)
    assert (model.calibration.scores > 1.05 * np.array(with_own)).all()
    nearest = model.predict(scored()[0]).nearest_good
    assert nearest is not None
    assert nearest.path.startswith("array ")


@pytest.mark.slow
def test_other_good_images_calibrate_with_the_whole_bank(tree: dict[str, Any]):
    others = [image(30 + i, 256, 256) for i in range(3)]
    model = imported(tree, good=others, false_positive_rate=0.3)
    assert (model.fitted.source == -1).all()
    plain = imported(tree)
    assert model.calibration.scores == pytest.approx(sorted(plain.predict(other).score for other in others))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"backbone": "vit_base_patch16_224"}, r"backbone: expected one of resnet18, .*, got 'vit_base_patch16_224'\."),
        ({"backbone": 3}, r"backbone: expected a name of timm's, got a network of the user's, in model.ckpt"),
        ({"layers": ["layer9"]}, r"layers: expected some of .*, finest first, got \['layer9'\]"),
        ({"num_neighbors": 0}, r"num_neighbors: expected a whole number from 1 to 100, got 0\."),
    ],
)
def test_arguments_that_cannot_be_imported_are_refused(tree: dict[str, Any], change: dict[str, Any], text: str):
    tree["hyper_parameters"] |= change
    with pytest.raises((InputError, ModelFileError), match=text):
        imported(tree)


def test_an_unfitted_model_is_refused(tree: dict[str, Any]):
    tree["state_dict"][MEMORY_BANK] = np.zeros((0,), np.float32)
    with pytest.raises(ModelFileError, match=r"memory_bank: expected float32 \(n, D\), n above 0.* Fit the model"):
        imported(tree)


@pytest.mark.slow
def test_a_bank_of_other_features_is_refused(tree: dict[str, Any]):
    tree["state_dict"][MEMORY_BANK] = tree["state_dict"][MEMORY_BANK][:, 1:]
    with pytest.raises(ModelFileError, match=r"memory_bank: expected \(n, \d+\) as the network gives"):
        imported(tree)


@pytest.mark.slow
def test_a_path_scores_like_its_array(path: Path, tmp_path: Path):
    from tests.images import write

    file = write(tmp_path / "part.png", scored()[1])
    model = imported(load_checkpoint(path, allow_unknown=True))
    assert model.predict(file).score == model.predict(load(file)).score
