"""Text on images: any script where OpenCV has a font, ASCII elsewhere."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Colour = tuple[int, int, int]

# OpenCV 5 has an antialiased variable font with Latin, Greek, Cyrillic, Chinese, Japanese and Korean letters; 4.x only
# the single-stroke Hershey letters, which are ASCII.
HAS_FONT = hasattr(cv2, "FontFace")
ELLIPSIS = "…"
# Supersampling factor of the Hershey letters.
_FINE = 4
# Characters of file names and captions that Unicode does not decompose into ASCII.
_ASCII = str.maketrans(
    {
        "ß": "ss", "æ": "ae", "Æ": "AE", "ø": "o", "Ø": "O", "œ": "oe", "Œ": "OE", "ł": "l", "Ł": "L", "đ": "d",
        "Đ": "D", "ð": "d", "þ": "th", "\u0131": "i", "\u2010": "-", "\u2011": "-", "\u2013": "-", "\u2014": "-",
        "\xb7": "-", "\xd7": "x", "≤": "<=", "≥": ">=", "\xb5": "u", "\u03bc": "u", "\u2018": "'", "\u2019": "'",
        "\u201c": '"', "\u201d": '"', ELLIPSIS: "...",
    }
)  # fmt: skip


def printable(text: str) -> str:
    r"""Return the text as one line of characters that the font has; in ASCII where OpenCV has no font.

    Control and formatting characters become spaces (one of them reverses the writing direction), characters without a
    glyph question marks. Half a surrogate pair, as in a file name that is not UTF-8, would crash OpenCV 5.

    >>> printable("part\n7\udce9.png")
    'part 7?.png'
    """
    characters = (_drawable(character) for character in unicodedata.normalize("NFC", text))
    line = " ".join("".join(characters).split())
    return line if HAS_FONT else ascii_letters(line)


def ascii_letters(text: str) -> str:
    """Return the text transliterated to ASCII; characters without an ASCII form become question marks.

    >>> ascii_letters("Größe Łódź 检")
    'Grosse Lodz ?'
    """
    decomposed = unicodedata.normalize("NFKD", text.translate(_ASCII))
    without_accents = "".join(c for c in decomposed if not unicodedata.combining(c))
    return without_accents.encode("ascii", "replace").decode()


def text_width(text: str, size_px: int, *, bold: bool = False) -> int:
    """Return the width of the text in pixels, as `draw_text` draws it."""
    line = printable(text)
    if HAS_FONT:
        return int(cv2.getTextSize((0, 0), line, (0, 0), _font(), size_px, _weight(bold))[2])
    scale, thickness = _hershey(size_px, bold)
    return -(-int(cv2.getTextSize(line, cv2.FONT_HERSHEY_SIMPLEX, scale, thickness)[0][0]) // _FINE)


def shorten(text: str, width_px: int, size_px: int, *, bold: bool = False) -> str:
    """Return the text, with an ellipsis in its middle if it is wider than `width_px`: a file name keeps its end.

    >>> shorten("000.png", 500, 16)
    '000.png'
    """
    line = printable(text)
    if text_width(line, size_px, bold=bold) <= width_px:
        return line
    low, high = 0, len(line)
    while low < high:
        kept = (low + high + 1) // 2
        if text_width(_without_middle(line, kept), size_px, bold=bold) <= width_px:
            low = kept
        else:
            high = kept - 1
    return _without_middle(line, low) if low else ""


def draw_text(
    image: NDArray[np.uint8],
    text: str,
    xy: tuple[int, int],
    size_px: int,
    colour: Colour,
    *,
    bold: bool = False,
    align: Literal["left", "center", "right"] = "left",
) -> None:
    """Draw one line of text on `image`, in place.

    Args:
        image: (H, W, 3) uint8 RGB, contiguous.
        text: any string.
        xy: start, centre or end of the base line.
        size_px: line height; capital letters have 0.7 of it.
        colour: RGB.
        bold: heavier letters.
        align: the point of the line that `xy` is.
    """
    line = printable(text)
    shift = {"left": 0.0, "center": 0.5, "right": 1.0}[align]
    x = round(xy[0] - shift * text_width(line, size_px, bold=bold)) if shift else xy[0]
    if HAS_FONT:
        cv2.putText(image, line, (x, xy[1]), colour, _font(), size_px, _weight(bold))
    else:
        _draw_hershey(image, line, (x, xy[1]), size_px, colour, bold=bold)


def _drawable(character: str) -> str:
    category = unicodedata.category(character)
    if category in {"Cs", "Co", "Cn"}:
        return "?"
    return " " if category[0] in "CZ" else character


def _without_middle(line: str, kept: int) -> str:
    head = kept // 3
    return line[:head] + ELLIPSIS + line[len(line) - (kept - head) :]


def _font() -> Any:
    return cv2.FontFace("sans")  # 3 µs: OpenCV keeps the font itself


def _weight(bold: bool) -> int:
    return 600 if bold else 400


def _hershey(size_px: int, bold: bool) -> tuple[float, int]:
    """Return OpenCV's scale and thickness of letters at `_FINE` times the size."""
    # Capital letters are 22 px high at scale 1.
    return _FINE * size_px * 0.62 / 22, max(1, round(_FINE * size_px * (0.11 if bold else 0.07)))


def _draw_hershey(
    image: NDArray[np.uint8], line: str, xy: tuple[int, int], size_px: int, colour: Colour, *, bold: bool
) -> None:
    """Draw single-stroke letters supersampled, so that small ones are as even as those of a font."""
    scale, thickness = _hershey(size_px, bold)
    margin = -(-thickness // _FINE)
    width, height = text_width(line, size_px, bold=bold) + 2 * margin, 2 * size_px
    large = np.zeros((_FINE * height, _FINE * width), np.uint8)
    start = (_FINE * margin, _FINE * (height - size_px // 2))
    cv2.putText(large, line, start, cv2.FONT_HERSHEY_SIMPLEX, scale, 255, thickness, cv2.LINE_AA)
    cover = cv2.resize(large, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    left, top = xy[0] - margin, xy[1] - (height - size_px // 2)
    first_x, first_y = max(left, 0), max(top, 0)
    part = image[first_y : max(top + height, 0), first_x : max(left + width, 0)]
    cover = cover[first_y - top :, first_x - left :][: part.shape[0], : part.shape[1], None]
    part[:] = np.rint(part + cover * (np.array(colour, np.float32) - part))
