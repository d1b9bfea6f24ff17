"""Files that are no images, damaged files and decompression bombs: an error that names the file."""

from __future__ import annotations

import os
import struct
import tracemalloc
import zlib

import numpy as np
import pytest

from blemish.errors import ImageError
from blemish.imaging import decode as images
from blemish.imaging.decode import MAX_PIXELS, check_image, decode, load, load_mask, save
from tests.encoded import encoded

LOSSLESS = ["png", "bmp", "tiff", "webp"]


@pytest.mark.parametrize("kind", [*LOSSLESS, "jpeg"])
def test_a_file_cut_short_anywhere_is_an_error_and_never_half_an_image(kind, rng, capfd):
    noise = rng.integers(0, 256, (24, 20, 3)).astype(np.uint8)
    data = encoded(noise, kind)
    for kept in [*range(1, 64), *range(64, len(data), 41), *range(len(data) - 12, len(data))]:
        with pytest.raises(ImageError, match=r"^image: expected .*, in cut\."):
            decode(data[:kept], where="cut")
    decode(data + bytes(64))  # bytes after the end are harmless
    if kind != "png":  # libpng writes to stderr itself
        assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "expected an image, got 0 bytes, in "),
        (b"hello", "expected PNG, JPEG, BMP, TIFF or WebP, got 5 bytes that are none of these, in "),
        (bytes(500), "got 500 bytes that start with zeros, in "),
        (b"GIF89a" + bytes(20), "got a GIF, in "),
        (b"version https://git-lfs.github.com/spec/v1", "got a Git LFS pointer"),
        (b"\x89PNG\r\n\x1a\n", "got a header that is cut short, in "),
        (b"\xff\xd8\xff\xd9", "got a JPEG without pixels, in "),
        (b"RIFF\x04\0\0\0WAVE", "got 12 bytes that are none of these, in "),
    ],
)
def test_a_file_that_is_no_image_is_named(content, text, tmp_path):
    path = tmp_path / "000812.png"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=r"^image: expected") as caught:
        load(path)
    assert text in str(caught.value)
    remedy = " Save it as PNG." if "GIF" in text else ""
    assert str(caught.value).endswith(f"000812.png.{remedy}")
    with pytest.raises(ImageError, match=r"^mask: expected"):
        load_mask(path)


def test_a_damaged_middle_is_an_error(rng):
    data = bytearray(encoded(rng.integers(0, 256, (64, 64, 3)).astype(np.uint8), "png"))
    data[len(data) // 2] ^= 0xFF
    with pytest.raises(ImageError, match="expected an image, got a damaged PNG of"):
        decode(bytes(data))


def test_missing_folder_pipe_and_impossible_names(tmp_path):
    with pytest.raises(ImageError, match=r"^image: expected an image, got no such file, in .*none\.png\."):
        load(tmp_path / "none.png")
    with pytest.raises(ImageError, match="expected an image, got a folder, in "):
        load(tmp_path)
    with pytest.raises(ImageError, match="expected a file that can be read"):
        load(tmp_path / ("x" * 5000))
    with pytest.raises(ImageError, match="expected a file that can be read"):
        load("a\0b.png")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.png")
        with pytest.raises(ImageError, match="got a pipe or device, in "):
            load(tmp_path / "pipe.png")


def test_no_permission_says_what_to_do(tmp_path, monkeypatch):
    path = save(tmp_path / "a.png", np.zeros((2, 2), np.uint8))

    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.read_bytes", refuse)  # the tests may run as root, whom no right stops
    with pytest.raises(ImageError, match=r"got 'Permission denied', in .*a\.png\. Change its rights so that"):
        load(path)


def png_with_header_size(width, height, depth=8, color=2):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    body = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(20_000, 20_000), (2**31 - 1, 2**31 - 1), (2**30, 1)])
def test_a_bomb_is_refused_before_it_is_decoded(size, monkeypatch):
    monkeypatch.setattr(images.cv2, "imdecode", lambda *_: pytest.fail("it was decoded"))
    with pytest.raises(
        ImageError, match=rf"^image: expected at most {MAX_PIXELS:,} pixels, got {size[0]:,} x .*max_pixels="
    ):
        decode(png_with_header_size(*size), where="bomb.png")


@pytest.mark.parametrize("kind", [*LOSSLESS, "jpeg"])
def test_the_limit_holds_for_every_format(kind):
    data = encoded(np.zeros((30, 20, 3), np.uint8), kind)
    assert decode(data, max_pixels=600).shape == (30, 20, 3)
    with pytest.raises(ImageError, match="expected at most 599 pixels, got 20 x 30"):
        decode(data, max_pixels=599)


def test_a_huge_file_is_not_even_read(tmp_path):
    path = tmp_path / "huge.png"
    with path.open("wb") as file:
        file.truncate(2**27)
    with pytest.raises(ImageError, match=r"expected at most 1,000 pixels, got a file of 0\.1 GB, in .*huge\.png"):
        load(path, max_pixels=1000)


def test_memory_is_limited_by_bytes_as_well_as_pixels(monkeypatch):
    monkeypatch.setattr(images.cv2, "imdecode", lambda *_: pytest.fail("it was decoded"))
    text = r"expected at most 1\.07 GB of pixels, got 12,000 x 12,000 pixels that take 1\.58 GB, in a\.png\. Raise max_"
    with pytest.raises(ImageError, match=text):
        decode(png_with_header_size(12_000, 12_000, depth=16, color=6), where="a.png")
    with pytest.raises(ImageError, match=r"expected at most 178,956,970 pixels, got 16,384 x 16,384"):
        decode(png_with_header_size(16_384, 16_384, depth=16, color=6))


def test_16_bits_are_scaled_without_an_index_of_the_whole_image():
    deep = np.full((1500, 2000, 3), 4095, np.uint16)
    tracemalloc.start()
    try:
        assert check_image(deep).max() == 16
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < deep.size + 2**24  # the result, and blocks; an index of 8 bytes a value takes 72 MB


def test_too_little_memory_for_a_file_or_its_pixels_is_an_image_error(tmp_path, monkeypatch):
    path = save(tmp_path / "a.png", np.zeros((3, 2), np.uint8))

    def full(*_):
        raise MemoryError

    def full_of_opencv(*_):
        error = images.cv2.error("Insufficient memory")
        error.code = images.cv2.Error.StsNoMem
        raise error

    for decoder in (full, full_of_opencv):
        monkeypatch.setattr(images.cv2, "imdecode", decoder)
        for read in (load, load_mask):
            with pytest.raises(
                ImageError, match=r"expected an image that memory has room for, got 2 x 3 pixels that take .*a\.png"
            ):
                read(path)
    monkeypatch.setattr("pathlib.Path.read_bytes", full)
    with pytest.raises(
        ImageError, match=r"expected a file that memory has room for, got a file of 0\.0 GB, in .*a\.png"
    ):
        load(path)


def test_another_size_than_the_header_says_is_an_error(monkeypatch):
    monkeypatch.setattr(images.cv2, "imdecode", lambda *_: np.zeros((5, 5), np.uint8))
    with pytest.raises(ImageError, match=r"expected 20 x 30 pixels, got 5 x 5\. Take it from its source"):
        decode(encoded(np.zeros((30, 20, 3), np.uint8), "png"))
