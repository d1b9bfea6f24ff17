"""The image score adds up what is surprising of the worst patch and of the whole picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from blemish import Patchcore
from blemish.embedding import Moments
from blemish.errors import InputError, ModelFileError
from blemish.gaussian import PictureGaussian
from blemish.surprise import Tail
from blemish.whole import WholePicture
from tests.models import replace_file
from tests.pictures import good, goods, scratched, small_patchcore


def fitted_whole(n: int = 20) -> tuple[WholePicture, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    summaries, patch = rng.normal(size=(n, 4)).astype(np.float32), rng.exponential(size=n)
    moments = Moments()
    moments.add(summaries)
    whole, scores = WholePicture.fitted(moments, summaries, patch)
    return whole, scores, summaries, patch


def test_both_surprises_come_from_the_tails():
    whole, _, _, patch = fitted_whole()
    new = np.full(4, 2, np.float32)
    expected = Tail.from_scores(patch).surprise(1.5), whole.picture.surprise(whole.gaussian.distance(new))
    assert whole.surprises(1.5, new) == pytest.approx(expected)


def test_good_pictures_are_scored_without_themselves():
    whole, scores, summaries, patch = fitted_whole()
    for i in (0, 7):
        others = Moments()
        others.add(np.delete(summaries, i, axis=0))
        alone = PictureGaussian.from_moments(others).distance(summaries[i])
        assert whole.good_scores[1, i] == pytest.approx(alone, rel=0.02)  # the shrinkage alone is that of all
        tails = [Tail.from_scores(np.delete(row, i)) for row in whole.good_scores]
        assert scores[i] == pytest.approx(tails[0].surprise(patch[i]) + tails[1].surprise(whole.good_scores[1, i]))


def test_what_is_unusual_everywhere_is_found():
    flat = [np.clip(good(seed) * 0.55 + 45, 0, 255).astype(np.uint8) for seed in range(50, 54)]
    with_whole = small_patchcore(whole_picture=True).fit(goods())
    for picture in flat:
        found = with_whole.predict(picture)
        assert found.label
        assert found.evidence["picture"] > 3
        assert found.score == pytest.approx(sum(found.evidence.values()))


def test_patches_alone_give_no_evidence():
    found = small_patchcore().fit(goods()).predict(scratched(9)[0])
    assert found.evidence == {}
    assert found.to_dict()["evidence"] == {}


def test_the_map_is_that_of_the_patches():
    picture = scratched(9)[0]
    maps = [small_patchcore(whole_picture=w).fit(goods()).predict(picture).anomaly_map for w in (True, False)]
    np.testing.assert_array_equal(maps[0], maps[1])


def test_a_loaded_detector_predicts_bit_for_bit(tmp_path: Path):
    fitted = small_patchcore(whole_picture=True).fit(goods())
    loaded = Patchcore.load(fitted.save(tmp_path / "model"))
    for picture in (good(77), scratched(78)[0]):
        assert loaded.predict(picture).score == fitted.predict(picture).score
        assert loaded.predict(picture).evidence == fitted.predict(picture).evidence


@pytest.mark.parametrize("wrong", ["missing", "shape", "infinite"])
def test_a_folder_whose_parts_do_not_fit_is_refused(wrong: str, tmp_path: Path):
    from safetensors.numpy import load, save

    folder = small_patchcore(whole_picture=True).fit(goods(4)).save(tmp_path / "model")
    tensors = load((folder / "bank.safetensors").read_bytes())
    if wrong == "missing":
        del tensors["summary_whitening"]
    elif wrong == "shape":
        tensors["summary_whitening"] = tensors["summary_whitening"][:, :-1].copy()
    else:
        tensors["summary_whitening"][0, 0] = np.inf
    replace_file(folder, "bank.safetensors", save(tensors))
    with pytest.raises(ModelFileError, match="summary_whitening: expected finite float32"):
        Patchcore.load(folder)


def test_anomalib_has_no_such_thing():
    assert not Patchcore(arithmetic="anomalib").settings.whole_picture


def test_the_setting_is_checked():
    with pytest.raises(InputError, match="whole_picture: expected True or False, got 'no'"):
        Patchcore(whole_picture="no")  # type: ignore[arg-type]
