"""Checkpoints that every release line of anomalib wrote: its scores and maps, or a refusal that names it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blemish._io.safe_pickle import Inert
from blemish.errors import InputError, ModelFileError
from blemish.interop.anomalib import checkpoints
from blemish.interop.anomalib.checkpoints import export_checkpoint, import_checkpoint
from blemish.interop.anomalib.releases import (
    PATCHCORE,
    check_kind,
    default_side_px,
    hyper_parameters,
    release_line,
)
from tests.anomalib_releases import MODELS, RELEASES, case
from tests.anomalib_twins import GOLDEN, STEP, checkpoint, scored
from tests.torch_files import load_checkpoint

CASES = [case(model, release) for model in MODELS for release in RELEASES]
# Of its 12 rows either default could be the source.
STATED = {"patchcore-2.0": "2.0.0"}


def network_map(model: Any, rgb: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The map at the size of the network's input, as anomalib returns it."""
    if model.header()["detector"] == "efficientad":
        maps = model.fitted.maps
        return np.asarray(maps.joined(*maps.raw(maps.geometry.prepare(rgb))))
    features = model.fitted.extractor.features(rgb)
    return np.asarray(model.fitted.geometry.network_map(model.fitted.scorer.distances(features).distances))


def tree_of(name: str, folder: Path) -> dict[str, Any]:
    return load_checkpoint(checkpoint(name, folder / "model.ckpt"), allow_unknown=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_scores_and_maps_are_those_of_the_release(name: str, tmp_path: Path):
    golden = np.load(GOLDEN / f"{name}.npz")
    path = checkpoint(name, tmp_path / "model.ckpt")
    model = import_checkpoint(path, release=STATED.get(name))
    for rgb, score, kept in zip(scored(), golden["scores"], golden["maps"], strict=True):
        assert model.predict(rgb).score == pytest.approx(score, rel=1e-5)
        span = kept.max() - kept.min()
        np.testing.assert_allclose(network_map(model, rgb)[::STEP, ::STEP], kept, atol=1e-4 * span)
    state = load_checkpoint(path, allow_unknown=True)["state_dict"]
    for kind, threshold in (("image", model.threshold), ("pixel", model.pixel_threshold)):
        names = (f"{kind}_threshold.value", f"post_processor._{kind}_threshold")
        (expected,) = (float(state[key]) for key in names if key in state)
        assert threshold == pytest.approx(expected)


def test_no_release_line_is_left_out():
    lines = [release.rpartition(".")[0] for release in RELEASES]
    assert lines == ["1.0", "1.1", "1.2", *(f"2.{minor}" for minor in range(8))]
    page = (Path(__file__).parents[3] / "docs" / "tutorials" / "from-anomalib.md").read_text(encoding="utf-8")
    rows = [row.split("|")[1].split(", ") for row in page.splitlines() if row.startswith(("| 1.", "| 2."))]
    assert [line.strip() for row in rows for line in row] == lines


@pytest.mark.slow
@pytest.mark.parametrize(("name", "line"), [("1.0", "1.x"), ("1.2", "1.x"), ("2.0", "2.0 to 2.6"), ("2.7", "2.7")])
def test_lines_are_told_by_their_entries(name: str, line: str, tmp_path: Path):
    assert release_line(tree_of(f"patchcore-{name}", tmp_path), "a.ckpt") == line


OLD = {
    # anomalib 0.7: Lightning 1.9; its configuration is OmegaConf's, or plain where that was not installed.
    "omegaconf": {"hyper_parameters": Inert("omegaconf.dictconfig.DictConfig")},
    "plain": {"hyper_parameters": {"model": {"name": "patchcore"}, "dataset": {"image_size": 256}}},
    "lightning": {"pytorch-lightning_version": "1.9.5", "hyper_parameters": {"backbone": "resnet18"}},
}


@pytest.mark.slow
def test_a_checkpoint_that_anomalib_0_7_wrote_is_refused(tmp_path: Path):
    path = checkpoint("patchcore-0.7", tmp_path / "model.ckpt")
    with pytest.raises(
        ModelFileError, match=r"got one of anomalib 0.7 or earlier, in .*model.ckpt\. Its arithmetic is"
    ):
        import_checkpoint(path)


@pytest.mark.parametrize("old", OLD.values(), ids=OLD)
def test_anomalib_before_1_0_is_refused_by_name(old: dict[str, Any]):
    text = r"expected one of anomalib 1.0 or later, got one of anomalib 0.7 or earlier, in a.ckpt\. .* fit with Blemish"
    with pytest.raises(ModelFileError, match=text):
        release_line({"state_dict": {}, **old}, "a.ckpt")


def test_a_checkpoint_that_says_nothing_of_images_is_refused():
    tree = {"hyper_parameters": {"backbone": "resnet18"}, "pytorch-lightning_version": "2.6.0"}
    with pytest.raises(ModelFileError, match=r"got one that does not say how images are prepared, in a.ckpt\. Save it"):
        release_line(tree, "a.ckpt")


@pytest.mark.parametrize("missing", ["backbone", "layers", "num_neighbors"])
def test_a_missing_argument_is_refused_and_has_no_default(missing: str):
    arguments = {"backbone": "resnet18", "layers": ["layer2"], "num_neighbors": 9}
    del arguments[missing]
    with pytest.raises(ModelFileError, match=rf"those of anomalib's PatchCore, got none named {missing}, in a.ckpt"):
        hyper_parameters({"hyper_parameters": arguments}, PATCHCORE, "a.ckpt")


@pytest.mark.parametrize("part", ["descriptor.weight", "pca.components", "gaussian.mean", "memory_bank2"])
def test_another_model_with_a_memory_bank_is_refused(part: str):
    state = {"model.memory_bank": 0, "model.feature_extractor.conv1": 0, f"model.{part}": 0}
    with pytest.raises(ModelFileError, match=rf"anomalib's PatchCore, got a model with {part.partition('.')[0]}"):
        check_kind(state, PATCHCORE, "a.ckpt")


def side(n_rows: int, release: str | None = None, **arguments: Any) -> int:
    return default_side_px({"coreset_sampling_ratio": 0.1, **arguments}, n_rows, 8, release, "a.ckpt")


def test_the_memory_bank_tells_the_default_crop():
    for n_images in (1, 7, 60, 209, 391):
        assert side(int(n_images * 28 * 28 * 0.1)) == 224
        assert side(int(n_images * 32 * 32 * 0.1)) == 256
    assert side(12, precision="float32") == 256  # from 2.3 on


def test_a_memory_bank_that_tells_nothing_asks_for_the_release():
    both = int(128 * 784 * 0.1)  # = int(98 * 1024 * 0.1)
    for n_rows, ratio in ((both, 0.1), (11, 0.1), (12, None)):
        with pytest.raises(ModelFileError, match=r"got a checkpoint that does not say.*--release 2\.0\.0, or release="):
            side(n_rows, coreset_sampling_ratio=ratio)
    assert (side(both, "2.0.0"), side(both, "2.1.0"), side(both, "2.2.0")) == (224, 256, 256)
    with pytest.raises(InputError, match=r"release: expected 2.0.0, 2.1.0 or 2.2.0, which alone write it, got 1.2.0"):
        side(both, "1.2.0")


def test_a_release_that_is_no_version_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match=r"release: expected a version of anomalib, such as 2\.0\.0, got 'new'"):
        import_checkpoint(tmp_path / "a.ckpt", release="new")


