"""Fitting: bank, calibration without an image's own rows, streams, and what can go wrong while it runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from blemish import DataError, InputError, Patchcore
from blemish.data import training_images as training
from blemish.detectors.base import PEAK_SHARE
from blemish.detectors.patchcore import fit as fitting
from blemish.ops import merge_reduce
from blemish.ops.coreset import greedy_coreset
from blemish.ops.distance_statistics import fit_distance_statistics
from tests.images import N_GOOD, cut_off, good, goods, scratched, small_patchcore, write_goods


def features_of(model: Patchcore, image: np.ndarray) -> np.ndarray:
    return model.fitted.extractor.features(model.fitted.geometry.prepare(image))


def plain_distances(features: np.ndarray, bank: np.ndarray) -> np.ndarray:
    return np.linalg.norm(features[:, :, None].astype(np.float64) - bank, axis=3).min(axis=2)


# What is learnt


def test_the_bank_is_the_greedy_coreset_of_all_patches(fitted: Patchcore):
    inside = fitted.fitted
    features = np.concatenate([features_of(fitted, image).reshape(144, -1) for image in goods()])
    bank, source = inside.scorer.index.memory_bank, inside.source
    assert len(bank) == int(0.1 * len(features))
    places = source @ (144, 12, 1)
    np.testing.assert_allclose(bank, features[places], rtol=1e-3, atol=1e-3)
    assert places[0] == greedy_coreset(features, 1, seed=0)[0]
    assert len(set(places.tolist())) == len(places)


def test_features_are_whitened_by_the_good_images(fitted: Patchcore):
    features = np.concatenate([features_of(fitted, image).reshape(144, -1) for image in goods()])
    np.testing.assert_allclose(features.mean(axis=0), 0, atol=1e-2)
    variances = np.linalg.eigvalsh(np.cov(features.T, bias=True))
    assert variances.max() < 1.001  # eigenvalue / (eigenvalue + shrinkage * mean)
    assert variances.max() > 0.9


@pytest.mark.slow
def test_calibration_leaves_each_images_own_rows_and_map_out(fitted: Patchcore):
    inside = fitted.fitted
    bank, source = inside.scorer.index.memory_bank, inside.source
    maps = np.stack(
        [plain_distances(features_of(fitted, image), bank[source[:, 0] != i]) for i, image in enumerate(goods())]
    ).astype(np.float32)
    level, parts = fit_distance_statistics(maps, 1.0, border=True)
    scores = sorted(parts.reshape(len(parts), -1).max(axis=1))
    np.testing.assert_allclose(inside.image_calibration.scores, scores, rtol=2e-3)
    assert inside.scorer.statistics is not None
    for found, expected in zip(inside.scorer.statistics, level, strict=True):
        np.testing.assert_allclose(found, expected, rtol=2e-3)
    # With their own rows they would look better than a new good image does.
    own = np.median([fitted.predict(image).score for image in goods()])
    assert own < np.median(inside.image_calibration.scores)


def test_pixel_scores_are_the_highest_of_each_map(fitted: Patchcore):
    scores = fitted.fitted.pixel_calibration.scores
    assert len(scores) == N_GOOD
    assert (scores < fitted.fitted.image_calibration.scores * 1.0001).all()  # smoothing lowers a maximum
    assert fitted.pixel_threshold in scores
    assert (scores < 0.999 * fitted.fitted.image_calibration.scores).all()


@pytest.mark.slow
def test_pixel_scores_are_exceeded_by_a_share_of_each_map(good_paths: list[Path], tmp_path: Path):
    share = 0.05
    model = small_patchcore(top_share=share, score_fusion=True, calibration="tail").fit(good_paths)
    lower = small_patchcore().fit(good_paths).fitted.pixel_calibration.scores
    assert (np.array(model.fitted.pixel_calibration.scores) < lower).all()
    for _ in range(2):
        assert model.fitted.pixel_share == share
        good_maps = [model.predict(good(60 + i)) for i in range(6)]
        assert not any(found.label or found.mask.any() or found.regions for found in good_maps)
        assert any((found.anomaly_map > found.pixel_threshold).any() for found in good_maps)
        found = model.predict(scratched(99)[0])
        assert found.label
        limit = max(found.pixel_threshold, PEAK_SHARE * found.anomaly_map.max())
        np.testing.assert_array_equal(found.mask, found.anomaly_map > np.float32(limit))
        assert found.regions
        model = Patchcore.load(model.save(tmp_path / "m"))
    header = json.loads((tmp_path / "m" / "model.json").read_text())
    assert header["thresholds"]["pixel_share"] == share


@pytest.mark.slow
def test_nine_neighbours_weigh_the_score(good_paths: list[Path]):
    nine = small_patchcore(num_neighbors=9).fit(good_paths)
    image, mask = scratched(99)
    found = nine.predict(image)
    distances = nine.fitted.scorer.distances(features_of(nine, image))
    assert 0 < distances.weight < 1
    assert found.score == pytest.approx(
        float(nine.fitted.scorer.patch_map(distances.distances).max()) * distances.weight
    )
    assert found.label
    assert mask[found.peak_xy[1], found.peak_xy[0]]


@pytest.mark.slow
def test_nine_neighbours_weigh_the_calibration_too(good_paths: list[Path]):
    nine = small_patchcore(num_neighbors=9, position_sigma=None).fit(good_paths)
    inside = nine.fitted
    scores = []
    for i, image in enumerate(goods()):
        found = inside.scorer.distances(features_of(nine, image), exclude=inside.source[:, 0] == i)
        scores.append(float(found.distances.max()) * found.weight)
    np.testing.assert_allclose(inside.image_calibration.scores, sorted(scores), rtol=2e-3)


@pytest.mark.slow
def test_a_crop_sees_the_middle_alone(good_paths: list[Path]):
    model = small_patchcore(center_crop=64).fit(good_paths)
    assert model.fitted.source[:, 1:].max() < 8
    image = good(99)
    expected = model.predict(image).score
    image[:8] = 255  # outside of the crop, and of what the resize mixes into it
    found = model.predict(image)
    assert found.score == expected
    assert found.anomaly_map.shape == (96, 96)
    assert not found.anomaly_map[:15].any()
    assert found.nearest_good is not None
    x, y, width, height = found.nearest_good.box
    assert min(x, y) >= 16
    assert max(x + width, y + height) <= 80


@pytest.mark.slow
@pytest.mark.parametrize("ratio", [0.01, 0.5, 1.0])
def test_the_bank_keeps_the_share_asked_for(ratio: float):
    model = small_patchcore(coreset_sampling_ratio=ratio).fit(goods(4))
    assert model.fitted.scorer.index.n_rows == max(1, int(ratio * 4 * 144))


@pytest.mark.slow
def test_identical_images_are_fitted():
    model = small_patchcore().fit([good(0)] * 4)
    assert model.predict(good(0)).score == pytest.approx(0, abs=1e-2) or not model.predict(good(0)).label
    assert model.predict(scratched(1)[0]).label


@pytest.mark.slow
@pytest.mark.parametrize("value", [0, 127, 255])
def test_plain_images_are_fitted(value: int):
    plain = np.full((96, 96, 3), value, np.uint8)
    model = small_patchcore().fit([plain] * 3)
    marked = plain.copy()
    marked[40:50, 40:50] = 255 - value
    assert np.isfinite(model.predict(plain).score)
    assert model.predict(marked).score > model.predict(plain).score


# More patches than may be held


@pytest.mark.slow
def test_a_stream_is_close_to_all_patches(fitted: Patchcore, good_paths: list[Path], monkeypatch: pytest.MonkeyPatch):
    """1,728 patches, of which 1,000 at most are held: images are read once more, to calibrate."""
    monkeypatch.setattr(merge_reduce, "CHUNK_ROWS", 400)
    stages = []
    model = small_patchcore(max_rows=1000).fit(good_paths, progress=lambda stage, *_: stages.append(stage))
    assert stages.count("reading images") == stages.count("calibrating") == N_GOOD
    assert model.fitted.scorer.index.n_rows == fitted.fitted.scorer.index.n_rows
    assert model.threshold == pytest.approx(fitted.threshold, rel=0.25)
    image, mask = scratched(99)
    found = model.predict(image)
    assert found.score == pytest.approx(fitted.predict(image).score, rel=0.25)
    assert mask[found.peak_xy[1], found.peak_xy[0]]


@pytest.mark.slow
def test_images_are_read_again_only_where_their_patches_do_not_fit(
    good_paths: list[Path], monkeypatch: pytest.MonkeyPatch
):
    n_read = []
    read_image = training.read_image
    monkeypatch.setattr(
        training, "read_image", lambda path, *args, **options: n_read.append(path) or read_image(path, *args, **options)
    )
    small_patchcore().fit(good_paths)
    assert len(n_read) == 2 * N_GOOD  # to learn the features, and for the memory bank
    small_patchcore(max_rows=1000).fit(good_paths)
    assert len(n_read) == 5 * N_GOOD
    small_patchcore(scaling="none").fit(good_paths)
    assert len(n_read) == 6 * N_GOOD


def test_the_radius_of_the_memory_bank_is_stated(fitted: Patchcore):
    assert 0 < fitted.fitted.provenance["covering_radius"] < 30


@pytest.mark.slow
def test_a_stream_leaves_a_broken_image_out_once(tmp_path: Path):
    paths = write_goods(tmp_path)
    cut_off(paths[4], good(4))
    model = small_patchcore(max_rows=1000).fit(paths)
    assert [problem.path for problem in model.problems] == [paths[4]]
    assert model.fitted.training.paths == tuple(str(path) for path in paths if path != paths[4])
    assert model.calibration.n == N_GOOD - 1


@pytest.mark.slow
@pytest.mark.parametrize("score_fusion", [False, True])
def test_thresholds_are_calibrated_on_some_of_many(score_fusion: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fitting, "MAX_CALIBRATION", 5)
    paths = write_goods(tmp_path)
    cut_off(paths[3], good(3))
    model = small_patchcore(score_fusion=score_fusion).fit(paths)
    assert model.calibration.n == 5
    assert model.fitted.provenance["n_training_files"] == N_GOOD - 1
    if score_fusion:
        assert model.fitted.fusion is not None
        assert model.fitted.fusion.good_scores.shape == (2, 5)
    assert not model.predict(good(50)).label


# Bad input


@pytest.mark.slow
def test_one_broken_among_many_is_left_out(tmp_path: Path):
    paths = write_goods(tmp_path)
    paths[3].write_bytes(b"")
    cut_off(paths[7], good(7))
    model = small_patchcore().fit(paths)
    assert sorted(problem.path for problem in model.problems) == [paths[3], paths[7]]
    assert all(str(p.path) in p.text and p.text.endswith("It was left out.") for p in model.problems)
    others = [path for path in paths if path not in (paths[3], paths[7])]
    assert model.fitted.training.paths == tuple(str(path) for path in others)
    again = small_patchcore().fit(others)
    assert again.problems == ()
    assert again.threshold == model.threshold
    np.testing.assert_array_equal(again.fitted.source, model.fitted.source)
    assert again.fitted.provenance["training_sha256"] == model.fitted.provenance["training_sha256"]
    assert model.fitted.provenance["n_training_files"] == N_GOOD - 2


@pytest.mark.parametrize("n", [0, 1])
def test_too_few(n: int):
    with pytest.raises(DataError, match=f"good images: expected at least 2, got {n} that can be read. Give at least 2"):
        small_patchcore().fit(goods(n))


def test_all_broken(tmp_path: Path):
    paths = write_goods(tmp_path, 3)
    for path in paths:
        path.write_bytes(b"GIF89a")
    with pytest.raises(DataError, match=r"got 0 that can be read and 3 broken, the first: .*000\.png"):
        small_patchcore().fit(paths)


@pytest.mark.slow
def test_all_broken_but_one_when_decoded(tmp_path: Path):
    paths = write_goods(tmp_path, 3)
    for seed in (0, 2):
        cut_off(paths[seed], good(seed))
    with pytest.raises(DataError, match=r"got 1 that can be read and 2 broken, the first: .*000\.png"):
        small_patchcore().fit(paths)


def test_all_broken_when_decoded(tmp_path: Path):
    paths = write_goods(tmp_path, 2)
    for seed, path in enumerate(paths):
        cut_off(path, good(seed))
    with pytest.raises(DataError, match="got 0 that can be read and 2 broken"):
        small_patchcore().fit(paths)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"coreset_size": 1},
            "memory_bank: expected 1 rows from other images, got 1 rows, 1 of them from one image",
        ),
        ({"coreset_size": 8, "num_neighbors": 9}, "memory_bank: expected 9 rows from other images, got 8 rows"),
    ],
)
def test_a_bank_too_small_to_judge_by(changes: dict[str, int], text: str):
    with pytest.raises(InputError, match=text + r".* Raise coreset_sampling_ratio or coreset_size"):
        small_patchcore(**changes).fit(goods(3))


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["reading images", "coreset", "calibrating"])
def test_an_interrupted_fit_leaves_what_was_fitted_before(stage: str, tmp_path: Path):
    paths = write_goods(tmp_path / "good", 6)
    (tmp_path / "good" / "broken.png").write_bytes(b"")
    model = small_patchcore().fit([*paths, tmp_path / "good" / "broken.png"])
    before, problems, files = model.predict(scratched(9)[0]), model.problems, sorted(tmp_path.rglob("*"))

    def interrupt(reached: str, done: int, total: int) -> None:
        if reached == stage:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.fit(goods(), progress=interrupt)
    after = model.predict(scratched(9)[0])
    assert (after.score, after.threshold) == (before.score, before.threshold)
    assert after.nearest_good == before.nearest_good
    assert model.problems == problems
    assert sorted(tmp_path.rglob("*")) == files


@pytest.mark.slow
def test_a_failed_fit_leaves_what_was_fitted_before(good_paths: list[Path]):
    model = small_patchcore().fit(good_paths)
    before = model.threshold
    with pytest.raises(DataError):
        model.fit([])
    assert (model.threshold, model.problems) == (before, ())


@pytest.mark.slow
def test_progress_never_runs_over():
    calls: list[tuple[str, int, int]] = []
    small_patchcore().fit(goods(5), progress=lambda *call: calls.append(call))
    stages = list(dict.fromkeys(stage for stage, _, _ in calls))
    assert stages == ["learning features", "reading images", "coreset", "calibrating"]
    for stage in stages:
        own = [(done, total) for name, done, total in calls if name == stage]
        assert len({total for _, total in own}) == 1
        assert [done for done, _ in own] == sorted({done for done, _ in own})
        assert own[-1][0] == own[-1][1]


# Several images of one part


@pytest.mark.slow
def test_thresholds_count_parts_and_not_images():
    """With every image twice, the threshold is about the same as with each once, and new good images are good."""
    once, twice = (small_patchcore().fit([image for image in goods(16) for _ in range(n)]) for n in (1, 2))
    assert twice.calibration.n == once.calibration.n == 16
    assert twice.threshold == pytest.approx(once.threshold, rel=0.3)
    assert not any(twice.predict(good(seed)).label for seed in range(50, 60))
    assert twice.notes[0].startswith("32 good images show 16 parts: 16 have the detail of another, as further")
    assert len(once.notes) == len(twice.notes) - 1


@pytest.mark.slow
def test_a_part_is_scored_without_all_its_images():
    """The copies have no noise of their own: with one of them in the bank, the distance would be nearly 0."""
    model = small_patchcore(score_fusion=False).fit([image for image in goods(12) for _ in range(3)])
    single = small_patchcore(score_fusion=False).fit(goods(12))
    assert model.calibration.scores.min() > 0.5 * single.calibration.scores.min()


@pytest.mark.slow
def test_groups_are_in_the_model_folder(tmp_path: Path):
    model = small_patchcore().fit([image for image in goods(8) for _ in range(2)])
    model.save(tmp_path / "model")
    loaded = Patchcore.load(tmp_path / "model")
    assert loaded.fitted.training.groups == tuple(i // 2 * 2 for i in range(16))
    assert loaded.notes == model.notes
