"""WebP: still images in each coding; animations and zeroed bytes are refused."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from blemish.errors import ImageError
from blemish.imaging.decode import decode
from tests.encoded import encoded

rng = np.random.default_rng(0)
IMAGE = rng.integers(0, 256, (120, 160, 3), dtype=np.uint8)


@pytest.mark.parametrize("options", [{}, {"lossless": False, "quality": 80}, {"exact": True, "method": 0}])
def test_codings(options):
    import io

    layers = Image.fromarray(np.dstack([IMAGE, IMAGE[..., 1]]))
    for image in (Image.fromarray(IMAGE), layers):
        data = encoded(image, "webp", **options)
        read = Image.open(io.BytesIO(data))
        white = Image.new("RGBA", read.size, "white")
        wanted = np.asarray(Image.alpha_composite(white, read.convert("RGBA")).convert("RGB")).astype(int)
        assert np.abs(decode(data) - wanted).max() <= 1


def test_an_animation_is_refused_by_name():
    frames = [Image.fromarray(np.roll(IMAGE, k, axis=0)) for k in range(3)]
    data = encoded(frames[0], "webp", save_all=True, append_images=frames[1:])
    with pytest.raises(ImageError, match=r"got an animated WebP, in a\.webp\. Save the frame that you want as PNG\."):
        decode(data, where="a.webp")


@pytest.mark.parametrize("lossless", [False, True])
@pytest.mark.parametrize("color", [0, 128, 255])
def test_flat_images_are_not_taken_for_zeroed_bytes(lossless, color):
    image = np.full((1100, 1500, 3), color, np.uint8)
    image[300:400, 200:500] = IMAGE[:100, :100].repeat(3, axis=1)
    data = encoded(image, "webp", lossless=lossless, quality=75, method=1)
    assert np.abs(decode(data)[:200].astype(int) - color).max() <= 2


def test_alpha_that_is_stated_and_not_there_is_damage():
    data = encoded(Image.fromarray(np.dstack([IMAGE, IMAGE[..., 1]])), "webp", lossless=False)
    decode(data)
    with pytest.raises(ImageError, match=r"got a damaged WebP"):
        decode(data.replace(b"ALPH", b"XLPH"))


@pytest.mark.parametrize("lossless", [False, True])
def test_zeroed_bytes_are_refused(lossless):
    data = encoded(IMAGE, "webp", lossless=lossless, quality=95)
    for at in np.linspace(60, len(data) - 300, 30, dtype=int):
        with pytest.raises(ImageError, match=r"got a damaged WebP of"):
            decode(data[:at] + bytes(200) + data[at + 200 :])
