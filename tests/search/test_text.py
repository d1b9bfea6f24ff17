"""What people type."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest

from blemish.errors import InputError
from blemish.search.text import check_id, check_time, check_word


def test_words_are_cleaned_but_kept():
    assert check_word("label", "  Kratzer (tief) ✓ ") == "Kratzer (tief) ✓"
    assert check_word("label", "o\u0308") == "ö"


@pytest.mark.parametrize("word", ["", " ", "a\tb", "a\u200bb", "a\u2028b", "\ud800", "x" * 201, None, 3])
def test_words_that_nobody_could_read_are_refused(word: str):
    with pytest.raises(InputError, match="label: expected"):
        check_word("label", word)


def test_times_become_utc():
    assert check_time("2026-11-25T10:00:00Z") == "2026-11-25T10:00:00+00:00"
    assert check_time(datetime(2026, 1, 2, tzinfo=timezone.utc)) == "2026-01-02T00:00:00+00:00"
    assert check_time(None) is None
    assert str(check_time("2026-11-25")).startswith("2026-11-2")
    for wrong in ("soon", 3, "9999-99-99"):
        with pytest.raises(InputError, match="since: expected a time"):
            check_time(wrong)  # type: ignore[arg-type]


def test_ids_have_one_form():
    assert check_id("5B1D6A0E6D0C5C539F0A3A3F1C0B7D11") == "5b1d6a0e-6d0c-5c53-9f0a-3a3f1c0b7d11"
    with pytest.raises(InputError, match="id: expected a UUID"):
        check_id("7")
