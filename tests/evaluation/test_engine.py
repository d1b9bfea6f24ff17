"""The engine on a simple detector and drawn images; metrics equal those of scikit-learn."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest

from blemish import DataError, Engine, Folder, ImageError, InputError, Prediction
from blemish.evaluation.engine import average, load_defect_mask
from blemish.imaging.decode import load
from blemish.types import Problem, Sample
from tests.images import good, scratched, write, write_goods
from tests.lazy import sklearn_metrics as sk

THRESHOLD = 150.0


class Brightness:
    """A detector: the red channel is the map, its 40th highest value the score."""

    problems: tuple[Problem, ...] = ()
    notes = ("Position is not used.",)
    threshold = THRESHOLD
    false_positive_rate = 0.05

    def __init__(self) -> None:
        self.fitted_on: list[Path] = []

    def fit(self, samples: Iterable[Sample], *, progress=None) -> None:
        self.fitted_on = [sample.path for sample in samples]
        progress("fitting", 1, 1)

    def predict(self, image: Sample) -> Prediction:
        red = load(image.path)[..., 0].astype(np.float32)
        score = float(np.sort(red, axis=None)[-40])
        return Prediction(score, score > THRESHOLD, THRESHOLD, 0.5, red, red > 200, 200.0, path=image.path)

    def predict_many(self, images: Iterable[Sample]) -> Iterator[Prediction | Problem]:
        return map(self._one, images)

    def _one(self, image: Sample) -> Prediction | Problem:
        try:
            return self.predict(image)
        except ImageError as error:
            return Problem(image.path, "unreadable", str(error))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_goods(tmp_path / "train", 4)
    for i in range(6):
        write(tmp_path / "fine" / f"{i}.png", good(100 + i))
        image, mask = scratched(200 + i)
        write(tmp_path / "scratch" / f"{i}.png", image)
        write(tmp_path / "masks" / f"{i}.png", mask)
        write(tmp_path / "dull" / f"{i}.png", good(300 + i))
    return tmp_path


def data(root: Path, *abnormal: str, **settings: object) -> Folder:
    return Folder(
        "stripes",
        root=root,
        normal_dir="train",
        normal_test_dir="fine",
        abnormal_dir=abnormal or ("scratch",),
        **{"mask_dir": "masks", **settings},  # type: ignore[arg-type]
    )


@pytest.mark.slow
def test_image_metrics_equal_scikit_learn(root: Path):
    report = Engine().evaluate(Brightness(), data(root))
    assert report.notes == Brightness.notes
    scores = [result.score for result in report.tested]
    labels = [result.sample.is_defective for result in report.tested]
    assert sorted(labels) == [False] * 6 + [True] * 6
    assert report.metrics["image_AUROC"] == pytest.approx(sk.roc_auc_score(labels, scores))
    assert report.metrics["image_AP"] == pytest.approx(sk.average_precision_score(labels, scores))
    low, high = report.intervals["image_AUROC"]
    assert low <= report.metrics["image_AUROC"] <= high


@pytest.mark.slow
def test_pixel_metrics_equal_scikit_learn(root: Path):
    report = Engine().evaluate(Brightness(), data(root))
    maps, masks = [], []
    for result in report.tested:
        maps.append(load(result.sample.path)[..., 0])
        mask = result.sample.mask_path
        masks.append(np.zeros((96, 96), bool) if mask is None else load(mask)[..., 0] > 127)
    labels, values = np.ravel(masks), np.ravel(maps)
    assert report.metrics["pixel_AUROC"] == pytest.approx(sk.roc_auc_score(labels, values), abs=1e-3)
    assert report.metrics["pixel_AP"] == pytest.approx(sk.average_precision_score(labels, values), abs=1e-2)
    assert report.metrics["SegF1"] == pytest.approx(sk.f1_score(labels, values > 200))


def test_rates_are_counted_at_the_calibrated_threshold(root: Path):
    report = Engine().evaluate(Brightness(), data(root, "scratch", "dull", mask_dir=None))
    called = {True: [], False: []}
    for result in report.tested:
        assert result.label == (result.score > THRESHOLD)
        called[result.sample.is_defective].append(result.label)
    assert report.metrics["false_positive_rate"] == np.mean(called[False])
    assert report.metrics["miss_rate"] == 1 - np.mean(called[True])
    assert report.by_defect["scratch"]["miss_rate"] == 0
    assert report.by_defect["dull"]["n"] == 6
    assert report.by_defect["good"] == {"n": 6, "false_positive_rate": report.metrics["false_positive_rate"]}
    assert (report.threshold, report.false_positive_rate_set) == (THRESHOLD, 0.05)


def test_metrics_by_defect_type_use_its_images_and_good_images(root: Path):
    report = Engine().evaluate(Brightness(), data(root, "scratch", "dull", mask_dir=None))
    for defect in ("scratch", "dull"):
        chosen = [result for result in report.tested if result.sample.defect in (defect, "good")]
        expected = sk.roc_auc_score(
            [result.sample.is_defective for result in chosen], [result.score for result in chosen]
        )
        assert report.by_defect[defect]["image_AUROC"] == pytest.approx(expected)


def test_fit_reads_the_good_training_images_alone(root: Path):
    model, stages = Brightness(), []
    engine = Engine(progress=lambda *seen: stages.append(seen))
    chosen = data(root)
    engine.fit(model, chosen)
    assert model.fitted_on == [sample.path for sample in chosen.train]
    assert {path.parent.name for path in model.fitted_on} == {"train"}
    report = engine.evaluate(model, chosen)
    assert report.timings["fit_s"] >= 0
    assert "fit_s" not in engine.evaluate(Brightness(), chosen).timings
    assert stages[0] == ("fitting", 1, 1)
    assert stages[1:13] == [("testing", done, 12) for done in range(1, 13)]


def test_undefined_metrics_are_absent(root: Path):
    only_defects = Folder("x", root=root, normal_dir="train", abnormal_dir="scratch", normal_split_ratio=0)
    (metrics,) = Engine().test(Brightness(), only_defects)
    assert set(metrics) == {"miss_rate"}
    no_masks = Engine().evaluate(Brightness(), data(root, mask_dir=None)).metrics
    assert "image_AUROC" in no_masks
    assert not {"pixel_AUROC", "AUPRO"} & set(no_masks)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mask", "kind"),
    [
        (np.zeros((96, 96), np.uint8), "mask-empty"),
        (np.full((48, 96), 255, np.uint8), "mask-size"),
        (None, "unreadable-mask"),
    ],
)
def test_an_image_with_an_invalid_mask_counts_for_image_metrics_only(root: Path, mask: np.ndarray | None, kind: str):
    path = root / "masks" / "2.png"
    if mask is None:
        path.write_bytes(b"\x89PNG\r\n\x1a\n broken")
    else:
        write(path, mask)
    report = Engine().evaluate(Brightness(), data(root))
    (problem,) = report.problems
    assert (problem.path, problem.kind) == (path, kind)
    assert str(path) in problem.text
    assert problem.text.endswith("Its image counts for image metrics only.")
    assert len(report.tested) == 12
    path.unlink()
    (root / "scratch" / "2.png").unlink()
    without = Engine().evaluate(Brightness(), data(root))
    for name in ("pixel_AUROC", "pixel_AP", "AUPRO"):
        assert report.metrics[name] == pytest.approx(without.metrics[name])


def test_a_broken_test_image_is_named_and_left_out(root: Path):
    broken = root / "fine" / "3.png"
    chosen = data(root)
    broken.write_bytes(broken.read_bytes()[:300])
    report = Engine().evaluate(Brightness(), chosen)
    assert len(report.tested) == 11
    (problem,) = report.problems
    assert problem.path == broken
    assert problem.text.endswith("It was left out.")
    predictions = list(Engine().predict(Brightness(), chosen))
    assert [result.path for result in predictions if isinstance(result, Problem)] == [broken]
    assert len(predictions) == 12


def test_no_test_images(root: Path):
    only_good = Folder("parts", root=root, normal_dir="train")
    with pytest.raises(DataError, match=r"test images: expected at least one, got none, in parts\. Give test images"):
        Engine().evaluate(Brightness(), only_good)


def test_no_test_image_that_can_be_read(root: Path):
    chosen = data(root)
    for sample in chosen.test:
        sample.path.write_bytes(b"nothing")
    with pytest.raises(DataError, match="test images: expected one that can be read, got 12 broken, the first: "):
        Engine().evaluate(Brightness(), chosen)


def test_good_images_need_no_mask(root: Path):
    assert (
        load_defect_mask(Sample(path=root / "fine" / "0.png", defect="good", mask_path=root / "no.png"), (96, 96))
        is None
    )
    assert load_defect_mask(Sample(path=root / "scratch" / "0.png", defect="scratch"), (96, 96)) is None


@pytest.mark.slow
def test_the_average_has_the_metrics_of_all_categories(root: Path):
    with_masks = Engine().evaluate(Brightness(), data(root))
    without = Engine().evaluate(Brightness(), data(root, "scratch", "dull", mask_dir=None))
    mean = average([with_masks, without])
    assert mean["image_AUROC"] == pytest.approx(
        (with_masks.metrics["image_AUROC"] + without.metrics["image_AUROC"]) / 2
    )
    assert "AUPRO" not in mean
    with pytest.raises(InputError, match="reports: expected at least one, got none"):
        average([])
