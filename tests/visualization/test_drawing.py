import numpy as np
import pytest

from blemish.visualization.drawing import (
    PAPER,
    cut_around,
    draw_gauge,
    fitted,
    gauge_position,
    in_the_middle,
    panel_columns,
    panel_size,
    rounded_box,
    scaled,
    scaled_map,
    scaled_mask,
)


def blank(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), PAPER, np.uint8)


def test_a_rounded_box_covers_its_area_and_no_more() -> None:
    page = blank(40, 60)
    rounded_box(page, (10, 8, 30, 20), 6, (0, 0, 0))
    covered = (255 - page[..., 0].astype(float)).sum() / 255
    assert covered == pytest.approx(30 * 20 - (4 - np.pi) * 36, abs=1)
    rows, columns = np.nonzero(page[..., 0] < 255)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (8, 27, 10, 39)


def test_a_box_that_sticks_out_is_cut_off() -> None:
    page = blank(20, 20)
    rounded_box(page, (-10, -10, 20, 20), 0, (0, 0, 0))
    assert not page[:10, :10].any()
    assert (page[10:] == 255).all()


@pytest.mark.parametrize(
    ("score", "threshold", "position"),
    [(20, 20, 0.5), (0, 20, 0.0), (30, 20, 0.75), (1e9, 20, 1.0), (0.5, 0.0, 0.75), (-2, -4, 0.75), (-9, -4, 0.0)],
)
def test_the_threshold_stands_in_the_middle_of_a_gauge(score: float, threshold: float, position: float) -> None:
    assert gauge_position(score, threshold) == pytest.approx(position)


@pytest.mark.parametrize("score", [-5.0, 0.0, 10.0, 20.0, 20.1, 39.9, 40.0, 1e300])
def test_a_gauge_stays_in_its_box(score: float) -> None:
    page = blank(80, 340)
    draw_gauge(page, (20, 10, 300, 60), score, 20.0)
    outside = page.copy()
    outside[8:74, 5:335] = 255  # the arrow of a score beyond the end points out a little
    assert (outside == 255).all()
    assert (page < 255).any()


def test_the_score_stands_over_its_marker() -> None:
    page = blank(80, 340)
    draw_gauge(page, (20, 10, 300, 60), 25.0, 20.0)
    columns = np.flatnonzero((page[10:24] < 200).any(axis=(0, 2)))
    assert (columns[0] + columns[-1]) / 2 == pytest.approx(20 + 300 * 0.625, abs=4)


@pytest.mark.parametrize(
    ("height_width", "size"),
    [((100, 100), (384, 384)), ((1024, 768), (384, 288)), ((3000, 4000), (288, 384)), ((1, 1), (384, 384)),
     ((200, 4000), (50, 998)), ((4000, 200), (614, 31)), ((1, 100_000), (12, 998)), ((100_000, 1), (614, 12))],
)  # fmt: skip
def test_panels_of_any_shape_have_a_sensible_size(height_width: tuple[int, int], size: tuple[int, int]) -> None:
    assert panel_size(height_width, 384) == size


def test_wide_panels_stand_in_a_column_and_narrow_ones_in_a_row() -> None:
    assert [panel_columns(n, 1.0) for n in (3, 4, 5, 6)] == [3, 4, 3, 3]
    assert panel_columns(6, 2.6) == 1
    assert panel_columns(6, 0.5) == 6


def test_fitting_keeps_the_shape() -> None:
    assert fitted((300, 400), 200, 200) == (150, 200)


def test_an_image_that_grows_much_shows_its_pixels() -> None:
    image = np.array([[[0, 0, 0], [255, 255, 255]]], np.uint8)
    grown = scaled(image, (10, 20))
    assert set(grown.reshape(-1).tolist()) == {0, 255}
    assert not grown[:, :10].any()


def test_no_small_defect_is_lost_when_a_mask_shrinks() -> None:
    mask = np.zeros((3000, 4000), bool)
    mask[1234, 2345] = True
    small = scaled_mask(mask, (288, 384))
    assert small.sum() in {1, 2, 3, 4}
    assert small[1234 * 288 // 3000, 2345 * 384 // 4000]


def test_a_constant_map_stays_that_constant() -> None:
    for size in ((3, 5), (90, 60)):
        np.testing.assert_array_equal(scaled_map(np.full((30, 20), 7.25, np.float32), size), np.float32(7.25))


@pytest.mark.parametrize(
    ("xy", "size", "start"), [((15, 10), (4, 6), (12, 8)), ((0, 0), (4, 6), (0, 0)), ((29, 19), (4, 6), (24, 16)),
                              ((15, 10), (99, 6), (12, 0)), ((15, 10), (0, 0), (15, 10))],
)  # fmt: skip
def test_a_part_stays_inside_its_image(xy: tuple[int, int], size: tuple[int, int], start: tuple[int, int]) -> None:
    image = np.arange(20 * 30 * 3, dtype=np.int64).astype(np.uint8).reshape(20, 30, 3)
    part, corner = cut_around(image, xy, size)
    assert corner == start
    height, width = (max(1, min(a, b)) for a, b in zip(size, (20, 30), strict=True))
    np.testing.assert_array_equal(part, image[start[1] : start[1] + height, start[0] : start[0] + width])


def test_a_small_image_lies_in_the_middle() -> None:
    around = in_the_middle(np.zeros((2, 4, 3), np.uint8), (6, 8), (9, 9, 9))
    assert around.shape == (6, 8, 3)
    assert not around[2:4, 2:6].any()
    assert (around == 9).all(axis=2).sum() == 6 * 8 - 8
