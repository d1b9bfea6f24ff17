import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blemish.visualization import text as lettering
from blemish.visualization.text import ascii_letters, draw_text, printable, shorten, text_width


@pytest.fixture(params=["font", "hershey"])
def letters(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both renderers: the font of OpenCV 5, and the Hershey letters of 4.x."""
    if request.param == "font" and not hasattr(cv2, "FontFace"):
        pytest.skip("this OpenCV has no font")
    monkeypatch.setattr(lettering, "HAS_FONT", request.param == "font")
    return str(request.param)


def ink(text: str, **settings: object) -> np.ndarray:
    page = np.full((60, 400, 3), 255, np.uint8)
    draw_text(page, text, (200, 40), 20, (0, 0, 0), **settings)  # type: ignore[arg-type]
    return np.flatnonzero((page < 128).any(axis=(0, 2)))


def test_drawn_text_has_its_width_and_alignment(letters: str) -> None:
    width = text_width("Score 0.25", 20)
    assert 50 < width < 140
    for align, left in (("left", 200), ("center", 200 - width / 2), ("right", 200 - width)):
        columns = ink("Score 0.25", align=align)
        assert abs(columns[0] - left) <= 4
        assert abs(columns[-1] - (left + width)) <= 4
    assert text_width("Score 0.25", 20, bold=True) >= width


@pytest.mark.slow
@given(text=st.text(st.characters(), max_size=20))
def test_any_string_is_drawn(text: str) -> None:
    page = np.full((40, 100, 3), 255, np.uint8)
    draw_text(page, text, (5, 25), 16, (0, 0, 0))
    assert text_width(text, 16) >= 0


def test_half_a_surrogate_pair_does_not_crash(letters: str) -> None:
    assert printable("a\udce9b") == "a?b"
    assert ink("a\udce9b").size


def test_a_character_that_reverses_the_writing_direction_is_dropped() -> None:
    assert printable("gnp\u202e.exe") == "gnp .exe"


@pytest.mark.skipif(not hasattr(cv2, "FontFace"), reason="this OpenCV has only ASCII letters")
def test_other_scripts_have_glyphs() -> None:
    drawn = {text: ink(text).tobytes() for text in ("检", "测", "Д", "ß", "?")}
    assert len(set(drawn.values())) == 5


def test_text_is_ascii_without_a_font(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lettering, "HAS_FONT", False)
    assert printable("Größe Łódź.png") == "Grosse Lodz.png"
    assert ascii_letters("检测 5 µm") == "?? 5 um"
    assert ascii_letters("≤ 1\xa0%") == "<= 1 %"


def test_a_long_name_keeps_its_end(letters: str) -> None:
    name = "line4/camera2/2026-11-24/" * 4 + "000812.png"
    short = shorten(name, 200, 16)
    assert short.endswith("000812.png")
    assert short.startswith("line")
    assert text_width(short, 16) <= 200
    assert text_width(short, 16) > 150


def test_a_name_that_fits_stays_and_one_that_cannot_is_empty(letters: str) -> None:
    assert shorten("000.png", 200, 16) == "000.png"
    assert shorten("000.png", 1, 16) == ""


@pytest.mark.parametrize("xy", [(-30, 40), (370, 40), (100, 4), (100, 66), (-500, 20), (100, -90)])
def test_text_is_clipped_to_the_page(letters: str, xy: tuple[int, int]) -> None:
    page, larger = np.full((60, 400, 3), 255, np.uint8), np.full((400, 1600, 3), 255, np.uint8)
    draw_text(page, "Score 0.25", xy, 20, (0, 0, 0))
    draw_text(larger, "Score 0.25", (xy[0] + 600, xy[1] + 150), 20, (0, 0, 0))
    np.testing.assert_array_equal(page, larger[150:210, 600:1000])
