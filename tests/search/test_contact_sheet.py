"""The contact sheet of a query."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from blemish.imaging.decode import read_facts
from blemish.search import Match, StoredDefect
from blemish.search.contact_sheet import MISSING_COLOR, SIZE_PX, sheet
from blemish.visualization import FOUND, MARKED
from tests.images import good, write

SQUARE = np.array([[30, 30], [30, 50], [50, 50], [50, 30]], np.int32)


def stored(path: Path | str, sha256: str, **changes: object) -> Match:
    fields = {
        "id": "0",
        "kind": "region",
        "category": "c",
        "path": str(path),
        "sha256": sha256,
        "box": (30, 30, 21, 21),
        "area_px": 441,
        "contour": SQUARE,
        "score": 1.0,
        "p_value": 0.5,
        "model": "m",
        "time": "t",
        "label": "Öl",
        **changes,
    }
    return Match(StoredDefect(**fields), 0.87)  # type: ignore[arg-type]


def columns(page: np.ndarray, n: int) -> list[np.ndarray]:
    """The tiles' columns of a page."""
    return [page[:, 28 + i * (SIZE_PX + 20) :][:, :SIZE_PX] for i in range(n)]


def has(part: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((np.abs(part.astype(int) - colour) < 12).all(axis=-1).sum())


def test_query_and_matches_are_outlined(tmp_path: Path):
    path = write(tmp_path / "a.png", good(1))
    page = sheet(good(99), (20, 20, 30, 20), SQUARE, [stored(path, read_facts(path)[1])], title="Most similar to x")
    query, match = columns(page, 2)
    assert has(query, MARKED) > 200
    assert has(query, FOUND) < 20
    assert has(match, FOUND) > 200
    assert has(match, MARKED) < 20
    assert page.shape[1] == 2 * 28 + 2 * (SIZE_PX + 20) - 20


def test_images_that_are_gone_or_changed_have_a_reason_and_no_outline(tmp_path: Path):
    path = write(tmp_path / "a.png", good(1))
    broken = tmp_path / "b.png"
    broken.write_bytes(b"no image")
    matches = [stored(tmp_path / "none.png", "0"), stored(path, "0"), stored(broken, "0"), stored("", "0")]
    page = sheet(good(2), (30, 30, 21, 21), SQUARE, matches, title="x")
    for column in columns(page, 5)[1:]:
        assert has(column, FOUND) == 0
        assert has(column, MISSING_COLOR) > SIZE_PX * SIZE_PX
    texts = [cv2.cvtColor(column, cv2.COLOR_RGB2GRAY) for column in columns(page, 5)[1:3]]
    assert not np.array_equal(*texts)


def test_a_region_at_the_edge_of_a_long_image_fits(tmp_path: Path):
    image = good(1, 40, 400)
    edge = np.array([[390, 0], [390, 39], [399, 39], [399, 0]], np.int32)
    page = sheet(image, (390, 0, 10, 40), edge, [], title="x")
    assert has(page, MARKED) > 20
