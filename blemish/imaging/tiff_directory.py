"""Directories of a TIFF: which page is the image, and how its pixels are laid out.

Source: TIFF 6.0; TIFF Technical Note 1 (SubIFDs); BigTIFF.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Literal

from blemish.imaging.exif import ORIENTATION
from blemish.imaging.formats import DamagedError, UnsupportedError, cut_short

SUBFILE, OLD_SUBFILE, WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER = 254, 255, 256, 257, 258, 259, 262, 266
OFFSETS, SAMPLES, ROWS, COUNTS, PLANAR, PREDICTOR, PALETTE = 273, 277, 278, 279, 284, 317, 320
TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_COUNTS, SUB_DIRECTORIES, INK_SET = 322, 323, 324, 325, 330, 332
T4_OPTIONS, T6_OPTIONS, EXTRA, SAMPLE_FORMAT, JPEG_TABLES = 292, 293, 338, 339, 347
TAGS = frozenset(value for name, value in list(globals().items()) if name.isupper() and isinstance(value, int))
CODES = {1: "B", 3: "H", 4: "I", 6: "b", 7: "B", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q", 18: "Q"}
MAX_PAGES = 4096
TILE_PIXELS = 2**22  # of a tile that is larger than twice its image

COMPRESSIONS = {1: "none", 5: "lzw", 7: "jpeg", 8: "deflate", 32946: "deflate", 32773: "packbits"}
COMPRESSIONS |= {50000: "zstd", 34925: "lzma"}
OTHER_COMPRESSIONS = {
    2: "CCITT", 3: "CCITT", 4: "CCITT", 6: "old-style JPEG", 32809: "ThunderScan", 33003: "JPEG 2000",
    33004: "JPEG 2000", 33005: "JPEG 2000", 34661: "JBIG", 34676: "SGI Log", 34677: "SGI Log", 34712: "JPEG 2000",
    34887: "LERC",
    34892: "lossy JPEG of DNG", 34933: "PNG", 34934: "JPEG XR", 22610: "JPEG XR", 50001: "WebP", 50002: "JPEG XL",
    52546: "JPEG XL",
}  # fmt: skip
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE_COLOR, CMYK, YCBCR = 0, 1, 2, 3, 5, 6
COLORS = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3, PALETTE_COLOR: 1, CMYK: 4, YCBCR: 3}
OTHER_COLORS = {4: "a transparency mask", 8: "CIELab", 9: "ICCLab", 10: "ITULab", 32803: "a color filter array (raw)",
                32844: "LogL", 32845: "LogLuv", 34892: "linear raw"}  # fmt: skip
RESAVE = "Save it with LZW or deflate compression, or as PNG."
AS_RGB = "Save it as grey or RGB of 8 or 16 bits, or as PNG."


@dataclass(frozen=True)
class Layout:
    """How the pixels of one page are stored.

    Attributes:
        kind: "u" unsigned, "i" signed or "f" floating point.
        alpha: 0 without, 1 colors multiplied by alpha, 2 straight alpha, None where the file does not name the last
            channel.
        segment_height, segment_width: of a strip or tile.
    """

    height: int
    width: int
    samples: int
    bits: int
    kind: Literal["u", "i", "f"]
    color: int
    compression: str
    predictor: int
    planes: int
    orientation: int
    alpha: int | None
    tiled: bool
    segment_height: int
    segment_width: int
    segments: tuple[tuple[int, int], ...]
    palette: tuple[int, ...]
    tables: bytes
    order: Literal["<", ">"]
    reverse_bits: bool

    @property
    def segment_samples(self) -> int:
        """Samples a pixel in one segment."""
        return 1 if self.planes > 1 else self.samples


def read_layout(data: bytes) -> Layout:
    """Return the layout of a TIFF's image: its first page that is not marked as a thumbnail.

    Raises:
        DamagedError: if the file ends too early or contradicts itself.
        UnsupportedError: if its pixels are stored in a way that is not read, or it is not clear which page is meant.
    """
    return _layout(_image_page(data), data)


class _Directory(dict[int, tuple[int, ...]]):
    """Tags of one page, by number."""

    order: Literal["<", ">"]

    def number(self, tag: int, default: int | None = None) -> int:
        values = self.get(tag, ())
        if values:
            return values[0]
        if default is None:
            name = "its size" if tag in (WIDTH, HEIGHT) else f"tag {tag}"
            raise DamagedError(f"a TIFF that does not state {name}")
        return default

    @property
    def size(self) -> tuple[int, int]:
        return self.number(WIDTH), self.number(HEIGHT)

    @property
    def is_image(self) -> bool:
        """Whether this page is neither a thumbnail nor a mask. Source: TIFF 6.0, NewSubfileType and SubfileType."""
        return not self.number(SUBFILE, 0) & 0b101 and self.number(OLD_SUBFILE, 1) != 2


def _image_page(data: bytes) -> _Directory:
    pages = _pages(data)
    images = [page for page in pages if page.is_image]
    if not images:
        nested = [offset for page in pages for offset in page.get(SUB_DIRECTORIES, ())][:MAX_PAGES]
        images = [page for page in (_directory(data, offset)[0] for offset in nested) if page.is_image]
    if not images:
        raise UnsupportedError("a TIFF that holds thumbnails only", "Save the image itself as TIFF or PNG.")
    first = images[0]
    largest = max(images, key=lambda page: page.size[0] * page.size[1])
    if largest.size[0] * largest.size[1] > first.size[0] * first.size[1]:
        sizes = "{} x {}, {} x {}".format(*first.size, *largest.size)
        remedy = "Save the page that you want as a file of its own."
        raise UnsupportedError(f"a TIFF whose first page is not its largest ({sizes})", remedy)
    return first


def _pages(data: bytes) -> list[_Directory]:
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None:
        raise DamagedError("an unknown byte order")
    big = struct.unpack_from(order + "H", data, 2)[0] == 43  # BigTIFF: 64-bit offsets
    (start,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
    pages: list[_Directory] = []
    seen: set[int] = set()
    while start and start not in seen and len(pages) < MAX_PAGES:
        seen.add(start)
        page, start = _directory(data, start)
        pages.append(page)
    if not pages:
        raise DamagedError("a TIFF without an image")
    return pages


def _directory(data: bytes, start: int) -> tuple[_Directory, int]:
    """Return the directory at `start` and where the next one is, 0 after the last."""
    order: Literal["<", ">"] = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    if start >= len(data):
        raise cut_short("TIFF", data)
    (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, start)
    first, step, value_at = (start + 8, 20, 12) if big else (start + 2, 12, 8)
    end = first + count * step
    if end + (8 if big else 4) > len(data):
        raise cut_short("TIFF", data)
    page = _Directory()
    page.order = order
    for at in range(first, end, step):
        tag, kind, n_values = struct.unpack_from(order + ("HHQ" if big else "HHI"), data, at)
        code = CODES.get(kind)
        if tag not in TAGS:
            continue
        if code is None:
            raise DamagedError(f"a TIFF with tag {tag} of type {kind}, which is no whole number")
        n_bytes = n_values * struct.calcsize(order + code)
        place = at + value_at
        if n_bytes > step - value_at:
            (place,) = struct.unpack_from(order + ("Q" if big else "I"), data, place)
        if place + n_bytes > len(data):
            raise cut_short("TIFF", data)
        page[tag] = struct.unpack_from(f"{order}{n_values}{code}", data, place)
        if code.islower() and min(page[tag], default=0) < 0:
            raise DamagedError(f"a TIFF with tag {tag} of {min(page[tag])}")
    return page, struct.unpack_from(order + ("Q" if big else "I"), data, end)[0]


def _layout(page: _Directory, data: bytes) -> Layout:
    width, height = page.size
    if width < 1 or height < 1:
        raise DamagedError(f"a size of {width} x {height} pixels")
    compression = _compression(page)
    bits, kind = _numbers(page)
    color, samples = _channels(page, compression)
    planes = samples if page.number(PLANAR, 1) == 2 and samples > 1 else 1
    tiled = TILE_OFFSETS in page
    segment_width = page.number(TILE_WIDTH) if tiled else width
    segment_height = page.number(TILE_HEIGHT) if tiled else min(page.number(ROWS, height), height)
    if segment_width < 1 or segment_height < 1 or segment_width * segment_height > max(2 * width * height, TILE_PIXELS):
        raise DamagedError(f"a TIFF with segments of {segment_width} x {segment_height} pixels")
    down, across = -(-height // segment_height), -(-width // segment_width)
    segments = _segments(page, data, tiled=tiled, count=down * across * planes, compression=compression)
    predictor = page.number(PREDICTOR, 1) if compression in ("lzw", "deflate", "zstd", "lzma") else 1
    if predictor not in (1, 2) or (predictor == 2 and bits not in (8, 16, 32)):
        raise UnsupportedError(f"a TIFF with predictor {predictor} on {bits} bits", RESAVE)
    if color == PALETTE_COLOR and (bits not in (1, 2, 4, 8) or len(page.get(PALETTE, ())) != 3 * 2**bits):
        raise DamagedError(f"a TIFF of {bits} bits with a palette of {len(page.get(PALETTE, ()))} numbers")
    orientation = page.number(ORIENTATION, 1)
    return Layout(
        height=height, width=width, samples=samples, bits=bits, kind=kind, color=color, compression=compression,
        predictor=predictor, planes=planes, orientation=orientation if 1 <= orientation <= 8 else 1,
        alpha=_alpha(page, samples - COLORS[color]), tiled=tiled,
        segment_height=segment_height, segment_width=segment_width, segments=segments,
        palette=page.get(PALETTE, ()), tables=bytes(page.get(JPEG_TABLES, ())) if compression == "jpeg" else b"",
        order=page.order, reverse_bits=page.number(FILL_ORDER, 1) == 2 and compression != "jpeg",
    )  # fmt: skip


def _compression(page: _Directory) -> str:
    number = page.number(COMPRESSION, 1)
    if number not in COMPRESSIONS:
        name = OTHER_COMPRESSIONS.get(number, f"number {number}")
        raise UnsupportedError(f"a TIFF with {name} compression", RESAVE)
    return COMPRESSIONS[number]


def _numbers(page: _Directory) -> tuple[int, Literal["u", "i", "f"]]:
    """Return bits and kind of a sample."""
    depths, formats = set(page.get(BITS) or (1,)), set(page.get(SAMPLE_FORMAT) or (1,))
    if len(depths) > 1 or len(formats) > 1:
        raise UnsupportedError("a TIFF whose channels differ in depth", AS_RGB)
    bits, number = depths.pop(), formats.pop()
    kinds: dict[int, Literal["u", "i", "f"]] = {1: "u", 2: "i", 3: "f", 4: "u"}
    allowed = {"u": (1, 2, 4, 8, 10, 12, 14, 16, 32), "i": (8, 16, 32), "f": (16, 32, 64)}
    kind = kinds.get(number)
    if kind is None or bits not in allowed[kind]:
        raise UnsupportedError(f"a TIFF of {bits} bits a channel in sample format {number}", AS_RGB)
    return bits, kind


def _channels(page: _Directory, compression: str) -> tuple[int, int]:
    """Return color model and samples a pixel."""
    color, samples = page.number(PHOTOMETRIC), page.number(SAMPLES, 1)
    if color not in COLORS:
        raise UnsupportedError(f"a TIFF of {OTHER_COLORS.get(color, f'color model {color}')}", AS_RGB)
    if color == YCBCR and compression != "jpeg":
        raise UnsupportedError("a TIFF of YCbCr without JPEG compression", AS_RGB)
    if color == CMYK and page.number(INK_SET, 1) != 1:
        raise UnsupportedError("a TIFF of inks other than CMYK", AS_RGB)
    extra = samples - COLORS[color]
    if extra < 0:
        raise DamagedError(f"a TIFF of {samples} channels for color model {color}")
    is_only_colors = color in (CMYK, PALETTE_COLOR, YCBCR) or compression == "jpeg"
    if extra > 1 or (extra and is_only_colors):
        raise UnsupportedError(f"a TIFF of {samples} channels, {extra} of them beside its colors", AS_RGB)
    return color, samples


def _alpha(page: _Directory, extra: int) -> int | None:
    if extra == 0:
        return 0
    kind = page.number(EXTRA, 0)
    if kind not in (0, 1, 2):
        raise UnsupportedError(f"a TIFF with an extra channel of kind {kind}", AS_RGB)
    return kind or None


def _segments(
    page: _Directory, data: bytes, *, tiled: bool, count: int, compression: str
) -> tuple[tuple[int, int], ...]:
    """Return start and length of each strip or tile."""
    offsets = page.get(TILE_OFFSETS if tiled else OFFSETS, ())
    counts = page.get(TILE_COUNTS if tiled else COUNTS, ())
    if not counts and compression == "none" and len(offsets) == 1:
        counts = (len(data) - offsets[0],)
    if len(offsets) < count or len(counts) < count:
        raise DamagedError(f"a TIFF with {min(len(offsets), len(counts))} of {count} strips or tiles")
    segments = tuple(zip(offsets[:count], counts[:count], strict=True))
    if any(start + length > len(data) for start, length in segments):
        raise cut_short("TIFF", data)
    if any(length == 0 for _, length in segments):
        raise UnsupportedError("a TIFF with strips or tiles left out (sparse)", RESAVE)
    return segments
