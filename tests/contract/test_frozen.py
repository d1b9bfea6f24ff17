"""Models of every earlier format version are read, and judge the same images the same."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from blemish import EfficientAd, Prediction
from tests.contract import drawn, names
from tests.contract.same import assert_same

if TYPE_CHECKING:
    from tests.contract.conftest import Frozen


def assert_as_frozen(frozen: Frozen, key: str, found: Prediction) -> None:
    """Fail unless a prediction is the frozen one, as far as another processor rounds alike.

    EfficientAD's maps are small differences of large features, and its score is a map's maximum: 1e-4 of the larger of
    it and 1, the distance between good images' quantiles being 0.1. PatchCore's scores are held to 1e-5.
    """
    wanted = {name.partition("/")[2]: value for name, value in frozen.predicted.items() if name.startswith(f"{key}/")}
    close = 1e-4 if frozen.kind is EfficientAd else 1e-5
    floor = close if frozen.kind is EfficientAd else 0.0
    for field in ("score", "threshold", "pixel_threshold", "p_value"):
        np.testing.assert_allclose(getattr(found, field), wanted[field], rtol=close, atol=floor, err_msg=field)
    assert found.label == bool(wanted["label"])
    expected, found_map = wanted["anomaly_map"], found.anomaly_map
    tolerance = 1e-4 * max(float(np.abs(expected).max()), 1.0 if frozen.kind is EfficientAd else 0.0)
    np.testing.assert_allclose(found_map, expected, rtol=0, atol=tolerance)
    clear = np.abs(expected - found.pixel_threshold) > 2 * tolerance
    np.testing.assert_array_equal(found.mask[clear], wanted["mask"][clear])
    x, y = found.peak_xy
    assert found_map[y, x] >= expected.max() - 2 * tolerance
    if clear.all():
        assert [list(region.box) for region in found.regions] == wanted["boxes"].tolist()
    components = sorted(names.components_of(found).values())  # their names may change
    np.testing.assert_allclose(components, np.sort(wanted["components"]), rtol=1e-4, atol=1e-5)
    if "nearest_path" in wanted:
        assert found.nearest_good is not None
        assert found.nearest_good.path == str(wanted["nearest_path"])
        assert list(found.nearest_good.box) == wanted["nearest_box"].tolist()
    else:
        assert found.nearest_good is None


@pytest.mark.slow
def test_it_loads_and_predicts_what_it_did(frozen: Frozen):
    model = frozen.kind.load(frozen.folder, threads=1)
    for key, image in frozen.images.items():
        assert_as_frozen(frozen, key, model.predict(image))


@pytest.mark.slow
def test_many_at_once_are_predicted_as_one_by_one(frozen: Frozen):
    model = frozen.kind.load(frozen.folder)
    for key, found in zip(frozen.images, model.predict_many(frozen.images.values()), strict=True):
        assert isinstance(found, Prediction)
        assert_as_frozen(frozen, key, found)


@pytest.mark.slow
def test_saved_again_it_predicts_the_same_bit_for_bit(frozen: Frozen, tmp_path: Path):
    model = frozen.kind.load(frozen.folder, threads=1)
    again = frozen.kind.load(model.save(tmp_path / "again"), threads=1)
    for image in frozen.images.values():
        assert_same(again.predict(image), model.predict(image))
    for name in (names.NETWORK, names.BANK):
        if (frozen.folder / name).exists():
            assert (tmp_path / "again" / name).read_bytes() == (frozen.folder / name).read_bytes()


@pytest.mark.slow
def test_from_a_file_it_predicts_the_same(frozen: Frozen, tmp_path: Path):
    model = frozen.kind.load(frozen.folder, threads=1)
    for key in ("scratched", "grey"):
        path = drawn.write(tmp_path / f"{key}.png", frozen.images[key])
        found = model.predict(path)
        assert found.path == path
        assert_as_frozen(frozen, key, found)


@pytest.mark.slow
def test_the_threshold_of_a_frozen_model_can_be_moved(frozen: Frozen):
    model = frozen.kind.load(frozen.folder)
    before = model.threshold
    names.set_rate(model, 0.5)
    assert names.rate_of(model) == pytest.approx(0.5)
    assert model.threshold <= before


def test_the_images_are_those_that_are_drawn(frozen: Frozen):
    made = drawn.golden_images()
    assert made.keys() == frozen.images.keys()
    assert all(np.array_equal(made[name], frozen.images[name]) for name in made)
