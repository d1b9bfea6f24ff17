from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from blemish import DataError, Engine, ModelFileError, MVTecAD, NotFittedError, Patchcore
from blemish.demo import make_demo
from blemish.records import Prediction, Problem


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> MVTecAD:
    root = make_demo(tmp_path_factory.mktemp("demo") / "d", image_size=128, n_train=12, categories=("tile",))
    return MVTecAD(root, category="tile")


@pytest.fixture(scope="module")
def model(data: MVTecAD) -> Patchcore:
    return Patchcore(image_size=128).fit(data.train)


def test_a_saved_model_predicts_bit_for_bit(model: Patchcore, data: MVTecAD, tmp_path: Path):
    loaded = Patchcore.load(model.save(tmp_path / "m"))
    for sample in data.test[:3]:
        first, second = model.predict(sample), loaded.predict(sample.path)
        assert first.score == second.score
        assert (first.anomaly_map == second.anomaly_map).all()
        assert first.anomaly_map.shape == (128, 128)
        assert first.label == (first.score > first.threshold)
        assert first.nearest_good is not None
        assert Path(first.nearest_good.path) in {s.path for s in data.train}


def test_a_changed_byte_is_named(model: Patchcore, tmp_path: Path):
    folder = model.save(tmp_path / "m")
    bank = folder / "bank.safetensors"
    content = bytearray(bank.read_bytes())
    content[-1] ^= 1
    bank.write_bytes(bytes(content))
    with pytest.raises(ModelFileError, match=r"bank\.safetensors"):
        Patchcore.load(folder)


def test_engine_gives_the_metrics(model: Patchcore, data: MVTecAD):
    (results,) = Engine().test(model=model, datamodule=data)
    assert {"image_AUROC", "pixel_AUROC", "AUPRO", "AUPRO_0.05", "false_alarm_rate", "miss_rate"} <= set(results)
    assert results["image_AUROC"] > 0.7


def test_one_broken_picture_is_left_out(data: MVTecAD, tmp_path: Path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"")
    fitted = Patchcore(image_size=128).fit([*(s.path for s in data.train), broken])
    assert [p.path for p in fitted.problems] == [broken]
    found = list(fitted.predict_many([data.test[0], broken, data.test[1]]))
    assert [type(f) for f in found] == [Prediction, Problem, Prediction]


def test_too_few_pictures(data: MVTecAD):
    with pytest.raises(DataError, match="good pictures: expected at least 2, got 1 that can be read"):
        Patchcore(image_size=128).fit(data.train[:1])


def test_predicting_before_fitting():
    with pytest.raises(NotFittedError, match="never fitted"):
        Patchcore().predict(np.zeros((64, 64, 3), np.uint8))


def test_the_false_alarm_rate_moves_the_threshold(model: Patchcore):
    before = model.threshold
    model.set_false_alarm_rate(0.5)
    assert model.threshold < before
    model.set_false_alarm_rate(0.01)
    assert model.threshold == before


def test_many_rows_are_reduced_in_two_levels(data: MVTecAD):
    fitted = Patchcore(image_size=128, max_rows=1000, coreset_size=200).fit(data.train)
    assert fitted.fitted.scorer.index.n_rows == 200
