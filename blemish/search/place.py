"""Where a store of defects is: a folder, a trial, or a server."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from blemish.errors import InputError, message
from blemish.search.backends.edge import EdgeBackend
from blemish.search.backends.server import ServerBackend
from blemish.search.encoder import DIMS
from blemish.search.text import check_word

if TYPE_CHECKING:
    from blemish.search.records import Backend

MEMORY = ":memory:"


@dataclass(frozen=True)
class Place:
    """What `DefectStore` was told of where it is; it documents the fields.

    Raises:
        InputError: if neither or both of folder and url are given, or the collection can't be.
    """

    folder: str | os.PathLike[str] | None
    url: str | None
    api_key: str | None = field(repr=False)
    collection: str
    timeout_s: float
    retries: int

    def __post_init__(self) -> None:
        """Check what can be checked before anything is opened."""
        if (self.folder is None) == (self.url is None):
            got = "neither" if self.url is None else "both"
            raise InputError(message("store", "a folder (or ':memory:'), or url=", got))
        check_word("collection", self.collection)

    @property
    def name(self) -> str:
        """How errors call it."""
        return f"{self.url}, collection {self.collection}" if self.folder is None else os.fspath(self.folder)

    def open(self, *, make: bool) -> Backend:
        """Return the backend.

        Args:
            make: whether a store that is not there is made.

        Raises:
            StoreError: if it can't be opened.
        """
        dims = DIMS if make else {}
        if self.url is None:
            return EdgeBackend(None if self.name == MEMORY else Path(self.name), dims)
        return ServerBackend(
            self.url,
            api_key=self.api_key,
            collection=self.collection,
            dims=dims,
            timeout_s=self.timeout_s,
            retries=self.retries,
        )
