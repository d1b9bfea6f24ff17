"""Strict JSON: a reader of objects in files, and the check that a value can be written."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np

from blemish.errors import InputError, ModelFileError, message

# Values in a file, of which Python makes objects of up to 200 bytes: 100,000 training images have about 1.5 million.
MAX_VALUES = 3_000_000


def read_json_object(data: bytes, *, name: str, where: object = None, todo: str = "") -> dict[str, Any]:
    """Return the object in JSON bytes, or raise ModelFileError if it is no JSON object, or has NaN, infinities, a key
    twice or endless nesting.
    """

    def refuse(got: str) -> ModelFileError:
        return ModelFileError(message(name, "a JSON object", got, where=where, todo=todo))

    def no_constant(text: str) -> NoReturn:
        raise ValueError(f"{text} is no JSON number")

    def finite(text: str) -> float:
        value = float(text)
        return value if math.isfinite(value) else no_constant(text[:20])

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) < len(pairs):
            raise ValueError("a key comes twice")
        return dict(pairs)

    n_values = sum(data.count(mark) for mark in (b",", b"[", b"{"))
    if n_values > MAX_VALUES:
        raise refuse(f"one of {n_values} values, more than {MAX_VALUES}")
    try:
        value = json.loads(
            data.decode("utf-8"), parse_constant=no_constant, parse_float=finite, object_pairs_hook=unique
        )
    except (ValueError, RecursionError) as error:
        raise refuse("nesting without end" if isinstance(error, RecursionError) else str(error)[:120]) from None
    if not isinstance(value, dict):
        raise refuse(type(value).__name__)
    return value


def plain_json(value: Any, where: str) -> Any:
    """Return `value` as plain JSON values, NumPy's converted.

    Args:
        value: dicts with text keys, lists, tuples, arrays, finite numbers, text, bool, None.

    Raises:
        InputError: if it holds anything else; it names the entry.
    """
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)) and math.isfinite(value):
        return float(value)
    if isinstance(value, (list, tuple)):
        return [plain_json(v, f"{where}[{i}]") for i, v in enumerate(value)]
    if isinstance(value, np.ndarray):
        return plain_json(value.tolist(), where)
    if isinstance(value, Mapping) and all(isinstance(k, str) for k in value):
        return {k: plain_json(v, f"{where}.{k}") for k, v in value.items()}
    got = repr(value) if isinstance(value, float) else type(value).__name__
    raise InputError(message(where, "finite numbers, text, lists and dicts with text keys", got))
