"""Training pairs: aligned, computed once, resumed, and refused with a reason."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from blemish.detectors.efficientad.distillation.targets import Source, TargetSettings, prepare, projection
from blemish.errors import DataError, InputError, ModelFileError
from blemish.imaging.decode import load, resize, save
from tests.images import good

SMALL = TargetSettings("efficientnet_lite0", ("blocks.3", "blocks.4"), image_px=64, crop_px=41, crops_per_image=2)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    for i in range(9):
        save(folder / f"{i}.png", good(i, 70 + 5 * i, 90))
    return folder


@pytest.mark.slow
def test_the_targets_lie_where_the_crops_do(photographs, tmp_path):
    ready = prepare(photographs, tmp_path, SMALL)
    assert ready.crops.shape == (18, 41, 41, 3)
    assert ready.features.shape == (18, 3, 3, 80)
    assert (ready.valid.tolist(), ready.problems) == (list(range(18)), ())
    source = Source(SMALL)
    seen = json.loads((tmp_path / "prepared.json").read_text())
    n_found = 0
    for i in range(18):
        original = load(photographs / f"{i // 2}.png")
        height, width = (max(64, round(n * 64 / min(original.shape[:2]) / 32) * 32) for n in original.shape[:2])
        for image in (original, np.ascontiguousarray(original[:, ::-1])):
            small = resize(image, (height, width))
            for row in range(0, height - 40, 4):
                for column in range(0, width - 40, 4):
                    if np.array_equal(small[row : row + 41, column : column + 41], ready.crops[i]):
                        whole = (source.features(image, (height, width)) - seen["mean"]) / seen["std"]
                        wanted = whole[row // 4 : row // 4 + 3, column // 4 : column // 4 + 3]
                        np.testing.assert_allclose(ready.features[i], wanted, atol=4e-3)
                        n_found += 1
    assert n_found >= 12  # the others are of images made grey


@pytest.mark.slow
def test_a_spot_shows_in_the_target_whose_field_it_is_in():
    source = Source(SMALL)
    flat = np.full((128, 128, 3), 120, np.uint8)
    base = source.features(flat, (128, 128))
    row, column = 12, 7
    spot = flat.copy()
    # The middle of what PDN output (12, 7) sees: 16 + 4 * 12 pixels down.
    spot[16 + 4 * row - 1 : 16 + 4 * row + 2, 16 + 4 * column - 1 : 16 + 4 * column + 2] = 255
    change = np.abs(source.features(spot, (128, 128)) - base).sum(axis=2)
    total = change.sum()
    rows, columns = np.mgrid[: change.shape[0], : change.shape[1]]
    assert abs((rows * change).sum() / total - row) < 0.5
    assert abs((columns * change).sum() / total - column) < 0.5


@pytest.mark.slow
def test_a_killed_preparation_continues(photographs, tmp_path, monkeypatch):
    whole = prepare(photographs, tmp_path / "whole", SMALL)

    def stop(stage, done, total):
        if done == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr("blemish.detectors.efficientad.distillation.targets.SAVE_IMAGES", 2)
    with pytest.raises(KeyboardInterrupt):
        prepare(photographs, tmp_path / "parts", SMALL, progress=stop)
    done = []
    parts = prepare(photographs, tmp_path / "parts", SMALL, progress=lambda _, n, total: done.append(n))
    assert done == [5, 6, 7, 8, 9]
    np.testing.assert_array_equal(parts.crops, whole.crops)
    np.testing.assert_array_equal(parts.features, whole.features)
    again = []
    prepare(photographs, tmp_path / "parts", SMALL, progress=lambda _, n, total: again.append(n))
    assert again == []


@pytest.mark.slow
def test_a_broken_image_is_left_out_and_named(photographs, tmp_path):
    folder = tmp_path / "with a broken one"
    shutil.copytree(photographs, folder)
    (folder / "4.png").write_bytes((folder / "4.png").read_bytes()[:200])
    ready = prepare(folder, tmp_path / "work", SMALL)
    assert len(ready.problems) == 1
    assert "4.png" in ready.problems[0]
    assert not set(ready.valid.tolist()) & {8, 9}
    assert ready.facts["images"] == 8


@pytest.mark.slow
def test_other_settings_images_or_files_are_refused(photographs, tmp_path):
    prepare(photographs, tmp_path, SMALL)
    other = TargetSettings(**{**SMALL.__dict__, "seed": 1})
    with pytest.raises(
        InputError, match=r"prepared crops: expected seed 1, got seed 0, in .*Give the settings of before"
    ):
        prepare(photographs, tmp_path, other)
    more = tmp_path / "more"
    shutil.copytree(photographs, more)
    save(more / "9.png", good(9))
    with pytest.raises(InputError, match="prepared crops: expected images_sha256"):
        prepare(more, tmp_path, SMALL)
    np.save(tmp_path / "crops.npy", np.zeros((3, 41, 41, 3), np.uint8))
    with pytest.raises(ModelFileError, match=r"crops\.npy: expected a file of distill, got uint8 \(3, 41, 41, 3\)"):
        prepare(photographs, tmp_path, SMALL)
    (tmp_path / "targets.npy").write_bytes(b"half")
    shutil.copy(photographs / "0.png", tmp_path / "crops.npy")
    with pytest.raises(ModelFileError, match=r"crops\.npy: expected a file of distill, got .*Delete .* to begin anew"):
        prepare(photographs, tmp_path, SMALL)
    (tmp_path / "prepared.json").write_text("{}")
    with pytest.raises(ModelFileError, match=r"prepared\.json: expected a file of distill, got .*identity"):
        prepare(photographs, tmp_path, SMALL)


@pytest.mark.slow
def test_too_few_images_are_refused(photographs, tmp_path):
    few = tmp_path / "few"
    few.mkdir()
    with pytest.raises(DataError, match=r"images: expected images .* got an empty folder"):
        prepare(few, tmp_path / "work", SMALL)
    shutil.copy(photographs / "0.png", few)
    with pytest.raises(DataError, match=r"images: expected at least 8, got 1, in .*A teacher needs some thousands"):
        prepare(few, tmp_path / "work", SMALL)
    for i in range(8):
        (few / f"{i}.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"images: expected some that can be read, got none of 8 tried"):
        prepare(few, tmp_path / "work", SMALL)
    shutil.copy(photographs / "0.png", few)
    with pytest.raises(DataError, match=r"images: expected at least 8 that can be read, got image: expected"):
        prepare(few, tmp_path / "work2", SMALL)


@pytest.mark.parametrize("n_channels", [64, 384, 500])
def test_the_projection_keeps_lengths(n_channels):
    matrix = projection(n_channels, 3)
    assert matrix.shape == (n_channels, 384)
    if n_channels <= 384:
        gram = matrix @ matrix.T * n_channels / 384
        np.testing.assert_allclose(gram, np.eye(n_channels), atol=1e-5)
    else:
        np.testing.assert_allclose(matrix.T @ matrix, np.eye(384), atol=1e-5)
    np.testing.assert_array_equal(matrix, projection(n_channels, 3))
    features = np.random.default_rng(0).normal(size=(4000, n_channels)) @ matrix
    assert features.var() == pytest.approx(1.0, rel=0.05)


def test_settings_out_of_range_are_refused():
    with pytest.raises(InputError, match="crop_px: expected a number from 33 to 64, got 32"):
        TargetSettings(crop_px=32, image_px=64)
    with pytest.raises(InputError, match="image_px: expected a multiple of 32, got 250"):
        TargetSettings(image_px=250)
    with pytest.raises(InputError, match="crops_per_image"):
        TargetSettings(crops_per_image=0)
    with pytest.raises(InputError, match="max_images"):
        TargetSettings(max_images=0)
