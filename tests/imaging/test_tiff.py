"""Every layout of a TIFF equals its plain twin pixel by pixel, or is refused with its trait and the remedy."""

from __future__ import annotations

import io
import lzma
import struct

import numpy as np
import pytest
from PIL import Image

from blemish.errors import ImageError
from blemish.imaging import tiff_segments
from blemish.imaging.decode import decode, load_mask, read_facts, read_stored
from tests.encoded import encoded
from tests.imaging.tiff_files import assemble, page, tiff

RNG = np.random.default_rng(0)
GREY = np.kron(RNG.integers(0, 256, (5, 7)), np.ones((8, 7))).astype(np.uint8)  # 40 x 49
GREY[3:9] = RNG.integers(0, 256, (6, 49))
COLOR = np.dstack([GREY, GREY[::-1], 255 - GREY])
DEEP = (GREY.astype(np.uint16) << 8) + RNG.integers(0, 256, GREY.shape).astype(np.uint16)
DEEP_COLOR = np.dstack([DEEP, DEEP[::-1], 65_535 - DEEP])
TWINS = {"grey": GREY, "color": COLOR, "16-bit grey": DEEP, "16-bit color": DEEP_COLOR}
COMPRESSIONS = [1, 5, 8, 32946, 32773, 50000, 34925]


