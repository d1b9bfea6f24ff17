"""Every layout of a BMP equals its plain twin pixel by pixel, or is refused with its trait and the remedy."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from blemish.errors import ImageError
from blemish.imaging.decode import decode

rng = np.random.default_rng(0)
GREY = rng.integers(0, 256, (7, 9), dtype=np.uint8)
COLOR = rng.integers(0, 256, (7, 9, 3), dtype=np.uint8)
ALPHA = rng.integers(0, 256, (7, 9), dtype=np.uint8)
BGRX = np.dstack([COLOR[..., ::-1], ALPHA])
RAMP = b"".join(bytes([level] * 3 + [0]) for level in range(256))


def rows(array):
    lines = [line.tobytes() for line in array[::-1]]
    return b"".join(line + bytes(-len(line) % 4) for line in lines)


def bmp(content, bits, *, compression=0, header=40, masks=(), palette=b"", height=7):
    info = struct.pack(
        "<IiiHHIIiiII", header, 9, height, 1, bits, compression, len(content), 1, 1, len(palette) // 4, 0
    )
    info += b"".join(struct.pack("<I", mask) for mask in masks)
    info = info.ljust(header, b"\0")
    start = 14 + len(info) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(content), 0, 0, start) + info + palette + content


@pytest.mark.parametrize("fourth", [0, 255, None])
@pytest.mark.parametrize(
    ("options", "channels"),
    [
        ({}, BGRX),
        ({"compression": 3, "masks": (0xFF0000, 0xFF00, 0xFF)}, BGRX),
        ({"compression": 3, "masks": (0xFF, 0xFF00, 0xFF0000)}, np.dstack([COLOR, ALPHA])),
        ({"compression": 3, "masks": (0xFF0000, 0xFF00, 0xFF, 0), "header": 108}, BGRX),
        (
            {"compression": 3, "masks": (0xFF000000, 0xFF0000, 0xFF00, 0), "header": 124},
            np.dstack([ALPHA, BGRX[..., :3]]),
        ),
        ({"compression": 3, "masks": (0xFF0000, 0xFF00, 0xFF), "header": 52}, BGRX),
    ],
)
def test_32_bits_without_an_alpha_mask_are_opaque(options, channels, fourth):
    channels = channels.copy()
    if fourth is not None:
        unused = 0 if options.get("header") == 124 else 3
        channels[..., unused] = fourth
    np.testing.assert_array_equal(decode(bmp(rows(channels), 32, **options)), COLOR)


@pytest.mark.parametrize(
    "options", [{"compression": 3, "header": 124}, {"compression": 3, "header": 56}, {"compression": 6}]
)
def test_32_bits_with_an_alpha_mask(options):
    data = bmp(rows(BGRX), 32, masks=(0xFF0000, 0xFF00, 0xFF, 0xFF000000), **options)
    alpha = ALPHA[..., None] / 255
    assert np.abs(decode(data) - (COLOR * alpha + 255 * (1 - alpha))).max() <= 0.51


@pytest.mark.parametrize(
    ("options", "widths"),
    [
        ({}, (5, 5, 5)),
        ({"compression": 3, "masks": (0xF800, 0x7E0, 0x1F)}, (5, 6, 5)),
        ({"compression": 3, "masks": (0xF00, 0xF0, 0xF)}, (4, 4, 4)),
    ],
)
def test_16_bits_reach_the_full_range(options, widths):
    levels = [COLOR[..., k].astype(np.uint16) >> (8 - widths[k]) for k in range(3)]
    words = levels[0] << (widths[1] + widths[2]) | levels[1] << widths[2] | levels[2]
    exact = np.dstack([level * 255 / (2**width - 1) for level, width in zip(levels, widths, strict=True)])
    assert np.abs(decode(bmp(rows(words), 16, **options)) - exact).max() <= 0.5


@pytest.mark.parametrize("bits", [8, 24, 32, 16])
def test_rows_from_top_to_bottom(bits):
    content = {8: GREY, 24: np.ascontiguousarray(COLOR[..., ::-1]), 32: BGRX, 16: (GREY.astype(np.uint16) << 7)}[bits]
    palette = RAMP if bits == 8 else b""
    down = decode(bmp(rows(content), bits, palette=palette))
    up = decode(bmp(rows(content), bits, palette=palette, height=-7))
    np.testing.assert_array_equal(up, down[::-1])


@pytest.mark.parametrize("bits", [1, 4, 8])
def test_palettes(bits):
    colors = rng.integers(0, 256, (2**bits, 4), dtype=np.uint8)
    indices = GREY >> (8 - bits)
    packed = np.packbits((indices[..., None] >> np.arange(bits - 1, -1, -1) & 1).reshape(7, -1), axis=1)
    data = bmp(rows(packed), bits, palette=colors.tobytes())
    np.testing.assert_array_equal(decode(data), colors[indices][..., 2::-1])


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("compressed", [False, True])
def test_an_index_beyond_the_palette_is_damage(bits, compressed):
    """Decoders show black there."""
    indices = GREY % 3
    if compressed:
        content = run_lengths(indices, four_bits=bits == 4)
    else:
        packed = np.packbits((indices[..., None] >> np.arange(bits - 1, -1, -1) & 1).reshape(7, -1), axis=1)
        content = rows(packed)
    options = {"compression": {4: 2, 8: 1}[bits] if compressed else 0}
    assert decode(bmp(content, bits, palette=RAMP[:12], **options)).max() == 2
    with pytest.raises(ImageError, match=r"got a damaged BMP of \d+ bytes"):
        decode(bmp(content, bits, palette=RAMP[:8], **options))


def test_the_palette_of_1988_has_three_bytes_a_color():
    colors = rng.integers(0, 256, (256, 3), dtype=np.uint8)
    start = 14 + 12 + colors.size
    head = struct.pack("<2sIHHIIHHHH", b"BM", 0, 0, 0, start, 12, 9, 7, 1, 8)
    np.testing.assert_array_equal(decode(head + colors.tobytes() + rows(GREY)), colors[GREY][..., ::-1])


@pytest.mark.parametrize("bits", [8, 16, 24, 32])
def test_pixels_inside_of_the_header_are_damage(bits):
    data = bytearray(bmp(bytes(9 * 8 * 4), bits, palette=RAMP if bits == 8 else b""))
    data[10:14] = struct.pack("<I", 0)
    with pytest.raises(ImageError, match=r"a BMP whose pixels start at byte 0, inside of its header"):
        decode(bytes(data))


def run_lengths(indices, *, four_bits=False):
    content = b""
    for line in indices[::-1]:
        k = 0
        while k < len(line):
            end = k + 1
            while end < len(line) and line[end] == line[k]:
                end += 1
            content += bytes([end - k, line[k] * 17 if four_bits else line[k]])
            k = end
        content += b"\0\0"
    return content + b"\0\1"


@pytest.mark.parametrize("height", [7, -7])
def test_run_lengths(height):
    flat = np.repeat(GREY[:, :3] >> 4, 3, axis=1)
    twin = decode(bmp(rows(flat), 8, palette=RAMP, height=height))
    np.testing.assert_array_equal(decode(bmp(run_lengths(flat), 8, compression=1, palette=RAMP, height=height)), twin)
    four = bmp(run_lengths(flat, four_bits=True), 4, compression=2, palette=RAMP[:64], height=height)
    np.testing.assert_array_equal(decode(four), twin)


def test_literal_runs():
    lines = b"".join(bytes([0, 9]) + line.tobytes() + b"\0\0\0" for line in GREY[::-1])
    np.testing.assert_array_equal(decode(bmp(lines + b"\0\1", 8, compression=1, palette=RAMP))[..., 0], GREY)
    nibbles = GREY >> 4
    packed = [np.append(line, 0).reshape(-1, 2) @ np.array([16, 1], np.uint8) for line in nibbles[::-1]]
    lines = b"".join(bytes([0, 9]) + line.astype(np.uint8).tobytes() + b"\0\0\0" for line in packed)
    four = decode(bmp(lines + b"\0\1", 4, compression=2, palette=RAMP[:64]))
    np.testing.assert_array_equal(four[..., 0], nibbles)


@pytest.mark.parametrize("change", [b"\x0a\0", b"\x08\0", b"\0\0", b"\0\1"])
def test_runs_that_do_not_fill_their_rows_are_damage(change):
    data = run_lengths(np.zeros((7, 9), np.uint8))
    with pytest.raises(ImageError, match="got a damaged BMP"):
        decode(bmp(change + data[2:], 8, compression=1, palette=RAMP))
    with pytest.raises(ImageError, match="got a damaged BMP"):
        decode(bmp(data[:-5], 8, compression=1, palette=RAMP))


@pytest.mark.parametrize(
    ("bits", "options", "trait"),
    [
        (24, {"compression": 4}, "a BMP of 24 bits with compression 4"),
        (0, {"compression": 5}, "a BMP of 0 bits with compression 5"),
        (2, {}, "a BMP of 2 bits with compression 0"),
        (32, {"header": 100}, "a BMP with a header of 100 bytes"),
        (32, {"compression": 3, "masks": (0xF0F, 0xFF00, 0xFF)}, "a BMP with the channel mask 0xf0f"),
        (8, {"compression": 1}, "a run-length coded BMP with gaps"),
    ],
)
def test_layouts_that_are_not_read_are_named(bits, options, trait):
    content = b"\0\2\1\1" + bytes(300)
    with pytest.raises(ImageError, match=rf"read exactly, got {trait}, in a\.bmp\. Save it as PNG\."):
        decode(bmp(content, bits, **options), where="a.bmp")
