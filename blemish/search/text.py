"""What people type: labels, categories, ids and times, checked before anything is stored or asked."""

from __future__ import annotations

import unicodedata
import uuid
from datetime import datetime, timezone

from blemish.errors import InputError, message

LONGEST = 200


def check_word(name: str, word: str) -> str:
    r"""Return a label or name without spaces around it and in one Unicode form (NFC), so that equal ones are equal.

    Raises:
        InputError: if it is no text, empty, too long, or has control characters, which no screen shows.

    >>> check_word("label", " Öl-Fleck 検査 ")
    'Öl-Fleck 検査'
    """
    if not isinstance(word, str):
        raise InputError(message(name, "text", repr(word)))
    clean = unicodedata.normalize("NFC", word).strip()
    if not 1 <= len(clean) <= LONGEST:
        got = f"{len(clean)} characters" if clean else "none"
        raise InputError(message(name, f"1 to {LONGEST} characters", got))
    odd = [character for character in clean if unicodedata.category(character) in {"Cc", "Cf", "Cs", "Zl", "Zp"}]
    if odd:
        todo = "Leave out line ends, control characters and invisible marks."
        raise InputError(message(name, "letters, digits, signs and spaces", ascii(odd[0]), todo=todo))
    return clean


def check_id(text: str) -> str:
    """Return the id of a stored defect in its one form.

    Raises:
        InputError: if it is no UUID.
    """
    try:
        return str(uuid.UUID(str(text)))
    except ValueError as error:
        todo = "Ids are what `similar` and `groups` print."
        raise InputError(message("id", "a UUID", repr(text)[:80], todo=todo)) from error


def check_time(moment: str | datetime | None) -> str | None:
    """Return a moment as ISO 8601 in UTC; one without a time zone is meant in that of this machine.

    Raises:
        InputError: if it is none.

    >>> check_time("2026-11-25T10:00:00+01:00")
    '2026-11-25T09:00:00+00:00'
    """
    if moment is None:
        return None
    try:
        # "Z" is understood from Python 3.11 on.
        read = datetime.fromisoformat(moment.strip().replace("Z", "+00:00")) if isinstance(moment, str) else moment
        return read.astimezone(timezone.utc).isoformat()
    except (ValueError, AttributeError, OverflowError, OSError) as error:
        raise InputError(message("since", "a time such as 2026-11-25 or 2026-11-25T10:00", repr(moment))) from error
