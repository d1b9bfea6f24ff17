"""Export and verification: an exported model predicts what the folder does, and nothing is left of one that failed."""

from __future__ import annotations

import errno
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import blemish
from blemish import DataError, InputError, ModelFileError, Patchcore, SaveError
from blemish.exporters import formats, saving
from blemish.exporters.comparison import Verification
from blemish.exporters.graph import exported_graph
from blemish.types import Prediction
from tests.images import good, goods, scratched, small_patchcore, write_goods


@pytest.fixture(scope="module")
def exported(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`saved`, exported; no test changes it."""
    out = tmp_path_factory.mktemp("exported") / "model.onnx"
    blemish.export(saved, out, threads=1)
    return out


def outputs(model: onnx.ModelProto | Path, images: np.ndarray) -> dict[str, Any]:
    """Run a model in plain ONNX Runtime."""
    data = str(model) if isinstance(model, Path) else model.SerializeToString()
    session = ort.InferenceSession(data)
    return dict(zip([one.name for one in session.get_outputs()], session.run(None, {"image": images}), strict=True))


def assert_same(result: dict[str, Any], predictions: list[Prediction]) -> None:
    for i, expected in enumerate(predictions):
        assert result["score"][i] == pytest.approx(expected.score, rel=1e-5)
        assert result["p_value"][i] == pytest.approx(expected.p_value, rel=1e-5)
        assert result["label"][i] == expected.label
        np.testing.assert_allclose(result["anomaly_map"][i], expected.anomaly_map, rtol=1e-5, atol=1e-4)
        assert result["mask"][i].dtype == bool
        assert (result["mask"][i] != expected.mask).mean() < 0.001


@pytest.mark.slow
def test_images_called_good_have_no_mask(good_paths: list[Path], tmp_path: Path):
    model = small_patchcore(top_share=0.05, score_fusion=True, calibration="tail").fit(good_paths)
    images = np.stack([good(60 + i) for i in range(6)] + [scratched(99)[0]])
    result = outputs(blemish.export(model, tmp_path / "m.onnx", threads=1).path, images)
    assert_same(result, [model.predict(image) for image in images])
    assert result["label"].tolist() == [False] * 6 + [True]
    assert result["mask"].any(axis=(1, 2)).tolist() == [False] * 6 + [True]
    assert (result["anomaly_map"] > model.pixel_threshold).any(axis=(1, 2))[:6].any()


@pytest.mark.slow
def test_an_exported_model_predicts_in_plain_onnx_runtime(exported: Path, fitted: Patchcore):
    for images in (
        [good(50), scratched(51)[0], good(52)],
        [scratched(53, 70, 130)[0]],
        [scratched(54, 200, 180)[0], good(55, 200, 180)],
    ):
        assert_same(outputs(exported, np.stack(images)), [fitted.predict(image) for image in images])


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"score_fusion": True, "top_share": 0.05, "calibration": "tail"},
        {"num_neighbors": 9, "position_sigma": None, "pooling": 1},
        {"num_neighbors": 2, "score_fusion": True, "scaling": "none"},
        {"image_size": 128, "center_crop": 96, "calibration": "tail"},
        {"coreset_sampling_ratio": 1.0, "top_share": 0.1},
    ],
)
def test_all_settings_can_be_exported(changes: dict[str, Any]):
    model = small_patchcore(**changes).fit(goods())
    images = [good(60, 80, 100), scratched(61, 80, 100)[0]]
    assert_same(outputs(exported_graph(model), np.stack(images)), [model.predict(image) for image in images])


def test_a_graph_of_fixed_sizes_takes_no_other(fitted: Patchcore):
    graph = exported_graph(fitted, image_hw=(70, 130))
    sizes = {one.name: [axis.dim_value for axis in one.type.tensor_type.shape.dim] for one in graph.graph.output}
    assert sizes["anomaly_map"][1:] == sizes["mask"][1:] == [70, 130]
    image = scratched(53, 70, 130)[0]
    assert_same(outputs(graph, image[None]), [fitted.predict(image)])
    with pytest.raises(Exception, match=r"INVALID_ARGUMENT"):
        outputs(graph, good(1)[None])


@pytest.mark.slow
def test_the_file_says_what_it_is(exported: Path, saved: Path, fitted: Patchcore):
    facts = {entry.key: entry.value for entry in onnx.load(exported).metadata_props}
    assert facts["detector"] == "patchcore"
    assert facts["blemish_version"] == blemish.__version__
    assert float(facts["threshold"]) == fitted.threshold
    assert float(facts["pixel_threshold"]) == fitted.pixel_threshold
    assert "upper_threshold" not in facts  # rule conformal has none
    assert facts["network_height_width"] == "96 96"
    assert facts["model_folder"] == os.path.realpath(saved)
    onnx.checker.check_model(onnx.load(exported), full_check=True)


@pytest.mark.slow
def test_a_calibration_by_the_tail_states_both_thresholds():
    model = small_patchcore(calibration="tail").fit(goods(6))
    facts = {entry.key: entry.value for entry in exported_graph(model).metadata_props}
    assert float(facts["upper_threshold"]) == model.calibration.upper_threshold > float(facts["threshold"])


@pytest.mark.slow
def test_verify_compares_with_the_model(exported: Path, saved: Path, fitted: Patchcore, tmp_path: Path):
    result = blemish.verify(exported, write_goods(tmp_path, 3), threads=1)
    assert result.ok
    assert (result.n_images, result.labels_differ) == (3, ())
    assert 0 <= result.score_difference < 1e-5
    assert 0 <= result.map_difference < 1e-5
    assert str(result).startswith("3 images: scores differ by at most ")
    assert blemish.verify(exported, [good(1)], model=saved).ok
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"none")
    assert len(blemish.verify(exported, [good(1), broken], model=fitted).problems) == 1
    with pytest.raises(
        DataError, match=r"images: expected images to compare predictions of, got none that can be read"
    ):
        blemish.verify(exported, [broken])


@pytest.mark.slow
def test_another_model_is_told(exported: Path, tmp_path: Path):
    other = small_patchcore(seed=1, coreset_sampling_ratio=0.05).fit(goods(4))
    with pytest.raises(
        InputError, match=r"model_id: expected .*, got another, in .*model.onnx. Export this model again"
    ):
        blemish.verify(exported, [good(1)], model=other)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ("score", "scores differ by at most [0-9.]+e-0[23]"),
        ("label", "1 labels differ"),
        ("map", "maps by inf"),
        ("nan", "scores differ by at most inf"),
    ],
)
def test_other_predictions_are_told(fitted: Patchcore, changed: str, message: str, monkeypatch: pytest.MonkeyPatch):
    predict = fitted.predict

    def changing(image: Any) -> Prediction:
        prediction = predict(image)
        if changed == "score":
            return replace(prediction, score=prediction.score * 1.01)
        if changed == "label":
            return replace(prediction, label=not prediction.label)
        if changed == "map":
            return replace(prediction, anomaly_map=prediction.anomaly_map[1:])
        return prediction

    class Session:
        metadata: ClassVar[dict[str, str]] = {}

        def run(self, images: np.ndarray) -> dict[str, Any]:
            result = outputs(exported_graph(fitted), images)
            return {**result, "score": result["score"] * np.nan} if changed == "nan" else result

    monkeypatch.setattr(fitted, "predict", changing)
    compared: Any = Session()
    result = saving.compare(compared, fitted, [good(1)], Path("m.onnx"), lambda *_: None)
    assert not result.ok
    assert re.search(message, str(result)), str(result)


@pytest.mark.slow
def test_the_integer_search_chooses_the_nearest_rows(fitted: Patchcore, saved: Path, tmp_path: Path):
    images = np.stack([good(50), scratched(51)[0], good(2)])
    assert_same(outputs(exported_graph(fitted, int8=True), images), [fitted.predict(image) for image in images])
    out = tmp_path / "m.onnx"
    assert blemish.export(saved, out, int8=True, images=[good(1)]).bound == 1e-3
    assert blemish.verify(out, list(images)).bound == 1e-3
    assert any(node.op_type == "MatMulInteger" for node in onnx.load(out).graph.node)


@pytest.mark.slow
def test_a_detector_without_a_bank_has_no_integer_search():
    model = blemish.Padim(image_size=96, n_features=8, threads=1).fit(goods(4))
    with pytest.raises(InputError, match=r"int8: expected a detector with a memory bank, PatchCore, got padim\."):
        exported_graph(model, int8=True)


# Nothing is replaced, and nothing is left behind


def test_a_target_that_exists_is_kept(saved: Path, exported: Path, tmp_path: Path):
    before = exported.read_bytes()
    with pytest.raises(SaveError, match=r"exported model: expected to be written, got 'File exists', in .*model.onnx"):
        blemish.export(saved, exported)
    assert exported.read_bytes() == before
    (tmp_path / "m.bin").touch()
    with pytest.raises(SaveError, match=r"'File exists', in .*m\.bin"):
        blemish.export(saved, tmp_path / "m.xml", to="openvino")
    with pytest.raises(InputError, match=r"out: expected a file ending in .onnx, got 'model.xml'"):
        blemish.export(saved, tmp_path / "model.xml")
    with pytest.raises(InputError, match=r"to: expected onnx or openvino, got 'tflite'"):
        blemish.export(saved, tmp_path / "model.tflite", to="tflite")


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["write", "compare", "move"])
@pytest.mark.parametrize(
    ("raised", "told"),
    [(KeyboardInterrupt(), KeyboardInterrupt), (OSError(errno.ENOSPC, "No space left on device"), SaveError)],
)
def test_a_failure_leaves_nothing(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, raised: BaseException, told: Any
):
    def fail(*_: Any) -> None:
        raise raised

    if stage == "write":
        monkeypatch.setattr(formats, "write_synced", fail)
    elif stage == "compare":
        monkeypatch.setattr(saving, "compare", fail)
    else:
        monkeypatch.setattr(saving, "sync_folder", fail)
        monkeypatch.setattr(saving, "_move", fail)
    with pytest.raises(told):
        blemish.export(saved, tmp_path / "out" / "model.onnx", images=[good(1)])
    assert list((tmp_path / "out").iterdir()) == []


def test_files_are_there_together_or_not_at_all(tmp_path: Path):
    kind = formats.FORMATS["openvino"]
    new = tmp_path / "new"
    new.mkdir()
    for ending in (".bin", ".xml"):
        (new / f"m{ending}").touch()
    (tmp_path / "m.xml").write_text("another program's")
    with pytest.raises(FileExistsError):
        saving._move(kind, new / "m.xml", tmp_path / "m.xml")
    assert not (tmp_path / "m.bin").exists()
    assert (tmp_path / "m.xml").read_text() == "another program's"


def test_a_graph_that_predicts_otherwise_is_not_saved(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    wrong = Verification(tmp_path / "m.onnx", 1, 0.5, 0.0)
    monkeypatch.setattr(saving, "compare", lambda *_: wrong)
    with pytest.raises(
        ModelFileError, match=r"exported model: expected the predictions of the model, got 1 images: sco"
    ):
        blemish.export(saved, tmp_path / "m.onnx", images=[good(1)])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_calibration_images_must_be_there(tmp_path: Path):
    model = small_patchcore().fit(goods())
    todo = "Give good images to compare the exported model on: images=, or --images on the command line."
    with pytest.raises(
        DataError, match=f"images: expected the calibration images as they were, got none of them. {todo}"
    ):
        blemish.export(model, tmp_path / "m.onnx")
    assert blemish.export(model, tmp_path / "m.onnx", images=goods(2)).ok
    with pytest.raises(InputError, match=r"model: expected the folder that was exported, got none stated, in .*m.onnx"):
        blemish.verify(tmp_path / "m.onnx", [good(1)])
    assert blemish.verify(tmp_path / "m.onnx", [good(1)], model=model).ok


@pytest.mark.parametrize("folder", ["//server/share/model", "/proc/self", "\\\\server\\share"])
def test_a_file_of_a_stranger_names_no_folder_of_a_network(exported: Path, tmp_path: Path, folder: str):
    model = onnx.load(exported)
    next(entry for entry in model.metadata_props if entry.key == "model_folder").value = folder
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    with pytest.raises(InputError, match=r"model: expected the folder that was exported, got .*Name the model folder"):
        blemish.verify(path, [good(1)])


def test_weights_lie_in_the_file(exported: Path, tmp_path: Path):
    path = tmp_path / "m.onnx"
    onnx.save(onnx.load(exported), path, save_as_external_data=True, size_threshold=0)
    with pytest.raises(ModelFileError, match="exported model: expected weights in the file, got names of other files"):
        blemish.verify(path, [good(1)])


# What can't be run is told


def test_an_opset_that_the_runtime_lacks(exported: Path, tmp_path: Path):
    model = onnx.load(exported)
    model.opset_import[0].version = 99
    path = tmp_path / "new.onnx"
    onnx.save(model, path)
    with pytest.raises(
        ModelFileError, match=r"network: expected a graph that ONNX Runtime runs, got .*Opset 99 is under development"
    ):
        blemish.verify(path, [good(1)])


def test_files_that_are_no_exported_models(saved: Path, tmp_path: Path):
    with pytest.raises(InputError, match=r"exported model: expected one of format 1, got a model of another program"):
        blemish.verify(saved / "network.onnx", [good(1)])
    with pytest.raises(InputError, match=r"exported model: expected a file ending in .onnx or .xml, got 'm.pt'"):
        blemish.verify(tmp_path / "m.pt", [good(1)])
    with pytest.raises(
        ModelFileError, match=r"exported model: expected a readable file, got 'No such file or directory'"
    ):
        blemish.verify(tmp_path / "m.onnx", [good(1)])
    with pytest.raises(ModelFileError, match=r"model: expected a model folder, got nothing there"):
        blemish.export(tmp_path / "none", tmp_path / "m.onnx")


def test_a_device_that_is_not_there(exported: Path):
    available = ort.get_available_providers()
    if "CUDAExecutionProvider" in available:
        pytest.skip("this onnxruntime has CUDA")
    with pytest.raises(InputError, match=r"device: expected one that onnxruntime was built for, got 'cuda'"):
        blemish.verify(exported, [good(1)], device="cuda")
    with pytest.raises(InputError, match=r"image_hw"):
        blemish.export(exported, exported.with_name("m.onnx"), image_hw=(0, 5))
