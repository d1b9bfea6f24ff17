"""JSON of strangers: read strictly or refused; and which values can be written."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from blemish._io.json_file import plain_json, read_json_object
from blemish.errors import InputError, ModelFileError


def test_an_object_is_read():
    assert read_json_object(b'{"a": [1, 2.5, null, "\\u00e4"]}', name="x") == {"a": [1, 2.5, None, "ä"]}


@pytest.mark.parametrize(
    ("data", "got"),
    [
        (b"", "Expecting value"),
        (b"[]", "list"),
        (b"\xff", "'utf-8' codec"),
        (b'{"a": NaN}', "NaN is no JSON number"),
        (b'{"a": -Infinity}', "-Infinity is no JSON number"),
        (b'{"a": 1e999}', "1e999 is no JSON number"),
        (b'{"a": 1, "a": 2}', "a key comes twice"),
        (b'{"a": ' + b"[" * 100_000, "nesting without end"),
    ],
    ids=["empty", "list", "bytes", "nan", "infinity", "overflow", "twice", "deep"],
)
def test_other_bytes_are_refused(data, got):
    with pytest.raises(ModelFileError, match=rf"model.json: expected a JSON object, got {got}.*, in home\. Copy it\."):
        read_json_object(data, name="model.json", where="home", todo="Copy it.")


def test_values_of_numpy_become_plain():
    value = {"a": np.float32(0.5), "b": (np.int64(3), True, None), "c": np.array([[1, 2]]), "d": {"e": "text"}}
    plain = plain_json(value, "header")
    assert plain == {"a": 0.5, "b": [3, True, None], "c": [[1, 2]], "d": {"e": "text"}}
    assert json.loads(json.dumps(plain)) == plain


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ({"a": [1, float("nan")]}, r"header.a\[1\]: expected finite numbers, .*, got nan"),
        ({"a": {1: 2}}, r"header.a: .*, got dict"),
        ({"a": b"x"}, r"header.a: .*, got bytes"),
    ],
)
def test_other_values_are_named(value: Any, error: str):
    with pytest.raises(InputError, match=error):
        plain_json(value, "header")
