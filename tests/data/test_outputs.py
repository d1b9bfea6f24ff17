"""Images found by content, and figures that Blemish wrote."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from blemish.data.annotations import find_annotations
from blemish.data.discovery import find_images, list_images
from blemish.data.outputs import is_output, save_output
from blemish.errors import SaveError
from blemish.imaging.decode import load, save
from tests.data.drawn import image, mask, put


def test_a_figure_is_a_png_like_another_and_is_recognised(tmp_path: Path) -> None:
    pixels = np.dstack([image(0), image(1), image(2)])
    figure = save_output(tmp_path / "f.png", pixels)
    plain = save(tmp_path / "p.png", pixels)
    assert np.array_equal(load(figure), load(plain))
    assert (is_output(figure), is_output(plain), is_output(tmp_path / "none.png")) == (True, False, False)
    assert np.array_equal(load(save_output(tmp_path / "m.png", mask() > 0))[..., 0], mask())
    assert load(save_output(tmp_path / "f.jpg", pixels)).shape == pixels.shape
    assert (is_output(tmp_path / "f.jpg"), is_output(save(tmp_path / "p.jpg", pixels))) == (True, False)
    for ending in (".gif", ".tif", ".webp", ""):  # these can't be marked
        with pytest.raises(SaveError, match=r"expected a name that ends in \.png, \.jpg, \.jpeg, got"):
            save_output(tmp_path / f"f{ending}", pixels)


@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_other_files_are_not_replaced(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"part.{ending}"
    save_output(path, np.dstack([image(0)] * 3))
    save_output(path, np.dstack([image(1)] * 3))
    part = save(path, np.dstack([image(2)] * 3)).read_bytes()
    with pytest.raises(
        SaveError, match=r"expected a new name, or that of an earlier figure, got a file .* lost: choose"
    ):
        save_output(path, np.dstack([image(0)] * 3))
    assert path.read_bytes() == part
    (tmp_path / f"link.{ending}").symlink_to("nowhere")
    with pytest.raises(SaveError, match=r"did not write"):
        save_output(tmp_path / f"link.{ending}", np.dstack([image(0)] * 3))


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    put(tmp_path / "0.png", image(0))
    for name in ("pipe.png", "pipe.jpg", "pipe", "0.json"):
        os.mkfifo(tmp_path / name)
    found = find_images(tmp_path)
    assert [path.name for path in found.images] == ["0.png", "pipe.jpg", "pipe.png"]
    assert find_annotations(tmp_path, found.images, found.others) == []


def test_outputs_are_no_images(tmp_path: Path) -> None:
    put(tmp_path / "0.png", image(0))
    save_output(tmp_path / "figures" / "0000-0.png", np.dstack([image(0)] * 3))
    save_output(tmp_path / "figures" / "chart.JPG", np.dstack([image(0)] * 3))
    found = find_images(tmp_path)
    assert [path.name for path in found.images] == ["0.png"]
    assert found.outputs == [tmp_path / "figures" / "0000-0.png", tmp_path / "figures" / "chart.JPG"]
    assert list_images(tmp_path, (".png", ".jpg")) == (found.images, found.outputs)


IMAGES = {
    "part.jfif": b"\xff\xd8\xff\xe0" + b"\0" * 20,
    "part": b"\x89PNG\r\n\x1a\n" + b"\0" * 20,
    "part.dat": b"II*\0" + b"\0" * 20,
    "part.gif": b"GIF89a" + b"\0" * 20,
    "part.jp2": b"\0\0\0\x0cjP  \r\n\x87\n" + b"\0" * 20,
    "part.avif": b"\0\0\0\x1cftypavif" + b"\0" * 20,
    "part.img": b"RIFF\0\0\0\0WEBP" + b"\0" * 20,
    "part.b": b"BM\x1a\0\0\0" + b"\0" * 20,
    "PART.PNG": b"",
}
OTHERS = {
    "BMW.txt": b"BMW parts of Monday, all good",
    "notes.txt": b"shift 3",
    "Thumbs.db": b"\xd0\xcf\x11\xe0",
    "x": b"",
}


def test_images_are_found_by_content(tmp_path: Path) -> None:
    for name, data in {**IMAGES, **OTHERS}.items():
        (tmp_path / name).write_bytes(data)
    found = find_images(tmp_path)
    assert {path.name for path in found.images} == set(IMAGES)
    assert {path.name for path in found.others} == set(OTHERS)
    assert [path.name for path in find_images(tmp_path, (".png",)).images] == ["PART.PNG"]
