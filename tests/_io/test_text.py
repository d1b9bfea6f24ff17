"""CSV tables and names of output files, of names that others chose."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path

import pytest

from blemish._io.files import atomic_write
from blemish._io.text import csv_text, cut, output_name
from blemish.errors import message, visible


@pytest.mark.parametrize(
    "text",
    ["=cmd|' /C calc'!A0", "@SUM(1)", "+1", "-1+2", "\t=1", "\r=1", "\n=1", "\uff1dHYPERLINK(1)", "\uff20A", "\uff0b1"],
)
def test_a_cell_is_no_formula(text: str):
    (_, (cell,)) = csv.reader(io.StringIO(csv_text(["head"], [[text]]), newline=""), strict=True)
    assert cell == f"'{text}"


@pytest.mark.parametrize("text", ["a,b", 'a"b', "a\rb", "a\nb", "a\r\nb", "a;b", " a", "", "Größe", "x=1", "a'b"])
def test_a_cell_comes_back_as_it_is(text: str):
    table = csv_text(["head", "n"], [[text, -1.5], ["last", 2]])
    assert list(csv.reader(io.StringIO(table, newline=""), strict=True)) == [
        ["head", "n"],
        [text, "-1.5"],
        ["last", "2"],
    ]
    assert "\r" not in table.replace("\r\n", "") or '"' in table


def test_a_table_can_be_encoded_and_read_whatever_a_name_holds():
    name = os.fsdecode(b"caf\xe9.png")
    data = csv_text(["path"], [[name]]).encode("utf-8")
    assert data == b"path\r\ncaf\\udce9.png\r\n"


@pytest.mark.parametrize("letter", ["a", "ß", "漢", "\U0001f600"])
def test_a_name_that_is_too_long_is_cut_at_a_letter_and_stays_unique(tmp_path: Path, letter: str):
    sources = [Path(f"{letter * (250 // len(letter.encode()))}{end}.png") for end in ("", "x", "y")]
    names = [output_name(7, source, tmp_path / "new") for source in sources]
    assert len(set(names)) == 3
    for name in names:
        assert len(name.encode("utf-8")) <= 255
        assert name.startswith(f"0007-{letter}")
        atomic_write(tmp_path / name, b"1")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


def test_the_file_system_says_how_long_a_name_may_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked = []
    monkeypatch.setattr(os, "pathconf", lambda path, name: asked.append(path) or 143, raising=False)
    assert len(output_name(1, Path(f"{'a' * 150}.png"), tmp_path / "b" / "c")) == 143
    assert asked == [tmp_path]
    monkeypatch.delattr(os, "pathconf")
    assert output_name(1, Path(f"{'a' * 150}.png"), tmp_path) == f"0001-{'a' * 150}.png"


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[2Jb", "a\u202eb", os.fsdecode(b"a\xe9b"), "a\x9bb"])
def test_a_name_of_an_output_is_printable(tmp_path: Path, name: str):
    assert output_name(0, Path(f"{name}.png"), tmp_path).isprintable()


def test_half_a_character_is_left_out():
    assert [cut("ßa", n) for n in range(-1, 5)] == ["", "", "", "ß", "ßa", "ßa"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\ngood b", "a\\ngood b"), ("a\r", "a\\r"), ("\x1b]0;t\x07", "\\x1b]0;t\\x07"), ("\x9b2J", "\\x9b2J"),
        ("\u202egnp", "\\u202egnp"), ("\u2066", "\\u2066"), ("\u2028", "\\u2028"), ("\u200b", "\\u200b"),
        ("\udce9", "\\udce9"), ("\ufeff", "\\ufeff"), ("\x7f", "\\x7f"), ("\U000e0041", "\\U000e0041"),
        ("C:\\new\\a", "C:\\new\\a"), ("Größe 検査\u3000é\xa0", "Größe 検査\u3000é\xa0"),
    ],
)  # fmt: skip
def test_text_is_one_line_that_shows_what_it_holds(text: str, shown: str):
    assert visible(text) == shown == visible(shown)
    assert message("image", "an image", "none", where=text) == f"image: expected an image, got none, in {shown}."
