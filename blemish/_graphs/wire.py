"""The size of a parsed protobuf message, from its bytes alone.

A parser makes an object of a hundred bytes of an empty message of two, and eight bytes of a packed number of one. The
bytes are walked as the format has them (https://protobuf.dev/programming-guides/encoding), without a copy.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from blemish._graphs.operators import MAX_FIELDS, MAX_PACKED_BYTES

VARINT, EIGHT_BYTES, LENGTH, FOUR_BYTES = 0, 1, 2, 5


def fits_in_memory(data: bytes, descriptor: Any) -> bool:
    """Return whether a message has no more fields and packed numbers than a network needs; damaged ones are as well.

    Args:
        descriptor: of the message's type.
    """
    n_fields = n_packed = 0
    stack = [(descriptor, 0, len(data))]
    while stack:
        kind, at, end = stack.pop()
        children = _children(kind)
        while at < end:
            number, at, length = _field(data, at)
            n_fields += 1
            child = children.get(number) if length else None
            if child is PACKED:
                n_packed += length
            elif child is not None:
                stack.append((child, at, min(at + length, end)))
            at += length
            if n_fields > MAX_FIELDS or n_packed > MAX_PACKED_BYTES:
                return False
    return True


def _field(data: bytes, at: int) -> tuple[int, int, int]:
    """Return number, place and length in bytes of the value of the field at a place; 0 bytes for a number."""
    tag, at = _varint(data, at)
    wire_type = tag & 7
    if wire_type == VARINT:
        return tag >> 3, _varint(data, at)[1], 0
    if wire_type == LENGTH:
        length, at = _varint(data, at)
        return tag >> 3, at, length
    if wire_type in {EIGHT_BYTES, FOUR_BYTES}:
        return 0, at + (8 if wire_type == EIGHT_BYTES else 4), 0
    return 0, len(data), 0  # a group, which ONNX has none of: the parser refuses it or keeps its bytes


PACKED = "packed"


@cache
def _children(descriptor: Any) -> dict[int, Any]:
    """Return the fields of a message that a parser makes larger: descriptors of messages, and `PACKED`."""
    children = {}
    for field in descriptor.fields:
        if field.message_type is not None:
            children[field.number] = field.message_type
        elif field.type in {field.TYPE_INT32, field.TYPE_INT64, field.TYPE_UINT64, field.TYPE_ENUM}:
            children[field.number] = PACKED
    return children


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return the number at a place, and the place behind it; one cut short ends the walk."""
    if at < len(data) and data[at] < 0x80:
        return data[at], at + 1
    value = shift = 0
    while at < len(data) and shift < 64:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    return value, len(data)
