"""Each kind of problem of a data set is reported."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict

import cv2
import numpy as np
import pytest

from blemish.data.datasets import Folder, MVTecAD, open_dataset
from blemish.data.training_images import TrainingImages
from blemish.data.validation import survey_dataset
from blemish.errors import DataError
from blemish.imaging.decode import load
from blemish.types import Sample
from tests.images import good


def save(path, image):
    """Write without fsync, which takes a second for a hundred images."""
    path.parent.mkdir(parents=True, exist_ok=True)
    done, encoded = cv2.imencode(
        path.suffix, image.astype(np.uint8)[..., ::-1] if image.ndim == 3 else image * np.uint8(1)
    )
    assert done
    path.write_bytes(encoded.tobytes())


@pytest.fixture
def root(tmp_path, rng):
    """A small category without problems: 99 good images, and a test of both kinds with masks."""

    def image():
        return rng.integers(0, 256, (6, 8, 3)).astype(np.uint8)

    for n in range(99):
        save(tmp_path / f"part/train/good/{n}.png", image())
    for n in range(2):
        save(tmp_path / f"part/test/good/{n}.png", image())
        save(tmp_path / f"part/test/crack/{n}.png", image())
        save(tmp_path / f"part/ground_truth/crack/{n}_mask.png", np.arange(48).reshape(6, 8) > 40)
    return tmp_path


def check(root):
    return survey_dataset(MVTecAD(root, "part")).problems


def only(problems, kind):
    assert [problem.kind for problem in problems] == [kind]
    return problems[0]


def test_no_problems_and_the_summary_counts(root):
    steps = []
    survey = survey_dataset(MVTecAD(root, "part"), progress=lambda _, done, total: steps.append((done, total)))
    assert survey.problems == ()
    assert steps == [(n, 103) for n in range(1, 104)]
    assert json.loads(json.dumps(asdict(survey.summary))) == {
        "name": "part",
        "train": 99,
        "parts": 99,
        "test": {"good": 2, "crack": 2},
        "masks": 2,
        "unreadable": 0,
        "skipped": 0,
        "formats": {"PNG": 103},
        "sizes": {"6 x 8": 103},
        "channels": {"colour": 103},
        "depths": {"8": 103},
        "lowest_false_positive_rate": 0.01,
    }


@pytest.mark.parametrize("content", [b"", b"text", "half"])
def test_unreadable_images(root, content):
    path = root / "part/test/good/1.png"
    path.write_bytes(path.read_bytes()[:50] if content == "half" else content)
    problem = only(check(root), "unreadable")
    assert problem.path == path
    assert problem.text.startswith("image: expected ")
    assert problem.text.endswith(f", in {path}. It is left out.")
    assert not problem.fatal


def test_a_depth_that_fit_refuses(root):
    path = root / "part/test/good/1.tiff"
    cv2.imwrite(str(path), np.ones((6, 8), np.float32))
    assert "float32; 8 or 16 bits are read. It is left out." in only(check(root), "unreadable").text


@pytest.mark.slow
def test_masks_that_do_not_match(root):
    masks = root / "part/ground_truth/crack"
    save(masks / "0_mask.png", np.ones((8, 6), bool))
    problem = only(check(root), "mask-size")
    assert problem.path == masks / "0_mask.png"
    assert problem.text == "The mask is 8 x 6 and its image 6 x 8 pixels. 0.png is left out of the pixel metrics."
    save(masks / "0_mask.png", np.zeros((6, 8), bool))
    assert "marks no pixel" in only(check(root), "mask-empty").text
    inverted = np.ones((6, 8), bool)
    inverted[2:4, 2:4] = False
    save(masks / "0_mask.png", inverted)
    assert only(check(root), "mask-inverted").text == "It marks 92 % of 0.png, with the border: is it inverted?"
    (masks / "0_mask.png").write_bytes(b"")
    assert only(check(root), "unreadable-mask").text.startswith("mask: expected an image, got 0 bytes, in ")


def test_defects_without_masks_and_masks_without_images(root):
    masks = root / "part/ground_truth/crack"
    (masks / "0_mask.png").rename(masks / "7_mask.png")
    problems = check(root)
    assert [problem.kind for problem in problems] == ["no-mask", "unused-mask"]
    assert problems[0].text == "1 file (0.png) of 'crack' without a mask: left out of the pixel metrics."
    assert problems[1].path == masks / "7_mask.png"
    shutil.rmtree(masks)
    assert "There will be image metrics and no pixel metrics." in only(check(root), "no-mask").text


@pytest.mark.parametrize(
    ("copy", "kind", "text"),
    [
        (
            "part/train/good/200.png",
            "duplicate-train",
            "Both count as one part.",
        ),
        ("part/test/good/2.png", "duplicate-train-test", "It is fitted on and tested: metrics come out too good."),
        ("part/test/crack/1.bmp", "duplicate-train-test", "It is fitted on as good and tested as defective."),
    ],
)
def test_copies_of_training_images(root, copy, kind, text):
    (root / "part/test/crack/1.png").unlink()
    save(root / copy, load(root / "part/train/good/0.png"))  # another encoding is the same image
    if "crack" not in copy:
        (root / "part/ground_truth/crack/1_mask.png").unlink()
    problem = only(check(root), kind)
    assert problem.path == root / copy
    assert text in problem.text
    assert str(root / "part/train/good/0.png") in problem.text


def test_copies_within_the_test(root):
    shutil.copy(root / "part/test/good/0.png", root / "part/test/good/9.png")
    assert "It counts twice in the test." in only(check(root), "duplicate-test").text
    (root / "part/test/good/9.png").unlink()
    shutil.copy(root / "part/test/good/0.png", root / "part/test/crack/1.png")
    assert "One is called 'good', the other 'crack'." in only(check(root), "duplicate-test").text


@pytest.mark.parametrize(
    ("n", "text"),
    [
        (2, "There are only 2 good images to fit on: the threshold is a guess. Give at least 10."),
        (9, "There are only 9 good images to fit on: the threshold is a guess. Give at least 10."),
        (10, "There are 10 good images to fit on. From 50 on the false positive rate is surer."),
        (49, "There are 49 good images to fit on. From 50 on the false positive rate is surer."),
    ],
)
def test_few_good_images(root, n, text):
    for path in sorted((root / "part/train/good").iterdir())[n:]:
        path.unlink()
    problem = only(check(root), "few-good")
    assert problem.text == text
    assert not problem.fatal


@pytest.mark.parametrize(
    ("n", "kind", "text"),
    [(0, "no-good", "There is no good image to"), (1, "few-good", "There is only 1 good image to")],
)
def test_fewer_good_images_than_fit_needs_are_fatal_and_come_first(root, n, kind, text):
    for path in sorted((root / "part/train/good").iterdir())[n:]:
        path.write_bytes(b"")
    dataset = MVTecAD(root, "part")
    problems = survey_dataset(dataset).problems
    assert (problems[0].kind, problems[0].fatal) == (kind, True)
    assert problems[0].text.startswith(text)
    assert "needs at least 2" in problems[0].text
    assert [problem.fatal for problem in problems[1:]] == [False] * (99 - n)
    with pytest.raises(DataError, match="good images: expected at least 2, got"):
        TrainingImages(dataset.train, bit_depth=None, threads=0)


def test_a_test_set_of_one_class(root):
    shutil.rmtree(root / "part/test/good")
    assert "AUROC" in only(check(root), "no-good-test").text
    shutil.move(root / "part/test/crack", root / "part/test/good")
    shutil.rmtree(root / "part/ground_truth")
    assert "Only false positives" in only(check(root), "no-defective-test").text


@pytest.mark.slow
def test_mixed_sizes_aspects_and_colors(root, rng):
    extra = root / "part/test/good/9.png"
    save(extra, rng.integers(0, 256, (12, 16, 3)).astype(np.uint8))
    assert only(check(root), "mixed-size").text.startswith("Images have different sizes: 6 x 8 (103), 12 x 16 (1).")
    save(extra, rng.integers(0, 256, (8, 6, 3)).astype(np.uint8))
    assert "At one common size some are squeezed" in only(check(root), "mixed-aspect").text
    save(extra, rng.integers(0, 256, (6, 8)).astype(np.uint8))
    assert "103 colour, 1 grey" in only(check(root), "mixed-color").text


def test_grey_stored_as_three_equal_channels_is_grey(tmp_path, rng):
    for n in range(99):
        grey = rng.integers(0, 256, (6, 8)).astype(np.uint8)
        save(tmp_path / f"{n}.png", grey if n % 2 else np.repeat(grey[..., None], 3, axis=2))
    survey = survey_dataset(Folder("grey", normal_dir=tmp_path))
    assert survey.problems == ()
    assert survey.summary.channels == {"grey": 99}


@pytest.mark.slow
@pytest.mark.parametrize(("largest", "bits"), [(1000, 10), (4095, 12), (16383, 14)])
def test_16_bit_images_that_use_fewer(tmp_path, rng, largest, bits):
    for n in range(99):
        deep = rng.integers(0, largest + 1, (6, 8)).astype(np.uint16)
        deep[0, 0] = largest
        assert cv2.imwrite(str(tmp_path / f"{n}.png"), deep)
    problem = only(survey_dataset(Folder("deep", normal_dir=tmp_path)).problems, "bit-depth")
    assert problem.text.endswith(f"Set bit_depth={bits}.")
    deep[0, 0] = 60_000
    assert cv2.imwrite(str(tmp_path / "98.png"), deep)
    assert survey_dataset(Folder("deep", normal_dir=tmp_path)).problems == ()
    save(tmp_path / "99.png", rng.integers(0, 256, (6, 8)).astype(np.uint8))
    assert (
        "16 bits a channel: 99; of 8: 1."
        in only(survey_dataset(Folder("deep", normal_dir=tmp_path)).problems, "mixed-depth").text
    )


def test_unused_files_are_counted(root):
    (root / "part/test/Thumbs.db").touch()
    (root / "part/test/good/.DS_Store").touch()
    (root / "part/notes.txt").touch()
    assert only(check(root), "not-used").text.startswith("2 files (notes.txt, Thumbs.db) not used")


def test_a_callers_own_data_set_needs_samples_alone(root):
    class Own:
        name = "own"
        train = tuple(Sample(path, "train") for path in (root / "part/train/good").iterdir())
        test = ()

    assert survey_dataset(Own()).problems == ()
    Own.train = ()
    assert only(survey_dataset(Own()).problems, "no-good").fatal


@pytest.mark.slow
@pytest.mark.data
def test_real_categories_have_no_problems(data_root):
    for category, sizes in (("bottle", {"512 x 512": 292}), ("grid", {"512 x 512": 322})):
        survey = survey_dataset(MVTecAD(data_root / "mvtec", category))
        # Many images of the grid are as alike as shots of one piece: fewer than 50 parts may be counted.
        assert {problem.kind for problem in survey.problems} <= {"few-good"}
        assert survey.summary.sizes == sizes


def test_a_mask_that_is_a_photograph(root, rng):
    save(root / "part/ground_truth/crack/0_mask.png", rng.integers(0, 256, (6, 8)).astype(np.uint8))
    problem = only(check(root), "mask-image")
    assert problem.path.name == "0_mask.png"
    assert problem.text == "It has more brightnesses than a mask: is it an image? It is taken as the mask of 0.png."


def test_masks_of_one_image_of_two_sizes(root):
    save(root / "part/ground_truth/crack/0_mask_2.png", np.ones((3, 3), bool))
    problem = only(check(root), "unreadable-mask")
    assert "expected (6, 8) as " in problem.text


@pytest.mark.slow
@pytest.mark.parametrize("depth", ["8", "16", "grey", "alpha"])
def test_images_of_one_part_count_once(tmp_path, depth):
    """Each of 12 parts twice, with noise of its own: near-duplicates in any kind of pixels."""
    rng = np.random.default_rng(0)
    for i in range(24):
        noisy = np.clip(good(i // 2) + rng.normal(0, 1, (96, 96, 3)), 0, 255).astype(np.uint8)
        alpha = np.full((96, 96, 1), 255, np.uint8)
        pixels = {"8": noisy, "16": noisy.astype(np.uint16) * 257, "grey": noisy[..., 0]}
        image = np.concatenate([noisy, alpha], axis=2) if depth == "alpha" else pixels[depth]
        cv2.imwrite(str(tmp_path / f"{i:02}.png"), image)
    survey = survey_dataset(open_dataset(tmp_path))
    assert (survey.summary.train, survey.summary.parts) == (24, 12)
    assert survey.summary.lowest_false_positive_rate == pytest.approx(1 / 13)
    assert "There are 12 parts in the 24 good images to fit on." in survey.problems[0].text
