"""The scaling of patch features, learnt from good images and synthetic defects on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from blemish import DataError, Patchcore
from blemish.data.training_images import TrainingImages
from blemish.detectors.patchcore import features
from blemish.detectors.patchcore.features import learnt_order, learnt_scaling
from blemish.detectors.patchcore.fit import LocalPasses
from blemish.detectors.patchcore.settings import LEAST_FOR_AXES
from blemish.types import no_progress
from tests.images import N_GOOD, cut_off, good, goods, scratched, small_patchcore, write_goods


def scaling_of(images, **changes):
    model = small_patchcore(**changes)
    training = TrainingImages(images, bit_depth=None, threads=1)
    geometry = model.settings.geometry(training.sizes_hw, model.pretrained)
    inputs = LocalPasses(model.settings, training, no_progress).inputs(geometry, learnt_order(len(training)))
    return training, learnt_scaling(model.settings, model.pretrained, inputs, no_progress)


@pytest.mark.parametrize(
    ("changes", "n"),
    [
        ({"defect_axes": 32}, 32),
        ({"defect_axes": 128}, 128),
        ({"defect_axes": 1000}, 152),
        ({"defect_axes": 0}, 152),
        ({"defect_axes": 32, "scaling": "standard"}, 152),
    ],
)
def test_a_patch_has_as_many_features(changes, n):
    _, scaling = scaling_of(goods(LEAST_FOR_AXES), **changes)
    assert scaling.weight.shape == (n, 152)
    model = small_patchcore(**changes)
    assert model.settings.n_features(model.pretrained, LEAST_FOR_AXES) == n


def test_features_without_a_scaling_are_the_networks_own():
    assert scaling_of(goods(), scaling="none")[1] is None


def test_zeros_around_a_layer_damp_the_border_where_they_count():
    image, maps = good(0), {}
    for count_padding in (False, True):
        model = small_patchcore(count_padding=count_padding, pooling=3)
        geometry = model.settings.geometry([image.shape[:2]], model.pretrained)
        extractor = features.extractor_of(model.settings, model.pretrained, None)
        maps[count_padding] = extractor.features(geometry.prepare(image))
    damped, whole = maps[True], maps[False]
    np.testing.assert_allclose(damped[3:-3, 3:-3], whole[3:-3, 3:-3], rtol=1e-5)
    norms = [np.linalg.norm(found[0], axis=-1).mean() for found in (damped, whole)]
    assert norms[0] < 0.8 * norms[1]


def test_few_images_keep_all_axes():
    model = small_patchcore(defect_axes=32)
    assert scaling_of(goods(LEAST_FOR_AXES - 1), defect_axes=32)[1].weight.shape == (152, 152)
    assert [model.settings.n_features(model.pretrained, n) for n in (49, 50)] == [152, 32]


def test_synthetic_defects_stand_out_more_along_these_axes():
    """Of the same new image with a scratch, by the median of good patches."""
    image, mask = scratched(99)
    ratios = []
    for n_axes in (0, 32):
        model = small_patchcore(defect_axes=n_axes).fit(goods(LEAST_FOR_AXES))
        state = model.fitted
        found = state.scorer.distances(state.extractor.features(state.geometry.prepare(image))).distances
        ratios.append(float(found.max() / np.median(found)))
        assert mask[model.predict(image).peak_xy[1], model.predict(image).peak_xy[0]]
    assert ratios[1] > 1.2 * ratios[0]


def test_some_of_many_images_are_read_evenly(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(features, "N_LEARNT", 3)
    few, of_all = scaling_of(goods())
    assert len(few) == N_GOOD
    _, of_three = scaling_of([goods()[i] for i in (0, 5, 11)])
    np.testing.assert_array_equal(of_all.weight, of_three.weight)


def test_broken_images_are_passed_over_and_named_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(features, "N_LEARNT", 4)
    paths = write_goods(tmp_path)
    cut_off(paths[0], good(0))
    training, scaling = scaling_of(paths, defect_axes=32)
    assert training.problems == []
    _, without = scaling_of([paths[i] for i in (3, 7, 11, 1)], defect_axes=32)
    np.testing.assert_allclose(scaling.weight.T @ scaling.weight, without.weight.T @ without.weight, rtol=0.2, atol=1.0)
    model = small_patchcore(defect_axes=32).fit(paths)
    assert [problem.path for problem in model.problems] == [paths[0]]


def test_images_of_which_none_can_be_read(tmp_path: Path):
    paths = write_goods(tmp_path)
    for path in paths:
        cut_off(path, good(0))
    assert scaling_of(paths)[1] is None
    with pytest.raises(DataError, match=r"good images: expected at least 2, got 0 that can be read and 12 broken"):
        small_patchcore(defect_axes=32).fit(paths)


def test_images_without_any_contrast_are_whitened_only():
    """No synthetic defect shows on them."""
    _, scaling = scaling_of([np.zeros((96, 96, 3), np.uint8)] * LEAST_FOR_AXES, defect_axes=32)
    assert np.isfinite(scaling.weight).all()


def test_a_model_with_axes_is_saved_and_loaded(tmp_path: Path):
    model = small_patchcore(defect_axes=32, score_fusion=True).fit(goods(LEAST_FOR_AXES))
    assert model.fitted.scorer.index.dim == 32
    loaded = Patchcore.load(model.save(tmp_path / "model"))
    image = scratched(99)[0]
    assert loaded.settings.defect_axes == 32
    assert loaded.predict(image).score == model.predict(image).score
