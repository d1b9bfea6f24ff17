"""Headers are parsed without a decoder, since each decoder tolerates other damage."""

from __future__ import annotations

import contextlib
import io
import struct

import numpy as np
import pytest
from PIL import Image

from blemish.errors import ImageError
from blemish.imaging.headers import read_header
from tests.imaging.tiff_files import tiff


def encoded(kind, size=(9, 7), **options):
    buffer = io.BytesIO()
    Image.new("RGB", size, (200, 100, 50)).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "TIFF", "WebP"])
@pytest.mark.parametrize("size", [(1, 1), (9, 7), (300, 2)])
def test_format_and_size(kind, size):
    header = read_header(encoded(kind, size))
    assert (header.format, header.width, header.height) == (kind, *size)
    assert header.orientation == 1


def test_lossy_compression_is_recognised():
    assert read_header(encoded("JPEG")).lossy
    assert read_header(encoded("WebP")).lossy
    assert read_header(encoded("TIFF", compression="jpeg")).lossy
    assert not read_header(encoded("WebP", lossless=True)).lossy
    assert not read_header(encoded("TIFF", compression="tiff_lzw")).lossy


@pytest.mark.parametrize("lossless", [True, False])
def test_webp_with_an_odd_part_before_exif(lossless):
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded("WebP", exif=exif, lossless=lossless)
    odd = b"ICCP" + struct.pack("<I", 3) + b"abc\0"  # parts are padded to an even length
    data = data[:4] + struct.pack("<I", len(data) - 8 + len(odd)) + data[8:30] + odd + data[30:]
    assert read_header(data)[:5] == ("WebP", 7, 9, 6, not lossless)


def test_bmp_from_top_to_bottom_and_of_1988():
    data = encoded("BMP")
    upside_down = data[:22] + struct.pack("<i", -7) + data[26:]
    assert read_header(upside_down)[:3] == ("BMP", 7, 9)
    old = b"BM" + struct.pack("<IIIIHHHH", 26 + 28 * 7, 0, 26, 12, 9, 7, 1, 24) + bytes(28 * 7)
    assert read_header(old)[:3] == ("BMP", 7, 9)


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("order", "<>")
def test_tiff_of_both_byte_orders_and_widths(big, order):
    data = tiff(np.zeros((7, 9), np.uint8), order=order, big=big, tags={0x0112: (3, [8])})
    assert read_header(data) == ("TIFF", 7, 9, 8, False, 1)


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"\xff\x0a" + bytes(9), "a JPEG XL"),
        (b"\0\0\0\x0cJXL \r\n", "a JPEG XL"),
        (b"II\xbc\1" + bytes(9), "a JPEG XR"),
        (b"\xff\x4f\xff\x51" + bytes(9), "a JPEG 2000"),
        (b"\0\0\0 ftypavif" + bytes(9), "an AVIF"),
        (b"\0\0\0 ftypheic" + bytes(9), "a HEIC"),
    ],
)
def test_other_formats_are_named(content, name):
    with pytest.raises(
        ImageError, match=rf"expected PNG, JPEG, BMP, TIFF or WebP, got {name}, in a\. Save it as PNG\.$"
    ):
        read_header(content, where="a")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "WebP"])
def test_a_missing_end_is_an_error(kind):
    data = encoded(kind, (64, 64), exif=_preview()) if kind == "JPEG" else encoded(kind, (64, 64))
    read_header(data)
    for cut in (2, 40):
        with pytest.raises(ImageError, match=rf"^image: expected a complete image, got a {kind} that ends too early"):
            read_header(data[:-cut], where="a")


def _preview():
    """Return an EXIF block that holds a complete JPEG, end marker and all."""
    exif = Image.Exif()
    exif[0x0112] = 1
    return exif.tobytes() + encoded("JPEG")


def test_random_bytes_raise_image_errors_only():
    rng = np.random.default_rng(0)
    for kind in ("PNG", "JPEG", "BMP", "TIFF", "WebP"):
        complete = encoded(kind)
        for _ in range(300):
            data = bytearray(complete)
            for at in rng.integers(0, min(len(data), 200), 4):
                data[at] = rng.integers(0, 256)
            with contextlib.suppress(ImageError):
                assert read_header(bytes(data)).height > 0


@pytest.mark.parametrize("kind", ["PNG", "BMP"])
def test_a_size_of_zero(kind):
    data = bytearray(encoded(kind))
    at = 16 if kind == "PNG" else 18
    data[at : at + 4] = bytes(4)
    with pytest.raises(ImageError, match=r"got a size of 0 x 7 pixels, in a\.png\."):
        read_header(bytes(data), where="a.png")
