"""Checks of arrays and numbers, and iteration in blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from blemish.errors import InputError, message

Scalar = TypeVar("Scalar", int, float)


def describe(array: object) -> str:
    """Return dtype and shape of an array for an error message, or the type of any other object.

    >>> describe(np.zeros((3, 2), np.float32))
    'float32 (3, 2)'
    >>> describe("hello")
    'str'
    """
    return f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__


def check_array(
    name: str,
    array: object,
    *,
    dtype: DTypeLike,
    shape: Sequence[int | str],
    finite: bool = True,
    empty: bool = False,
    where: object = None,
    todo: str = "",
) -> NDArray[Any]:
    """Return `array` if it has this dtype and shape, or raise.

    Args:
        shape: one entry per axis: a size that must match, or a letter for any size.

    >>> check_array("scores", np.zeros(3), dtype=np.float32, shape=("N",))
    Traceback (most recent call last):
    ...
    blemish.errors.InputError: scores: expected float32 (N,), got float64 (3,).
    """
    required = np.dtype(dtype)
    sizes = ", ".join(str(size) for size in shape) + ("," if len(shape) == 1 else "")
    expected = f"{required} ({sizes})"
    ok = (
        isinstance(array, np.ndarray)
        and array.dtype == required
        and array.ndim == len(shape)
        and all(isinstance(size, str) or size == n for size, n in zip(shape, array.shape, strict=True))
        and (empty or array.size > 0)
    )
    if not ok:
        raise InputError(message(name, expected, describe(array), where=where, todo=todo))
    assert isinstance(array, np.ndarray)
    if finite and required.kind == "f" and not np.isfinite(array).all():
        bad = int(array.size - np.isfinite(array).sum())
        raise InputError(message(name, f"finite {expected}", f"{bad} NaN or infinite values", where=where, todo=todo))
    return array


def check_number(name: str, value: Scalar, *, low: float, high: float, where: object = None, todo: str = "") -> Scalar:
    """Return `value` if it is a finite number in [low, high], or raise.

    >>> check_number("false_positive_rate", 2.0, low=0, high=1)
    Traceback (most recent call last):
    ...
    blemish.errors.InputError: false_positive_rate: expected a number from 0 to 1, got 2.0.
    """
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float, np.integer, np.floating))
        or not low <= value <= high
    ):
        limits = f"from {low} to {high}" if np.isfinite(high) else f"of at least {low}"
        raise InputError(message(name, f"a number {limits}", repr(value), where=where, todo=todo))
    return value


def check_whole(name: str, value: int, low: int, high: int | None = None, *, todo: str = "") -> int:
    """Return `value` if it is an integer of at least `low`, and at most `high` if given, or raise."""
    is_whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not is_whole or value < low or (high is not None and value > high):
        limits = f"of at least {low}" if high is None else f"from {low} to {high}"
        raise InputError(message(name, f"a whole number {limits}", repr(value), todo=todo))
    return int(value)


def blocks(n: int, size: int) -> Iterator[slice]:
    """Yield slices that cover range(n) in order, each of at most `size`.

    >>> list(blocks(5, 2))
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))
