"""Decoding: every format, depth and damage that a folder of images can hold."""

from __future__ import annotations

import io
import struct

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from blemish.errors import BlemishError, ImageError, InputError, SaveError
from blemish.imaging.decode import check_image, decode, load, load_mask, read_stored, save
from tests.encoded import encoded

RED = (200, 100, 50)
LOSSLESS = ["png", "bmp", "tiff", "webp"]


def encoded_by_opencv(array, ending, *options):
    done, data = cv2.imencode(ending, array, list(options))
    assert done
    return data.tobytes()


@pytest.fixture
def image(rng):
    return np.kron(rng.integers(0, 256, (6, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)


@pytest.mark.parametrize("kind", LOSSLESS)
def test_lossless_formats_keep_every_pixel(kind, image):
    loaded = decode(encoded(image, kind))
    assert loaded.dtype == np.uint8
    assert loaded.flags["C_CONTIGUOUS"]
    assert np.array_equal(loaded, image)


def test_jpeg_equals_pillows(image):
    data = encoded(image, "jpeg", quality=95)
    want = np.asarray(Image.open(io.BytesIO(data)))
    assert np.abs(decode(data).astype(int) - want).max() <= 3


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "RGBA", "RGB"])
@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_every_mode_becomes_rgb(mode, kind):
    image = Image.new("RGB", (9, 7), RED).convert(mode)
    loaded = decode(encoded(image, kind))
    assert loaded.shape == (7, 9, 3)
    assert np.abs(loaded.astype(int) - np.asarray(image.convert("RGB"))).max() <= 1


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_tiff_compressions(compression, image):
    assert np.array_equal(decode(encoded(image, "tiff", compression=compression)), image)


@pytest.mark.parametrize("kind", ["png", "tiff", "webp"])
def test_alpha_is_composed_over_white(kind):
    image = Image.new("RGBA", (5, 4), (10, 20, 30, 128))
    white = Image.new("RGBA", (5, 4), (255, 255, 255, 255))
    want = np.asarray(Image.alpha_composite(white, image).convert("RGB")).astype(int)
    assert np.abs(decode(encoded(image, kind)) - want).max() <= 1


def test_alpha_is_rounded_to_the_nearest():
    values, alphas = (axis.astype(np.uint8) for axis in np.meshgrid(np.arange(256), np.arange(256)))
    layers = np.dstack([values, values, values, alphas])
    exact = (values * (alphas / 255) + 255 * (1 - alphas / 255))[..., None]
    assert np.abs(decode(encoded(layers, "png")) - exact).max() <= 0.51


def test_alpha_of_16_bit_of_grey_and_of_a_palette():
    deep = np.full((4, 5, 4), (1000, 2000, 3000, 0), np.uint16)
    deep[0, 0, 3] = 65535
    loaded = decode(encoded_by_opencv(deep, ".png"))
    assert (loaded[1:] == 255).all()
    assert loaded[0, 0].tolist() == [12, 8, 4]
    opaque = np.zeros((4, 5), np.uint8)
    opaque[0, 0] = 255
    grey = decode(encoded(Image.fromarray(np.dstack([np.full((4, 5), 77, np.uint8), opaque]), "LA"), "png"))
    assert (grey[1:] == 255).all()
    assert grey[0, 0].tolist() == [77, 77, 77]
    colors = Image.new("RGB", (5, 4), RED)
    colors.putpixel((0, 0), (0, 0, 0))
    palette = colors.quantize(2)
    loaded = decode(encoded(palette, "png", transparency=palette.getpixel((1, 1))))
    assert (loaded[1:] == 255).all()
    assert loaded[0, 0].tolist() == [0, 0, 0]


@pytest.mark.parametrize("kind", ["png", "tiff", "webp"])
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_an_image_that_is_transparent_throughout_is_refused(kind, mode, image, tmp_path):
    """Over white it would be white, whatever its colors: programs that know no alpha leave zeros there."""
    hidden = Image.fromarray(np.dstack([image, np.zeros_like(image[..., 0])])).convert(mode)
    data = encoded(hidden, kind, **({"exact": True} if kind == "webp" else {}))
    with pytest.raises(ImageError, match=r"expected opaque pixels, got transparent ones alone, in a\. Save it without"):
        decode(data, where="a")
    path = tmp_path / "mask"
    path.write_bytes(data)
    assert load_mask(path).shape == image.shape[:2]


