"""Training images: read in order, broken ones named and left out, at least two left."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from blemish.data.training_images import TrainingImages
from blemish.errors import DataError, ImageError, InputError
from blemish.imaging.decode import path_of, read_image
from blemish.imaging.drift import GoodRange, image_statistics
from blemish.imaging.geometry import Geometry
from blemish.types import Sample, no_progress
from tests.images import cut_off, good, goods, write, write_goods


class Means:
    """Stand-in for the network: the mean colour of each 32 x 32 cell."""

    model = b""

    def features(self, network_input: np.ndarray) -> np.ndarray:
        height, width = network_input.shape[:2]
        cells = network_input.reshape(height // 32, 32, width // 32, 32, 3)
        return cells.mean(axis=(1, 3)).astype(np.float32)


def read(items, **changes) -> TrainingImages:
    return TrainingImages(items, **{"bit_depth": None, "threads": 2, **changes})


def feature_maps(images: TrainingImages, chosen: list[int]) -> dict[int, np.ndarray]:
    return dict(images.feature_maps(Means().features, Geometry((64, 64)), chosen, stage="s", progress=no_progress))


def test_paths_samples_and_arrays_are_the_same_images(tmp_path: Path):
    paths = write_goods(tmp_path, 3)
    sources = [read(paths), read([str(p) for p in paths]), read([Sample(p) for p in paths]), read(goods(3))]
    assert sources[0].names == sources[1].names == sources[2].names == [str(p) for p in paths]
    assert sources[3].names == ["array 0", "array 1", "array 2"]
    assert sources[0].sha256 == sources[1].sha256 == sources[2].sha256
    for images in sources:
        assert images.sizes_hw == [(96, 96)] * 3
        for i, features in feature_maps(images, [0, 1, 2]).items():
            np.testing.assert_array_equal(features, feature_maps(sources[0], [i])[i])


def test_the_hash_is_that_of_the_files_in_order(tmp_path: Path):
    paths = write_goods(tmp_path, 3)
    digests = "".join(hashlib.sha256(p.read_bytes()).hexdigest() for p in paths)
    assert read(paths).sha256 == hashlib.sha256(digests.encode()).hexdigest()
    assert read(paths[::-1]).sha256 != read(paths).sha256


def test_features_come_in_the_order_asked_for():
    images = read(goods(4))
    maps = images.feature_maps(Means().features, Geometry((64, 64)), [3, 0, 2], stage="s", progress=no_progress)
    assert [i for i, _ in maps] == [3, 0, 2]
    assert not np.array_equal(feature_maps(images, [3])[3], feature_maps(images, [0])[0])


def test_progress_counts_every_image():
    calls = []
    images = read(goods(3))
    list(
        images.feature_maps(
            Means().features, Geometry((64, 64)), [0, 2], stage="x", progress=lambda *a: calls.append(a)
        )
    )
    assert calls == [("x", 1, 2), ("x", 2, 2)]


@pytest.mark.parametrize("content", [b"", b"no image at all", b"\x89PNG\r\n\x1a\n"])
def test_broken_files_are_left_out_and_named(tmp_path: Path, content: bytes):
    paths = write_goods(tmp_path, 3)
    paths[1].write_bytes(content)
    images = read(paths)
    assert images.names == [str(paths[0]), str(paths[2])]
    (problem,) = images.problems
    assert (problem.path, problem.kind) == (paths[1], "unreadable")
    assert str(paths[1]) in problem.text
    assert problem.text.endswith(" It was left out.")


def test_a_missing_file_is_left_out(tmp_path: Path):
    paths = write_goods(tmp_path, 3)
    paths[2].unlink()
    assert [p.path for p in read(paths).problems] == [paths[2]]


def test_damaged_pixels_are_a_problem_when_decoded(tmp_path: Path):
    paths = write_goods(tmp_path, 3)
    cut_off(paths[1], good(1))
    images = read(paths)
    assert len(images) == 3
    assert list(feature_maps(images, [0, 1, 2])) == [0, 2]
    assert [p.path for p in images.problems] == [paths[1]]
    before = read(paths).sha256
    images.keep([0, 2])
    assert images.names == [str(paths[0]), str(paths[2])]
    assert (len(images), len(images.sizes_hw)) == (2, 2)
    assert images.sha256 == read([paths[0], paths[2]]).sha256 != before
    with pytest.raises(DataError, match=r"got 1 that can be read and 1 broken, the first: image: .*001\.png"):
        images.keep([0])


@pytest.mark.parametrize("n", [0, 1])
def test_at_least_two(n: int):
    with pytest.raises(DataError, match=f"good images: expected at least 2, got {n} that can be read"):
        read(goods(n))


def test_all_broken(tmp_path: Path):
    paths = [tmp_path / f"{i}.png" for i in range(4)]
    for path in paths:
        path.write_bytes(b"")
    with pytest.raises(DataError, match=r"got 0 that can be read and 4 broken, the first: .*0\.png\. It was left out"):
        read(paths)


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (np.zeros((8, 8, 3)), r"image: expected uint8 or uint16 .* got float64 \(8, 8, 3\)\. If it runs from 0 to 1"),
        (np.zeros((2, 8, 8, 3), np.uint8), "Pass one image at a time"),
        (np.zeros((3, 8, 8), np.uint8), "Channels come last"),
        (np.zeros((8, 8, 4), np.uint8), "Leave alpha out"),
        (np.zeros((0, 8, 3), np.uint8), r"got uint8 \(0, 8, 3\)"),
    ],
)
def test_an_array_that_is_no_image_raises(array: np.ndarray, text: str):
    with pytest.raises(InputError, match=text):
        read([*goods(2), array])


def test_reading_one(tmp_path: Path):
    path = write(tmp_path / "größe 日本.png", good(0))
    for item in (path, str(path), Sample(path), good(0)):
        np.testing.assert_array_equal(read_image(item, None), good(0))
    assert path_of(good(0)) is None
    assert path_of(str(path)) == path_of(Sample(path)) == path
    with pytest.raises(ImageError, match=r"absent\.png"):
        read_image(tmp_path / "absent.png", None)


def test_bit_depth_reaches_files_and_arrays(tmp_path: Path):
    grey = good(0)[..., 0]
    twelve = (grey.astype(np.int64) * 4095 // 255).astype(np.uint16)
    path = write(tmp_path / "a.png", twelve)
    for item in (path, twelve):
        np.testing.assert_allclose(read_image(item, 12)[..., 0].astype(int), grey, atol=1)
        np.testing.assert_allclose(read_image(item, None)[..., 0].astype(int), grey // 16, atol=1)


def test_statistics_are_those_of_the_images_left_as_first_prepared(tmp_path: Path):
    paths = write_goods(tmp_path, 3)
    paths[1] = cut_off(tmp_path / "broken.png", good(1))
    images = read(paths)
    assert images.good_range() is None
    kept = list(feature_maps(images, [0, 1, 2]))
    images.keep(kept)
    expected = [image_statistics(Geometry((64, 64)).prepare(good(i))) for i in kept]
    np.testing.assert_array_equal(images.statistics, expected)
    list(images.prepared(Geometry((32, 32)), [0], stage="s", progress=no_progress))
    np.testing.assert_array_equal(images.statistics, expected)
    assert images.good_range() == GoodRange.of(expected)


def shots(n: int, seed: int = 0) -> list[np.ndarray]:
    """Two images of each of n parts, one after the other, with noise of their own."""
    rng = np.random.default_rng(seed)
    noise = (rng.normal(0, 1, (96, 96, 3)) for _ in range(2 * n))
    return [np.clip(good(i // 2) + next(noise), 0, 255).astype(np.uint8) for i in range(2 * n)]


def test_copies_are_one_group_before_anything_is_decoded(tmp_path: Path):
    paths = [write(tmp_path / f"{i}.png", good(i % 6)) for i in range(9)]
    images = read(paths)
    assert images.groups.tolist() == [0, 1, 2, 3, 4, 5, 0, 1, 2]
    assert images.representatives([1, 2, 6, 7, 0]) == [0, 1, 2]


def test_samples_that_name_a_group_are_one(tmp_path: Path):
    paths = write_goods(tmp_path, 9)
    images = read([Sample(path, "train", group="" if i < 3 else f"part {i // 2}") for i, path in enumerate(paths)])
    assert images.groups.tolist() == [0, 1, 2, 3, 4, 4, 6, 6, 8]


@pytest.mark.slow
def test_near_duplicates_are_one_group_once_all_are_prepared():
    images = read(shots(8))
    assert images.groups.tolist() == list(range(16))
    feature_maps(images, list(range(16)))
    images.keep([0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15])
    assert images.groups.tolist() == [0, 0, 2, 2, 4, 5, 5, 7, 7, 9, 9, 11, 11, 13, 13]


def test_images_count_as_parts_where_there_would_be_too_few():
    assert read([good(0)] * 20).groups.tolist() == list(range(20))
    four = read([good(i % 4) for i in range(20)])
    assert four.groups.tolist() == list(range(20))
    assert four.found_groups.tolist() == [0, 1, 2, 3] * 5
    assert len(set(read([good(i % 5) for i in range(20)]).groups.tolist())) == 5


def test_the_image_that_stands_for_a_group_represents_it():
    images = read([good(i) for i in range(6)])
    images.groups = np.array([1, 1, 1, 4, 4, 5])
    assert images.representatives(range(6)) == [1, 4, 5]
    assert images.representatives([0, 2, 3, 5]) == [0, 3, 5]