@pytest.mark.slow
def test_half_precision_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tree = tree_of("patchcore-2.3", tmp_path)
    tree["state_dict"]["model.memory_bank"] = tree["state_dict"]["model.memory_bank"].astype(np.float16)
    monkeypatch.setattr(checkpoints, "read_checkpoint", lambda *_, **__: tree)
    with pytest.raises(ModelFileError, match=r"memory_bank: expected float32, got float16.*precision float32"):
        import_checkpoint(tmp_path / "model.ckpt")


@pytest.mark.slow
def test_layers_by_number_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tree = tree_of("patchcore-2.5", tmp_path)
    tree["hyper_parameters"]["layers"] = [1, "layer2", "layer3"]
    monkeypatch.setattr(checkpoints, "read_checkpoint", lambda *_, **__: tree)
    with pytest.raises(ModelFileError, match=r"layers: expected some of .*, got \[1, 'layer2', 'layer3'\]"):
        import_checkpoint(tmp_path / "model.ckpt")


@pytest.mark.slow
def test_a_network_that_normalises_twice_is_not_exported(tmp_path: Path):
    model = import_checkpoint(checkpoint("efficientad-1.0", tmp_path / "model.ckpt"))
    with pytest.raises(InputError, match=r"normalisation: expected ImageNet's.*got another.*anomalib 1\.0"):
        export_checkpoint(model, tmp_path / "out.ckpt")
