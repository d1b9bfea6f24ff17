"""Exported checkpoints: the import of an export gives the same detector."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from blemish._io.torch_file import read_checkpoint
from blemish.errors import InputError
from blemish.interop.anomalib.checkpoint_writer import checkpoint_bytes
from blemish.interop.anomalib.patchcore import ANOMALIB_SETTINGS, FEATURES, import_patchcore, patchcore_checkpoint
from blemish.interop.anomalib.source import Source
from tests.anomalib_twins import GOLDEN, checkpoint, raw, scored
from tests.images import goods, scratched, small_patchcore
from tests.real_anomalib import runs_anomalib
from tests.torch_files import load_checkpoint

if TYPE_CHECKING:
    from blemish.detectors.patchcore.detector import Patchcore

SETTINGS: dict[str, Any] = {**ANOMALIB_SETTINGS, "image_size": (96, 96), "num_neighbors": 4}


def round_trip(tree: dict[str, Any]) -> Patchcore:
    read = read_checkpoint(checkpoint_bytes(tree), where="out.ckpt", allow_unknown=False)
    return import_patchcore(Source(read, "out.ckpt", "0" * 64, 2))


@pytest.fixture(scope="module")
def fitted_here() -> Patchcore:
    return small_patchcore(**SETTINGS).fit(goods(6))


@pytest.fixture(scope="module")
def model(fitted_here: Patchcore) -> Patchcore:
    """The fitted detector with anomalib's resizing, pooling and map."""
    return round_trip(patchcore_checkpoint(fitted_here))


@pytest.mark.slow
def test_a_fitted_detector_round_trips_but_for_resizing_and_borders(fitted_here: Patchcore, model: Patchcore):
    for seed in range(3):
        image = scratched(seed, 96, 96)[0]
        expected, prediction = fitted_here.predict(image), model.predict(image)
        assert prediction.score == pytest.approx(expected.score, rel=0.02)
        assert np.corrcoef(prediction.anomaly_map.ravel(), expected.anomaly_map.ravel())[0, 1] > 0.9


@pytest.mark.slow
def test_an_imported_detector_round_trips(model: Patchcore):
    again = round_trip(patchcore_checkpoint(model))
    for seed in range(3):
        image = scratched(seed, 120, 90)[0]
        expected, prediction = model.predict(image), again.predict(image)
        assert prediction.score == pytest.approx(expected.score, rel=1e-5)
        np.testing.assert_allclose(prediction.anomaly_map, expected.anomaly_map, atol=1e-5 * expected.anomaly_map.max())
    assert (again.threshold, again.pixel_threshold) == pytest.approx((model.threshold, model.pixel_threshold))
    assert again.settings.layers == model.settings.layers


@pytest.mark.slow
def test_early_layers_come_back_with_the_later_blocks_that_anomalib_loads():
    # A small memory bank and few weights: the blocks that no layer uses are the larger part of the checkpoint.
    fitted = small_patchcore(**{**SETTINGS, "layers": ("blocks.2", "blocks.4")}).fit(goods(4))
    assert fitted.fitted.scorer.index.memory_bank.nbytes < 2**20
    again = round_trip(patchcore_checkpoint(fitted))
    assert again.settings.layers == ("blocks.2", "blocks.4")
    image = scratched(0, 96, 96)[0]
    assert again.predict(image).score == pytest.approx(fitted.predict(image).score, rel=0.02)


@runs_anomalib
def test_anomalib_loads_the_export_and_scores_alike(model: Patchcore, tmp_path: Path):
    from anomalib.models import Patchcore as AnomalibPatchcore

    path = tmp_path / "out.ckpt"
    path.write_bytes(checkpoint_bytes(patchcore_checkpoint(model)))
    loaded = AnomalibPatchcore.load_from_checkpoint(path).eval()
    for seed in range(3):
        image = scratched(seed, 120, 90)[0]
        score, anomaly_map = raw(loaded, image)
        expected = model.predict(image)
        assert score == pytest.approx(expected.score, rel=1e-5)
        assert anomaly_map.max() == pytest.approx(expected.anomaly_map.max(), rel=0.05)  # at the size of the image


@pytest.mark.slow
@pytest.mark.parametrize("case", ["resnet18", "lite0"])
def test_a_checkpoint_of_anomalib_round_trips(case: str, tmp_path: Path):
    # Import, export, import: its own normalisation and crop are kept.
    tree = load_checkpoint(checkpoint(case, tmp_path / "in.ckpt"), allow_unknown=True)
    model = import_patchcore(Source(tree, "in.ckpt", "0" * 64, 2))
    written = patchcore_checkpoint(model)
    missing = set(tree["state_dict"]) - set(written["state_dict"])
    assert not missing, "anomalib asks for each of them"
    for name, array in tree["state_dict"].items():
        assert written["state_dict"][name].shape == array.shape, name
    again, golden = round_trip(written), np.load(GOLDEN / f"{case}.npz")
    for image, score in zip(scored(), golden["scores"], strict=True):
        assert again.predict(image).score == pytest.approx(score, rel=1e-5)


@pytest.mark.slow
def test_the_kernel_is_anomalibs(model: Patchcore, tmp_path: Path):
    tree = load_checkpoint(checkpoint("lite0", tmp_path / "in.ckpt"), allow_unknown=True)
    name = "model.anomaly_map_generator.blur.kernel"
    np.testing.assert_allclose(patchcore_checkpoint(model)["state_dict"][name], tree["state_dict"][name], atol=1e-8)


def test_the_range_holds_the_threshold(model: Patchcore):
    state = patchcore_checkpoint(model)["state_dict"]
    for kind in ("image", "pixel"):
        low, middle, high = (
            float(state[f"post_processor.{part}"]) for part in (f"{kind}_min", f"_{kind}_threshold", f"{kind}_max")
        )
        assert low <= middle <= high
        assert low < high


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"score_fusion": True, "pooling": 1},
            "pooling=3, score_fusion=False, got pooling=1, score_fusion=True",
        ),
        ({"scaling": "whiten"}, r"model: expected settings that anomalib has: scaling='none', got scaling='whiten'\."),
        ({"layers": ("blocks.4", "blocks.7")}, r"layers: expected some of blocks.0, .*got blocks.7\. Fit with these\."),
    ],
)
def test_settings_that_anomalib_cannot_express_are_refused(changes: dict[str, Any], text: str):
    model = small_patchcore(**{**SETTINGS, **changes}).fit(goods(4))
    with pytest.raises(InputError, match=text):
        patchcore_checkpoint(model)


def test_an_onnx_backbone_is_refused(model: Patchcore, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(model, "settings", type(model.settings)(**{**model.settings.to_dict(), "backbone": "my.onnx"}))
    with pytest.raises(InputError, match=r"backbone: expected one of resnet18.*got 'my.onnx'"):
        patchcore_checkpoint(model)


def test_folded_norms_change_nothing(model: Patchcore):
    state = patchcore_checkpoint(model)["state_dict"]
    name = f"{FEATURES}blocks.2.0.bn2"
    scale = state[f"{name}.weight"] / np.sqrt(state[f"{name}.running_var"] + np.float32(1e-3))
    np.testing.assert_allclose(scale, 1, atol=1e-6)
