"""EfficientAd as its users meet it: fit, predict, save, load, and what it says of things that cannot be."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from blemish import DataError, EfficientAd, Engine, InputError, ModelFileError, NotFittedError, SaveError, runtime
from blemish.detectors.base import PEAK_SHARE
from blemish.detectors.efficientad.checkpoint import load_checkpoint
from blemish.detectors.efficientad.training import Training
from blemish.detectors.registry import Trained, load
from blemish.errors import ImageError
from blemish.exporters.graph import exported_graph
from blemish.imaging.decode import read_image
from blemish.ops.distance_statistics import fit_distance_statistics
from blemish.types import Problem
from tests.efficientad_models import SETTINGS, small_efficientad, write_teacher
from tests.images import cut_off, good, goods, scratched, small_patchcore, write, write_goods
from tests.lazy import torch
from tests.models import replace_file, rewrite


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_teacher(tmp_path_factory.mktemp("teacher"))


@pytest.fixture(scope="module")
def trained(teacher: Path, good_paths: list[Path]) -> EfficientAd:
    """A detector after some steps; no test changes it."""
    return small_efficientad(teacher, max_steps=12).fit(good_paths)


@pytest.fixture(scope="module")
def many_paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_goods(tmp_path_factory.mktemp("many"), 50)


@pytest.fixture(scope="module")
def with_positions(teacher: Path, many_paths: list[Path]) -> EfficientAd:
    """A detector with 30 calibration images, whose score counts positions; no test changes it."""
    return small_efficientad(teacher, holdout=0.8).fit(many_paths)


@pytest.fixture
def folder(trained: EfficientAd, tmp_path: Path) -> Path:
    return trained.save(tmp_path / "model")


# What a prediction says


@pytest.mark.slow
def test_a_scratch_scores_higher_where_it_is(trained: EfficientAd):
    image, mask = scratched(99)
    found = trained.predict(image)
    assert found.score > 2 * max(trained.predict(good(seed)).score for seed in (100, 101))
    assert found.anomaly_map.shape == (96, 96)
    assert found.anomaly_map[mask].mean() > found.anomaly_map[~mask].mean()
    assert found.label == (found.score > found.threshold)
    assert (found.threshold, found.pixel_threshold) == (trained.threshold, trained.pixel_threshold)
    limit = max(found.pixel_threshold, PEAK_SHARE * found.anomaly_map.max())
    np.testing.assert_array_equal(found.mask, found.anomaly_map > np.float32(limit))
    called_good = [result for result in map(trained.predict, map(good, range(100, 110))) if not result.label]
    assert called_good
    assert not any(result.mask.any() for result in called_good)
    assert found.p_value == trained.calibration.p_value(found.score)
    assert found.nearest_good is None
    assert json.loads(json.dumps(found.to_dict()))["label"] == found.label


@pytest.mark.slow
def test_many_are_predicted_as_one_and_broken_ones_are_named(trained: EfficientAd, tmp_path: Path):
    paths = [
        write(tmp_path / "a.png", good(50)),
        cut_off(tmp_path / "b.png", good(51)),
        write(tmp_path / "c.png", good(52)),
    ]
    found = list(trained.predict_many(paths))
    assert isinstance(found[1], Problem)
    assert found[1].path == paths[1]
    for i in (0, 2):
        assert not isinstance(found[i], Problem)
        assert found[i].score == trained.predict(paths[i]).score
    with pytest.raises(ImageError):
        trained.predict(paths[1])
    with pytest.raises(InputError, match="image: expected uint8"):
        trained.predict(np.zeros((8, 8, 3)))


@pytest.mark.slow
def test_it_meets_the_engine(teacher: Path, good_paths: list[Path]):
    class Data:
        name, train = "stripes", tuple(good_paths)

    model = small_efficientad(teacher, max_steps=1000, holdout=0.8)
    assert isinstance(model, Trained)
    Engine(max_epochs=2).fit(model, Data())
    assert model.settings.max_epochs == 2
    assert model.fitted.provenance["n_steps"] == 2 * 2
    with pytest.raises(InputError, match="max_epochs: expected a whole number from 1"):
        Engine(max_epochs=0)
    assert not isinstance(small_patchcore(), Trained)


# Saved and loaded


@pytest.mark.slow
def test_a_saved_model_predicts_bit_for_bit(trained: EfficientAd, folder: Path, tmp_path: Path):
    assert sorted(path.name for path in folder.iterdir()) == ["model.json", "network.onnx", "weights.safetensors"]
    loaded = EfficientAd.load(folder, threads=2)
    assert loaded.settings.to_dict() == trained.settings.to_dict()
    for image in (good(99), scratched(98)[0], scratched(97, 50, 140)[0]):
        one, other = trained.predict(image), loaded.predict(image)
        assert (one.score, one.label, one.p_value) == (other.score, other.label, other.p_value)
        np.testing.assert_array_equal(one.anomaly_map, other.anomaly_map)
    again = loaded.save(tmp_path / "again")
    for path in folder.iterdir():
        assert path.read_bytes() == (again / path.name).read_bytes()
    assert isinstance(load(folder), EfficientAd)


def test_a_loaded_model_needs_no_torch(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert np.isfinite(EfficientAd.load(folder).predict(good(3)).score)


def test_without_torch_fitting_says_what_to_install(teacher: Path, monkeypatch: pytest.MonkeyPatch):
    model = small_efficientad(teacher)
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delattr("blemish.detectors.base.TrainingImages")  # no image is read before
    with pytest.raises(InputError, match=r"torch: expected to be installed, to train.*pip install 'blemish\[train\]'"):
        model.fit(goods(4))
    assert not model.is_fitted


@pytest.mark.slow
def test_same_images_and_seed_give_the_same_network(teacher: Path):
    one, other, third = (small_efficientad(teacher, seed=seed).fit(goods(5)) for seed in (0, 0, 1))
    assert one.fitted.maps.model == other.fitted.maps.model
    assert one.threshold == other.threshold
    assert one.fitted.maps.model != third.fitted.maps.model


def test_the_header_says_where_the_model_comes_from(trained: EfficientAd, teacher: Path, good_paths: list[Path]):
    header = trained.header()
    settings = header["settings"]
    for name, value in SETTINGS.items():
        if name not in {"device", "threads", "budget", "max_steps"}:
            assert settings[name] == value
    assert (settings["budget"], settings["teacher"]) == (None, str(teacher))
    provenance = header["provenance"]
    assert provenance["backbone"] == "teacher small-0.safetensors"
    assert (provenance["n_steps"], provenance["n_training_files"]) == (12, len(good_paths))
    assert [one["path"] for one in header["training"]] == [str(path) for path in good_paths]


def test_training_images_of_the_calibration_set_know_their_scores(trained: EfficientAd, folder: Path):
    training = trained.fitted.training
    scores = [score for score in training.scores if score is not None]
    assert sorted(scores) == trained.calibration.scores.tolist()
    assert EfficientAd.load(folder).fitted.training == training


@pytest.mark.slow
def test_the_rate_can_be_moved(trained: EfficientAd, folder: Path):
    loaded = EfficientAd.load(folder)
    loaded.set_false_positive_rate(0.5)
    assert loaded.threshold == trained.calibration.with_rate(0.5).threshold
    assert EfficientAd.load(loaded.save(folder)).threshold == loaded.threshold


# Statistics of positions


@pytest.mark.parametrize(
    ("level", "text"),
    [
        (None, r"level: expected float32 \(3, 4, 4\) as normalised_positions is set, got nothing"),
        (np.ones((3, 4, 5), np.float32), r"level: expected float32 \(3, 4, 4\) as .*, got float32 \(3, 4, 5\)"),
        (np.ones((5, 4, 4), np.float32), r"level: expected float32 \(3, 4, 4\) as .*, got float32 \(5, 4, 4\)"),
        (np.zeros((3, 4, 4), np.float32), "level: expected distances of 0 or more, and deviations of at least"),
        (np.full((3, 4, 4), np.nan, np.float32), "level: expected finite float32"),
    ],
)
def test_statistics_that_cannot_be_are_refused(
    with_positions: EfficientAd, tmp_path: Path, level: np.ndarray | None, text: str
):
    folder = with_positions.save(tmp_path / "model")
    assert EfficientAd.load(folder).predict(good(50)).score == with_positions.predict(good(50)).score
    tensors = {"other": np.ones(1, np.float32)} if level is None else {"level": level}
    replace_file(folder, "statistics.safetensors", safetensors.numpy.save(tensors))
    with pytest.raises(ModelFileError, match=text):
        EfficientAd.load(folder)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda h: h["settings"].update(position_sigma=None), "normalised_positions: expected true, with a position_"),
        (lambda h: h.update(normalised_positions=1), "normalised_positions: expected true, .* or nothing, got 1"),
        (lambda h: h.pop("normalised_positions"), "level: expected nothing as normalised_positions is not set"),
    ],
)
def test_statistics_that_no_setting_asks_for_are_refused(
    with_positions: EfficientAd, tmp_path: Path, change: Any, text: str
):
    folder = with_positions.save(tmp_path / "model")
    rewrite(folder, change)
    with pytest.raises(ModelFileError, match=text):
        EfficientAd.load(folder)


@pytest.mark.parametrize("changes", [{"position_sigma": None}, {"top_share": 0.0}, {"holdout": 0.7}])
def test_without_positions_there_are_no_statistics(teacher: Path, many_paths: list[Path], changes: dict[str, Any]):
    made = small_efficientad(teacher, **{"holdout": 0.8, **changes}).fit(many_paths)
    training = made.fitted.training
    assert made.fitted.maps.statistics is None
    for i in training.chosen:
        assert made.predict(training.paths[i]).score == pytest.approx(training.scores[i], rel=1e-5)


def test_calibration_scores_are_by_the_statistics_of_the_other_images(
    with_positions: EfficientAd, many_paths: list[Path]
):
    fitted = with_positions.fitted
    known = [i for i, score in enumerate(fitted.training.scores) if score is not None]
    raw = [fitted.maps.raw(fitted.geometry.prepare(read_image(many_paths[i], None))) for i in known]
    cells = np.stack([fitted.maps.cells(*pair) for pair in raw])
    _, without_itself = fit_distance_statistics(cells, 1.0)
    expected = list(map(fitted.maps.cell_score, without_itself))
    assert len(known) == 30
    assert [fitted.training.scores[i] for i in known] == pytest.approx(expected, rel=1e-5)
    assert [fitted.maps.score(*pair) for pair in raw] != pytest.approx(expected, rel=1e-2)


def test_an_exported_graph_counts_positions(with_positions: EfficientAd):
    session = runtime.load(exported_graph(with_positions), threads=1, passes=False)
    for image in (good(60), scratched(61)[0]):
        result = session.run(image[None])
        found = with_positions.predict(image)
        assert float(result["score"][0]) == pytest.approx(found.score, rel=1e-5)
        np.testing.assert_allclose(result["anomaly_map"][0], found.anomaly_map, atol=1e-5 * found.anomaly_map.max())


@pytest.mark.parametrize("border", ["edge", "zero", "normal"])
def test_the_anomaly_map_is_of_z_scores(with_positions: EfficientAd, border: str):
    maps = replace(with_positions.fitted.maps, border=border)
    pair = maps.raw(maps.geometry.prepare(scratched(61)[0]))
    z_scores = maps.statistics.z_scores(maps.cells(*pair))
    found = maps.anomaly_map(*pair)
    np.testing.assert_array_equal(found, maps.at_input_size(z_scores))
    rows, columns, value = maps.placement(maps.cells_hw)
    np.testing.assert_allclose(found, rows @ (z_scores - value) @ columns.T + value, atol=1e-4)
    assert found.max() <= z_scores.max() + 1e-4
    assert replace(maps, statistics=None).anomaly_map(*pair) == pytest.approx(maps.joined(*pair))


# Model folders that are not what they should be


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda h: h["quantiles"].update(student=[2.0, 1.0]), "quantiles.student: expected two rising numbers"),
        (lambda h: h["quantiles"].update(student=[0.0, 1e300]), "quantiles.student: expected a number"),
        (lambda h: h["quantiles"].pop("autoencoder"), "KeyError: 'autoencoder'"),
        (lambda h: h.update(autoencoder_share=0.7), "autoencoder_share: expected a number from 0 to 0.5"),
        (lambda h: h["settings"].update(lr="fast"), "lr: expected a number from 0 to 1"),
        (lambda h: h["settings"].update(teacher=3), "teacher: expected a path, got 3"),
        (lambda h: h["settings"].pop("seed"), "settings: expected"),
        (lambda h: h["settings"].update(image_size=64), "input: expected .64, 64., None as the settings say"),
        (
            lambda h: h["settings"].update(image_size=80) or h["input"].update(resize_hw=[80, 80]),
            "image: expected uint8",
        ),
        (lambda h: h["thresholds"].update(image=9.0), "thresholds.image: expected"),
        (lambda h: h["thresholds"].update(image_scores=[]), "scores: expected float64"),
        (lambda h: h.update(history=[]), "history: expected a dict, got list"),
        (lambda h: h.update(training=3), "training: expected a list"),
        (lambda h: h.update(detector="patchcore"), "bank.safetensors: expected a file of the model"),
    ],
)
def test_a_header_that_does_not_fit_is_refused(folder: Path, change: Any, text: str):
    rewrite(folder, change)
    with pytest.raises(ModelFileError, match=text):
        EfficientAd.load(folder)


def test_a_changed_byte_is_refused(folder: Path):
    path = folder / "network.onnx"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(ModelFileError, match=r"network\.onnx: expected SHA-256"):
        EfficientAd.load(folder)


def test_another_network_is_refused(folder: Path):
    from tests.models import network

    replace_file(folder, "network.onnx", network(output="student_map").SerializeToString())
    with pytest.raises(ModelFileError, match=r"network\.onnx: expected output autoencoder_map"):
        EfficientAd.load(folder)


def test_a_patchcore_folder_is_refused(saved: Path):
    with pytest.raises(ModelFileError, match="detector: expected efficientad, got 'patchcore'"):
        EfficientAd.load(saved)


def test_saving_over_strangers_files_is_refused(trained: EfficientAd, tmp_path: Path):
    (tmp_path / "holiday.jpg").write_bytes(b"mine")
    with pytest.raises(SaveError, match=r"holiday\.jpg"):
        trained.save(tmp_path)


def test_nothing_works_before_fitting(teacher: Path, tmp_path: Path):
    model = small_efficientad(teacher)
    for call in (
        lambda: model.predict(good(0)),
        lambda: model.predict_many([good(0)]),
        lambda: model.save(tmp_path / "m"),
        lambda: model.set_false_positive_rate(0.1),
        model.header,
        lambda: model.threshold,
        lambda: model.calibration,
    ):
        with pytest.raises(NotFittedError, match=r"EfficientAd: expected a fitted detector.*Call fit\(\)"):
            call()
    assert model.summary == ""


# Bad input


def test_a_teacher_that_is_not_there(tmp_path: Path):
    with pytest.raises(ModelFileError, match=r"absent\.pth"):
        small_efficientad(tmp_path / "absent.pth")


@pytest.mark.parametrize("n", [0, 3])
def test_too_few_images(teacher: Path, n: int):
    text = f"good images: expected at least 4, got {n} that can be read. Give at least 4"
    with pytest.raises(DataError, match=text):
        small_efficientad(teacher).fit(goods(n))


def test_too_few_that_can_be_decoded(teacher: Path, tmp_path: Path):
    paths = write_goods(tmp_path, 5)
    for seed in (0, 2):
        cut_off(paths[seed], good(seed))
    with pytest.raises(DataError, match=r"expected at least 4, got 3 that can be read and 2 broken.*000\.png"):
        small_efficientad(teacher).fit(paths)


@pytest.mark.slow
def test_broken_images_are_left_out_wherever_they_are(teacher: Path, tmp_path: Path):
    paths = write_goods(tmp_path / "good", 6)
    cut_off(paths[1], good(1))
    write(tmp_path / "other" / "0.png", good(9, 128, 128))
    cut_off(tmp_path / "other" / "1.png", good(8))
    model = small_efficientad(teacher, imagenet_dir=tmp_path / "other", max_steps=12).fit(paths)
    assert [problem.path.name for problem in model.problems] == ["001.png", "1.png"]
    assert len(model.fitted.training.paths) == 5


@pytest.mark.slow
def test_constant_and_tiny_images_are_fitted(teacher: Path):
    plain = np.full((20, 16, 3), 127, np.uint8)
    model = small_efficientad(teacher).fit([plain] * 5)
    marked = plain.copy()
    marked[5:12, 5:12] = 255
    assert np.isfinite(model.predict(plain).score)
    assert model.predict(marked).score > model.predict(plain).score
    assert model.predict(plain).anomaly_map.shape == (20, 16)


@pytest.mark.slow
def test_divergence_keeps_the_last_copy_of_the_weights(teacher: Path, monkeypatch: pytest.MonkeyPatch):
    step = Training.step

    def diverging(self: Training, k: int, rate: float, share: float):
        losses = step(self, k, rate, share)
        return losses._replace(student=float("nan")) if k == 2 else losses

    monkeypatch.setattr(Training, "step", diverging)
    model = small_efficientad(teacher).fit(goods(5))
    assert model.warning.startswith("Training diverged at step 3 (loss NaN); the weights of step 0 are kept.")
    assert model.warning in model.summary
    assert np.isfinite(model.predict(good(0)).score)


@pytest.mark.slow
def test_a_kill_is_gone_on_from(teacher: Path, tmp_path: Path):
    def interrupt(stage: str, done: int, total: int) -> None:
        if stage.startswith("training") and done == 2:
            raise KeyboardInterrupt

    state = tmp_path / "state.safetensors"
    whole = small_efficientad(teacher).fit(goods(5))
    part = small_efficientad(teacher, checkpoint=state)
    with pytest.raises(KeyboardInterrupt):
        part.fit(goods(5), progress=interrupt)
    assert not part.is_fitted
    found = load_checkpoint(state, {})
    assert found is not None
    assert found.state["n_steps"] == 2
    rest = small_efficientad(teacher, checkpoint=state).fit(goods(5))
    assert rest.fitted.maps.model == whole.fitted.maps.model
    with pytest.raises(InputError, match=r"checkpoint: expected one made with lr 0.0001, got .*state\.safetensors"):
        small_efficientad(teacher, checkpoint=state, lr=1e-4).fit(goods(5))
    with pytest.raises(InputError, match="checkpoint: expected one made with images"):
        small_efficientad(teacher, checkpoint=state).fit(goods(6))


@pytest.mark.slow
def test_an_interrupted_fit_leaves_what_was_fitted_before(teacher: Path):
    model = small_efficientad(teacher).fit(goods(5))
    before = model.predict(good(9)).score

    def interrupt(stage: str, done: int, total: int) -> None:
        if stage == "calibrating":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.fit(goods(6), progress=interrupt)
    assert model.predict(good(9)).score == before


@pytest.mark.slow
def test_a_loaded_detector_is_fitted_again_with_its_teacher_alone(teacher: Path, trained: EfficientAd, tmp_path: Path):
    own = write_teacher(tmp_path)
    model = EfficientAd.load(small_efficientad(own).fit(goods(5)).save(tmp_path / "m"))
    assert model.fit(goods(5)).is_fitted
    other = EfficientAd.load(tmp_path / "m")
    own.write_bytes(write_teacher(tmp_path, seed=1).read_bytes())
    with pytest.raises(InputError, match=r"teacher: expected those of the model, SHA-256"):
        other.fit(goods(5))


@pytest.mark.slow
def test_tall_images_keep_their_aspect_ratio(teacher: Path, tmp_path: Path):
    images = [good(i, 120, 60) for i in range(6)]
    model = small_efficientad(teacher, image_size=64).fit(images)
    assert model.fitted.geometry.network_hw == (91, 45)
    assert model.predict(images[0]).anomaly_map.shape == (120, 60)
    model.save(tmp_path / "m")
    assert EfficientAd.load(tmp_path / "m").predict(images[1]).score == model.predict(images[1]).score
    with pytest.raises(InputError, match="crop: expected a multiple of 4 up to 4 outputs, got 8"):
        small_efficientad(teacher, image_size=64, crop=8).fit(images)


def test_memory_grows_with_the_images_until_the_cache_is_full(teacher: Path):
    model = small_efficientad(teacher, image_size=256)
    few, more, many = (model.estimated_bytes(n) for n in (10, 20, 10_000))
    assert more - few == 10 * (256 * 256 * 3 + 56 * 56 * 32 * 2)
    assert many < 2**30 + 10_000 * 256 * 256 * 3 + 3 * 2**30


def test_the_time_of_a_fit_is_its_budget(teacher: Path):
    assert small_efficientad(teacher, budget="2m").estimated_seconds([]) == 120
    assert small_efficientad(teacher).estimated_seconds([]) is None


def test_a_processor_is_told_of_patchcore(teacher: Path, monkeypatch: pytest.MonkeyPatch):
    assert "PatchCore is the default" in small_efficientad(teacher).hint
    assert small_efficientad(teacher, budget="10m").hint == ""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert small_efficientad(teacher, device="cuda").hint == small_efficientad(teacher, device=None).hint == ""
    assert "PatchCore is the default" in small_efficientad(teacher).hint
