"""A model folder is read as the detector that it holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from blemish import Patchcore
from blemish.detectors.registry import load
from blemish.errors import InputError, ModelFileError
from tests.images import goods, small_patchcore
from tests.models import rewrite, save_small


@pytest.mark.slow
def test_a_folder_is_the_detector_that_it_says(tmp_path: Path):
    images = goods(4)
    fitted = small_patchcore(bit_depth=12).fit(images)
    loaded = load(fitted.save(tmp_path / "model"), threads=1)
    assert isinstance(loaded, Patchcore)
    assert loaded.bit_depth == 12
    assert loaded.predict(images[0]).score == fitted.predict(images[0]).score


def test_an_unknown_detector_is_refused(tmp_path: Path):
    save_small(tmp_path / "model")
    rewrite(tmp_path / "model", lambda header: header.update(detector="cflow"))
    with pytest.raises(ModelFileError, match="detector: expected one of patchcore"):
        load(tmp_path / "model")


@pytest.mark.slow
def test_threads_are_checked(tmp_path: Path):
    model = small_patchcore().fit(goods(3)).save(tmp_path / "model")
    with pytest.raises(InputError, match="threads"):
        load(model, threads=0)
