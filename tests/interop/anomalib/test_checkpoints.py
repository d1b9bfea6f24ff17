"""Checkpoint files: the kind of model, and refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from blemish.errors import InputError, ModelFileError
from blemish.interop.anomalib.checkpoints import export_checkpoint, import_checkpoint
from tests.anomalib_twins import GOLDEN, checkpoint, scored
from tests.torch_files import FOLDER


def test_a_file_is_read(tmp_path: Path):
    model = import_checkpoint(checkpoint("lite0", tmp_path / "model.ckpt"))
    golden = np.load(GOLDEN / "lite0.npz")
    assert model.predict(scored()[3]).score == pytest.approx(golden["scores"][3], rel=1e-5)


@pytest.mark.slow
def test_both_detectors_round_trip(tmp_path: Path):
    for case, kind in (("lite0", "patchcore"), ("efficientad", "efficientad")):
        model = import_checkpoint(checkpoint(case, tmp_path / f"{case}.ckpt"))
        assert model.header()["detector"] == kind
        again = import_checkpoint(export_checkpoint(model, tmp_path / f"{case}-out.ckpt"))
        image = scored()[2]
        assert again.predict(image).score == pytest.approx(model.predict(image).score, rel=1e-5)


def test_other_models_are_not_exported(tmp_path: Path):
    with pytest.raises(InputError, match="model: expected PatchCore or EfficientAD, got object"):
        export_checkpoint(object(), tmp_path / "out.ckpt")  # type: ignore[arg-type]


def test_another_checkpoint_is_refused():
    with pytest.raises(
        ModelFileError, match=r"checkpoint: expected PatchCore's or EfficientAD's.*got one with .*lightning.ckpt"
    ):
        import_checkpoint(FOLDER / "lightning.ckpt")
    with pytest.raises(ModelFileError, match=r"checkpoint: expected PatchCore's.*got none"):
        import_checkpoint(FOLDER / "plain.safetensors")


def test_a_damaged_file_is_refused(tmp_path: Path):
    path = checkpoint("lite0", tmp_path / "model.ckpt")
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(ModelFileError, match=r"a whole zip file.*model.ckpt"):
        import_checkpoint(path)
