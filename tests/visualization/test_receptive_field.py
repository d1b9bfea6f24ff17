"""The receptive field of an output, drawn on an image."""

from __future__ import annotations

import numpy as np
import pytest

from blemish.errors import InputError
from blemish.ops.receptive_field import parse_stack, receptive_field
from blemish.visualization.primitives import DEFECTIVE
from blemish.visualization.receptive_field import MARGIN, field_figure

STACK = parse_stack("conv4,pool2/2,conv4,pool2/2,conv3,conv4")


def framed(page):
    """Top, bottom, left and right of the frame."""
    rows, columns = np.nonzero(np.all(page == DEFECTIVE, axis=2))
    return rows.min(), rows.max() + 1, columns.min(), columns.max() + 1


def test_the_frame_is_the_receptive_field():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (64, 128, 3), np.uint8)
    page = field_figure(image, receptive_field(STACK), (8, 24), (2, 3))
    top, bottom, left, right = (int(n) for n in framed(page))
    by = 5  # 640 / 128
    # The frame is drawn on the outline, half of it outside.
    assert abs(top - (MARGIN + 8 * by)) <= by
    assert abs(bottom - (MARGIN + (8 + 33) * by)) <= by
    assert abs(left - (MARGIN + 12 * by)) <= by
    assert abs(right - (MARGIN + (12 + 33) * by)) <= by
    inside = page[MARGIN + 20 * by + 2, MARGIN + 25 * by + 2]
    outside = page[MARGIN + 60 * by + 2, MARGIN + 100 * by + 2]
    np.testing.assert_array_equal(inside, image[20, 25])
    np.testing.assert_array_equal(outside, (image[60, 100] * 0.45 + 255 * 0.12).astype(np.uint8))


def test_the_middle_output_is_the_default():
    image = np.zeros((64, 64, 3), np.uint8)
    field = receptive_field(STACK)
    np.testing.assert_array_equal(field_figure(image, field, (8, 8)), field_figure(image, field, (8, 8), (4, 4)))


def test_an_output_outside_of_the_map_is_named():
    with pytest.raises(InputError, match=r"cell: expected one of 8 rows and 9 columns, counted from 0, got row 8"):
        field_figure(np.zeros((64, 68, 3), np.uint8), receptive_field(STACK), (8, 9), (8, 0))
