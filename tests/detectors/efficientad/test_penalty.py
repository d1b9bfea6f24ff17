"""Penalty images: random parts of photographs or of dead-leaves images, reproducible by the generator."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from blemish.detectors.efficientad.penalty import DrawnPenalty, PenaltyFolder, dead_leaves, penalty_images
from blemish.errors import DataError
from tests.images import cut_off, good, write


def parts(penalty, seed: int = 0, n: int = 6) -> np.ndarray:
    return penalty.parts(np.random.default_rng(seed), n, (20, 30))


def test_parts_are_of_the_folders_images(tmp_path: Path):
    for value in (40, 200):
        write(tmp_path / "a" / f"{value}.png", np.full((50, 70, 3), value, np.uint8))
    found = parts(PenaltyFolder(tmp_path, (32, 32)), n=12)
    assert found.shape == (12, 20, 30, 3)
    assert set(np.unique(found)) == {40, 200}
    np.testing.assert_array_equal(found, parts(PenaltyFolder(tmp_path, (32, 32)), n=12))


def test_some_parts_are_grey(tmp_path: Path):
    write(tmp_path / "red.png", np.full((50, 70, 3), (200, 10, 10), np.uint8))
    found = parts(PenaltyFolder(tmp_path, (32, 32)), n=60)
    is_grey = (found[:, 0, 0, 0] == found[:, 0, 0, 1]).mean()
    assert 0.1 < is_grey < 0.5


def test_broken_files_are_left_out_and_named(tmp_path: Path):
    write(tmp_path / "0.png", good(0))
    cut_off(tmp_path / "1.png", good(1))
    (tmp_path / "2.png").write_bytes(b"")
    penalty = PenaltyFolder(tmp_path, (32, 32))
    found = parts(penalty, n=30)
    assert len(found) == 30
    assert sorted(problem.path.name for problem in penalty.problems) == ["1.png", "2.png"]
    assert all(problem.text.endswith("left out of the penalty images.") for problem in penalty.problems)
    # Which images a generator draws does not depend on what was known to be broken before.
    np.testing.assert_array_equal(parts(penalty, n=30), found)


def test_a_folder_of_broken_files_is_refused(tmp_path: Path):
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(b"GIF89a")
    with pytest.raises(DataError, match=r"imagenet_dir: expected an image that can be read, got 3 broken.*or none"):
        parts(PenaltyFolder(tmp_path, (32, 32)))


def test_a_folder_without_images_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="imagenet_dir: expected images"):
        PenaltyFolder(tmp_path, (32, 32))
    with pytest.raises(DataError, match="imagenet_dir: expected a folder of photographs, got nothing there"):
        PenaltyFolder(tmp_path / "absent", (32, 32))


@pytest.mark.slow
def test_drawn_images_are_the_same_again_and_all_different():
    one, again, other = (DrawnPenalty((64, 64), seed) for seed in (0, 0, 1))
    found = parts(one)
    np.testing.assert_array_equal(found, parts(again))
    assert not np.array_equal(found, parts(other))
    images = [dead_leaves(np.random.default_rng(seed), (96, 64)) for seed in range(3)]
    assert {image.shape for image in images} == {(96, 64, 3)}
    assert not np.array_equal(images[0], images[1])
    assert min(image.std() for image in images) > 10


def test_a_folder_or_drawn_ones(tmp_path: Path):
    write(tmp_path / "0.png", good(0))
    assert isinstance(penalty_images(None, (64, 64), 0), DrawnPenalty)
    assert isinstance(penalty_images(str(tmp_path), (64, 64), 0), PenaltyFolder)
