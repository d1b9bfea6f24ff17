"""Ids of detectors: of what they compute, not of where and when they were made."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from blemish import EfficientAd, Patchcore
from blemish.search.model_id import model_id
from tests.contract import networks
from tests.images import good, small_patchcore, write


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return networks.write_teacher(tmp_path_factory.mktemp("teacher") / "teacher.safetensors")


def efficientad(teacher: Path, good_paths: list[Path], **changes: Any) -> EfficientAd:
    settings: dict[str, Any] = {"image_size": 48, "max_steps": 2, "lr": 1e-3, "holdout": 0.4, "device": "cpu"}
    return EfficientAd(teacher=teacher, threads=1, **{**settings, **changes}).fit(good_paths)


@pytest.mark.slow
def test_a_second_equal_fit_has_the_same_id(fitted: Patchcore, good_paths: list[Path]):
    again = small_patchcore().fit(good_paths)
    assert model_id(again) == model_id(fitted)
    again.set_false_positive_rate(0.2)
    assert model_id(again) == model_id(fitted)


@pytest.mark.slow
def test_other_settings_or_images_have_another_id(fitted: Patchcore, good_paths: list[Path], tmp_path: Path):
    others = [
        small_patchcore(seed=1).fit(good_paths),
        small_patchcore(pooling=1).fit(good_paths),
        small_patchcore().fit(good_paths[1:]),
        small_patchcore().fit([*good_paths[1:], write(tmp_path / "other.png", good(77))]),
    ]
    assert len({model_id(fitted), *map(model_id, others)}) == 5


def test_an_id_survives_saving_and_loading(fitted: Patchcore, saved: Path, tmp_path: Path):
    loaded = Patchcore.load(saved)
    assert model_id(loaded) == model_id(fitted)
    assert model_id(Patchcore.load(loaded.save(tmp_path / "again"))) == model_id(fitted)


def test_the_range_of_good_images_does_not_count(fitted: Patchcore):
    assert fitted.fitted.good_range is not None
    without = Patchcore.from_state(fitted.settings, dataclasses.replace(fitted.fitted, good_range=None))
    assert model_id(without) == model_id(fitted)


@pytest.mark.slow
def test_paths_do_not_count(good_paths: list[Path], tmp_path: Path):
    ids = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        backbone = networks.write_backbone(tmp_path / name / "tiny.onnx")
        images = [Path(shutil.copy(path, tmp_path / name)) for path in good_paths]
        ids.append(model_id(Patchcore(backbone=backbone, layers=networks.LAYERS, image_size=64).fit(images)))
    assert ids[0] == ids[1]


@pytest.mark.slow
def test_efficientad_has_an_id_of_its_own(teacher: Path, good_paths: list[Path], tmp_path: Path):
    model = efficientad(teacher, good_paths)
    assert model_id(EfficientAd.load(model.save(tmp_path / "model"))) == model_id(model)
    moved = Path(shutil.copy(teacher, tmp_path))
    assert model_id(efficientad(moved, good_paths)) == model_id(model)
    assert model_id(efficientad(teacher, good_paths, seed=1)) != model_id(model)


@pytest.mark.slow
def test_a_setting_that_came_later_changes_no_id_at_the_value_before_it(teacher: Path, good_paths: list[Path]):
    model = efficientad(teacher, good_paths, top_share=0.0)
    older = SimpleNamespace(header=lambda: {**model.header(), "settings": without_top_share(model)})
    assert model_id(older) == model_id(model)
    assert model_id(efficientad(teacher, good_paths)) != model_id(model)


def without_top_share(model: EfficientAd) -> dict[str, Any]:
    return {name: value for name, value in model.settings.to_dict().items() if name != "top_share"}


def test_the_calibration_scores_count(fitted: Patchcore):
    state = fitted.fitted
    moved = dataclasses.replace(state.image_calibration, scores=state.image_calibration.scores + 1)
    changed = Patchcore.from_state(fitted.settings, dataclasses.replace(state, image_calibration=moved))
    assert model_id(changed) != model_id(fitted)
