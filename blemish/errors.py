"""The errors that Blemish raises, and the one wording that they share.

    BlemishError
    +-- InputError (ValueError)         an argument, array or setting is not what the function takes
    |   `-- DataError                   a folder of images cannot be used as it is
    +-- NotFittedError (RuntimeError)   predict, save or test before fit
    +-- ImageError (OSError)            one image or mask could not be read
    +-- ModelFileError (ValueError)     a model folder or weight file is damaged, unsafe or too new
    +-- FetchError (OSError)            a download that was asked for failed or had another hash
    +-- SaveError (OSError)             a result could not be written; what was there before is still there
    `-- StoreError (OSError)            a store of defects is in use, unreachable, damaged or of another model

Everything here can be caught as `BlemishError`. Nothing else is raised on purpose.
"""

from __future__ import annotations


class BlemishError(Exception):
    """Base of all errors that Blemish raises on purpose."""


class InputError(BlemishError, ValueError):
    """An argument, array or setting is not what the function takes."""


class DataError(InputError):
    """A folder of images cannot be used as it is."""


class NotFittedError(BlemishError, RuntimeError):
    """A detector was asked to predict, save or test before it was fitted."""


class ImageError(BlemishError, OSError):
    """One image or mask could not be read."""


class ModelFileError(BlemishError, ValueError):
    """A model folder or weight file is damaged, unsafe or from a newer version."""


class FetchError(BlemishError, OSError):
    """A download that was asked for failed, or was not the file that was asked for."""


class SaveError(BlemishError, OSError):
    """A result could not be written; what was there before is still there."""


class StoreError(BlemishError, OSError):
    """A store of defects is in use, unreachable, damaged, or of another model or version."""


def message(name: str, expected: str, got: str, *, where: object = None, todo: str = "") -> str:
    """Return the one wording of an error: what it is about, what was expected, what came, where, what to do.

    Args:
        name: the argument or thing in question, in the user's words.
        expected: what would have been right, with shapes and units.
        got: what came instead.
        where: the file, layer or folder it was found in, if any.
        todo: what the user can do, as a sentence with its full stop, if anything.

    >>> message("mask", "(900, 900)", "(1024, 1024)", where="bottle/003_mask.png")
    'mask: expected (900, 900), got (1024, 1024), in bottle/003_mask.png.'
    >>> message("features", "float32 (N, 152)", "float32 (784, 384)", todo="Fit again or load that backbone.")
    'features: expected float32 (N, 152), got float32 (784, 384). Fit again or load that backbone.'
    """
    place = f", in {where}" if where is not None else ""
    advice = f" {todo}" if todo else ""
    return f"{name}: expected {expected}, got {got}{place}.{advice}"