def scaled(samples):
    """Return what `decode` makes of plain samples."""
    wide = ((samples.astype(np.int64) * 255 + 32_767) // 65_535).astype(np.uint8) if samples.itemsize == 2 else samples
    return wide if wide.ndim == 3 else np.repeat(wide[..., None], 3, axis=2)


@pytest.mark.parametrize("twin", TWINS)
@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("layout", [{}, {"rows": 7}, {"tile": (16, 32)}])
@pytest.mark.parametrize("planar", [1, 2])
@pytest.mark.parametrize("order", "<>")
def test_compressions_strips_tiles_planes_and_byte_orders(twin, compression, layout, planar, order):
    samples = TWINS[twin]
    data = tiff(samples, compression=compression, planar=planar, order=order, **layout)
    np.testing.assert_array_equal(decode(data), scaled(samples))


@pytest.mark.parametrize("twin", TWINS)
@pytest.mark.parametrize("compression", [5, 8, 50000])
@pytest.mark.parametrize("options", [{}, {"tile": (16, 16)}, {"planar": 2, "rows": 9}])
@pytest.mark.parametrize("order", "<>")
def test_predictor_of_differences(twin, compression, options, order):
    data = tiff(TWINS[twin], compression=compression, predictor=2, order=order, **options)
    np.testing.assert_array_equal(decode(data), scaled(TWINS[twin]))


@pytest.mark.parametrize("samples", [GREY, DEEP])
@pytest.mark.parametrize("compression", [1, 5])
def test_white_as_zero_is_inverted(samples, compression):
    full = np.iinfo(samples.dtype).max
    data = tiff(full - samples, photometric=0, compression=compression)
    np.testing.assert_array_equal(decode(data), scaled(samples))


@pytest.mark.parametrize("photometric", [0, 1])
@pytest.mark.parametrize("bits", [1, 2, 4])
def test_fewer_than_8_bits_are_scaled_to_the_full_range(bits, photometric):
    levels = GREY >> (8 - bits)
    stored = levels if photometric else 2**bits - 1 - levels
    wanted = scaled((levels * (255 // (2**bits - 1))).astype(np.uint8))
    np.testing.assert_array_equal(decode(tiff(stored, bits=bits, photometric=photometric)), wanted)
    np.testing.assert_array_equal(decode(tiff(stored, bits=bits, photometric=photometric, tile=(16, 16))), wanted)


@pytest.mark.parametrize("bits", [10, 12, 14])
@pytest.mark.parametrize("photometric", [0, 1])
def test_packed_camera_bits(bits, photometric):
    levels = DEEP >> (16 - bits)
    stored = levels if photometric else 2**bits - 1 - levels
    np.testing.assert_array_equal(
        decode(tiff(stored, bits=bits, photometric=photometric, rows=3)), scaled(levels << (16 - bits))
    )


def test_big_tiff_reversed_bits_and_single_rows():
    np.testing.assert_array_equal(decode(tiff(DEEP_COLOR, big=True, rows=1, compression=5)), scaled(DEEP_COLOR))
    np.testing.assert_array_equal(decode(tiff(DEEP, big=True, order=">", tile=(16, 16))), scaled(DEEP))
    np.testing.assert_array_equal(decode(tiff(GREY, reverse=True, compression=5)), scaled(GREY))
    np.testing.assert_array_equal(decode(tiff(GREY[:1, :1])), scaled(GREY[:1, :1]))


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palettes(bits):
    colors = RNG.integers(0, 256, (2**bits, 3))
    indices = GREY >> (8 - bits)
    data = tiff(indices, bits=bits, photometric=3, tags={320: (3, (colors.T.reshape(-1) * 257).tolist())})
    np.testing.assert_array_equal(decode(data), colors[indices])
    with pytest.raises(ImageError, match=r"got a TIFF of 8 bits with a palette of 3 numbers"):
        decode(tiff(GREY, photometric=3, tags={320: (3, [1, 2, 3])}))


def test_a_palette_of_8_bit_numbers():
    """As old writers have it; libtiff takes a palette of numbers below 256 so."""
    colors = RNG.integers(0, 256, (256, 3))
    data = tiff(GREY, photometric=3, tags={320: (3, colors.T.reshape(-1).tolist())})
    np.testing.assert_array_equal(decode(data), colors[GREY])
    with pytest.raises(ImageError, match=r"got a TIFF of 8 bits with a palette of 771 numbers"):
        decode(tiff(GREY, photometric=3, tags={320: (3, [0] * 771)}))


def retyped(data, tag, kind):
    """Return a little-endian file with another type of a tag's numbers."""
    changed, (start,) = bytearray(data), struct.unpack_from("<I", data, 4)
    for at in range(start + 2, start + 2 + 12 * struct.unpack_from("<H", data, start)[0], 12):
        if struct.unpack_from("<H", data, at)[0] == tag:
            struct.pack_into("<H", changed, at + 2, kind)
    assert changed != data
    return bytes(changed)


@pytest.mark.parametrize(
    ("data", "tag"),
    [
        (tiff(GREY, compression=8, predictor=2), 317),
        (tiff(GREY, reverse=True), 266),
        (tiff(GREY), 258),
        (tiff(GREY), 259),
        (tiff(255 - GREY, photometric=0), 262),
    ],
)
def test_tags_of_signed_numbers_count_and_others_are_damage(data, tag):
    """A tag that is passed over has its default, and the pixels are others."""
    np.testing.assert_array_equal(decode(retyped(data, tag, 8)), scaled(GREY))
    for kind in (5, 11, 77):
        with pytest.raises(ImageError, match=rf"a TIFF with tag {tag} of type {kind}, which is no whole number"):
            decode(retyped(data, tag, kind))
    with pytest.raises(ImageError, match=r"a TIFF with tag 317 of -2"):
        decode(retyped(tiff(GREY, tags={317: (3, [65_534])}), 317, 8))


@pytest.mark.parametrize("deep", [False, True])
def test_cmyk(deep):
    inks = np.dstack([COLOR, GREY[:, ::-1]])
    data = tiff(inks.astype(np.uint16) * 257 if deep else inks, photometric=5)
    exact = (255 - inks[..., :3].astype(float)) * (255 - inks[..., 3:].astype(float)) / 255
    assert np.abs(decode(data) - exact).max() < 1
    image = Image.new("RGB", (9, 7), (200, 100, 50)).convert("CMYK")
    assert np.abs(decode(encoded(image, "tiff")).astype(int) - (200, 100, 50)).max() <= 1


@pytest.mark.parametrize("planar", [1, 2])
@pytest.mark.parametrize("deep", [False, True])
def test_alpha_straight_and_multiplied(planar, deep):
    alpha = GREY[:, ::-1]
    exact = COLOR * (alpha[..., None] / 255) + 255 - alpha[..., None].astype(float)
    multiplied = np.round(COLOR * (alpha[..., None] / 255)).astype(np.uint8)
    for kind, colors in ((2, COLOR), (1, multiplied)):
        layers = np.dstack([colors, alpha])
        data = tiff(layers.astype(np.uint16) * 257 if deep else layers, planar=planar, tags={338: (3, [kind])})
        assert np.abs(decode(data) - exact).max() <= 1
    grey = tiff(np.dstack([GREY, alpha]), photometric=1, tags={338: (3, [2])})
    assert np.abs(decode(grey)[..., 0] - (GREY * (alpha / 255) + 255 - alpha)).max() <= 1


@pytest.mark.parametrize("tags", [{}, {338: (3, [0])}])
def test_a_channel_without_a_name_must_be_opaque(tags):
    opaque = np.full(GREY.shape, 255, np.uint8)
    np.testing.assert_array_equal(decode(tiff(np.dstack([COLOR, opaque]), tags=tags)), COLOR)
    with pytest.raises(
        ImageError, match=r"got a TIFF of 4 channels that does not say what the last one is.* Save it as"
    ):
        decode(tiff(np.dstack([COLOR, GREY]), tags=tags))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_16_bits(orientation):
    data = tiff(DEEP, tags={0x0112: (3, [orientation])})
    upright = DEEP.T if orientation >= 5 else DEEP
    upright = upright[::-1] if orientation in (3, 4, 7, 8) else upright
    upright = upright[:, ::-1] if orientation in (2, 3, 6, 7) else upright
    np.testing.assert_array_equal(decode(data), scaled(upright))


@pytest.mark.parametrize("marks", [{254: (4, [1])}, {255: (3, [2])}, {254: (4, [4])}])
def test_thumbnails_and_masks_are_no_pages(marks, tmp_path):
    path = tmp_path / "a.tif"
    path.write_bytes(assemble([page(GREY[::8, ::8], tags=marks), page(COLOR)]))
    np.testing.assert_array_equal(read_stored(path)[1], COLOR)
    assert read_facts(path)[0] == (40, 49)
    path.write_bytes(assemble([page(GREY, tags=marks)]))
    with pytest.raises(ImageError, match=r"got a TIFF that holds thumbnails only, in .*a\.tif\. Save the image"):
        read_facts(path)


def test_pages_of_several_sizes():
    np.testing.assert_array_equal(decode(assemble([page(COLOR), page(GREY), page(GREY[::2, ::2])])), COLOR)
    with pytest.raises(ImageError, match=r"first page is not its largest \(7 x 5, 49 x 40\).* a file of its own"):
        decode(assemble([page(GREY[::8, ::7]), page(COLOR)]))


@pytest.mark.parametrize(
    ("mode", "options"),
    [("L", {}), ("RGB", {}), ("RGB", {"tiffinfo": {278: 16}}), ("YCbCr", {}), ("RGB", {"quality": 30})],
)
def test_jpeg_inside(mode, options):
    image = Image.fromarray(np.kron(COLOR, np.ones((3, 3, 1), np.uint8))).convert(mode)
    data = encoded(image, "tiff", compression="jpeg", **{"quality": 95, **options})

    wanted = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    assert np.abs(decode(data) - wanted).max() <= 1


@pytest.mark.parametrize(
    ("number", "name"),
    [(34712, "JPEG 2000"), (33005, "JPEG 2000"), (50002, "JPEG XL"), (34934, "JPEG XR"), (22610, "JPEG XR"),
     (34933, "PNG"), (34887, "LERC"), (50001, "WebP"), (6, "old-style JPEG"), (4, "CCITT"), (34661, "JBIG"),
     (12345, "number 12345")],
)  # fmt: skip
def test_compressions_that_are_not_read_are_named(number, name):
    data = tiff(COLOR, tags={259: (3, [number])})
    with pytest.raises(ImageError, match=rf"^image: expected an image that is read exactly, got a TIFF with {name} comp"
                       r"ression, in a\.tif\. Save it with LZW or deflate compression, or as PNG\.$"):  # fmt: skip
        decode(data, where="a.tif")


@pytest.mark.parametrize(
    ("samples", "options", "trait"),
    [
        (COLOR, {"photometric": 8}, "CIELab"),
        (COLOR, {"photometric": 6}, "YCbCr without JPEG"),
        (GREY, {"photometric": 32803}, "a color filter array"),
        (GREY, {"photometric": 4}, "a transparency mask"),
        (np.dstack([COLOR, COLOR]), {"photometric": 5}, "6 channels, 2 of them beside its colors"),
        (np.dstack([COLOR, GREY, GREY]), {"photometric": 5, "tags": {338: (3, [0])}}, "5 channels, 1 of them"),
        (np.dstack([COLOR, GREY]), {"photometric": 5, "tags": {332: (3, [2])}}, "inks other than CMYK"),
        (np.dstack([GREY] * 5), {"photometric": 1}, "5 channels, 4 of them"),
        (GREY, {"bits": 8, "tags": {258: (3, [6])}}, "6 bits a channel"),
        (COLOR, {"tags": {258: (3, [8, 8, 16])}}, "channels differ in depth"),
        (DEEP, {"compression": 8, "tags": {317: (3, [3])}}, "predictor 3 on 16 bits"),
        (np.dstack([COLOR, GREY]), {"tags": {338: (3, [9])}}, "an extra channel of kind 9"),
        (GREY.astype(np.int16), {"photometric": 0}, "signed or floating point numbers with white as zero"),
    ],
)
def test_traits_that_are_not_read_are_named_with_a_remedy(samples, options, trait):
    with pytest.raises(ImageError, match=rf"got a TIFF .*{trait}.*, in a\.tif\. Save it "):
        decode(tiff(samples, **options), where="a.tif")


def test_zstandard_is_named_where_pillow_lacks_it(monkeypatch):
    assert tiff_segments._has_zstandard()
    data = tiff(COLOR, compression=50000)
    monkeypatch.setattr(tiff_segments, "_has_zstandard", lambda: False)
    with pytest.raises(
        ImageError, match=r"a TIFF with Zstandard compression, which this Pillow lacks\. Install a newer"
    ):
        decode(data)


@pytest.mark.slow
@pytest.mark.parametrize("preset", [0, 6, 9])
def test_lzma_with_damage_and_with_a_dictionary_that_is_too_large(preset):
    strip = lzma.compress(COLOR.tobytes(), preset=preset)
    written, _, numbers = page(COLOR, tags={259: (3, [34925])})
    np.testing.assert_array_equal(decode(assemble([(written, [strip], numbers)])), COLOR)
    huge = lzma.compress(COLOR.tobytes(), filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 2**30}])
    short = lzma.compress(COLOR.tobytes()[:-1])
    for damaged in (strip[:-9], strip[:900] + b"\0" + strip[901:], huge, short):
        with pytest.raises(ImageError, match="got a damaged TIFF"):
            decode(assemble([(written, [damaged], numbers)]))


def test_numbers_wider_than_16_bits_are_masks_only(tmp_path):
    path = tmp_path / "m.tif"
    for dtype in (np.uint32, np.int32, np.int16, np.int8, np.float16, np.float32, np.float64):
        path.write_bytes(tiff((GREY > 99).astype(dtype), compression=8))
        np.testing.assert_array_equal(load_mask(path), GREY > 99)
        with pytest.raises(ImageError, match="expected 8 or 16 bits a channel, got"):
            decode(path.read_bytes())


@pytest.mark.parametrize(
    ("tags", "text"),
    [
        ({273: (4, [10**6])}, "a TIFF that ends too early"),
        ({322: (4, [0]), 323: (4, [16]), 324: (4, [8]), 325: (4, [9])}, "segments of 0 x 16 pixels"),
        ({278: (4, [7])}, "1 of 6 strips or tiles"),
        ({257: (4, [0])}, "a size of 49 x 0 pixels"),
        ({322: (4, [60_000]), 323: (4, [60_000]), 324: (4, [8]), 325: (4, [9])}, "segments of 60000 x 60000 pixels"),
    ],
)
def test_contradictions_are_damage(tags, text):
    written, strips, _ = page(GREY)
    tags = {273: (4, [8]), 279: (4, [len(strips[0])])} | tags
    numbers = (60_000, 60_001)  # private tags take the place of offsets and counts
    with pytest.raises(ImageError, match=text):
        decode(assemble([(written | tags, strips, numbers)]))
    with pytest.raises(ImageError, match="left out"):
        decode(assemble([(written | {273: (4, [8]), 279: (4, [0])}, strips, numbers)]))


def test_tags_without_a_value_count_as_left_out():
    black = np.zeros((4, 8), np.uint8)
    assert not decode(tiff(black, bits=1, tags={258: (3, []), 339: (3, [])})).any()


def test_directories_that_point_at_each_other_end():
    data = bytearray(tiff(GREY))
    start = int.from_bytes(data[4:8], "little")
    data[-4:] = start.to_bytes(4, "little")
    np.testing.assert_array_equal(decode(bytes(data)), scaled(GREY))
