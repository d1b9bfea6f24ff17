"""Checkpoint files: the kind of model, and refusals."""

from __future__ import annotations

import io
import random
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blemish._io.safe_pickle import Inert
from blemish._io.torch_file import read_checkpoint
from blemish.errors import InputError, ModelFileError
from blemish.interop.anomalib import checkpoints
from blemish.interop.anomalib.checkpoints import export_checkpoint, import_checkpoint
from tests.anomalib_twins import GOLDEN, checkpoint, scored
from tests.torch_files import FOLDER


@pytest.mark.slow
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


def reshuffled(data: bytes, rng: np.random.Generator) -> bytes:
    """Return a checkpoint with bytes of its pickle changed, dropped, doubled or exchanged; the zip stays whole."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(made, "w") as new:
        for info in old.infolist():
            content = bytearray(old.read(info))
            if info.filename.endswith("data.pkl"):
                for _ in range(rng.integers(1, 5)):
                    at, other = rng.integers(0, len(content), 2)
                    length = int(rng.integers(1, 9))
                    kind = rng.integers(0, 4)
                    if kind == 0:
                        content[at] = rng.integers(0, 256)
                    elif kind == 1:
                        del content[at : at + length]
                    elif kind == 2:
                        content[at:at] = content[other : other + length]
                    else:
                        content[at : at + length] = content[other : other + length]
            new.writestr(info.filename, bytes(content))
    return made.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize(("case", "n"), [("lite0", 40), ("efficientad", 15)])
def test_mutated_checkpoints_are_read_or_refused(case: str, n: int, tmp_path: Path):
    data = checkpoint(case, tmp_path / "whole.ckpt").read_bytes()
    rng, n_refused = np.random.default_rng(0), 0
    for i in range(n):
        path = tmp_path / "changed.ckpt"
        path.write_bytes(reshuffled(data, rng))
        try:
            import_checkpoint(path, threads=1)
        except ModelFileError:
            n_refused += 1
        except Exception as error:  # any other is what this test looks for
            pytest.fail(f"mutant {i}: {type(error).__name__}: {error}")
    assert n_refused > n / 2


NOTHING: list[Any] = [
    None,
    True,
    -1,
    0,
    3.5,
    float("nan"),
    float("inf"),
    1 << 200,
    "",
    "x" * 5000,
    b"",
    [],
    {},
    (),
    [[]],
]


@pytest.mark.slow
@pytest.mark.parametrize(("case", "n"), [("lite0", 80), ("efficientad", 30)])
def test_checkpoints_of_wrong_values_are_read_or_refused(
    case: str, n: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = checkpoint(case, tmp_path / "whole.ckpt")
    tree = read_checkpoint(path.read_bytes(), where=path, allow_unknown=True)
    nested: list[Any] = []
    for _ in range(150):
        nested = [nested, nested]
    spec = Inert("x.Compose")
    spec.state = {"transforms": [spec] * 50}
    names = [*tree["hyper_parameters"], "backbone", "layers", "pre_processor", "model_size", "padding"]
    places = [("hyper_parameters", name) for name in names] + [("hyper_parameters", None), ("state_dict", None)]
    config = "anomalib_pre_processor_config"
    places += [(config, None), (config, "transform"), *(("state_dict", name) for name in list(tree["state_dict"])[::9])]
    arrays = [np.zeros(0, np.float32), np.zeros((2,) * 9, np.float32), np.array(np.nan, np.float32)]
    every = [(place, value) for place in places for value in (*NOTHING, nested, spec, *arrays)]
    for (section, name), value in random.Random(0).sample(every, n):
        changed = dict(tree)
        changed[section] = value if name is None else {**changed.get(section, {}), name: value}
        monkeypatch.setattr(checkpoints, "read_checkpoint", lambda *_, changed=changed, **__: changed)
        try:
            import_checkpoint(path, threads=1)
        except ModelFileError:
            continue
        except Exception as error:  # any other is what this test looks for
            pytest.fail(f"{section} {name} = {type(value).__name__}: {type(error).__name__}: {error}")


@pytest.mark.parametrize("wrong", [{"false_positive_rate": 2.0}, {"threads": -1}])
def test_wrong_arguments_are_not_errors_of_the_file(wrong: dict[str, Any], tmp_path: Path):
    with pytest.raises(InputError):
        import_checkpoint(checkpoint("lite0", tmp_path / "a.ckpt"), **wrong)


@pytest.mark.slow
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = checkpoint("lite0", tmp_path / "a.ckpt")
    tree = read_checkpoint(path.read_bytes(), where=path, allow_unknown=True)
    bank = np.array(tree["state_dict"]["model.memory_bank"])
    bank[1, 2] = np.nan
    changed = {**tree, "state_dict": {**tree["state_dict"], "model.memory_bank": bank}}
    monkeypatch.setattr(checkpoints, "read_checkpoint", lambda *_, **__: changed)
    with pytest.raises(ModelFileError, match=r"model\.memory_bank: expected finite numbers, got .*a\.ckpt\. Train the"):
        import_checkpoint(path)