@pytest.mark.parametrize("ending", [".png", ".tiff"])
@pytest.mark.parametrize("channels", [1, 3])
def test_16_bits_are_scaled_by_their_range(ending, channels):
    values = np.array([[0, 128, 129, 4095, 65535]], np.uint16)
    values = values if channels == 1 else np.repeat(values[..., None], 3, axis=2)
    data = encoded_by_opencv(values, ending)
    assert decode(data)[0, :, 0].tolist() == [0, 0, 1, 16, 255]
    twelve = encoded_by_opencv(np.minimum(values, 4095), ending)
    assert decode(twelve, bit_depth=12)[0, :, 1].tolist() == [0, 8, 8, 255, 255]
    with pytest.raises(ImageError, match=r"^image: expected values up to 4095 \(bit_depth=12\), got 65535, in a\.png"):
        decode(data, bit_depth=12, where="a.png")


def test_bit_depth_leaves_8_bit_files_alone(image):
    assert np.array_equal(decode(encoded(image, "png"), bit_depth=12), image)


@pytest.mark.parametrize("bit_depth", [8, 17, 12.0, True])
def test_bit_depth_out_of_range(bit_depth):
    with pytest.raises(InputError, match=r"^bit_depth: expected a .*number from 9 to 16"):
        decode(b"", bit_depth=bit_depth)


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_float_and_int32_tiffs_are_refused_as_images_and_read_as_masks(dtype, tmp_path):
    values = np.zeros((4, 5), dtype)
    values[1, 2] = 1
    path = tmp_path / "a.tiff"
    path.write_bytes(encoded(values, "tiff"))
    with pytest.raises(ImageError, match=r"^image: expected 8 or 16 bits a channel, got (float|int)32, in .*a\.tiff\."):
        load(path)
    assert load_mask(path).sum() == 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "tiff"])
def test_exif_orientation_is_applied(kind, orientation, image):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(image, kind, exif=exif, **({"quality": 100, "subsampling": 0} if kind == "jpeg" else {}))
    want = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")).astype(int)
    loaded = decode(data)
    assert loaded.shape == want.shape
    assert np.abs(loaded - want).max() <= 3
    deep = encoded(image[..., 0].astype(np.uint16) * 257, "png", exif=exif)
    assert np.array_equal(decode(deep)[..., 0], _oriented(image[..., 0], orientation))


def _oriented(grey, orientation):
    steps = {
        1: [],
        2: [Image.Transpose.FLIP_LEFT_RIGHT],
        3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE],
        6: [Image.Transpose.ROTATE_270],
        7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_90],
    }
    image = Image.fromarray(np.ascontiguousarray(grey))
    for step in steps[orientation]:
        image = image.transpose(step)
    return np.asarray(image)


