"""A reader of pickles that builds plain values only.

It interprets the opcodes itself instead of using `pickle.Unpickler`: no name in the file is imported, nothing in it is
called, and no size that it states is allocated. Work and memory are counted: what a file of a megabyte can make of
itself, by copies of what it remembers or by keys of one hash, is bounded.

A global becomes the result of `resolve` for its name, and a call of it
passes its arguments to that; `torch_file` knows which names have a meaning.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from blemish.errors import ModelFileError, message

MAX_STEPS = 2_000_000  # a step is an opcode; the largest checkpoints known have some hundred thousand
MAX_BYTES = 512 << 20  # of the objects made, copies included even if they are dropped; estimated
# Bytes of an object, as CPython has them: of any, of an item of a list or tuple, of one of a dict, of one copied.
OBJECT, ITEM, PAIR, COPIED = 64, 32, 120, 64
# Hashes of numbers are not random as those of text are: keys can be made to collide.
MAX_KEYS = 100_000  # that are no text
MAX_OTHER_KEYS = 1000  # that are neither text nor small whole numbers
SMALL = 1 << 32
MAX_INTEGER_BYTES = 32
UNSAFE = "It was not read: take the file from a source you trust, or save the weights as .safetensors."
SCALARS = (str, bytes, int, float, bool, type(None))


class Global:
    """The stand-in for a class or function that a pickle names; `call` gets the arguments of a call of it."""

    __slots__ = ("call", "name")

    def __init__(self, name: str, call: Callable[[tuple[Any, ...]], Any]) -> None:
        self.name = name
        self.call = call


class Inert:
    """An object of an unknown class as data: the name of the class, the arguments and the state."""

    __slots__ = ("arguments", "items", "name", "state")

    def __init__(self, name: str, arguments: tuple[Any, ...] = ()) -> None:
        self.name = name
        self.arguments = arguments
        self.state: Any = None
        self.items: list[Any] = []

    def __repr__(self) -> str:
        return f"Inert({self.name})"


class PickleReader:
    """The reader of one pickle in `data`.

    Args:
        position: offset of the pickle; after `read`, of the byte behind it.
        resolve: from (module, name) of a global to its stand-in; raises ModelFileError to refuse.
        persistent: from a persistent id, whose meaning the file's format defines, to the object of that id.
    """

    def __init__(
        self,
        data: bytes | memoryview,
        *,
        position: int = 0,
        resolve: Callable[[str, str], Any],
        persistent: Callable[[Any], Any],
        where: object = None,
    ) -> None:
        self.data = memoryview(data)
        self.position = position
        self._resolve = resolve
        self._persistent = persistent
        self._where = where
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self._left = MAX_BYTES
        self._keys = MAX_KEYS
        self._other_keys = MAX_OTHER_KEYS

    def read(self) -> Any:
        """Return the value of the pickle, and move `position` behind it. ModelFileError if it is truncated, damaged, or
        uses opcodes that plain data and tensors do not need.
        """
        try:
            for _ in range(MAX_STEPS):
                code = self._take(1)[0]
                if code == 0x2E:  # STOP
                    return self._stack.pop()
                step = STEPS.get(code)
                if step is None:
                    raise self.refuse(f"opcode 0x{code:02x} at byte {self.position - 1}", UNSAFE)
                step(self)
        except (IndexError, KeyError, ValueError, TypeError, AttributeError, OverflowError, struct.error) as error:
            if isinstance(error, ModelFileError):
                raise
            got = f"a damaged one at byte {self.position}"
            raise self.refuse(got, "Copy or download the file again.") from None
        raise self.refuse(f"more than {MAX_STEPS} steps", UNSAFE)

    def refuse(self, got: str, todo: str) -> ModelFileError:
        """Return the error for this pickle."""
        return ModelFileError(message("weights", "a pickle of plain tensors", got, where=self._where, todo=todo))

    def _take(self, size: int) -> memoryview:
        end = self.position + size
        if end > len(self.data):
            raise self.refuse("one cut short", "Copy or download the file again.")
        piece = self.data[self.position : end]
        self.position = end
        return piece

    def _number(self, form: str) -> Any:
        return struct.unpack("<" + form, self._take(struct.calcsize("<" + form)))[0]

    def _line(self) -> str:
        stop = self.position
        limit = min(len(self.data), stop + 1000)  # longer than any name of a class
        while stop < limit and self.data[stop] != 0x0A:
            stop += 1
        text = bytes(self._take(stop - self.position)).decode("utf-8")
        self._take(1)
        return text

    def _spend(self, n_bytes: int) -> None:
        self._left -= n_bytes
        if self._left < 0:
            raise self.refuse(f"one of more than {MAX_BYTES >> 20} MiB of objects", UNSAFE)

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _made(self, value: Any) -> None:
        """Push a new object, and count what it takes."""
        self._spend(OBJECT + (ITEM * len(value) if isinstance(value, (list, tuple)) else 0))
        self._stack.append(value)

    def _pop_to_mark(self) -> list[Any]:
        start = self._marks.pop()
        items = self._stack[start:]
        del self._stack[start:]
        return items

    def _pop(self, size: int) -> list[Any]:
        if len(self._stack) < size:
            raise IndexError
        items = self._stack[len(self._stack) - size :]
        del self._stack[len(self._stack) - size :]
        return items

    def _set_items(self, items: list[Any]) -> None:
        target, pairs = self._stack[-1], zip(items[::2], items[1::2], strict=True)
        if isinstance(target, Inert):
            target.items.extend(pairs)
        else:
            _only(target, dict).update((self._key(key), value) for key, value in pairs)
        self._spend(PAIR * len(items) // 2)

    def _key(self, key: Any) -> Any:
        """Return a key of a dict, or raise for one that takes long to hash, or too many whose hashes are known."""
        if isinstance(key, (str, bytes)):
            return key
        small = isinstance(key, int) and -SMALL < key < SMALL
        self._keys -= 1
        self._other_keys -= not small
        if self._keys < 0 or self._other_keys < 0:
            raise self.refuse("one of many keys that are no text", UNSAFE)
        return key if small else _plain_key(key)

    def _extend(self, items: list[Any]) -> None:
        target = self._stack[-1]
        (target.items if isinstance(target, Inert) else _only(target, list)).extend(items)
        self._spend(ITEM * len(items))

    def _dict(self) -> None:
        items = self._pop_to_mark()
        self._made({})
        self._set_items(items)

    def _reduce(self) -> None:
        arguments = _only(self._stack.pop(), tuple)
        self._call(arguments)

    def _call(self, arguments: tuple[Any, ...]) -> None:
        # Before the call: a copy of what the file remembers costs it one opcode.
        self._spend(4 * OBJECT + COPIED * sum(len(item) for item in arguments if isinstance(item, (list, tuple, dict))))
        self._push(_only(self._stack.pop(), Global).call(arguments))

    def _new_with_keywords(self) -> None:
        keywords = _only(self._stack.pop(), dict)
        arguments = _only(self._stack.pop(), tuple)
        self._spend(ITEM * len(arguments))
        self._call((*arguments, keywords) if keywords else arguments)

    def _build(self) -> None:
        state = self._stack.pop()
        # Attributes of a dict or tensor (such as a state dict's _metadata) do not change its values.
        if isinstance(self._stack[-1], Inert):
            self._stack[-1].state = state

    def _global(self, module: Any, name: Any) -> None:
        self._push(self._resolve(_only(module, str), _only(name, str)))

    def _memoize(self, index: int) -> None:
        self._spend(PAIR)
        self._memo[index] = self._stack[-1]

    def _text(self, form: str) -> None:
        piece = self._take(self._number(form))
        self._spend(4 * len(piece))  # one character beyond the first 65,536 makes four bytes of each
        self._made(bytes(piece).decode("utf-8", "surrogatepass"))

    def _bytes(self, form: str) -> None:
        piece = self._take(self._number(form))
        self._spend(len(piece))
        self._made(bytes(piece))

    def _long(self, form: str) -> None:
        piece = self._take(self._number(form))
        if len(piece) > MAX_INTEGER_BYTES:  # printing one of a megabyte would take minutes
            raise self.refuse(f"a number of {len(piece)} bytes", UNSAFE)
        self._push(int.from_bytes(piece, "little", signed=True))


def _only(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise TypeError
    return value


def _plain_key(key: Any) -> Any:
    # Hashing nested tuples that share elements takes exponential time, so only flat ones are keys.
    if isinstance(key, (*SCALARS, Inert)) or (isinstance(key, tuple) and all(isinstance(k, SCALARS) for k in key)):
        return key
    raise TypeError


STEPS: dict[int, Callable[[PickleReader], Any]] = {
    # https://docs.python.org/3/library/pickletools.html: protocols 2 to 5, as far as plain data needs them.
    0x80: lambda r: r._take(1),  # PROTO
    0x95: lambda r: r._take(8),  # FRAME
    0x28: lambda r: r._marks.append(len(r._stack)),  # MARK
    0x30: lambda r: r._stack.pop(),  # POP
    0x31: PickleReader._pop_to_mark,  # POP_MARK
    0x32: lambda r: r._push(r._stack[-1]),  # DUP
    0x4E: lambda r: r._push(None),  # NONE
    0x88: lambda r: r._push(True),  # NEWTRUE
    0x89: lambda r: r._push(False),  # NEWFALSE
    0x4A: lambda r: r._push(r._number("i")),  # BININT
    0x4B: lambda r: r._push(r._number("B")),  # BININT1
    0x4D: lambda r: r._push(r._number("H")),  # BININT2
    0x8A: lambda r: r._long("B"),  # LONG1
    0x8B: lambda r: r._long("I"),  # LONG4
    0x47: lambda r: r._push(struct.unpack(">d", r._take(8))[0]),  # BINFLOAT
    0x55: lambda r: r._text("B"),  # SHORT_BINSTRING, which Python 2 wrote
    0x54: lambda r: r._text("I"),  # BINSTRING
    0x8C: lambda r: r._text("B"),  # SHORT_BINUNICODE
    0x58: lambda r: r._text("I"),  # BINUNICODE
    0x8D: lambda r: r._text("Q"),  # BINUNICODE8
    0x43: lambda r: r._bytes("B"),  # SHORT_BINBYTES
    0x42: lambda r: r._bytes("I"),  # BINBYTES
    0x8E: lambda r: r._bytes("Q"),  # BINBYTES8
    0x5D: lambda r: r._made([]),  # EMPTY_LIST
    0x61: lambda r: r._extend(r._pop(1)),  # APPEND
    0x65: lambda r: r._extend(r._pop_to_mark()),  # APPENDS
    0x6C: lambda r: r._made(r._pop_to_mark()),  # LIST
    0x29: lambda r: r._push(()),  # EMPTY_TUPLE
    0x74: lambda r: r._made(tuple(r._pop_to_mark())),  # TUPLE
    0x85: lambda r: r._made(tuple(r._pop(1))),  # TUPLE1
    0x86: lambda r: r._made(tuple(r._pop(2))),  # TUPLE2
    0x87: lambda r: r._made(tuple(r._pop(3))),  # TUPLE3
    0x7D: lambda r: r._made({}),  # EMPTY_DICT
    0x64: PickleReader._dict,  # DICT
    0x73: lambda r: r._set_items(r._pop(2)),  # SETITEM
    0x75: lambda r: r._set_items(r._pop_to_mark()),  # SETITEMS
    0x8F: lambda r: r._made([]),  # EMPTY_SET: its items, as a list
    0x90: lambda r: r._extend(r._pop_to_mark()),  # ADDITEMS
    0x91: lambda r: r._made(r._pop_to_mark()),  # FROZENSET
    0x63: lambda r: r._global(r._line(), r._line()),  # GLOBAL
    0x93: lambda r: r._global(*r._pop(2)),  # STACK_GLOBAL
    0x52: PickleReader._reduce,  # REDUCE
    0x81: PickleReader._reduce,  # NEWOBJ
    0x92: PickleReader._new_with_keywords,  # NEWOBJ_EX
    0x62: PickleReader._build,  # BUILD
    0x71: lambda r: r._memoize(r._number("B")),  # BINPUT
    0x72: lambda r: r._memoize(r._number("I")),  # LONG_BINPUT
    0x94: lambda r: r._memoize(len(r._memo)),  # MEMOIZE
    0x68: lambda r: r._push(r._memo[r._number("B")]),  # BINGET
    0x6A: lambda r: r._push(r._memo[r._number("I")]),  # LONG_BINGET
    0x51: lambda r: r._push(r._persistent(r._stack.pop())),  # BINPERSID
}
