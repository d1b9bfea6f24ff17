"""United masks, and masks known by their pixels."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from blemish.data.mask_files import assign, beside, elsewhere
from blemish.data.masks import is_two_valued, load_union
from blemish.errors import DataError, ImageError
from blemish.evaluation.engine import load_defect_mask
from blemish.types import Bool, Sample
from tests.data.drawn import image, images, mask, masks, put
from tests.images import touch


def test_the_union_of_masks(tmp_path: Path) -> None:
    first, second = put(tmp_path / "0.png", mask(at=2)), put(tmp_path / "1.png", mask(at=20))
    expected = (mask(at=2) > 0) | (mask(at=20) > 0)
    assert np.array_equal(load_union([first, second]), expected)
    sample = Sample(tmp_path / "x.png", defect="cut", mask_path=first, further_masks=(second,))
    loaded = load_defect_mask(sample, (32, 32))
    assert isinstance(loaded, np.ndarray)
    assert np.array_equal(loaded, expected)
    put(second, np.zeros((8, 8), np.uint8))
    with pytest.raises(ImageError, match=r"^mask: expected \(32, 32\) as .*0\.png, got \(8, 8\), in .*1\.png\."):
        load_union([first, second])


def anti_aliased() -> np.ndarray:
    return cv2.GaussianBlur(cv2.resize(mask(), (256, 256), interpolation=cv2.INTER_NEAREST), (3, 3), 0)


@pytest.mark.parametrize(
    ("pixels", "ending", "expected"),
    [
        (mask(), ".png", True),
        (mask(), ".jpg", True),
        (mask() // 255, ".png", True),
        (mask(marked=False), ".png", True),
        (mask().astype(np.uint16) * 257, ".png", True),
        (np.dstack([mask() * 0, mask() * 0, mask()]), ".png", True),
        (anti_aliased(), ".png", True),
        (image(0), ".png", False),
        (image(0) // 64 * 64, ".png", False),
        (np.full((8, 8), 90, np.uint8), ".png", False),
        (np.linspace(0, 255, 64).reshape(8, 8).astype(np.float32), ".tif", False),
    ],
)
def test_two_brightnesses(pixels: np.ndarray, ending: str, expected: bool, tmp_path: Path) -> None:
    assert is_two_valued(put(tmp_path / f"a{ending}", pixels)) == expected


def test_a_file_that_cannot_be_read_is_no_mask(tmp_path: Path) -> None:
    assert not is_two_valued(touch(tmp_path, "a.png") / "a.png")


def test_files_beside_each_other(tmp_path: Path) -> None:
    images(tmp_path, "1.png", "1_2.png", "10.png", "label_1.png")  # shots of one part are images
    masks(tmp_path, "mask_1.png", "1_2_mask_1.png", "1_2_mask_2.png", "10 (copy).png", "7_mask.png")
    paths = sorted(tmp_path.iterdir())
    kept, found, orphans = beside(paths)
    assert {path.name for path in kept} == {"1.png", "1_2.png", "10.png", "label_1.png"}
    assert [path.name for path in orphans] == ["7_mask.png"]
    assert {path.name: [own.name for own in masks] for path, masks in found.items()} == {
        "1.png": ["mask_1.png"],
        "1_2.png": ["1_2_mask_1.png", "1_2_mask_2.png"],
        "10.png": ["10 (copy).png"],
    }


def test_silhouettes_beside_each_other_are_images(tmp_path: Path) -> None:
    masks(tmp_path, "8.png", "8_b.png", "8.bmp")
    kept, found, orphans = beside(sorted(tmp_path.iterdir()))
    assert (len(kept), found, orphans) == (3, {}, [])


def test_silhouettes_with_a_photograph_each_are_masks_and_alone_they_are_not(tmp_path: Path) -> None:
    images(tmp_path, "a/0.png", "a/1.png", "b/0.png", "c/2.png")
    masks(tmp_path, "d/0.png", "d/1_GT.png", "d/3.png")
    kept, found = elsewhere(sorted(path for path in tmp_path.rglob("*.png")))
    assert [path.relative_to(tmp_path).as_posix() for path in found] == ["d/0.png", "d/1_GT.png"]
    assert len(kept) == 5
    assert elsewhere([path for path in kept if path.parent.name == "d"]) == ([tmp_path / "d" / "3.png"], [])


def assigned(root: Path, mask_names: list[str], image_names: list[str]) -> dict[str, list[str]]:
    pairs = assign([root / name for name in mask_names], [root / name for name in image_names])
    return {
        path.relative_to(root).as_posix(): [own.relative_to(root).as_posix() for own in found]
        for path, found in pairs.items()
    }


@pytest.mark.parametrize(
    ("mask_names", "image_names", "expected"),
    [
        (["m/1/1.png"], ["bad/1/1.png", "bad/2/1.png"], {"bad/1/1.png": ["m/1/1.png"]}),  # 1 is a kind, no image
        (["m/1/0.png", "m/1/1.png"], ["bad/0.png", "bad/1.png"], {"bad/1.png": ["m/1/0.png", "m/1/1.png"]}),
        (["m/A.png"], ["x/a.png", "y/A.jpg"], {"y/A.jpg": ["m/A.png"]}),
        (["m/a_1.png", "m/a_2.png"], ["x/a.png"], {"x/a.png": ["m/a_1.png", "m/a_2.png"]}),
        (["m/a_1.png", "m/a.png"], ["x/a.png", "x/a_1.png"], {"x/a_1.png": ["m/a_1.png"], "x/a.png": ["m/a.png"]}),
        (["m/a.png", "m/a_mask.png"], ["x/a.png"], {"x/a.png": ["m/a_mask.png"]}),  # a.png is a copy of the image
        (["Test/Label/7_label.PNG"], ["Train/7.PNG", "Test/7.PNG"], {"Test/7.PNG": ["Test/Label/7_label.PNG"]}),
        (["m/z.png"], ["x/a.png"], {}),
        (  # the image of the second mask is missing
            ["m/dent/1.png", "m/hole/0.png"],
            ["bad/dent/0.png", "bad/dent/1.png"],
            {"bad/dent/1.png": ["m/dent/1.png"]},
        ),
    ],
)
def test_the_image_of_each_mask(
    mask_names: list[str], image_names: list[str], expected: dict[str, list[str]], tmp_path: Path
) -> None:
    assert assigned(tmp_path, mask_names, image_names) == expected


def test_a_mask_that_may_be_of_two_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^mask: expected one image that it marks, got 2: .* Sort masks like images"):
        assigned(tmp_path, ["m/0.png"], ["a/0.png", "b/0.png"])


def test_the_type_of_a_union(tmp_path: Path) -> None:
    union: Bool = load_union([put(tmp_path / "0.png", mask())])
    assert union.dtype == bool
