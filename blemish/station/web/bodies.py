"""Bodies of requests, read into memory up to a limit; a client's file names are texts and never paths."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from blemish.errors import message, visible

if TYPE_CHECKING:
    from fastapi import Request

# Beside the images: boundaries, headers and short fields of a form.
ROOM = 64 * 1024
MAX_PARTS = 1000


class Part(NamedTuple):
    """One part of a multipart form."""

    name: str
    filename: str
    content: bytes


async def read_body(request: Request, max_bytes: int, seconds: float) -> bytes:
    """Return the body of a request.

    Raises:
        HTTPException: 413 if it is longer than `max_bytes`, 408 if it takes longer than `seconds`, 400 if it ends
            early.
    """
    stated = request.headers.get("content-length", "")
    if stated.isdecimal() and int(stated) > max_bytes:
        raise _too_large(int(stated), max_bytes)
    try:
        return await asyncio.wait_for(_collected(request, max_bytes), seconds)
    except ClientDisconnect:
        raise HTTPException(400, message("body", "all of it", "a connection that ended")) from None
    except asyncio.TimeoutError:
        text = message("body", f"all of it within {seconds:g} s", "a slow connection")
        raise HTTPException(408, text, {"Connection": "close"}) from None


async def _collected(request: Request, max_bytes: int) -> bytes:
    blocks, n_bytes = list[bytes](), 0
    async for block in request.stream():
        blocks.append(block)
        n_bytes += len(block)
        if n_bytes > max_bytes:
            raise _too_large(n_bytes, max_bytes)
    return b"".join(blocks)


def _too_large(n_bytes: int, max_bytes: int) -> HTTPException:
    text = message("body", f"at most {max_bytes:,} bytes", f"{n_bytes:,}")
    return HTTPException(413, text, {"Connection": "close"})


async def read_parts(request: Request, max_bytes: int, seconds: float) -> list[Part]:
    """Return the parts of a multipart form, or a raw body as the one part `image`.

    Raises:
        HTTPException: 413, 408 as of `read_body`; 400 if the form is damaged.
    """
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    body = await read_body(request, max_bytes + ROOM, seconds)
    if kind != b"multipart/form-data":
        return [Part("image", "", body)]
    boundary = options.get(b"boundary", b"")
    try:
        return _parsed(body, boundary)
    except (FormParserError, ValueError) as error:
        text = message("body", "a complete multipart form", visible(error)[:120])
        raise HTTPException(400, text) from None


def _parsed(body: bytes, boundary: bytes) -> list[Part]:
    parts, collector = list[Part](), _Collector()
    parser = MultipartParser(
        boundary,
        {
            "on_part_begin": collector.begin,
            "on_header_field": lambda data, start, end: collector.field.extend(data[start:end]),
            "on_header_value": lambda data, start, end: collector.value.extend(data[start:end]),
            "on_header_end": collector.header_end,
            "on_part_data": lambda data, start, end: collector.content.extend(data[start:end]),
            "on_part_end": lambda: parts.append(collector.part()),
            "on_end": collector.end,
        },
    )
    parser.write(body)
    parser.finalize()
    if not collector.is_complete:
        raise ValueError("one that was cut short")
    return parts


class _Collector:
    """Headers and content of the part that is being parsed."""

    def __init__(self) -> None:
        self.field, self.value, self.content = bytearray(), bytearray(), bytearray()
        self.disposition, self.n_parts, self.is_complete = b"", 0, False

    def begin(self) -> None:
        self.n_parts += 1
        if self.n_parts > MAX_PARTS:
            raise ValueError(f"more than {MAX_PARTS} parts")
        self.field, self.value, self.content = bytearray(), bytearray(), bytearray()
        self.disposition = b""

    def header_end(self) -> None:
        if self.field.lower() == b"content-disposition":
            self.disposition = bytes(self.value)
        self.field, self.value = bytearray(), bytearray()

    def end(self) -> None:
        self.is_complete = True

    def part(self) -> Part:
        _, options = parse_options_header(self.disposition)
        name, filename = (options.get(key, b"").decode("utf-8", "replace") for key in (b"name", b"filename"))
        return Part(name, filename, bytes(self.content))


def texts(parts: list[Part], name: str, default: str = "") -> str:
    """Return the text of a field of a form, `default` if there is none."""
    return next((part.content.decode("utf-8", "replace") for part in parts if part.name == name), default)


def source_of(part: Part) -> str:
    """Return the name of a sent file for the records, without its folders: a text, of which no path is made."""
    name = visible(part.filename.replace("\\", "/").rpartition("/")[2])[:150]
    return name or "api"
