"""Checkpoints by file: which model it is, and what happens to damaged ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from blemish.errors import ModelFileError
from blemish.interop.anomalib import import_checkpoint
from tests.anomalib_twins import GOLDEN, checkpoint, scored
from tests.torch_files import FOLDER


def test_a_file_is_read(tmp_path: Path):
    model = import_checkpoint(checkpoint("lite0", tmp_path / "model.ckpt"))
    golden = np.load(GOLDEN / "lite0.npz")
    assert model.predict(scored()[3]).score == pytest.approx(golden["scores"][3], rel=1e-5)


def test_another_checkpoint_is_refused():
    with pytest.raises(ModelFileError, match=r"checkpoint: expected PatchCore's.*got one with .*lightning.ckpt"):
        import_checkpoint(FOLDER / "lightning.ckpt")
    with pytest.raises(ModelFileError, match=r"checkpoint: expected PatchCore's.*got none"):
        import_checkpoint(FOLDER / "plain.safetensors")


def test_a_damaged_file_is_refused(tmp_path: Path):
    path = checkpoint("lite0", tmp_path / "model.ckpt")
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(ModelFileError, match=r"a whole zip file.*model.ckpt"):
        import_checkpoint(path)
