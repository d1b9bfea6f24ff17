"""The template of detectors, on the smallest detector there can be."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Barrier
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from blemish import EfficientAd, Padim, Patchcore, Prediction
from blemish.detectors.base import MAX_AT_ONCE, Detector, DetectorState, Scored
from blemish.detectors.constructor import constructor
from blemish.detectors.settings import Settings, describe_settings, number, options, setting
from blemish.errors import InputError, NotFittedError
from blemish.imaging.geometry import Geometry
from blemish.modelfolder.header import Training
from blemish.ops.conformal import Calibration
from blemish.types import ImageInput, Problem, Progress, UInt8
from tests.images import cut_off, good, goods, write
from tests.models import network

if TYPE_CHECKING:
    from blemish.data.training_images import TrainingImages
    from blemish.modelfolder.folder import ModelFolder

CALIBRATION = Calibration.from_scores([1.0, 2.0, 3.0], 0.25)


@dataclass(frozen=True, kw_only=True)
class BrightnessSettings(Settings):
    factor: float = setting(1.0, "Factor of the brightness.", number(0, 10, positive=True), option="factor")


@dataclass(frozen=True, kw_only=True)
class BrightnessState(DetectorState):
    @property
    def network(self) -> bytes:
        return network().SerializeToString()

    def tensors(self) -> dict[str, dict[str, np.ndarray[Any, Any]]]:
        return {}


class Brightness(Detector[BrightnessSettings, BrightnessState]):
    """Scores the brightness of an image.

    Args:
        {settings}
    """

    name = "brightness"
    settings_type = BrightnessSettings
    __init__ = constructor(BrightnessSettings)

    def _fit(self, images: TrainingImages, progress: Progress) -> BrightnessState:
        pairs = images.prepared(Geometry((32, 32)), range(len(images)), stage="reading images", progress=progress)
        scores = [self.settings.factor * float(image.mean()) for _, image in pairs]
        calibration = Calibration.from_scores(scores, self.settings.false_positive_rate)
        return BrightnessState(
            geometry=Geometry((32, 32)),
            image_calibration=calibration,
            pixel_calibration=calibration,
            training=Training(tuple(images.names), tuple(images.sizes_hw)),
            provenance={"seed": self.settings.seed},
        )

    def _score(self, image: UInt8, network_input: UInt8, state: BrightnessState) -> Scored:
        grey = image.mean(axis=2, dtype=np.float32)
        return Scored(self.settings.factor * float(grey.mean()), grey)

    @classmethod
    def _read(cls, model: ModelFolder, settings: Any, common: Mapping[str, Any]) -> BrightnessState:
        return BrightnessState(**common)

    def estimated_bytes(self, n_images: int) -> int:
        return n_images

    def estimated_seconds(self, samples: Sequence[ImageInput]) -> float | None:
        return None


def calibrated(image: Calibration = CALIBRATION) -> Brightness:
    """A detector with this calibration, without a fit."""
    state = BrightnessState(
        geometry=Geometry((32, 32)),
        image_calibration=image,
        pixel_calibration=CALIBRATION,
        training=Training(),
        provenance={},
    )
    return Brightness.from_state(BrightnessSettings(false_positive_rate=0.25), state)


def test_a_prediction_follows_from_score_and_map():
    image = np.zeros((6, 8, 3), np.uint8)
    image[2, 3:5] = 4
    found = calibrated().predict(image)
    assert (found.label, found.threshold, found.p_value) == (False, 3.0, 1.0)
    assert (found.peak_xy, found.regions[0].box) == ((3, 2), (3, 2, 2, 1))
    assert found.mask.sum() == 2
    assert calibrated().predict(np.full((6, 8, 3), 3, np.uint8)).label is False
    assert calibrated().predict(np.full((6, 8, 3), 4, np.uint8)).label is True


def test_with_a_pixel_share_good_images_have_no_regions():
    image = np.zeros((6, 8, 3), np.uint8)
    image[2, 3:5] = 4
    detector = calibrated()
    shared = Brightness.from_state(detector.settings, replace(detector.fitted, pixel_share=0.01))
    for bright, label in ((image, False), (np.maximum(image, 3) + 1, True)):
        found, before = shared.predict(bright), detector.predict(bright)
        assert found.label == before.label == label
        assert before.mask.any()
        assert (found.mask.any(), bool(found.regions)) == (label, label)
        np.testing.assert_array_equal(found.anomaly_map, before.anomaly_map)


def test_with_a_pixel_share_the_blur_of_a_strong_defect_is_no_region():
    image = np.full((6, 8, 3), 10, np.uint8)
    image[2, 3:5] = 40
    image[2, 5] = 13  # above the pixel threshold of 3, and below .35 of the highest value
    detector = calibrated()
    shared = Brightness.from_state(detector.settings, replace(detector.fitted, pixel_share=0.01))
    assert detector.predict(image).mask.all()
    found = shared.predict(image)
    assert found.label
    assert [region.box for region in found.regions] == [(3, 2, 2, 1)]
    assert found.mask.sum() == 2
    assert found.pixel_threshold == detector.pixel_threshold


def test_up_to_the_upper_threshold_an_image_is_to_be_looked_at_again():
    image = Calibration.from_scores(np.arange(1.0, 81.0), 0.25, "tail")
    detector = calibrated(image)
    for value, outcome in ((10, "good"), (int(image.threshold) + 1, "look again"), (255, "defective")):
        found = detector.predict(np.full((6, 8, 3), value, np.uint8))
        assert (found.outcome, found.label) == (outcome, outcome != "good")
        assert found.upper_threshold == image.upper_threshold
        assert found.to_dict()["outcome"] == outcome
    conformal = calibrated(Calibration.from_scores(np.arange(1.0, 101.0), 0.25))
    found = conformal.predict(np.full((6, 8, 3), 101, np.uint8))
    assert (found.outcome, found.upper_threshold) == ("defective", None)


def test_the_good_peak_is_the_lower_quartile_of_the_highest_map_values():
    for n, good_peak in ((1, 1.0), (4, 1.0), (5, 2.0), (99, 25.0)):
        pixel = Calibration.from_scores(np.arange(1.0, n + 1), 0.25)
        detector = Brightness.from_state(BrightnessSettings(), replace(calibrated().fitted, pixel_calibration=pixel))
        assert detector.predict(np.zeros((2, 2, 3), np.uint8)).good_peak == good_peak


def test_many_are_in_order_and_broken_ones_are_problems(tmp_path: Path):
    paths = [
        write(tmp_path / "a.png", good(0)),
        cut_off(tmp_path / "b.png", good(1)),
        write(tmp_path / "c.png", good(2)),
    ]
    first, second, third = calibrated().predict_many(paths)
    assert not isinstance(first, Problem)
    assert not isinstance(third, Problem)
    assert first.path == paths[0]
    assert first.score == pytest.approx(good(0).mean(), rel=1e-5)
    assert isinstance(second, Problem)
    assert (second.path, second.kind) == (paths[1], "unreadable")
    assert third.path == paths[2]


@pytest.mark.parametrize(("threads", "at_once"), [(1, 1), (2, 2), (16, MAX_AT_ONCE)])
def test_several_are_predicted_at_a_time(threads: int, at_once: int):
    together = Barrier(at_once, timeout=20)
    running: list[int] = []

    class Waiting(Brightness):
        def _score(self, image: UInt8, network_input: UInt8, state: BrightnessState) -> Scored:
            running.append(1)
            assert len(running) <= at_once
            together.wait()
            running.pop()
            return super()._score(image, network_input, state)

    images = [np.full((2, 2, 3), value, np.uint8) for value in range(4 * at_once)]
    found = Waiting.from_state(BrightnessSettings(threads=threads), calibrated().fitted).predict_many(images)
    assert [one.score for one in found if isinstance(one, Prediction)] == list(range(4 * at_once))


def test_it_is_fitted_once_enough_images_are_there(tmp_path: Path):
    model = Brightness(factor=2.0, false_positive_rate=0.3)
    with pytest.raises(NotFittedError, match="Brightness: expected a fitted detector, got one never fitted"):
        model.predict(good(0))
    assert not model.is_fitted
    broken = cut_off(tmp_path / "b.png", good(1))
    stages: list[str] = []
    assert model.fit([*goods(4), broken], progress=lambda stage, done, total: stages.append(stage)) is model
    assert (model.is_fitted, set(stages), [one.path for one in model.problems]) == (True, {"reading images"}, [broken])
    assert model.threshold == model.pixel_threshold == model.calibration.threshold > 100


def test_an_image_that_drifts_is_said_to(tmp_path: Path):
    model = Brightness().fit(goods(6))
    dark = (goods(1)[0] * 0.2).astype(np.uint8)
    path = write(tmp_path / "dark.png", dark)
    many = [one.drift for one in model.predict_many([path, goods(1)[0]]) if isinstance(one, Prediction)]
    assert [model.predict(dark).drift, *many] == ["darker than the good images"] * 2 + [""]
    assert model.predict(dark).to_dict()["drift"] == "darker than the good images"
    assert calibrated().predict(dark).drift == ""  # of a model without a range
    assert "good_range" not in calibrated().header()
    assert set(model.header()["good_range"]) == {"brightness", "contrast", "sharpness", "colour"}


def test_thresholds_follow_the_rate():
    model = calibrated(Calibration.from_scores(np.arange(1.0, 101.0), 0.25))
    before = model.threshold
    model.set_false_positive_rate(0.05)
    assert model.threshold > before
    assert (model.false_positive_rate, model.settings.false_positive_rate) == (0.05, 0.05)
    with pytest.raises(InputError, match="false_positive_rate"):
        model.set_false_positive_rate(1.5)


def test_settings_are_declared_once():
    assert list(inspect.signature(Brightness).parameters)[:1] == ["false_positive_rate"]
    assert set(inspect.signature(Brightness).parameters) == {
        "false_positive_rate", "calibration", "bit_depth", "seed", "threads", "factor"
    }  # fmt: skip
    assert "factor: Factor of the brightness." in (inspect.getdoc(Brightness) or "")
    row = describe_settings(BrightnessSettings)[0]
    assert row == ("factor", "1.0", "float", "--factor", "Factor of the brightness.")
    assert options(BrightnessSettings)["factor"].name == "factor"
    assert Brightness(factor=3).settings.to_dict() == {
        "factor": 3, "false_positive_rate": 0.02, "calibration": "tail", "bit_depth": None, "seed": 0
    }  # fmt: skip
    with pytest.raises(InputError, match="factor: expected a number above 0, got 0"):
        Brightness(factor=0)
    with pytest.raises(InputError, match="pre_processor: expected to be left out"):
        Brightness(pre_processor=None)
    with pytest.raises(TypeError, match="brightness"):
        Brightness(brightness=1)


@pytest.mark.parametrize("kind", [Patchcore, Padim, EfficientAd])
def test_each_setting_is_documented_on_its_class(kind: type[Any]):
    text = inspect.getdoc(kind) or ""
    for row in describe_settings(kind.settings_type):
        assert f"{row.name}: " in text
        assert len(row.help) > 5


@pytest.mark.parametrize("threads", [0, 257, 1.5])
def test_threads_are_checked(threads: float):
    with pytest.raises(InputError, match="threads: expected a whole number from 1 to 256"):
        Settings(threads=threads)  # type: ignore[arg-type]


def test_one_thread_per_core(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("blemish.runtime.cores.usable_cores", lambda: 7)
    assert Settings().n_threads == 7
    assert replace(Settings(), threads=3).n_threads == 3
