"""Fitting, for both detectors: what it takes, what it leaves out, what it refuses, and that it repeats itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from blemish import DataError, EfficientAd, InputError, Patchcore, Sample
from tests.contract import drawn, names
from tests.contract.same import assert_same

if TYPE_CHECKING:
    from tests.contract.conftest import Case


def without_times(value: Any) -> Any:
    """The content of a header but for how long things took."""
    if isinstance(value, dict):
        return {key: without_times(one) for key, one in value.items() if key not in names.TIMES}
    return [without_times(one) for one in value] if isinstance(value, list) else value


@pytest.mark.slow
def test_it_returns_itself_and_can_then_predict(case: Case, good_paths: list[Path]):
    model = case.make()
    assert not model.is_fitted
    assert model.fit(good_paths) is model
    assert model.is_fitted
    assert model.problems == ()
    assert np.isfinite([model.threshold, model.pixel_threshold]).all()
    assert_same(model.predict(good_paths[0]), case.fitted.predict(good_paths[0]))


@pytest.mark.slow
def test_paths_samples_and_arrays_are_the_same(case: Case, good_paths: list[Path]):
    kinds: list[list[Any]] = [
        [Sample(path, "train") for path in good_paths],
        [str(path) for path in good_paths],
        [drawn.good(seed) for seed in range(len(good_paths))],
    ]
    for images in kinds if case.kind is Patchcore else kinds[-1:]:
        assert case.make().fit(images).threshold == case.fitted.threshold


@pytest.mark.slow
def test_the_same_seed_gives_the_same_model_folder(case: Case, good_paths: list[Path], tmp_path: Path):
    again = case.make().fit(good_paths).save(tmp_path / "again")
    assert sorted(path.name for path in again.iterdir()) == sorted(path.name for path in case.saved.iterdir())
    for path in again.iterdir():
        if path.name == names.HEADER:
            one, other = (json.loads((folder / path.name).read_text()) for folder in (again, case.saved))
            assert without_times(one) == without_times(other)
        else:
            assert path.read_bytes() == (case.saved / path.name).read_bytes(), path.name


@pytest.mark.slow
def test_a_broken_file_is_left_out_and_listed(case: Case, good_paths: list[Path], tmp_path: Path):
    cut, empty = drawn.cut_off(tmp_path / "cut.png"), tmp_path / "empty.png"
    empty.touch()
    model = case.make().fit([good_paths[0], cut, *good_paths[1:], empty])
    assert {problem.path for problem in model.problems} == {cut, empty}
    assert all(problem.kind == "unreadable" and problem.path.name in problem.text for problem in model.problems)
    assert not any(problem.fatal for problem in model.problems)
    assert model.threshold == case.fitted.threshold


def test_too_few_images_are_refused(case: Case, good_paths: list[Path], tmp_path: Path):
    model = case.make()
    (tmp_path / "empty.png").touch()
    for images in ([], good_paths[: case.least - 1], [*good_paths[: case.least - 1], tmp_path / "empty.png"]):
        with pytest.raises(DataError, match=f"at least {case.least}"):
            model.fit(images)
    assert not model.is_fitted


@pytest.mark.slow
def test_what_was_fitted_stays_where_a_fit_fails(case: Case, good_paths: list[Path]):
    model = case.kind.load(case.saved, threads=1)
    with pytest.raises((DataError, InputError)):
        model.fit(good_paths[:1])
    assert_same(model.predict(good_paths[0]), case.fitted.predict(good_paths[0]))


@pytest.mark.slow
def test_an_update_learns_more_good_images(case: Case, good_paths: list[Path], tmp_path: Path):
    more = drawn.write_good(tmp_path / "more", 15)[12:]
    model = case.kind.load(case.saved, threads=1)
    updated = model.update(more)
    training = updated.fitted.training
    assert [path for path, review in zip(training.paths, training.reviews, strict=True) if review] == list(
        map(str, more)
    )
    assert len(training.paths) == len(good_paths) + 3
    loaded = case.kind.load(updated.save(tmp_path / "m"), threads=1)
    assert_same(loaded.predict(good_paths[0]), updated.predict(good_paths[0]))
    assert_same(model.predict(good_paths[0]), case.fitted.predict(good_paths[0]))


def test_an_array_that_is_no_image_is_refused(case: Case):
    images: list[Any] = [drawn.good(seed) for seed in range(5)]
    with pytest.raises(InputError, match="uint8"):
        case.make().fit([*images, np.zeros((8, 8, 3))])


@pytest.mark.slow
def test_progress_is_told(patchcore: Case, good_paths: list[Path]):
    told: list[tuple[str, int, int]] = []
    patchcore.make().fit(good_paths, progress=lambda stage, done, total: told.append((stage, done, total)))
    assert told
    assert all(isinstance(stage, str) and 0 <= done <= total for stage, done, total in told)


def test_memory_is_estimated_before_a_fit(case: Case):
    few, many = (case.make().estimated_bytes(n) for n in (10, 1000))
    assert 0 < few <= many


def test_the_time_of_a_fit_of_seconds_is_not_estimated(case: Case, good_paths: list[Path]):
    assert case.make().estimated_seconds(good_paths) is None


@pytest.mark.parametrize(
    ("kind", "changes", "name"),
    [
        (Patchcore, {"image_size": 0}, "image_size"),
        (Patchcore, {"coreset_sampling_ratio": 0.0}, "coreset_sampling_ratio"),
        (Patchcore, {"num_neighbors": 0}, "num_neighbors"),
        (Patchcore, {"scaling": "log"}, "scaling"),
        (Patchcore, {"backbone": "alexnet"}, "alexnet"),
        (Patchcore, {"rate": 1.5}, names.RATE),
        (Patchcore, {"pre_trained": False}, "pre_trained"),
        (EfficientAd, {"model_size": "large"}, "model_size"),
        (EfficientAd, {"max_steps": 0}, "max_steps"),
        (EfficientAd, {"budget": "soon"}, "budget"),
        (EfficientAd, {"rate": -0.1}, names.RATE),
    ],
)
def test_a_setting_that_cannot_be_is_refused_at_once(kind: Any, changes: dict[str, Any], name: str):
    with pytest.raises(InputError, match=name):
        kind(**names.settings(**changes))


@pytest.mark.parametrize("kind", [Patchcore, EfficientAd])
def test_an_argument_of_anomalibs_that_means_nothing_here_says_so(kind: Any):
    with pytest.raises(InputError, match="pre_processor"):
        kind(pre_processor=None)
