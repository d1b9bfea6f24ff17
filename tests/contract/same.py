"""When two predictions are the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tests.contract import names

if TYPE_CHECKING:
    from blemish import Prediction


def assert_same(found: Prediction, expected: Prediction, *, path: bool = True) -> None:
    """Fail unless two predictions are equal bit for bit."""
    np.testing.assert_array_equal(found.anomaly_map, expected.anomaly_map)
    np.testing.assert_array_equal(found.mask, expected.mask)
    one, other = found.to_dict(), expected.to_dict()
    if not path:
        del one["path"], other["path"]
    assert one == other
    assert names.components_of(found) == names.components_of(expected)
