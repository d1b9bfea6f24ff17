import numpy as np
import pytest

from blemish.visualization.scaling import (
    crop_around,
    fit_size,
    pad_to,
    panel_columns,
    panel_size,
    resize_image,
    resize_map,
    resize_mask,
)


@pytest.mark.parametrize(
    ("height_width", "size"),
    [((100, 100), (384, 384)), ((1024, 768), (384, 288)), ((3000, 4000), (288, 384)), ((1, 1), (384, 384)),
     ((200, 4000), (50, 998)), ((4000, 200), (614, 31)), ((1, 100_000), (12, 998)), ((100_000, 1), (614, 12))],
)  # fmt: skip
def test_panel_sizes_by_aspect_ratio(height_width: tuple[int, int], size: tuple[int, int]) -> None:
    assert panel_size(height_width, 384) == size


def test_wide_panels_form_a_column_and_narrow_panels_a_row() -> None:
    assert [panel_columns(n, 1.0) for n in (3, 4, 5, 6)] == [3, 4, 3, 3]
    assert panel_columns(6, 2.6) == 1
    assert panel_columns(6, 0.5) == 6


def test_fit_size_keeps_the_aspect_ratio() -> None:
    assert fit_size((300, 400), 200, 200) == (150, 200)


def test_large_enlargement_is_by_nearest_neighbour() -> None:
    image = np.array([[[0, 0, 0], [255, 255, 255]]], np.uint8)
    grown = resize_image(image, (10, 20))
    assert set(grown.reshape(-1).tolist()) == {0, 255}
    assert not grown[:, :10].any()


def test_a_single_pixel_survives_the_shrinking_of_a_mask() -> None:
    mask = np.zeros((3000, 4000), bool)
    mask[1234, 2345] = True
    small = resize_mask(mask, (288, 384))
    assert small.sum() in {1, 2, 3, 4}
    assert small[1234 * 288 // 3000, 2345 * 384 // 4000]


def test_resizing_keeps_a_constant_map() -> None:
    for size in ((3, 5), (90, 60)):
        np.testing.assert_array_equal(resize_map(np.full((30, 20), 7.25, np.float32), size), np.float32(7.25))


@pytest.mark.parametrize(
    ("xy", "size", "start"), [((15, 10), (4, 6), (12, 8)), ((0, 0), (4, 6), (0, 0)), ((29, 19), (4, 6), (24, 16)),
                              ((15, 10), (99, 6), (12, 0)), ((15, 10), (0, 0), (15, 10))],
)  # fmt: skip
def test_a_crop_is_shifted_into_the_image(xy: tuple[int, int], size: tuple[int, int], start: tuple[int, int]) -> None:
    image = np.arange(20 * 30 * 3, dtype=np.int64).astype(np.uint8).reshape(20, 30, 3)
    part, corner = crop_around(image, xy, size)
    assert corner == start
    height, width = (max(1, min(a, b)) for a, b in zip(size, (20, 30), strict=True))
    np.testing.assert_array_equal(part, image[start[1] : start[1] + height, start[0] : start[0] + width])


def test_pad_to_centres_the_image() -> None:
    around = pad_to(np.zeros((2, 4, 3), np.uint8), (6, 8), (9, 9, 9))
    assert around.shape == (6, 8, 3)
    assert not around[2:4, 2:6].any()
    assert (around == 9).all(axis=2).sum() == 6 * 8 - 8
