"""Score fusion: the image score adds -log p of patches, of the per-position Gaussian and of the global descriptor."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from safetensors.numpy import load, save

from blemish import Patchcore
from blemish.detectors.fusion import CENSORED, COMPONENTS, WEIGHTS, ScoreFusion, weights_with_part
from blemish.detectors.patchcore import position
from blemish.errors import InputError, ModelFileError
from blemish.ops.gaussian import fit_gaussian
from blemish.ops.position_gaussian import PositionGaussians
from blemish.ops.statistics import Moments
from blemish.ops.tail_probability import Tail
from tests.images import good, goods, scratched, small_patchcore
from tests.models import replace_file, rewrite

WITH_PART = weights_with_part(0.6)
PARTS = np.random.default_rng(1).normal(size=(20, 2, 3, 5)).astype(np.float32)


def fusion_of(weights: dict[str, float], n: int = 20) -> tuple[ScoreFusion, np.ndarray]:
    """A fusion of random descriptors, features and patch scores, and the descriptors."""
    rng = np.random.default_rng(0)
    summaries, patch = rng.normal(size=(n, 4)).astype(np.float32), rng.exponential(size=n)
    moments = Moments()
    moments.add(summaries)
    gaussian, distances = fit_gaussian(moments, summaries)
    parts, part_scores = PositionGaussians.fit(PARTS[:n])
    rows = {"patch": patch, "part": part_scores, "image": distances}
    good_scores = np.stack([rows[name] for name in COMPONENTS if name in weights])
    return ScoreFusion.of(gaussian, parts if "part" in weights else None, weights, good_scores), summaries


@pytest.mark.parametrize("weights", [WEIGHTS, WITH_PART])
def test_each_component_has_its_own_tail(weights: dict[str, float]):
    fusion, _ = fusion_of(weights)
    summary, parts = np.full(4, 2, np.float32), PARTS[0] + np.float32(1)
    scores = {"patch": 1.5, "part": PositionGaussians.fit(PARTS)[0].score(parts)}
    scores["image"] = fusion.gaussian.mahalanobis(summary)
    tails = {
        name: Tail.from_scores(row, censored=CENSORED)
        for name, row in zip(fusion.weights, fusion.good_scores, strict=True)
        for name, row in zip(fusion.weights, fusion.good_scores, strict=True)
    }
    expected = {name: weights[name] * tail.neg_log_p(scores[name]) for name, tail in tails.items()}
    components = fusion.components(1.5, parts, summary)
    assert list(components) == [name for name in COMPONENTS if name in weights]
    assert components == pytest.approx(expected)
    assert min(components.values()) > 0


def test_weights_in_another_order_are_the_same():
    """JSON objects are stored with sorted names."""
    fusion, _ = fusion_of(WITH_PART)
    turned = ScoreFusion.of(fusion.gaussian, fusion.parts, dict(sorted(WITH_PART.items())), fusion.good_scores)
    assert list(turned.weights.items()) == list(fusion.weights.items())


def test_good_images_are_scored_without_themselves():
    fusion, summaries = fusion_of(WITH_PART)
    scores = fusion.leave_one_out_scores()
    for i in (0, 7):
        others = Moments()
        others.add(np.delete(summaries, i, axis=0))
        alone = fit_gaussian(others, summaries)[0].mahalanobis(summaries[i])
        assert fusion.good_scores[2, i] == pytest.approx(alone, rel=0.02)  # the shrinkage alone is that of all
        tails = [Tail.from_scores(np.delete(row, i), censored=CENSORED) for row in fusion.good_scores]
        terms = [tail.neg_log_p(score) for tail, score in zip(tails, fusion.good_scores[:, i], strict=True)]
        assert scores[i] == pytest.approx(np.dot(list(fusion.weights.values()), terms))


@pytest.mark.slow
def test_what_is_unusual_everywhere_is_found():
    flat = [np.clip(good(seed) * 0.55 + 45, 0, 255).astype(np.uint8) for seed in range(50, 54)]
    with_whole = small_patchcore(score_fusion=True).fit(goods())
    for image in flat:
        found = with_whole.predict(image)
        assert found.label
        assert found.score_components["image"] > 3
        assert list(found.score_components) == ["patch", "image"]
        assert found.score == pytest.approx(sum(found.score_components.values()))


@pytest.mark.slow
def test_patches_alone_have_no_components():
    found = small_patchcore().fit(goods()).predict(scratched(9)[0])
    assert found.score_components == {}
    assert found.to_dict()["score_components"] == {}


@pytest.mark.slow
def test_the_map_is_that_of_the_patches():
    image = scratched(9)[0]
    maps = [small_patchcore(score_fusion=w).fit(goods()).predict(image).anomaly_map for w in (True, False)]
    np.testing.assert_array_equal(maps[0], maps[1])


@pytest.mark.slow
def test_a_loaded_detector_predicts_bit_for_bit(tmp_path: Path):
    fitted = small_patchcore(score_fusion=True).fit(goods())
    loaded = Patchcore.load(fitted.save(tmp_path / "model"))
    for image in (good(77), scratched(78)[0]):
        assert loaded.predict(image).score == fitted.predict(image).score
        assert loaded.predict(image).score_components == fitted.predict(image).score_components


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 3])
def test_one_thread_and_many_see_the_same(threads: int, saved_whole: Path):
    two, other = (Patchcore.load(saved_whole, threads=n) for n in (2, threads))
    for image in (good(77), scratched(78)[0]):
        assert other.predict(image).score_components == pytest.approx(two.predict(image).score_components, rel=1e-4)


@pytest.fixture(scope="module")
def saved_whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose score counts all three components."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(position, "LEAST_IMAGES", 4)
        patch.setattr(position, "LITTLE_LESS", 1.0)
        patch.setattr(position, "MUCH_LESS", 2.0)
        model = small_patchcore(score_fusion=True).fit(goods(4))
    assert model.fitted.fusion is not None
    assert model.fitted.fusion.parts is not None
    return model.save(tmp_path_factory.mktemp("whole") / "model")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"weights": {"patch": 1.0}}, "score_fusion.weights: expected patch, image, with or without part, got patch"),
        ({"weights": {"patch": 1.0, "part": 1.0, "image": -1.0}}, "score_fusion.weights.image: expected"),
        ({"censored": 1.0}, "score_fusion.censored: expected"),
        ({"reason": 3}, "score_fusion.reason: expected text, got int"),
    ],
)
def test_a_fusion_that_makes_no_score_is_refused(changes: dict, expected: str, saved_whole: Path, tmp_path: Path):
    folder = Path(shutil.copytree(saved_whole, tmp_path / "model"))
    rewrite(folder, lambda header: header["score_fusion"].update(changes))
    with pytest.raises(ModelFileError, match=expected):
        Patchcore.load(folder)


@pytest.mark.parametrize("wrong", ["missing", "shape", "infinite"])
@pytest.mark.parametrize(
    "name", ["summary_mean", "summary_whitening", "part_mean", "part_whitening", "part_level", "good_scores"]
)
def test_a_folder_whose_tensors_do_not_fit_is_refused(name: str, wrong: str, saved_whole: Path, tmp_path: Path):
    folder = Path(shutil.copytree(saved_whole, tmp_path / "model"))
    tensors = load((folder / "bank.safetensors").read_bytes())
    if wrong == "missing":
        del tensors[name]
    elif wrong == "shape":
        tensors[name] = tensors[name][..., :-1].copy()
    else:
        tensors[name][..., 0] = np.inf
    replace_file(folder, "bank.safetensors", save(tensors))
    with pytest.raises(ModelFileError, match=rf"{name}: expected (finite )?float.*bank\.safetensors.* Fit again"):
        Patchcore.load(folder)


def test_a_level_of_parts_that_divides_by_nothing_is_refused(saved_whole: Path, tmp_path: Path):
    folder = Path(shutil.copytree(saved_whole, tmp_path / "model"))
    tensors = load((folder / "bank.safetensors").read_bytes())
    tensors["part_level"][1] = 0
    replace_file(folder, "bank.safetensors", save(tensors))
    with pytest.raises(ModelFileError, match="part_level: expected distances of 0 or more, and deviations of at least"):
        Patchcore.load(folder)


@pytest.mark.parametrize("output", ["parts", "summary"])
def test_a_network_that_gives_no_numbers_is_refused(output: str, saved_whole: Path, tmp_path: Path):
    folder = Path(shutil.copytree(saved_whole, tmp_path / "model"))
    model = onnx.load(folder / "network.onnx")
    next(node for node in model.graph.node if output in node.output).output[0] = "known"
    model.graph.node.append(onnx.helper.make_node("Sub", ["known", "known"], ["zero of it"]))
    model.graph.node.append(onnx.helper.make_node("Div", ["zero of it", "zero of it"], [output]))
    replace_file(folder, "network.onnx", model.SerializeToString())
    expected = r"parts and summary: expected finite float32 \(h, w, K\) and \(S,\), got .*network\.onnx.* Fit again"
    with pytest.raises(ModelFileError, match=expected):
        Patchcore.load(folder)


@pytest.mark.parametrize("output", ["parts", "summary"])
def test_a_network_without_the_outputs_is_refused(output: str, saved_whole: Path, tmp_path: Path):
    folder = Path(shutil.copytree(saved_whole, tmp_path / "model"))
    model = onnx.load(folder / "network.onnx")
    kept = [one for one in model.graph.output if one.name != output]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    replace_file(folder, "network.onnx", model.SerializeToString())
    others = ", ".join(sorted(one.name for one in kept))
    expected = rf"network: expected outputs parts and summary, got {others}, in .*network\.onnx.* Fit again"
    with pytest.raises(ModelFileError, match=expected):
        Patchcore.load(folder)


def test_the_setting_is_checked():
    with pytest.raises(InputError, match="score_fusion: expected True or False, got 'no'"):
        Patchcore(score_fusion="no")  # type: ignore[arg-type]
