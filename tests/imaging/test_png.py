"""Plain PNG files by kornia-rs equal the image that was encoded; every other file is left to OpenCV."""

from __future__ import annotations

import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from blemish.errors import ImageError
from blemish.imaging import decode as decode_module
from blemish.imaging.decode import decode
from blemish.imaging.headers import read_header
from blemish.imaging.png import decode_png
from tests.encoded import encoded

IMAGE = np.random.default_rng(0).integers(0, 256, (37, 50, 3), dtype=np.uint8)
png = partial(encoded, kind="png")


def read(data):
    return decode_png(data, read_header(data))


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


@pytest.mark.parametrize("image", [IMAGE, IMAGE[:1, :1], IMAGE[:, :1], np.zeros((300, 7, 3), np.uint8)])
@pytest.mark.parametrize("level", [0, 1, 9])
def test_plain_rgb_and_grey_come_back(image, level):
    np.testing.assert_array_equal(read(png(image, compress_level=level)), image)
    grey = np.ascontiguousarray(image[..., 0])
    np.testing.assert_array_equal(read(png(grey, compress_level=level)), grey[..., None])


@pytest.mark.parametrize("filtering", ["NONE", "SUB", "UP", "AVG", "PAETH"])
def test_every_filter_of_rows(filtering):
    options = [cv2.IMWRITE_PNG_FILTER, getattr(cv2, f"IMWRITE_PNG_FILTER_{filtering}")]
    data = cv2.imencode(".png", IMAGE[..., ::-1], options)[1].tobytes()
    np.testing.assert_array_equal(read(data), IMAGE)


def others():
    grey = Image.fromarray(IMAGE[..., 0])
    return {
        "alpha": png(np.dstack([IMAGE, IMAGE[..., :1]])),
        "grey and alpha": png(grey.convert("LA")),
        "palette": png(Image.fromarray(IMAGE).quantize(16)),
        "16 bit": png(IMAGE[..., 0].astype(np.uint16) * 257),
        "1 bit": png(grey.convert("1")),
        "a transparent grey": png(grey, transparency=3),
        "a transparent colour": png(IMAGE, transparency=(1, 2, 3)),
        "JPEG": cv2.imencode(".jpg", IMAGE)[1].tobytes(),
    }


@pytest.mark.parametrize("kind", list(others()))
def test_other_files_are_left_to_opencv(kind):
    data = others()[kind]
    assert read(data) is None
    assert decode(data).shape == (37, 50, 3)


def test_interlaced_files_are_left_to_opencv():
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 1))
    data = start + chunk(b"IDAT", zlib.compress(b"\0\1\2\3")) + chunk(b"IEND", b"")
    assert read(data) is None
    assert decode(data).tolist() == [[[1, 2, 3]]]


def test_colour_chunks_change_no_pixel():
    data = png(IMAGE)
    gamma = data[:33] + chunk(b"gAMA", struct.pack(">I", 200_000)) + data[33:]
    np.testing.assert_array_equal(read(gamma), IMAGE)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(at=st.integers(8, 5000), value=st.integers(0, 255), cut=st.integers(0, 200))
def test_a_damaged_file_is_an_image_error_or_an_image(at, value, cut):
    data = bytearray(png(IMAGE))
    data[at % len(data)] = value
    text = "a.png"
    try:
        assert decode(bytes(data[: len(data) - cut]), where="a.png").dtype == np.uint8
    except ImageError as error:
        text = str(error)
    assert "a.png" in text


def test_threads_decode_the_same_bytes_at_once():
    """Damaged files among them: a decoder that kept state would mix them up."""
    images = [IMAGE, IMAGE[:5], np.ascontiguousarray(IMAGE[:, :9]), np.ascontiguousarray(IMAGE[::-1])]
    files = [png(image) for image in images]
    damaged = files[0][: len(files[0]) // 2] + files[0][-12:]

    def decoded(k):
        if k % 5 == 4:
            assert decode_png(damaged, read_header(files[0])) is None
        return read(files[k % 4])

    with ThreadPoolExecutor(16) as threads:
        for k, pixels in enumerate(threads.map(decoded, range(800))):
            np.testing.assert_array_equal(pixels, images[k % 4])


def test_released_gil_means_opencv(tmp_path, monkeypatch):
    monkeypatch.setattr(decode_module, "decode_png", lambda *_: pytest.fail("kornia-rs holds Python's lock"))
    np.testing.assert_array_equal(decode(png(IMAGE), release_gil=True), IMAGE)
    path = tmp_path / "a.png"
    path.write_bytes(png(IMAGE))
    np.testing.assert_array_equal(decode_module.load(path, release_gil=True), IMAGE)


def test_after_a_panic_inside_the_decoder_opencv_decodes(monkeypatch):
    class PanicError(BaseException):
        pass

    def panics(*_):
        raise PanicError

    data = png(IMAGE)
    monkeypatch.setattr("kornia_rs.io.decode_image_png_u8", panics)
    assert decode_png(data, read_header(data)) is None


def test_ctrl_c_is_not_taken_for_a_damaged_file(monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    data = png(IMAGE)
    monkeypatch.setattr("kornia_rs.io.decode_image_png_u8", interrupted)
    with pytest.raises(KeyboardInterrupt):
        decode_png(data, read_header(data))
