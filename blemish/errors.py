"""The exceptions of Blemish, the template of their messages, and the visible form of text from files.

    BlemishError
    +-- InputError (ValueError)         an argument, array or setting is invalid
    |   `-- DataError                   a data set cannot be used
    +-- NotFittedError (RuntimeError)   predict, save or test before fit
    +-- ImageError (OSError)            one image or mask could not be read
    +-- ModelFileError (ValueError)     a model folder or weight file is damaged, unsafe or too new
    +-- FetchError (OSError)            a requested download failed or had another hash
    +-- SaveError (OSError)             a result could not be written; the old file is kept
    `-- StoreError (OSError)            a store of defects is in use, unreachable, damaged or of another model

All can be caught as `BlemishError`. Nothing else is raised on purpose.
"""

from __future__ import annotations

import sys
import unicodedata


class BlemishError(Exception):
    """Base of all errors that Blemish raises on purpose."""


class InputError(BlemishError, ValueError):
    """An argument, array or setting is invalid."""


class DataError(InputError):
    """A data set cannot be used."""


class NotFittedError(BlemishError, RuntimeError):
    """A detector was asked to predict, save or test before it was fitted."""


class ImageError(BlemishError, OSError):
    """One image or mask could not be read."""


class ModelFileError(BlemishError, ValueError):
    """A model folder or weight file is damaged, unsafe or from a newer version."""


class FetchError(BlemishError, OSError):
    """A requested download failed or had another hash."""


class SaveError(BlemishError, OSError):
    """A result could not be written; the old file is kept."""


class StoreError(BlemishError, OSError):
    """A store of defects is in use, unreachable, damaged, or of another model or version."""


def is_frozen() -> bool:
    """Return whether this is an application that PyInstaller or the like froze: nothing can be installed into it."""
    return bool(getattr(sys, "frozen", False))


def install(package: str) -> str:
    """Return advice, without its full stop, on a Python package that is missing.

    >>> install("blemish[search]")
    "Run `pip install 'blemish[search]'`"
    """
    package = f"'{package}'" if "[" in package else package
    if is_frozen():
        return f"This application was built without it: build it again where `pip install {package}` was run"
    return f"Run `pip install {package}`"


def visible(text: object) -> str:
    r"""Return a text as one line that shows what it holds, as `repr` does: of a file's name or content.

    Line ends, control characters and escape sequences of terminals, marks that reverse the writing direction, other
    invisible or unassigned characters (but no spaces), and bytes that are no text in a file's name become escapes such
    as \n. A second call changes nothing, and a backslash stays one, so that paths of Windows stay readable: only JSON
    is exact.

    >>> print(visible("a.png\ngood  b.png\x1b[2J"))
    a.png\ngood  b.png\x1b[2J
    """
    line = str(text)
    if line.isprintable():
        return line
    return "".join(c if _is_visible(c) else c.encode("unicode_escape").decode("ascii") for c in line)


def _is_visible(character: str) -> bool:
    return character.isprintable() or unicodedata.category(character) == "Zs"


def message(name: str, expected: str, got: str, *, where: object = None, todo: str = "") -> str:
    """Return an error message of one line: `{name}: expected {expected}, got {got}[, in {where}]. {todo}`

    Args:
        name: the argument or object, in the user's words.
        expected: valid values, with shapes and units.
        got: the actual value.
        where: the file, layer or folder, if any.
        todo: advice to the user, as a sentence with its full stop, if any.

    >>> message("mask", "(900, 900)", "(1024, 1024)", where="bottle/003_mask.png")
    'mask: expected (900, 900), got (1024, 1024), in bottle/003_mask.png.'
    >>> message("features", "float32 (N, 152)", "float32 (784, 384)", todo="Fit again or load that backbone.")
    'features: expected float32 (N, 152), got float32 (784, 384). Fit again or load that backbone.'
    """
    place = f", in {where}" if where is not None else ""
    advice = f" {todo}" if todo else ""
    return visible(f"{name}: expected {expected}, got {got}{place}.{advice}")
