"""Memory and time that a fit takes, estimated before it."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import pytest

from blemish import InputError
from blemish.detectors.backbone_settings import BASE_BYTES
from blemish.detectors.patchcore import cost
from blemish.detectors.patchcore.cost import LEARNING_PASSES, PILOT_IMAGES, PILOT_SHARE, estimated_seconds
from blemish.detectors.patchcore.features import N_LEARNT
from blemish.detectors.patchcore.position import judged_rows
from blemish.ops.merge_reduce import compared_pairs, coreset_bytes
from tests.images import cut_off, good, goods, small_patchcore, write_goods

# Memory


def test_memory_grows_with_the_images_until_no_more_rows_are_held():
    model = small_patchcore(max_rows=14_400)
    few, more = model.estimated_bytes(10), model.estimated_bytes(20)
    per_image = 144 * 152 * 4
    assert more - few >= 10 * per_image
    assert few > BASE_BYTES
    at_limit, beyond = model.estimated_bytes(100), model.estimated_bytes(101)
    assert beyond < 2 * at_limit  # the maps are not kept any more
    assert model.estimated_bytes(100_000) < 4 * at_limit


@pytest.mark.slow
def test_memory_is_that_of_maps_and_coreset():
    model = small_patchcore(image_size=(64, 96))
    n_rows = 50 * 8 * 12
    expected = BASE_BYTES + 4 * n_rows * 152 + coreset_bytes(n_rows, 152, n_rows // 10) + n_rows // 10 * (4 * 152 + 12)
    assert model.estimated_bytes(50) == expected
    cropped = small_patchcore(image_size=256, center_crop=(64, 96))
    assert cropped.estimated_bytes(50) == expected


@pytest.mark.slow
def test_memory_of_what_is_seen_from_further_away():
    plain, whole = (small_patchcore(image_size=(64, 96), score_fusion=w) for w in (False, True))
    parts = 2 * 3 * (50 * (112 + 64) + 64**2)  # the grid of stride 16 is 4 x 6, and half as large on each side
    summaries = 50 * 304
    assert whole.estimated_bytes(50) - plain.estimated_bytes(50) == 4 * (parts + summaries) + 32 * 304**2
    assert whole.estimated_bytes(10**6) - plain.estimated_bytes(10**6) < 2 * 10**7


@pytest.mark.parametrize("n", [0, -3, 1.5, "9"])
def test_memory_of_no_number_of_images(n: int):
    with pytest.raises(InputError, match="n_images: expected a whole number from 1 to"):
        small_patchcore().estimated_bytes(n)


# Time


@pytest.fixture
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each stage of the pilot takes one second."""
    ticks = count()
    monkeypatch.setattr(cost.time, "perf_counter", lambda: float(next(ticks)))


@pytest.mark.slow
@pytest.mark.usefixtures("_clock")
@pytest.mark.parametrize(
    ("n", "max_rows", "searched"), [(20, 500_000, 1.0), (40, 500_000, 1.0), (40, 2000, 1.0), (80, 500_000, 1152 / 1008)]
)
def test_time_is_that_of_images_pairs_and_searches(n: int, max_rows: int, searched: float):
    model = small_patchcore(max_rows=max_rows, score_fusion=True)
    n_rows, n_pilot = n * 144, PILOT_IMAGES * 144
    pairs = compared_pairs(n_rows, n_rows // 10, max_rows) / compared_pairs(n_pilot, int(PILOT_SHARE * n_pilot), 10**8)
    n_judged = len(judged_rows(n))
    read = LEARNING_PASSES * min(n, N_LEARNT) + n + n_judged + (n if n_rows > max_rows else 0)
    samples = (10 * list(goods()))[:n]
    found = estimated_seconds(model.settings, model.pretrained, samples, least=n)
    assert found == pytest.approx(read / PILOT_IMAGES + pairs + (n + n_judged) * searched)


@pytest.mark.slow
def test_the_time_of_few_images_is_not_estimated():
    model = small_patchcore()
    assert model.estimated_seconds(goods()) is None
    assert estimated_seconds(model.settings, model.pretrained, goods(), least=len(goods()) + 1) is None


@pytest.mark.slow
def test_the_time_is_estimated_beside_broken_images(tmp_path: Path):
    paths = write_goods(tmp_path)
    paths[0].write_bytes(b"no image")
    cut_off(paths[-1], good(0))
    model = small_patchcore(defect_axes=32)
    seconds = estimated_seconds(model.settings, model.pretrained, paths, least=10)
    assert seconds is not None
    assert seconds > 0


def test_the_time_of_images_that_cannot_be_read_is_left_to_the_fit(tmp_path: Path):
    broken = [tmp_path / f"{i}.png" for i in range(10)]
    for path in broken:
        path.write_bytes(b"no image")
    model = small_patchcore()
    assert estimated_seconds(model.settings, model.pretrained, broken, least=10) is None
