"""JPEG: every coding equals Pillow's decoding bit for bit, or is refused with its trait; damage is refused."""

from __future__ import annotations

import io
from functools import partial

import numpy as np
import pytest
from PIL import Image

from blemish.errors import ImageError
from blemish.imaging.decode import decode
from blemish.imaging.headers import read_header
from tests.encoded import encoded

rng = np.random.default_rng(0)
PHOTO = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((163, 121), Image.Resampling.BICUBIC)
jpeg = partial(encoded, kind="jpeg")


def by_pillow(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.mark.parametrize("options", [
    {}, {"progressive": True}, {"optimize": True}, {"restart_marker_blocks": 3}, {"keep_rgb": True},
    {"subsampling": "4:4:4"}, {"subsampling": "4:2:2"}, {"subsampling": "4:1:1"}, {"quality": 100}, {"quality": 5},
    {"restart_marker_rows": 1, "progressive": True},
])  # fmt: skip
def test_codings_of_color(options):
    data = jpeg(PHOTO, **options)
    np.testing.assert_array_equal(decode(data), by_pillow(data))


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"optimize": True}])
def test_codings_of_grey(options):
    data = jpeg(PHOTO.convert("L"), **options)
    np.testing.assert_array_equal(decode(data), by_pillow(data))


@pytest.mark.slow
@pytest.mark.parametrize("color", [(0, 0, 0), (255, 255, 255), (128, 128, 128), (200, 100, 50)])
@pytest.mark.parametrize("options", [{}, {"optimize": True}, {"progressive": True}])
def test_flat_images_are_not_taken_for_zeroed_bytes(color, options):
    for mode in ("RGB", "L"):
        data = jpeg(Image.new("RGB", (1600, 1200), color).convert(mode), **options)
        np.testing.assert_array_equal(decode(data), by_pillow(data))


def test_cmyk_of_adobe():
    data = jpeg(PHOTO.convert("CMYK"), quality=95)
    assert np.abs(decode(data).astype(int) - by_pillow(data)).max() <= 2


def with_components(data, samplings, transform):
    """Return a JPEG of four channels with other sampling factors, and another color transform (0 CMYK, 2 YCCK).

    Blocks that are stated beyond those in the file are missing.
    """
    changed = bytearray(data)
    frame, adobe = data.index(b"\xff\xc0"), data.index(b"Adobe")
    changed[adobe + 11] = transform
    for k, sampling in enumerate(samplings):
        changed[frame + 11 + 3 * k] = sampling
    return bytes(changed)


@pytest.mark.parametrize("transform", [0, 2])
@pytest.mark.parametrize("size", [(163, 121), (8, 8), (9, 300)])
@pytest.mark.parametrize("options", [{}, {"optimize": True}, {"restart_marker_blocks": 3}])
def test_four_channels(transform, size, options):
    data = with_components(jpeg(PHOTO.resize(size).convert("CMYK"), **options), (), transform)
    assert np.abs(decode(data).astype(int) - by_pillow(data)).max() <= 2


@pytest.mark.parametrize("samplings", [(0x22, 0x11, 0x11, 0x22), (0x12, 0x11, 0x11, 0x12)])
def test_missing_blocks_of_four_channels_are_damage(samplings):
    """OpenCV passes the warnings of the library over, and fills up with grey."""
    data = with_components(jpeg(PHOTO.convert("CMYK")), samplings, 2)
    with pytest.raises(ImageError, match=r"got a damaged JPEG of \d+ bytes"):
        decode(data)


@pytest.mark.parametrize("sampling", [0x00, 0x01, 0x10, 0x51, 0x1F])
def test_sampling_factors_that_are_none_are_damage(sampling):
    data = with_components(jpeg(PHOTO.convert("CMYK")), [sampling] * 4, 0)
    with pytest.raises(ImageError, match=r"got a damaged JPEG of \d+ bytes"):
        decode(data)


def test_four_channels_in_several_scans_are_refused():
    data = jpeg(PHOTO.convert("CMYK"), progressive=True)
    with pytest.raises(ImageError, match=r"a JPEG of four channels in several scans, in x\. Save it as PNG\."):
        decode(data, where="x")


def with_frame(data, *, marker=None, precision=None):
    at = data.index(b"\xff\xc0")
    changed = bytearray(data)
    changed[at + 1] = marker or 0xC0
    changed[at + 4] = precision or 8
    return bytes(changed)


