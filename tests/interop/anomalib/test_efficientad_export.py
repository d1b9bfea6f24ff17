"""Exported EfficientAD checkpoints: weights of the graph, and the import of an export."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from blemish._io.torch_file import read_checkpoint
from blemish.detectors.efficientad.graph import Networks, efficientad_graph
from blemish.detectors.efficientad.pdn import arrange, arrange_autoencoder
from blemish.errors import InputError
from blemish.interop.anomalib.checkpoint_writer import checkpoint_bytes
from blemish.interop.anomalib.efficientad import _parameters, efficientad_checkpoint, import_efficientad
from blemish.interop.anomalib.source import Source
from tests import random_weights
from tests.anomalib_twins import GOLDEN, STEP, checkpoint, raw, scored
from tests.real_anomalib import runs_anomalib
from tests.torch_files import load_checkpoint

if TYPE_CHECKING:
    from blemish.detectors.efficientad.detector import EfficientAd


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return load_checkpoint(
        checkpoint("efficientad", tmp_path_factory.mktemp("checkpoint") / "model.ckpt"), allow_unknown=True
    )


@pytest.fixture(scope="module")
def model(tree: dict[str, Any]) -> EfficientAd:
    return import_efficientad(Source(tree, "in.ckpt", "0" * 64, 2))


@pytest.mark.slow
def test_an_export_round_trips(model: EfficientAd, tree: dict[str, Any]):
    written = efficientad_checkpoint(model)
    assert {name: array.shape for name, array in written["state_dict"].items() if name in tree["state_dict"]} == {
        name: array.shape for name, array in tree["state_dict"].items()
    }
    again = import_efficientad(
        Source(read_checkpoint(checkpoint_bytes(written), where="out.ckpt"), "out.ckpt", "0" * 64, 2)
    )
    for scored_image in scored()[:2]:
        np.testing.assert_allclose(
            again.predict(scored_image).anomaly_map, model.predict(scored_image).anomaly_map, atol=1e-5
        )
    assert again.threshold == model.threshold
    inner = "model.student.conv2.weight"
    np.testing.assert_array_equal(written["state_dict"][inner], tree["state_dict"][inner])


@pytest.mark.slow
@pytest.mark.parametrize(("size", "padding"), [("small", True), ("medium", False), ("medium", True)])
def test_weights_of_every_kind_of_graph(size: Any, padding: bool):
    state = random_weights.efficientad(3, 6, size)
    teacher = arrange(state, size, n_outputs=6, part="teacher")
    student = arrange(state, size, n_outputs=12, part="student")
    mean, std = (state[f"model.mean_std.{name}"].reshape(-1) for name in ("mean", "std"))
    networks = Networks(teacher, student, arrange_autoencoder(state, n_outputs=6), mean, std, size, padding)
    arrays = _parameters(efficientad_graph(networks, (64, 64)), size, 6)
    assert arrays.keys() == {name for name in state if not name.startswith("model.quantiles")}
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, state[name], err_msg=name)


@pytest.mark.slow
def test_a_border_that_anomalib_lacks_is_refused(model: EfficientAd, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(model, "settings", dataclasses.replace(model.settings, border="edge"))
    with pytest.raises(
        InputError, match=r'border: expected zero, as anomalib has it, got edge. Fit with border="zero"'
    ):
        efficientad_checkpoint(model)


@runs_anomalib
def test_anomalib_loads_the_export_and_scores_alike(model: EfficientAd, tmp_path: Path):
    from anomalib.models import EfficientAd as AnomalibEfficientAd

    path = tmp_path / "out.ckpt"
    path.write_bytes(checkpoint_bytes(efficientad_checkpoint(model)))
    loaded = AnomalibEfficientAd.load_from_checkpoint(path).eval()
    golden = np.load(GOLDEN / "efficientad.npz")
    for scored_image, score, kept in zip(scored(), golden["scores"], golden["maps"], strict=True):
        raw_score, anomaly_map = raw(loaded, scored_image)
        assert raw_score == pytest.approx(score, abs=1e-5)
        np.testing.assert_allclose(anomaly_map[::STEP, ::STEP], kept, atol=1e-5)
