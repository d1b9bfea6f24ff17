"""A detector that learns reviewed images: which images, their parts and reviews, and what is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from blemish import InputError, Padim, Patchcore, Sample
from tests.images import good, small_patchcore, write, write_goods


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("update")
    write_goods(folder / "good", 6)
    for seed in range(20, 24):
        write(folder / "reviewed" / f"{seed}.png", good(seed))
    return folder


@pytest.fixture(scope="module")
def fitted(folder: Path) -> Patchcore:
    return small_patchcore().fit(sorted((folder / "good").iterdir()))


@pytest.mark.slow
def test_an_update_is_the_fit_on_all_good_images(fitted: Patchcore, folder: Path):
    reviewed = sorted((folder / "reviewed").iterdir())
    before = fitted.calibration.scores.copy()
    updated = fitted.update(reviewed)
    whole = small_patchcore().fit([*sorted((folder / "good").iterdir()), *reviewed])
    np.testing.assert_array_equal(updated.calibration.scores, whole.calibration.scores)
    assert updated.fitted.training.paths == whole.fitted.training.paths
    assert updated.predict(good(30)).score == whole.predict(good(30)).score
    np.testing.assert_array_equal(fitted.calibration.scores, before)
    assert len(fitted.fitted.training.paths) == 6


@pytest.mark.slow
def test_the_version_before_is_named_where_it_is_in_a_folder(fitted: Patchcore, folder: Path, tmp_path: Path):
    reviewed = sorted((folder / "reviewed").iterdir())
    saved = fitted.save(tmp_path / "m")
    loaded = Patchcore.load(saved)
    updated = Patchcore.load(loaded.update(reviewed).save(tmp_path / "n"))
    provenance = updated.fitted.provenance
    assert provenance["n_reviewed"] == 4
    assert provenance["parent"] == fitted._origin.digest  # type: ignore[union-attr]
    assert small_patchcore().fit(reviewed).update([good(40)]).fitted.provenance["parent"] == ""


@pytest.mark.slow
def test_reviewed_and_confirmed_images_are_confirmed_and_dropped_ones_stay_out(fitted: Patchcore, folder: Path):
    names = [str(path) for path in sorted((folder / "good").iterdir())]
    reviewed = sorted((folder / "reviewed").iterdir())
    before = fitted.without([names[0]]).confirmed([names[1]])
    training = before.update(reviewed).fitted.training
    assert names[0] not in training.paths
    marks = dict(zip(training.paths, training.reviews, strict=True))
    assert {path for path, review in marks.items() if review == "confirmed"} == {names[1], *map(str, reviewed)}


@pytest.mark.slow
def test_arrays_and_samples_are_learnt(fitted: Patchcore, folder: Path):
    sample = Sample(folder / "reviewed" / "20.png", split="test", group="part 7")
    updated = fitted.update([good(50), sample])
    training = updated.fitted.training
    assert len(training.paths) == 8
    assert training.reviews[6:] == ("confirmed", "confirmed")


@pytest.mark.slow
def test_stated_parts_stay_parts(folder: Path):
    paths = sorted((folder / "good").iterdir())
    samples = [Sample(path, "train", group=f"part {i // 2}" if i < 4 else "") for i, path in enumerate(paths)]
    samples += [Sample(path, "train") for path in sorted((folder / "reviewed").iterdir())[:3]]
    fitted = small_patchcore().fit(samples)
    assert fitted.fitted.training.groups == (0, 0, 2, 2, 4, 5, 6, 7, 8)
    updated = fitted.update([folder / "reviewed" / "23.png"])
    assert updated.fitted.training.groups == (0, 0, 2, 2, 4, 5, 6, 7, 8, 9)


@pytest.mark.slow
def test_images_that_it_has_learnt_are_left_out(fitted: Patchcore, folder: Path, tmp_path: Path):
    again = shutil.copy(folder / "good" / "000.png", tmp_path / "other-name.png")
    new = folder / "reviewed" / "20.png"
    assert fitted.update([again, new, new]).fitted.provenance["n_reviewed"] == 1
    with pytest.raises(InputError, match="good: expected images that the model has not learnt, got 1 that it has"):
        fitted.update([again])
    with pytest.raises(InputError, match="got none"):
        fitted.update([])


@pytest.mark.slow
def test_training_images_must_be_what_they_were(folder: Path, tmp_path: Path):
    paths = write_goods(tmp_path / "good", 6)
    model = small_patchcore().fit(paths)
    write(paths[2], good(99))
    with pytest.raises(InputError, match=r"1 of 6 that are absent or have changed, the first: .*002\.png. Put them"):
        model.update([folder / "reviewed" / "20.png"])
    for path in paths:
        path.unlink()
    with pytest.raises(InputError, match="6 of 6"):
        model.update([folder / "reviewed" / "20.png"])


@pytest.mark.slow
def test_images_learnt_as_arrays_are_nowhere(folder: Path):
    model = small_patchcore().fit([good(i) for i in range(6)])
    with pytest.raises(InputError, match="6 of 6 that are absent or have changed, the first: array 0"):
        model.update([folder / "reviewed" / "20.png"])


@pytest.mark.slow
def test_an_unreadable_reviewed_image_is_left_out(fitted: Patchcore, folder: Path, tmp_path: Path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    updated = fitted.update([folder / "reviewed" / "20.png", broken])
    assert [problem.path.name for problem in updated.problems] == ["broken.png"]
    assert len(updated.fitted.training.paths) == 7


@pytest.mark.slow
@pytest.mark.parametrize(
    "make", [small_patchcore, lambda: Padim(image_size=64, layers=("blocks.4",))], ids=["patchcore", "padim"]
)
def test_images_are_left_out_by_a_new_fit(make: Callable[[], Patchcore | Padim], folder: Path):
    paths = sorted((folder / "good").iterdir())
    fitted = make().fit(paths).confirmed([paths[1]])
    left = fitted.update(without=[str(paths[0])])
    others = make().fit(paths[1:])
    np.testing.assert_array_equal(left.calibration.scores, others.calibration.scores)
    assert left.fitted.training.paths == others.fitted.training.paths
    assert left.fitted.training.reviews == ("confirmed", "", "", "", "")
    assert fitted.fitted.training.paths[0] == str(paths[0])
    with pytest.raises(InputError, match="path: expected a training image of the model, got 'x'"):
        fitted.update(without=["x"])


@pytest.mark.slow
def test_a_black_image_that_was_dropped_is_no_good_one(folder: Path, tmp_path: Path):
    black = write(tmp_path / "black.png", np.zeros_like(good(0)))
    paths = [*write_goods(tmp_path / "good", 20), black]
    left = small_patchcore(score_fusion=True, calibration="tail").fit(paths).update(without=[str(black)])
    assert left.predict(black).label
    assert not left.predict(paths[0]).label
