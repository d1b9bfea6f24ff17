"""Charts of comparisons."""

from __future__ import annotations

import numpy as np

from blemish.interop.anomalib.compare import COSTS, Row
from blemish.interop.anomalib.compare_chart import BAR, BLOCK, MARGIN, NAME_W, WIDTH, _cost, draw
from blemish.interop.anomalib.side import ANOMALIB, DEFAULTS, SAME
from blemish.visualization.primitives import DEFECTIVE, GOOD
from tests.interop.anomalib.test_compare import made_up


def test_a_bar_is_as_long_as_its_number():
    page = np.full((BLOCK, WIDTH, 3), 255, np.uint8)
    values = {ANOMALIB: 60.0, SAME: 15.0, DEFAULTS: None}
    _cost(page, Row("fit_s", "fit, s", 1), values, {SAME: 4.0}, 0)
    long, short = (
        int((page[6 + 20 * i + BAR // 2, MARGIN + NAME_W :] == colour).all(axis=1).sum())
        for i, colour in enumerate((DEFECTIVE, GOOD))
    )
    assert abs(long / short - 4) < 0.1
    assert (page[6 + 40 : 6 + 40 + BAR, MARGIN + NAME_W :] == 255).all(), "an absent number has no bar"


def test_the_page_holds_every_bar():
    page = draw(made_up())
    assert page.shape[1] == WIDTH
    assert page.dtype == np.uint8
    assert (page[-8:] == 255).all()
    assert (page[:, -8:] == 255).all()
    # As many bars of anomalib's colour as there are costs that it has.
    column = (page[:, MARGIN + NAME_W + 1] == DEFECTIVE).all(axis=1)
    starts = int((column[1:] & ~column[:-1]).sum())
    assert starts == len([row for row in COSTS if row.key in {"import_s", "fit_s", "coreset_s", "predict_ms"}]) + 3