@pytest.mark.parametrize(
    ("changes", "trait"),
    [
        ({"precision": 12}, r"a JPEG of 12 bits a channel, in a\.jpg\. Save it as PNG or TIFF of 16 bits"),
        ({"marker": 0xC9}, r"a JPEG with arithmetic coding, in a\.jpg\. Save it as PNG"),
        ({"marker": 0xC5}, r"a JPEG with hierarchical"),
        ({"marker": 0xF7}, r"a JPEG with JPEG-LS compression"),
    ],
)
def test_codings_that_are_not_read_are_named(changes, trait):
    with pytest.raises(ImageError, match=rf"expected an image that is read exactly, got {trait}"):
        decode(with_frame(jpeg(PHOTO), **changes), where="a.jpg")


def test_progressive_files_count_their_coefficients():
    assert read_header(jpeg(PHOTO)).pixel_bytes == 3
    assert read_header(jpeg(PHOTO, progressive=True)).pixel_bytes == 9
    with pytest.raises(ImageError, match=r"expected at most .* GB of pixels, got 163 x 121 pixels that take"):
        decode(jpeg(PHOTO, progressive=True), max_pixels=163 * 121)


def pixels_start(data):
    at = data.index(b"\xff\xda")
    return at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("length", [48, 300])
def test_zeroed_bytes_are_refused(mode, length):
    data = jpeg(PHOTO.convert(mode), quality=95)
    first = pixels_start(data)
    for at in np.linspace(first + 1, len(data) - 3 - length, 40, dtype=int):
        damaged = data[:at] + bytes(length) + data[at + length :]
        with pytest.raises(ImageError, match=r"got a damaged JPEG of .*, in a\.jpg\. Take it from its source again"):
            decode(damaged, where="a.jpg")


@pytest.mark.parametrize("progressive", [False, True])
def test_lost_and_doubled_bytes_are_refused(progressive):
    data = jpeg(PHOTO, quality=90, progressive=progressive)
    first = pixels_start(data)
    places = np.linspace(first + 1, len(data) - 700, 40, dtype=int)
    lost = [data[:at] + data[at + 300 :] for at in places]
    doubled = [data[: at + 300] + data[at:] for at in places]
    ended = [data[:at] + b"\xff\xd9" for at in places]
    assert sum(map(is_refused, lost + doubled + ended)) >= 3 * len(places) - 3


def is_refused(data):
    try:
        decode(data)
    except ImageError:
        return True
    return False


@pytest.mark.parametrize("padding", [1, 3, 400])
@pytest.mark.parametrize("options", [{}, {"progressive": True}])
def test_zeros_before_the_end_are_harmless_and_no_pixels(padding, options):
    data = jpeg(PHOTO, **options)
    np.testing.assert_array_equal(decode(data[:-2] + bytes(padding) + data[-2:]), by_pillow(data))
    with pytest.raises(ImageError, match="got a damaged JPEG"):
        decode(data[: -402 - padding] + bytes(400 + padding) + data[-2:])


def test_bytes_after_the_end_are_harmless():
    data = jpeg(PHOTO)
    np.testing.assert_array_equal(decode(data + bytes(500) + data), by_pillow(data))


def test_another_size_than_the_header_says_is_damage(monkeypatch):
    monkeypatch.setattr("kornia_rs.io.decode_image_jpegturbo", lambda *_: np.zeros((5, 4, 3), np.uint8))
    with pytest.raises(ImageError, match="got a damaged JPEG"):
        decode(jpeg(PHOTO))


def test_a_panic_inside_the_decoder_is_damage(monkeypatch):
    class PanicError(BaseException):
        pass

    def panics(*_):
        raise PanicError

    monkeypatch.setattr("kornia_rs.io.decode_image_jpegturbo", panics)
    with pytest.raises(ImageError, match="got a damaged JPEG"):
        decode(jpeg(PHOTO))


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_ctrl_c_is_not_taken_for_a_damaged_file(monkeypatch, error):
    def interrupted(*_):
        raise error

    monkeypatch.setattr("kornia_rs.io.decode_image_jpegturbo", interrupted)
    with pytest.raises(error):
        decode(jpeg(PHOTO))


def test_too_little_memory_names_the_image(monkeypatch):
    def full(*_):
        raise MemoryError

    monkeypatch.setattr("kornia_rs.io.decode_image_jpegturbo", full)
    text = r"^image: expected an image that memory has room for, got 163 x 121 pixels that take .* GB, in a\.jpg\. Cut"
    with pytest.raises(ImageError, match=text):
        decode(jpeg(PHOTO), where="a.jpg")
