"""The processor's flags after a product of matrices, which some BLAS libraries set though the values are right."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import numpy as np, warnings, blemish
huge = np.full((2, 2), 1e38, np.float32)
exec(compile("huge @ huge", "ours.py", "exec"), {"__name__": "NAME", "huge": huge})
"""


@pytest.mark.parametrize(
    ("module", "code"), [("blemish.ops.coreset", 0), ("blemish.detectors.fusion", 0), ("blemishes", 1), ("user", 1)]
)
def test_flags_of_products_warn_nobody_of_us_and_others_as_before(module: str, code: int):
    command = [sys.executable, "-W", "error", "-c", SCRIPT.replace("NAME", module)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert ("overflow encountered in matmul" in done.stderr) == bool(code)
