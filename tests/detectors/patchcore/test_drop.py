"""Dropping training images from a fitted PatchCore, without a new fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from blemish import Padim, Patchcore
from blemish.errors import InputError
from blemish.modelfolder.header import Training
from tests.images import SETTINGS, good, goods, small_patchcore, write, write_goods

N_BAD = 2


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Good images, and two with a black lower part among them."""
    folder = tmp_path_factory.mktemp("images")
    made = write_goods(folder, 24)
    for i in range(N_BAD):
        image = good(100 + i)
        image[len(image) // 2 + 16 * i :] = 0
        made[i] = write(folder / f"{i:03}.png", image)
    return made


@pytest.fixture(scope="module")
def fitted(paths: list[Path]) -> Patchcore:
    return small_patchcore(score_fusion=True, calibration="tail").fit(paths)


@pytest.mark.slow
def test_alike_images_are_listed_dropped_and_gone(fitted: Patchcore, paths: list[Path], tmp_path: Path):
    bad = [str(path) for path in paths[:N_BAD]]
    assert sorted(suspect.path for suspect in fitted.suspects) == bad
    left = fitted.without(bad)
    state, before = left.fitted, fitted.fitted
    assert left.suspects == ()
    assert set(state.source[:, 0]) == set(before.source[:, 0]) - {0, 1}
    assert state.scorer.index.n_rows == len(state.source) < len(before.source)
    assert state.image_calibration.n == state.pixel_calibration.n == len(paths) - N_BAD
    assert (state.training.reviews[:3], state.training.scores[:2]) == (("dropped", "dropped", ""), (None, None))
    assert state.fusion is not None
    np.testing.assert_array_equal(state.fusion.good_scores, before.fusion.good_scores[:, N_BAD:])
    np.testing.assert_array_equal(np.sort(state.fusion.leave_one_out_scores()), left.calibration.scores)
    assert left.predict(bad[0]).label
    assert fitted.fitted is before
    loaded = Patchcore.load(left.save(tmp_path / "model"))
    assert loaded.fitted.training == state.training
    assert (loaded.threshold, loaded.pixel_threshold) == (left.threshold, left.pixel_threshold)
    assert loaded.predict(paths[5]).score == left.predict(paths[5]).score
    with pytest.raises(InputError, match="path: expected a training image"):
        fitted.without(["nowhere.png"])


@pytest.mark.slow
def test_without_fusion_scores_stay(paths: list[Path]):
    fitted = small_patchcore().fit(paths[:6])
    left = fitted.without(paths[:1])
    assert left.fitted.training.scores[1:] == fitted.fitted.training.scores[1:]
    peaks = sorted(peak for peak in left.fitted.training.map_peaks if peak is not None)
    assert (len(peaks), peaks) == (5, left.fitted.pixel_calibration.scores.tolist())


@pytest.mark.slow
def test_confirmed_images_are_listed_no_more(fitted: Patchcore, tmp_path: Path):
    path = fitted.suspects[0].path
    confirmed = fitted.confirmed([path])
    assert path not in [suspect.path for suspect in confirmed.suspects]
    assert len(confirmed.suspects) == len(fitted.suspects) - 1
    assert confirmed.threshold == fitted.threshold
    assert Patchcore.load(confirmed.save(tmp_path / "model")).suspects == confirmed.suspects


def test_too_little_left_is_refused(fitted: Patchcore, paths: list[Path]):
    with pytest.raises(InputError, match=r"at least 2 calibration images and 1 bank rows, got [01] and"):
        fitted.without(paths[1:])


def test_a_model_that_does_not_know_its_images_is_refused(fitted: Patchcore, paths: list[Path]):
    state = fitted.fitted
    old = replace(state, training=Training(state.training.paths, state.training.sizes_hw))
    with pytest.raises(InputError, match=r"without: expected a model fitted by this version, .* Fit again without"):
        Patchcore.from_state(fitted.settings, old).without(paths[:1])


@pytest.mark.slow
def test_a_detector_that_cannot_forget_says_what_to_do():
    names = ("backbone", "layers", "image_size", "false_positive_rate", "calibration", "seed", "threads")
    model = Padim(**{name: SETTINGS[name] for name in names}, n_features=4).fit(goods(4))
    assert model.fitted.training.scores == tuple(model.fitted.training.map_peaks)
    assert sorted(filter(None, model.fitted.training.scores)) == model.calibration.scores.tolist()
    with pytest.raises(InputError, match=r"without: expected a PatchCore model.* Fit again without them"):
        model.without(["array 0"])


@pytest.mark.slow
@pytest.mark.parametrize("image", [good(0), np.zeros((96, 96, 3), np.uint8)], ids=["copies", "black"])
def test_copies_and_black_images_are_a_warning(image: np.ndarray):
    model = small_patchcore(score_fusion=True, calibration="tail").fit([image] * 10)
    assert [text[:29] for text in model.training_warnings] == ["All good images look the same"]
    assert model.suspects == ()


@pytest.mark.slow
def test_dropping_a_part_drops_all_its_images(tmp_path: Path):
    paths = [write(tmp_path / f"{i}{shot}.png", good(i)) for i in range(12) for shot in "ab"]
    model = small_patchcore().fit(paths)
    left = model.without([paths[6]]).fitted
    assert [i for i, review in enumerate(left.training.reviews) if review == "dropped"] == [6, 7]
    assert not np.isin(left.source[:, 0], [6, 7]).any()
    assert left.image_calibration.n == 11


@pytest.mark.slow
def test_suspects_of_one_part_are_listed_and_confirmed_together(tmp_path: Path):
    images = goods(24)
    for i in (4, 5):
        images[i] = images[4].copy()
        images[i][48:] = 0
    paths = [write(tmp_path / f"{i:02}.png", image) for i, image in enumerate(images)]
    model = small_patchcore().fit(paths)
    assert {str(path) for path in paths[4:6]} <= {suspect.path for suspect in model.suspects}
    left = {suspect.path for suspect in model.confirmed([paths[5]]).suspects}
    assert not left & {str(path) for path in paths[4:6]}
