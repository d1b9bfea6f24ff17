"""The commands export and verify."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from tests.images import write_goods


@pytest.mark.slow
def test_export_and_verify(saved: Path, good_paths: list[Path], run, tmp_path: Path):
    out = tmp_path / "model.onnx"
    code, said, err = run("export", saved, "--out", out, "--threads", "1")
    assert (code, err) == (0, "")
    assert said.startswith("12 images: scores differ by at most ")
    assert said.endswith(f"all labels are the same.\nSaved in {out}.\n")
    code, said, _ = run("verify", out, good_paths[0].parent, "--json")
    document = json.loads(said)
    assert (code, document["ok"], document["n_images"], document["labels_differ"]) == (0, True, 12, 0)
    code, _, err = run("export", saved, "--out", out)
    assert code == 2
    assert err.startswith("error: exported model: expected to be written, got 'File exists'")


@pytest.mark.slow
def test_a_fixed_size(saved: Path, run, tmp_path: Path):
    out, images = tmp_path / "model.onnx", write_goods(tmp_path / "images", 2)
    code, _, _ = run("export", saved, "--out", out, "--image-size", "96x96", "--images", images[0].parent)
    assert code == 0
    sizes = onnx.load(out).graph.input[0].type.tensor_type.shape.dim
    assert [axis.dim_value for axis in sizes] == [0, 96, 96, 3]
    code, _, err = run("export", saved, "--out", tmp_path / "other.onnx", "--image-size", "96")
    assert code == 2
    assert "'96' is no height and width such as 1080x1920" in err


@pytest.mark.slow
def test_verify_says_no(saved: Path, good_paths: list[Path], run, tmp_path: Path):
    out = tmp_path / "model.onnx"
    run("export", saved, "--out", out, "--images", good_paths[0])
    model = onnx.load(out)
    for tensor in model.graph.initializer:
        if tensor.name == "bank.mean":
            tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) + 1, tensor.name))
    onnx.save(model, out)
    code, said, _ = run("verify", out, good_paths[0])
    assert code == 1
    assert said.startswith("1 images: scores differ by at most ")


@pytest.mark.slow
def test_a_category_with_and_one_without_position(data_root: Path, run, tmp_path: Path):
    for name, place in (("bottle", "mvtec/bottle"), ("hazelnut", "hazelnut_jpg")):
        images = tmp_path / name
        images.mkdir()
        for path in sorted((data_root / place / "train" / "good").iterdir())[:50]:
            (images / path.name).symlink_to(path)
        assert run("fit", images, "--out", tmp_path / f"{name}-model")[0] == 0
        out = tmp_path / f"{name}.onnx"
        assert run("export", tmp_path / f"{name}-model", "--out", out)[0] == 0
        header = json.loads((tmp_path / f"{name}-model" / "model.json").read_text())
        assert ("part" in header["score_fusion"]["weights"]) == (name == "bottle")
        defects = next(path for path in sorted((data_root / place / "test").iterdir()) if path.name != "good")
        assert run("verify", out, *sorted(defects.iterdir())[:5])[0] == 0