def test_damaged_exif_counts_as_none(image):
    data = encoded(image, "jpeg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert decode(data).shape == image.shape
    exif = Image.Exif()
    exif[0x0112] = 77
    assert decode(encoded(image, "png", exif=exif)).shape == image.shape


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("code", "BHI")
def test_orientation_in_any_whole_number(order, code, image):
    kind = {"B": 1, "H": 3, "I": 4}[code]
    value = struct.pack(order + code, 6).ljust(4, b"\0")
    block = struct.pack(order + "2sHIHHHI", b"II" if order == "<" else b"MM", 42, 8, 1, 0x112, kind, 1) + value
    data = encoded(image, "jpeg", exif=b"Exif\0\0" + block + bytes(4))
    assert decode(data).shape == (image.shape[1], image.shape[0], 3)


def test_the_first_of_several_exif_blocks_counts(image):
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(image, "jpeg", exif=exif)
    start = data.index(b"Exif\0\0")
    (length,) = struct.unpack_from(">H", data, start - 2)
    block = data[start - 4 : start - 2 + length].replace(b"\0\6", b"\0\1")
    again = data[: start - 2 + length] + block + data[start - 2 + length :]
    assert decode(again).shape == decode(data).shape == (image.shape[1], image.shape[0], 3)


def test_cmyk_jpeg_has_its_colors():
    image = Image.new("RGB", (16, 16), RED).convert("CMYK")
    assert np.abs(decode(encoded(image, "jpeg")).astype(int) - np.array(RED)).max() <= 4


def test_first_of_several_pages():
    pages = [Image.new("RGB", (9, 8), RED), Image.new("RGB", (9, 8))]
    data = encoded(pages[0], "tiff", save_all=True, append_images=pages[1:])
    assert (decode(data) == np.array(RED)).all()


def test_one_pixel(tmp_path):
    path = save(tmp_path / "a.png", np.full((1, 1, 3), 9, np.uint8))
    assert load(path).tolist() == [[[9, 9, 9]]]


def test_names_beyond_ascii_and_of_another_format(tmp_path, image):
    path = tmp_path / "Prüfling 東京 \u202e.jpg"
    path.write_bytes(encoded(image, "png"))
    assert np.array_equal(load(path), image)
    assert np.array_equal(load(str(path)), image)


def test_masks(tmp_path):
    marks = np.zeros((6, 9), bool)
    marks[2:4, 3:7] = True
    path = tmp_path / "m.png"
    for values in (
        marks * np.uint8(255),
        marks * np.uint8(1),
        np.dstack([np.zeros((6, 9, 2), np.uint8), marks * np.uint8(3)]),
    ):
        path.write_bytes(encoded(values, "png"))
        assert np.array_equal(load_mask(path), marks)
    alpha = marks * np.uint8(255)
    for color in (0, 255):  # drawn with transparency, on black or on white
        layers = np.dstack([np.full((6, 9, 3), color, np.uint8), alpha])
        path.write_bytes(encoded(layers, "png"))
        assert np.array_equal(load_mask(path), marks)
    opaque = np.dstack([np.repeat(alpha[..., None], 3, axis=2), np.full((6, 9), 255, np.uint8)])
    path.write_bytes(encoded(opaque, "png"))
    assert np.array_equal(load_mask(path), marks)
    path.write_bytes(encoded(np.dstack([np.zeros((6, 9, 3), np.uint8), np.full((6, 9), 255, np.uint8)]), "png"))
    assert not load_mask(path).any()


def test_a_jpeg_mask_has_no_specks(tmp_path):
    marks = np.zeros((64, 64), bool)
    marks[20:37, 11:29] = True
    path = tmp_path / "m.jpg"
    path.write_bytes(encoded(marks * np.uint8(255), "jpeg", quality=60))
    assert (np.asarray(Image.open(path)) > 0).sum() > marks.sum()
    assert np.array_equal(load_mask(path), marks)


def test_read_stored_keeps_depth_and_channels(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encoded_by_opencv(np.full((3, 4), 4000, np.uint16), ".png"))
    header, stored = read_stored(path)
    assert header.format == "PNG"
    assert (stored.shape, stored.dtype) == ((3, 4), np.uint16)


def test_check_image_takes_grey_and_deep_arrays(image):
    assert check_image(image) is image
    grey = image[..., 0]
    assert np.array_equal(check_image(grey), np.repeat(grey[..., None], 3, axis=2))
    assert np.array_equal(check_image(grey[..., None]), check_image(grey))
    assert np.array_equal(check_image(image.astype(np.uint16) * 257), image)
    assert check_image(np.full((2, 2), 4095, np.uint16), bit_depth=12).max() == 255
    with pytest.raises(BlemishError, match=r"^view: expected values up to 4095"):
        check_image(np.full((2, 2), 4096, np.uint16), "view", bit_depth=12)


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (np.zeros((4, 5, 3), np.float32), r"got float32 \(4, 5, 3\)\. If it runs from 0 to 1: \(image \* 255\)"),
        (np.zeros((4, 5, 4), np.uint8), r"Leave alpha out"),
        (np.zeros((3, 40, 50), np.uint8), r"Channels come last"),
        (np.zeros((2, 4, 5, 3), np.uint8), r"one image at a time"),
        (np.zeros((4, 5), bool), r"got bool \(4, 5\)\."),
        (np.zeros((0, 5), np.uint8), r"got uint8 \(0, 5\)\."),
        ("a.png", r"got str\."),
    ],
)
def test_check_image_refuses_other_arrays(array, text):
    with pytest.raises(
        InputError, match=r"^image: expected uint8 or uint16 \(H, W\) or \(H, W, 3\) RGB, " + ".*" + text
    ):
        check_image(array)


@pytest.mark.parametrize("ending", [".png", ".bmp", ".tif", ".PNG"])
def test_save_and_load_are_inverse(ending, image, tmp_path):
    path = save(tmp_path / "sub" / f"ä{ending}", image)
    assert np.array_equal(load(path), image)
    save(path, image[..., 0])
    assert np.array_equal(read_stored(path)[1], image[..., 0])
    save(path, image[..., 0] > 99)
    assert np.array_equal(load_mask(path), image[..., 0] > 99)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_refused_save_keeps_the_old_file(image, tmp_path):
    with pytest.raises(SaveError, match=r"^image: expected a name that ends in \.png, .*, got '\.xyz', in .*a\.xyz"):
        save(tmp_path / "a.xyz", image)
    path = save(tmp_path / "a.png", image)
    with pytest.raises(InputError, match=r"^image: expected uint8"):
        save(path, image.astype(np.float32))
    with pytest.raises(SaveError, match=r"^image: expected to be written"):
        save(path / "b.png", image)
    with pytest.raises(SaveError, match=r"^image: expected to be written as \.webp, got .*, in .*c\.webp\."):
        save(tmp_path / "c.webp", np.zeros((1, 20_000), np.uint8))
    assert np.array_equal(load(path), image)
