"""Mutated files: a decoder refuses them or returns the undamaged pixels, except where it cannot know.

A bit of a Huffman or arithmetic code that only changes a value leaves a valid file. BMP and TIFF without compression
hold nothing but pixels, and are left out here. `python -m tests.imaging.test_damage 400` prints the table of the
documentation.
"""

from __future__ import annotations

import sys
from collections import Counter
from functools import lru_cache, partial

import numpy as np
import pytest
from PIL import Image

from blemish.errors import ImageError
from blemish.imaging.decode import decode
from tests.encoded import encoded
from tests.imaging.test_jpeg import pixels_start
from tests.imaging.tiff_files import tiff


@lru_cache
def photo():
    """Return smooth structure with noise, as a camera gives it."""
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize(
        (240, 180), Image.Resampling.BICUBIC
    )
    return np.clip(np.asarray(smooth) + rng.normal(0, 4, (180, 240, 3)), 0, 255).astype(np.uint8)


jpeg, webp = partial(encoded, kind="jpeg", quality=90), partial(encoded, kind="webp")
FILES = {
    "JPEG": jpeg,
    "JPEG, grey": lambda image: jpeg(image[..., 0]),
    "JPEG, optimized tables": lambda image: jpeg(image, optimize=True),
    "JPEG, restart markers": lambda image: jpeg(image, restart_marker_blocks=8),
    "JPEG, progressive": lambda image: jpeg(image, progressive=True),
    "JPEG, CMYK": lambda image: encoded(Image.fromarray(image).convert("CMYK"), "jpeg", quality=90),
    "PNG": lambda image: encoded(image, "png"),
    "PNG, 16 bits": lambda image: encoded(image[..., 0].astype(np.uint16) * 257, "png"),
    "WebP": lambda image: webp(image, lossless=False, quality=90),
    "WebP, lossless": webp,
    "TIFF, LZW": lambda image: tiff(image, compression=5, predictor=2, rows=32),
    "TIFF, deflate": lambda image: tiff(image, compression=8, rows=32),
    "TIFF, PackBits": lambda image: tiff(image, compression=32773, rows=32),
    "TIFF, Zstandard": lambda image: tiff(image, compression=50000, predictor=2, tile=(64, 64)),
    "TIFF, JPEG": lambda image: encoded(Image.fromarray(image), "tiff", compression="jpeg", quality=90),
}


def start_of_pixels(data):
    if data.startswith(b"\xff\xd8"):
        return pixels_start(data)
    return 80 if data.startswith((b"\x89PNG", b"RIFF")) else 16


def zeroed(length):
    def damage(data, first, rng):
        n = min(length, (len(data) - first) // 3)
        at = rng.integers(first, len(data) - n - 20)
        return data[:at] + bytes(n) + data[at + n :]

    return damage


def bit(data, first, rng):
    at = rng.integers(first, len(data) - 20)
    return data[:at] + bytes([data[at] ^ 1 << rng.integers(8)]) + data[at + 1 :]


def random_bytes(data, first, rng):
    at = rng.integers(first, len(data) - 84)
    return data[:at] + rng.bytes(64) + data[at + 64 :]


def lost(data, first, rng):
    """Return the file without 300 bytes, a part of that length doubled after it, so that all offsets hold."""
    at = rng.integers(first, len(data) - 620)
    return data[:at] + data[at + 300 : at + 600] * 2 + data[at + 600 :]


DAMAGES = {
    "2,000 zeros": zeroed(2000),
    "64 zeros": zeroed(64),
    "64 random": random_bytes,
    "300 lost": lost,
    "1 bit": bit,
}


def survey(kind, damage, n, seed=0):
    """Return how many of `n` mutated files were refused, same and wrong."""
    data, rng = FILES[kind](photo()), np.random.default_rng(seed)
    original, counts = decode(data), Counter()
    for _ in range(n):
        try:
            pixels = decode(DAMAGES[damage](data, start_of_pixels(data), rng))
        except ImageError:
            counts["refused"] += 1
            continue
        counts["same" if np.array_equal(pixels, original) else "wrong"] += 1
    return counts


# Share of files that came back wrong without an error, of 400 each. What is not listed here came back never.
RATES = {
    "JPEG": {"64 random": 0.215, "300 lost": 0.2725, "1 bit": 0.87},
    "JPEG, grey": {"64 random": 0.095, "300 lost": 0.2825, "1 bit": 0.83},
    "JPEG, optimized tables": {"64 random": 0.4275, "300 lost": 0.365, "1 bit": 0.8875},
    "JPEG, restart markers": {"64 random": 0.1725, "1 bit": 0.815},
    "JPEG, CMYK": {"64 random": 0.3075, "300 lost": 0.3925, "1 bit": 0.8875},
    "JPEG, progressive": {"64 zeros": 0.3225, "64 random": 0.0475, "300 lost": 0.0025, "1 bit": 0.6575},
    "WebP": {"64 random": 0.49, "300 lost": 0.4575, "1 bit": 0.425},
    "WebP, lossless": {"64 random": 0.595, "300 lost": 0.6, "1 bit": 0.9825},
    "TIFF, LZW": {"64 zeros": 0.0025, "64 random": 0.035, "300 lost": 0.005, "1 bit": 0.9175},
    "TIFF, PackBits": {"64 zeros": 0.4875, "64 random": 0.4975, "1 bit": 0.9875},
    "TIFF, Zstandard": {"2,000 zeros": 0.0975, "64 zeros": 0.73, "64 random": 0.9225, "300 lost": 0.895, "1 bit": 0.96},
    "TIFF, JPEG": {"64 random": 0.1025, "300 lost": 0.29, "1 bit": 0.8425},
}


def assert_no_more_are_wrong(kind, n, seed):
    for damage in DAMAGES:
        rate = RATES.get(kind, {}).get(damage, 0.0)
        by_chance = 3 * (n * rate * (1 - rate)) ** 0.5
        assert survey(kind, damage, n, seed)["wrong"] <= n * rate + by_chance, damage


@pytest.mark.slow
@pytest.mark.parametrize("kind", FILES)
def test_mutated_files_are_refused_as_often_as_the_format_allows(kind):
    assert_no_more_are_wrong(kind, 12, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", FILES)
def test_many_mutated_files_are_refused_as_often_as_the_format_allows(kind):
    assert_no_more_are_wrong(kind, 300, seed=2)


def main(n):
    """Print the table of docs/howto/image-files.md."""
    print("| file |", " | ".join(DAMAGES), "|\n|-|" + "-|" * len(DAMAGES))  # noqa: T201
    for kind in FILES:
        shares = [survey(kind, damage, n)["wrong"] / n for damage in DAMAGES]
        print(f"| {kind} |", " | ".join(f"{share:.1%}" for share in shares), "|", flush=True)  # noqa: T201


if __name__ == "__main__":
    main(int(sys.argv[1]))
