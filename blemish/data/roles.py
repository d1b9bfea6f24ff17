"""Roles of images by the names in their paths: good, defective, mask, derived, and the split. Nothing is opened.

A name is compared word by word, without case, accents and separators, so that `Ground-Truth`, `groundTruth` and
`GROUND_TRUTH` are one. The vocabulary is `role_words`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence, Set
from functools import lru_cache
from typing import Literal, NamedTuple

from blemish.data import role_words
from blemish.errors import DataError, message

Kind = Literal["good", "defective", "mask", "derived", "unclear"]
Split = Literal["train", "test", "validation"]

# Labels that say nothing, as tables write them.
NO_LABEL = ("", "nan", "null", "none", "n/a", "na", "?", "-")
NUMBER = r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?"
# Endings of the name of a mask file: 000_mask.png, 000_label.bmp, 10000_GT.png.
MASK_SUFFIXES = "mask|masks|gt|label|labels|seg|annotation|annot|truth|groundtruth|maske"


class Tell(NamedTuple):
    """What one name says.

    Attributes:
        kind: the role.
        name: the name as it is written.
    """

    kind: Kind
    name: str


def fold(text: str) -> str:
    """Return a text without case, accents and widths, for comparisons.

    >>> fold("Défaut"), fold("Größe")
    ('defaut', 'grosse')
    """
    plain = unicodedata.normalize("NFKD", text.casefold())
    plain = "".join(letter for letter in plain if unicodedata.category(letter) != "Mn")
    return unicodedata.normalize("NFKC", plain).casefold().replace("\u0131", "i")  # Turkish


def words_of(name: str) -> list[str]:
    """Return the folded words and numbers of a name.

    >>> words_of("Cam1_notOK.v2"), words_of("NG品")
    (['cam', '1', 'not', 'ok', 'v', '2'], ['ng', '品'])
    """
    spaced = re.sub(r"(?<=[a-zà-ÿ])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-zà-ÿ])", " ", unicodedata.normalize("NFC", name))
    # Latin words stand before and behind Chinese, Japanese and Korean without a space.
    return re.findall(r"(?:(?![\u3040-\uffff])[^\W\d_])+|(?:(?=[\u3040-\uffff])[^\W\d_])+|\d+", fold(spaced))


def _set(*texts: str) -> frozenset[str]:
    return frozenset(re.sub(r"[\W_]", "", fold(word)) for text in texts for word in text.split())


_CLASSES: dict[str, Kind] = {
    **dict.fromkeys(_set(role_words.UNCLEAR), "unclear"),
    **dict.fromkeys(_set(role_words.GOOD), "good"),
    **dict.fromkeys(_set(role_words.DEFECTIVE), "defective"),
}
# A whole name, or beside words of FILLERS: an io_board is a part. In German factories i.O. is good and n.i.O. is not.
_WHOLE: dict[str, Kind] = {"io": "good", "nio": "defective", **dict.fromkeys(_set(role_words.UNCLEAR_ALONE), "unclear")}
_KINDS, _MODIFIERS = _set(role_words.DEFECT_KINDS), _set(role_words.KIND_MODIFIERS)
_MASK, _MASK_ALONE, _DERIVED = _set(role_words.MASK), _set(role_words.MASK_ALONE), _set(role_words.DERIVED)
_FILLERS, _TOPICS = _set(role_words.FILLERS), _set(role_words.TOPICS)
_BEFORE, _AFTER = _set(role_words.NOT_BEFORE), _set(role_words.NOT_AFTER)
_NOT_PREFIXES = _set(role_words.NOT_PREFIXES)
_HEDGES, _CLASS_NAMES = _set(role_words.HEDGES), _set(role_words.CLASS_NAMES)
_SPLITS: dict[str, Split] = {
    **dict.fromkeys(_set(role_words.TRAIN), "train"),
    **dict.fromkeys(_set(role_words.TEST), "test"),
    **dict.fromkeys(_set(role_words.VALIDATION), "validation"),
}
_VOCABULARY = frozenset({*_CLASSES, *_MASK, *_MASK_ALONE, *_DERIVED, *_KINDS, *_SPLITS, *_TOPICS, *_BEFORE, *_AFTER})
_JOINED = _VOCABULARY | _FILLERS
_UNSPACED = frozenset(word for word in _VOCABULARY if ord(word[0]) >= 0x3040)
_LONGEST = max(len(word) for word in _UNSPACED)


def _terms(name: str) -> tuple[str, ...]:
    """Return the terms of a name: up to three words that are one term together, else each word; 0 for a number.

    Chinese, Japanese and Korean are written without spaces: there the longest term at each place counts.
    """
    return _terms_without_numbers(re.sub(r"\d+", "0", name))


@lru_cache(maxsize=65536)  # names of files differ by their numbers alone
def _terms_without_numbers(name: str) -> tuple[str, ...]:
    return tuple(_split_terms(words_of(name)))


def _split_terms(words: list[str]) -> Iterator[str]:
    at = 0
    while at < len(words):
        joined = {n: "".join(words[at : at + n]) for n in (3, 2, 1) if at + n <= len(words)}
        count = next((n for n, term in joined.items() if term in _VOCABULARY), 1)
        at += count
        if joined[count] in _VOCABULARY:
            yield joined[count]
        elif ord(joined[count][0]) < 0x3040:
            yield from _compound_terms(joined[count])
        else:
            yield from _unspaced_terms(joined[count])


def _compound_terms(word: str) -> Iterator[str]:
    """Yield both parts of a word that joins two known ones, such as badparts and notgood, or the word."""
    for at in range(2, len(word) - 1):
        if word[:at] in _JOINED and word[at:] in _JOINED:
            yield from (word[:at], word[at:])
            return
    yield word


def _unspaced_terms(text: str) -> Iterator[str]:
    at = 0
    while at < len(text):
        term = next((text[at : at + n] for n in range(_LONGEST, 0, -1) if text[at : at + n] in _UNSPACED), text[at])
        yield term
        at += len(term)


def _classes(terms: Sequence[str]) -> set[Kind]:
    """Return the classes that terms name: "no defect" and "defect free" are good, "not ok" is defective."""
    other: dict[Kind, Kind] = {"good": "defective", "defective": "good"}
    classes: set[Kind] = set()
    for i, term in enumerate(terms):
        kind = _CLASSES.get(term)
        before, after = terms[i - 1] if i else "", terms[i + 1] if i + 1 < len(terms) else ""
        if kind is None and term in _KINDS and (before in _BEFORE or after in _AFTER):
            kind = "defective"
        if kind is None or (kind == "defective" and after in _TOPICS):
            continue
        classes.add(other.get(kind, kind) if before in _BEFORE or after in _AFTER else kind)
    return classes


def tell(name: str) -> Tell | None:
    """Return the role that the name of a folder, or a label, states; None if it states none.

    >>> [tell(name).kind for name in ("Ground-Truth", "test_OK", "not ok", "defect-free", "n.i.O.")]
    ['mask', 'good', 'defective', 'good', 'defective']
    >>> tell("monday"), tell("defect detection"), tell("hole_plate")
    (None, None, None)
    """
    kind = _kind(_terms(name))
    return None if kind is None else Tell(kind, name)


@lru_cache(maxsize=65536)
def _kind(terms: tuple[str, ...]) -> Kind | None:
    letters = [term for term in terms if not term.isdecimal()]
    if not letters:
        return None
    plain = [term for term in letters if term not in _FILLERS and term not in _SPLITS]
    whole = _WHOLE.get("".join(letters), _WHOLE.get("".join(plain)))
    if whole is not None and not (plain == ["no"] and len(terms) > 1):  # No. 7
        return whole
    kind: Kind | None = None
    if any(term in _MASK for term in letters) or _only(plain, _MASK_ALONE, {*_MASK_ALONE, *_CLASSES}):
        kind = "mask"
    elif _only(plain, _DERIVED, {*_DERIVED, *_CLASSES, *_KINDS, *_BEFORE}):
        kind = "derived"
    elif classes := _classes(terms):
        kind = classes.pop() if len(classes) == 1 else "unclear"
        is_negated = bool({*letters} & (_BEFORE | _AFTER))
        if kind == "good" and not is_negated and any(term in _KINDS for term in plain):
            kind = "unclear"
        if kind == "good" and _is_hedged(terms):
            kind = "unclear"
    elif _only(plain, _KINDS, _KINDS | _MODIFIERS):
        kind = "defective"
    return kind


def _is_hedged(terms: Sequence[str]) -> bool:
    """Return whether a word of doubt or negation stands in a name and belongs to no word for a class or a defect."""
    known = _CLASSES.keys() | _KINDS
    return any(
        term in _HEDGES and not (term in _BEFORE and terms[i + 1 : i + 2] and terms[i + 1] in known)
        for i, term in enumerate(terms)
    )


def is_class_number(name: str) -> bool:
    """Return whether a name numbers a class and does not say which: "class_0", "grade B", "cls1".

    >>> [is_class_number(name) for name in ("Class_1", "grade-B", "class", "0", "classic_1")]
    [True, True, False, False, False]
    """
    words = words_of(name)
    rest = [word for word in words if word not in _CLASS_NAMES]
    return len(rest) == 1 < len(words) and (rest[0].isdecimal() or len(rest[0]) == 1)


def are_opposites(one: str, other: str) -> bool:
    """Return whether one of two names is the other with a negation before it: "acceptable" and "Un-acceptable".

    >>> are_opposites("regular", "irregular"), are_opposites("适用", "不适用"), are_opposites("cam1", "webcam1")
    (True, True, False)
    """
    short, long = sorted(("".join(words_of(one)), "".join(words_of(other))), key=len)
    is_name = len(short) > 2 or not short.isascii()
    return is_name and long.endswith(short) and long[: -len(short)] in _NOT_PREFIXES


def _only(terms: Sequence[str], some: Set[str], allowed: Set[str]) -> bool:
    """Return whether all terms are allowed, and one is among `some`."""
    return any(term in some for term in terms) and all(term in allowed for term in terms)


def is_filler(name: str) -> bool:
    """Return whether a name says of files only that they are images: "images", "all parts", "data_2"."""
    terms = [term for term in _terms(name) if not term.isdecimal()]
    return bool(terms) and all(term in _FILLERS for term in terms)


def speaks_of_defect(name: str) -> bool:
    """Return whether a name has a word for a kind of defect among others: "front_scratch", but also "hole_plate"."""
    return any(term in _KINDS for term in _terms(name))


def has_only_class_words(name: str) -> bool:
    """Return whether a name has only words for a class or for masks: "not ok", but neither "ng_2024" nor "scratch"."""
    terms = _terms(name)
    words = _CLASSES.keys() | _BEFORE | _AFTER | _MASK | _MASK_ALONE | _DERIVED | _FILLERS
    return tell(name) is not None and ("".join(terms) in _WHOLE or all(term in words for term in terms))


def split_of(name: str) -> Split | None:
    """Return the split that a name states: "train", "test", "validation" or None.

    >>> split_of("test_public"), split_of("Training"), split_of("protest")
    ('test', 'train', None)
    """
    splits = {_SPLITS[term] for term in _terms(name) if term in _SPLITS}
    return splits.pop() if len(splits) == 1 else None


def label_class(label: str, *, where: object = None) -> Literal["good", "defective"]:
    """Return the class of a label in a list: a number, a word for good, or else the name of a defect.

    >>> [label_class(label) for label in ("0.0", "PASS", "i.O.", "1", "scratch", "no defect")]
    ['good', 'good', 'good', 'defective', 'defective', 'good']

    Raises:
        DataError: if the label says neither, such as "unknown", "positive", -1 or 0.5.
    """
    folded, said = fold(label.strip()), tell(label)
    if re.fullmatch(NUMBER, folded):
        number = float(folded)
        is_clear, is_good = number >= 0 and number == int(number), number == 0
    else:
        is_clear = folded in ("true", "false") or not (
            folded in NO_LABEL or (said is not None and said.kind == "unclear")
        )
        is_good = folded == "false" or (said is not None and said.kind == "good")
    if not is_clear:
        got = label if re.fullmatch(NUMBER, folded) else repr(label)
        todo = 'Write "good" or the name of the defect.'
        raise DataError(message("label", '"good" or the name of a defect', got, where=where, todo=todo))
    return "good" if is_good else "defective"


def mask_stem(stem: str) -> str | None:
    """Return the stem of the image of a mask: without `_mask`, `-GT`, `_label_2`, `mask_`; None for another name.

    >>> mask_stem("000_mask"), mask_stem("Part0_label"), mask_stem("7-GT_2"), mask_stem("000"), mask_stem("mask_7")
    ('000', 'Part0', '7', None, '7')
    """
    behind = rf"(.+?)(?:[_\-. ]+(?:{MASK_SUFFIXES})|(?<=\d)mask)(?:[_\-. ]*\d+)?"
    before = rf"(?:{MASK_SUFFIXES})[_\-. ]+(.+)"
    match = re.fullmatch(behind, stem, re.IGNORECASE) or re.fullmatch(before, stem, re.IGNORECASE)
    return match[1] if match else None
