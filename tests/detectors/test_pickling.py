"""Detectors in worker processes: pickled by folder or by content, never another model."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import shutil
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from blemish import EfficientAd, ModelFileError, Padim, Patchcore, load
from blemish._io.json_file import plain_json
from blemish.detectors.pickling import Files
from tests.images import good, scratched, small_patchcore, write

if TYPE_CHECKING:
    from blemish.detectors.base import AnyDetector

START_METHODS = [name for name in ("spawn", "fork", "forkserver") if name in multiprocessing.get_all_start_methods()]


def by_folder(detector: Patchcore) -> bool:
    return not isinstance(detector.__reduce__()[1][2], Files)


def header_of(detector: AnyDetector) -> dict[str, Any]:
    """The content of `model.json`, without the version that a save adds."""
    header = plain_json(detector.header(), "header")
    header["provenance"].pop("library_version", None)
    return header


def same(first: AnyDetector, second: AnyDetector) -> bool:
    one, other = (detector.predict(scratched(7)[0]) for detector in (first, second))
    assert (first.settings, first.problems, header_of(first)) == (second.settings, second.problems, header_of(second))
    return one.score == other.score and np.array_equal(one.anomaly_map, other.anomaly_map)


@pytest.mark.slow
def test_a_loaded_detector_is_pickled_as_its_folder(saved: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(saved.parent)
    for detector in (load(saved.name, threads=1), Patchcore.load(saved.name), copy.copy(load(saved))):
        data = pickle.dumps(detector)
        assert len(data) < 2000
        with monkeypatch.context() as patch:
            patch.chdir(tmp_path)  # as a worker may start elsewhere
            again = pickle.loads(data)
        assert same(detector, again)
        assert again.threads == detector.threads
        assert again.fitted.training.root == detector.fitted.training.root
        assert by_folder(again)


@pytest.mark.slow
def test_a_saved_detector_is_pickled_as_its_folder(good_paths: list[Path], tmp_path: Path):
    detector = small_patchcore(coreset_size=20).fit(good_paths[:6])
    assert not by_folder(detector)
    detector.save(tmp_path / "m")
    assert by_folder(detector)
    assert same(detector, pickle.loads(pickle.dumps(detector)))


@pytest.mark.slow
def test_a_fitted_detector_is_pickled_with_its_content(fitted: Patchcore, good_paths: list[Path], tmp_path: Path):
    fitted = copy.copy(fitted)
    fitted._origin = None
    before = sorted(path.name for path in Path(os.environ.get("TMPDIR", "/tmp")).glob("blemish-*pickled-*"))
    again = pickle.loads(pickle.dumps(fitted))
    assert same(fitted, again)
    assert not by_folder(again)  # its folder is gone
    assert again.fitted.training.files() == list(good_paths)
    assert sorted(path.name for path in Path(os.environ.get("TMPDIR", "/tmp")).glob("blemish-*pickled-*")) == before
    assert again.fit(good_paths).threshold == fitted.threshold


@pytest.mark.slow
def test_what_was_changed_after_loading_travels_with_it(saved: Path, good_paths: list[Path]):
    detector = load(saved)
    detector.set_false_positive_rate(0.3)
    assert not by_folder(detector)
    again = pickle.loads(pickle.dumps(detector))
    assert (again.threshold, again.false_positive_rate) == (detector.threshold, 0.3)
    without = load(saved).without(good_paths[:1])
    assert pickle.loads(pickle.dumps(without)).threshold == without.threshold
    confirmed = load(saved).confirmed(good_paths[:1])
    assert pickle.loads(pickle.dumps(confirmed)).fitted.training.reviews[0] == "confirmed"
    refitted = load(saved)
    refitted.fit(good_paths[:5])
    assert pickle.loads(pickle.dumps(refitted)).threshold == refitted.threshold


@pytest.mark.slow
def test_another_model_in_the_folder_is_no_silent_replacement(saved: Path, tmp_path: Path):
    for change in ("rate", "gone", "damaged", "other"):
        folder = Path(shutil.copytree(saved, tmp_path / change))
        data = pickle.dumps(load(folder))
        if change == "rate":
            other = load(folder)
            other.set_false_positive_rate(0.3)
            other.save(folder)
        elif change == "gone":
            shutil.rmtree(folder)
        elif change == "damaged":
            path = folder / "bank.safetensors"
            path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1]))
        else:
            small_patchcore(seed=3, coreset_size=9).fit([good(i) for i in range(4)]).save(folder)
        with pytest.raises(ModelFileError, match=rf"in {folder}.*\.") as error:
            pickle.loads(data)
        assert ("the model that was pickled, digest" in str(error.value)) == (change in {"rate", "other"})


@pytest.mark.slow
def test_a_save_of_another_process_between_saving_and_pickling_is_seen(fitted: Patchcore, tmp_path: Path):
    detector = copy.copy(fitted)
    detector.save(tmp_path / "m")
    other = load(tmp_path / "m")
    other.set_false_positive_rate(0.4)
    other.save(tmp_path / "m")
    with pytest.raises(ModelFileError, match="expected the model that was pickled"):
        pickle.loads(pickle.dumps(detector))


@pytest.mark.slow
def test_an_unfitted_detector_is_pickled_as_its_settings(good_paths: list[Path]):
    detector = small_patchcore(threads=1, seed=5)
    again = pickle.loads(pickle.dumps(detector))
    assert (again.settings, again.is_fitted) == (detector.settings, False)
    assert again.fit(good_paths[:4]).threshold == detector.fit(good_paths[:4]).threshold


@pytest.mark.slow
def test_every_detector_can_be_pickled(good_paths: list[Path], tmp_path: Path):
    padim = Padim(image_size=96, layers=("blocks.4",), n_features=10).fit(good_paths)
    assert same(padim, pickle.loads(pickle.dumps(padim)))
    assert pickle.loads(pickle.dumps(EfficientAd(max_steps=3))).settings == EfficientAd(max_steps=3).settings


@pytest.mark.slow
def test_deep_copies_are_whole(fitted: Patchcore):
    assert same(fitted, copy.deepcopy(fitted))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("method", START_METHODS)
def test_process_pools_predict_the_same(saved: Path, fitted: Patchcore, method: str, tmp_path: Path):
    changed = load(saved)
    changed.set_false_positive_rate(0.3)
    paths = [write(tmp_path / f"{i}.png", scratched(i)[0]) for i in range(3)]
    for detector in (load(saved, threads=1), changed):
        detector.predict(paths[0])  # its threads run when the process forks
        wanted = [detector.predict(path).to_dict() for path in paths]
        with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(method)) as pool:
            assert [prediction.to_dict() for prediction in pool.map(detector.predict, paths)] == wanted
        with multiprocessing.get_context(method).Pool(2) as workers:
            assert [prediction.to_dict() for prediction in workers.map(detector.predict, paths)] == wanted
