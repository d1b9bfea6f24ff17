"""Small checkpoints and weight files whose reading took gigabytes or minutes, by name."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable

from blemish._io.torch_file import LEGACY_MAGIC

PRIME = (1 << 61) - 1  # of CPython: numbers that differ by a multiple of it have the same hash


def zipped(pickled: bytes) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as file:
        file.writestr("archive/data.pkl", pickled)
    return made.getvalue()


def legacy(pickled: bytes) -> bytes:
    head = [pickle.dumps(part, 2) for part in (LEGACY_MAGIC, 1001, {"little_endian": True})]
    return b"".join(head) + pickled + pickle.dumps([], 2)


def copied(function: str, item: bytes, n: int, times: int) -> bytes:
    """Return a pickle that remembers a list of `n` items, and calls a function on it again and again."""
    module, _, name = function.rpartition(".")
    remembered = b"]q\x00(" + item * n + b"ec" + f"{module}\n{name}\n".encode() + b"q\x01"
    return b"\x80\x02" + remembered + b"](" + b"h\x01h\x00\x85R" * times + b"e."


def long(value: int) -> bytes:
    return b"\x8a\x0a" + value.to_bytes(10, "little", signed=True)


def keys(*made: bytes) -> bytes:
    return b"\x80\x02}(" + b"N".join(made) + b"Nu."


def shared(depth: int, width: int = 2) -> bytes:
    """Return the opcodes of a list whose items are the same list, and so on: width ** depth leaves."""
    text = b"]q\x00"
    for i in range(1, depth + 1):
        text += b"0](" + (b"h" + bytes([i - 1])) * width + b"eq" + bytes([i])
    return text


def tensors_of(shape: bytes, n: int) -> bytes:
    """Return a pickle of `n` tensors of a remembered shape and strides."""
    storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x08tQq\x02"
    rebuild = b"ctorch._utils\n_rebuild_tensor_v2\nq\x01"
    one = b"h\x01(h\x02M\x00\x00h\x00h\x00\x89NtR"
    return b"\x80\x02" + shape + b"q\x00" + rebuild + storage + b"](" + one * n + b"e."


def tarball(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    made = io.BytesIO()
    with gzip.GzipFile(fileobj=made, mode="wb", compresslevel=1) as packed:
        for info, data in members:
            packed.write(info.tobuf(tarfile.USTAR_FORMAT))
            packed.write(data + bytes(-len(data) % 512))
        packed.write(bytes(1024))
    return made.getvalue()


def member(name: str, data: bytes, kind: bytes = tarfile.REGTYPE) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size, info.type = len(data), kind
    return info, data


def tfjs(manifest: object, files: dict[str, bytes]) -> bytes:
    text = json.dumps({"weightsManifest": manifest}).encode()
    return tarball(member("model.json", text), *(member(name, data) for name, data in files.items()))


def many_entries(n: int) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as file:
        for i in range(n):
            file.writestr(f"{i}", b"")
    return made.getvalue()


PICKLES: dict[str, Callable[[], bytes]] = {
    "torch.Size": lambda: copied("torch.Size", b"K\x01", 200_000, 50_000),
    "set": lambda: copied("__builtin__.set", b"N", 300_000, 100_000),
    "set of another name": lambda: copied("builtins.set", b"N", 300_000, 100_000),
    "OrderedDict": lambda: copied("collections.OrderedDict", b"X\x01\x00\x00\x00aN\x86", 100_000, 90_000),
    "numbers of one hash": lambda: keys(*(long(i * PRIME) for i in range(70_000))),
    "small numbers as keys": lambda: keys(*(b"J" + struct.pack("<i", i) for i in range(300_000))),
    "fractions as keys": lambda: keys(*(b"G" + struct.pack(">d", i * 2.0**60) for i in range(80_000))),
    "tuples as keys": lambda: keys(*(long(i * PRIME) + b"K\x01\x86" for i in range(70_000))),
    "empty dicts": lambda: b"\x80\x02](" + b"}" * 19_000_000 + b"e.",
    "empty lists": lambda: b"\x80\x02](" + b"]" * 19_000_000 + b"e.",
    "marks": lambda: b"\x80\x02" + b"(" * 19_000_000 + b".",
    "memo": lambda: b"\x80\x04N" + b"\x94" * 19_000_000 + b".",
    "a number of a megabyte": lambda: b"\x80\x02\x8b" + struct.pack("<I", 1 << 20) + b"\x7f" * (1 << 20) + b".",
    "frozen sets": lambda: b"\x80\x04](" + b"(\x91" * 9_000_000 + b"e.",
    "a shape of a million": lambda: tensors_of(b"(" + b"K\x01" * 1_000_000 + b"t", 60_000),
    "keywords": lambda: (
        b"\x80\x04ctorch\nSize\nq\x00("
        + b"N" * 1_000_000
        + b"tq\x01]("
        + (b"h\x00h\x01}X\x01\x00\x00\x00aNs\x92" * 40_000)
        + b"e."
    ),
}
TARS: dict[str, Callable[[], bytes]] = {
    "pax": lambda: tarball(member("x", bytes(200 << 20), tarfile.XHDTYPE), member("a", b"")),
    "global pax": lambda: tarball(member("x", bytes(200 << 20), tarfile.XGLTYPE), member("a", b"")),
    "long name": lambda: tarball(member("x", b"a" * (200 << 20), tarfile.GNUTYPE_LONGNAME), member("a", b"")),
    "long link": lambda: tarball(member("x", b"a" * (200 << 20), tarfile.GNUTYPE_LONGLINK), member("a", b"")),
    "many headers": lambda: tarball(*[member("x", b"9 a=bbbb\n", tarfile.XHDTYPE)] * 50_000, member("a", b"")),
    "one file, joined": lambda: tfjs([{"paths": ["a"] * 100_000, "weights": []}], {"a": bytes(4 << 20)}),
    "one file of many groups": lambda: tfjs([{"paths": ["a"], "weights": []}] * 10_000, {"a": bytes(4 << 20)}),
    "small JSON": lambda: tarball(member("model.json", b"[" + b"{}," * 20_000_000 + b"0]")),
}
OTHERS: dict[str, Callable[[], bytes]] = {
    "zip of many files": lambda: many_entries(100_001),
    "safetensors header": lambda: struct.pack("<Q", 40 << 20) + b"{" + b" " * ((40 << 20) - 2) + b"}",
}
