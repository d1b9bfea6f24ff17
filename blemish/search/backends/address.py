"""Address and key of a Qdrant server: checked, and never printed with a secret in them."""

from __future__ import annotations

import contextlib
import warnings
from urllib.parse import urlsplit

from blemish.errors import InputError, message

SECRET = "***"
LOCAL = {"localhost", "127.0.0.1", "::1"}


def check_address(url: str) -> str:
    """Return the URL of a server, or raise InputError, without what may be secret in it, if it has more than scheme,
    host, port and path: the client would ignore a password, and errors would print it.

    >>> check_address("http://localhost:6333")
    'http://localhost:6333'
    """
    todo = "Give the key of the server as api_key= (on the command line: QDRANT_API_KEY)."
    expected = "scheme, host, port and path, such as http://localhost:6333"
    shown = SECRET
    with contextlib.suppress(ValueError):
        parts = urlsplit(url)
        if "@" not in url and not parts.query and not parts.fragment:
            return url
        host = parts.hostname or ""
        shown = f"{parts.scheme}://{SECRET}@{host}" if "@" in parts.netloc else f"{parts.scheme}://{host}/{SECRET}"
    raise InputError(message("url", expected, shown, todo=todo))


def check_key(api_key: str | None, url: str) -> None:
    """Raise InputError, without the key, if it can't be sent; warn where it goes to another machine unencrypted."""
    if api_key is None:
        return
    if not api_key.isascii() or not api_key.isprintable() or api_key != api_key.strip():
        got = f"{len(api_key)} characters, others among them"
        raise InputError(message("api_key", "printable ASCII characters, no space around them", got))
    address = urlsplit(url)
    if address.scheme == "http" and address.hostname not in LOCAL:
        text = f"api_key: it goes to {address.hostname} unencrypted; use https."
        warnings.warn(text, UserWarning, stacklevel=6)


def without_key(text: str, api_key: str | None) -> str:
    """Return a text of the server or client without the key, which either may repeat."""
    return text.replace(api_key, SECRET) if api_key else text
